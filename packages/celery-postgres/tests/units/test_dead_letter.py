"""The texts of `kombu_dead_letter.reason`, which operators and dashboards filter by."""

from __future__ import annotations

import pytest

from celery_postgres.database.dead_letter import EXPIRED, REJECTED, DeadLetterKind, DeadLetterReason

REASONS = {
    "expired": EXPIRED,
    "rejected": REJECTED,
    "stopped: app.add": DeadLetterReason(DeadLetterKind.BLOCKED, "app.add"),
    "failed 5 times": DeadLetterReason(DeadLetterKind.FAILED, "5"),
    "the payload is not JSON": DeadLetterReason(DeadLetterKind.UNREADABLE, "JSON"),
    "the message cannot be decoded: UnicodeDecodeError": DeadLetterReason(
        DeadLetterKind.UNDECODABLE, "UnicodeDecodeError"
    ),
    "unpacked it is larger than max_decompressed (1 bytes)": DeadLetterReason(
        DeadLetterKind.TOO_LARGE, "max_decompressed (1 bytes)"
    ),
    "its body has more than 1000000 members": DeadLetterReason(DeadLetterKind.TOO_MANY_MEMBERS, "1000000 members"),
    "its id is not printable text": DeadLetterReason(DeadLetterKind.MALFORMED, "its id is not printable text"),
    "": DeadLetterReason(DeadLetterKind.MALFORMED, ""),
    "stopped: two\nlines": DeadLetterReason(DeadLetterKind.BLOCKED, "two\nlines"),
}


@pytest.mark.parametrize("text", REASONS)
def test_the_text_of_a_reason_is_what_the_database_has(text: str) -> None:
    assert str(REASONS[text]) == text

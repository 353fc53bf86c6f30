"""Messages of many keys in a fair queue, and claims of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from celery_postgres.database.flow import Turn, Turns
from celery_postgres.database.message_store import Claim, ClaimResult, MessageStore
from environment.testkit.databases import rows
from environment.testkit.tables import run, scalar

KEYS = 20


def fill(url: str, count: int, keys: int = KEYS) -> int:
    """Make the fair queue `q` with so many messages of the keys `0`, `1`, …; return its id."""
    run(
        url,
        "INSERT INTO kombu_queue (name, fair) VALUES ('q', true)",
        "INSERT INTO kombu_message (queue_id, payload, available_at, flow_key)"  # noqa: S608
        f" SELECT queue.id, '{{\"properties\": {{}}}}', now(), hashtextextended((n % {keys})::text, 0)"
        f" FROM kombu_queue AS queue, generate_series(1, {count}) AS n",
    )
    return int(scalar(url, "SELECT id FROM kombu_queue"))


def hashes(url: str, keys: int = KEYS) -> list[int]:
    statement = "SELECT hashtextextended(n::text, 0) FROM generate_series(0, :last) AS n"
    return [value for (value,) in rows(url, statement, last=keys - 1)]


def claim(
    messages: MessageStore,
    queue: int,
    keys: list[int],
    *,
    limit: int = 64,
    share: int = 4,
    acks: Sequence[Claim] = (),
    since: Mapping[int, float] = MappingProxyType({}),
) -> ClaimResult:
    turns = [Turn(key, 0, 0, share, since=since.get(key, 0.0)) for key in keys]
    return messages.claim_turns(1, Turns(queue, turns), limit=limit, acks=acks)

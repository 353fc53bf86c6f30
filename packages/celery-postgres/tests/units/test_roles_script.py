"""The roles as a user of the package gets them: `python -m celery_postgres roles`."""

from __future__ import annotations

import pytest

from celery_postgres.tool import cli


def test_the_script_is_printed_without_a_database(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere")
    assert cli.main(["roles"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("-- The roles of Celery on PostgreSQL")
    assert "('celery_worker', 'kombu_message', 'SELECT, INSERT, UPDATE, DELETE', NULL)" in printed.out
    assert printed.err == ""

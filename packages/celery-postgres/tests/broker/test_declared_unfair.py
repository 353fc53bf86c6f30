"""A declaration with x-fair False beside whoever sets limits, and what declarations write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from celery_postgres.database.queue_store import QueueStore
from celery_postgres.database.session import Session
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

LIMIT = (
    "INSERT INTO kombu_limit (queue_id, flow_key, key, max_running)"
    " SELECT id, hashtextextended('k', 0), 'k', 2 FROM kombu_queue WHERE name = 'q'"
)
ORDERED = (
    "INSERT INTO kombu_message (queue_id, payload, available_at, flow_key, in_order)"
    " SELECT id, '{}', now(), 1, true FROM kombu_queue WHERE name = 'q'"
)
ROW = "SELECT ctid::text || ' ' || xmax::text FROM kombu_queue WHERE name = 'q'"
FAIR = "SELECT fair FROM kombu_queue WHERE name = 'q'"
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def url(plain_database: Any) -> str:
    """A database with one fair queue."""
    run(plain_database.url, "INSERT INTO kombu_queue (name, fair) VALUES ('q', true)")
    return str(plain_database.url)


def declare(
    session: Session, *, fair: bool | None = False, expires_ms: int | None = None, ttl: int | None = None
) -> int:
    return QueueStore(session).declare("q", auto_delete=False, expires_ms=expires_ms, message_ttl_ms=ttl, fair=fair)


def beside(url: str, statement: str, work: Callable[[Session], object]) -> None:
    """Do something while a transaction that has locked the queue's row, as each that sets a limit, executes a statement
    and commits only when that waits."""
    with closing(psycopg2.connect(url)) as other, closing(Session(url)) as session:
        with other, other.cursor() as cursor:
            cursor.execute("SELECT id FROM kombu_queue WHERE name = 'q' FOR NO KEY UPDATE")
            cursor.execute(statement)
            thread = threading.Thread(target=work, args=(session,))
            thread.start()
            wait_until(lambda: scalar(url, WAITS) == 1, 20, "the declaration waits for the row")
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("statement", [LIMIT, ORDERED])
def test_one_that_waits_for_the_first_limit_sees_it(url: str, statement: str) -> None:
    beside(url, statement, declare)
    assert scalar(url, FAIR) is True


def test_one_that_waits_for_another_change_ends_it(url: str) -> None:
    beside(url, "UPDATE kombu_queue SET paused = true WHERE name = 'q'", declare)
    assert scalar(url, FAIR) is False


def test_one_that_changes_no_fairness_does_not_end_it_for_what_it_has_waited_for(url: str) -> None:
    run(url, "UPDATE kombu_queue SET fair = false WHERE name = 'q'")
    made_fair = f"UPDATE kombu_queue SET fair = true WHERE name = 'q'; {LIMIT}"  # noqa: S608
    beside(url, made_fair, lambda session: declare(session, ttl=1_000))
    assert scalar(url, FAIR) is True
    assert scalar(url, "SELECT message_ttl_ms FROM kombu_queue WHERE name = 'q'") == 1_000


def test_a_queue_that_is_deleted_meanwhile_is_made_anew(url: str) -> None:
    before = scalar(url, "SELECT id FROM kombu_queue")
    beside(url, "DELETE FROM kombu_queue WHERE name = 'q'", lambda session: declare(session, fair=True, ttl=1_000))
    assert scalar(url, "SELECT id FROM kombu_queue WHERE fair AND message_ttl_ms = 1000") != before


def test_a_declaration_writes_only_what_it_changes(url: str) -> None:
    run(url, LIMIT)
    with closing(Session(url)) as session:
        before = scalar(url, ROW)
        for fair in (False, True, None):
            declare(session, fair=fair)
        assert scalar(url, ROW) == before, "neither written nor locked"
        declare(session, ttl=1_000)
        after = scalar(url, ROW)
        assert after != before
        for _ in range(2):
            declare(session, ttl=1_000)
        assert scalar(url, ROW) == after
        assert scalar(url, FAIR) is True
        run(url, "DELETE FROM kombu_limit")
        declare(session, ttl=1_000)
        assert scalar(url, FAIR) is False


def test_each_declaration_is_a_use_of_a_queue_that_expires(url: str) -> None:
    with closing(Session(url)) as session:
        declare(session, fair=None, expires_ms=60_000)
        before = scalar(url, "SELECT used_at FROM kombu_queue")
        declare(session, fair=None, expires_ms=60_000)
        assert scalar(url, "SELECT used_at FROM kombu_queue") > before

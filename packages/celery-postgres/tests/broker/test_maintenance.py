"""What every consumer does for all: one look when there is nothing to do, and each step as soon as there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from celery_postgres.consumer.maintenance import Maintenance
from celery_postgres.database.session import Session
from environment.testkit.tables import run, scalar

#: Work for one step, the statement that begins the step, and what counts as still to be done.
WORK = {
    "an expired queue": (
        "INSERT INTO kombu_queue (name, expires_ms, used_at) VALUES ('old', 1, now() - interval '1 day')",
        "drop_abandoned_queues",
        "SELECT count(*) FROM kombu_queue WHERE name = 'old'",
    ),
    "an abandoned queue": (
        "INSERT INTO kombu_queue (name, auto_delete, consumed, used_at)"
        " VALUES ('left', true, true, now() - interval '1 day')",
        "drop_abandoned_queues",
        "SELECT count(*) FROM kombu_queue WHERE name = 'left'",
    ),
    "an expired message": (
        "INSERT INTO kombu_message (queue_id, payload, expires_at)"
        " SELECT id, '{}', now() - interval '1 second' FROM kombu_queue",
        "drop_expired_messages",
        "SELECT count(*) FROM kombu_message WHERE expires_at < now()",
    ),
    "an idle throttle": (
        "INSERT INTO kombu_throttle (queue_id, flow_key, free_at)"
        " SELECT id, 1, now() - interval '1 minute' FROM kombu_queue",
        "drop_idle_throttles",
        "SELECT count(*) FROM kombu_throttle",
    ),
    "a key in a queue that is not fair": (
        "INSERT INTO kombu_message (queue_id, payload, flow_key, available_at)"
        " SELECT id, '{}', 1, now() FROM kombu_queue",
        "keyed_though_unfair",
        "SELECT count(*) FROM kombu_message WHERE flow_key IS NOT NULL",
    ),
    "a claim of nobody": (
        "INSERT INTO kombu_message (queue_id, payload, visible, consumer_id, fence)"
        " SELECT id, '{}', false, 4711, 1 FROM kombu_queue",
        "gone_consumers",
        "SELECT count(*) FROM kombu_message WHERE consumer_id = 4711",
    ),
}


class Rounds:
    """Rounds of one consumer's maintenance, with the names of the statements of each."""

    def __init__(self, session: Session) -> None:
        self._session, self._maintenance = session, Maintenance(5)
        self.names: list[str] = []

    @property
    def closed(self) -> bool:
        return self._session.closed

    def run(self, name: str, **parameters: Any) -> Any:
        self.names.append(name)
        return self._session.run(name, **parameters)

    def go(self) -> list[str]:
        self.names = []
        self._maintenance.run(self, lambda _: None)  # type: ignore[arg-type]
        return self.names


@pytest.fixture
def rounds(plain_database: Any) -> Iterator[Rounds]:
    run(plain_database.url, "INSERT INTO kombu_queue (name, used_at) VALUES ('mail', now())")
    with closing(Session(plain_database.url)) as session:
        yield Rounds(session)


def test_a_round_with_nothing_to_do_is_one_statement(rounds: Rounds) -> None:
    assert {begins for _, begins, _ in WORK.values()} <= set(rounds.go()), "the first round does each step"
    assert [rounds.go(), rounds.go()] == [["what_is_due"]] * 2


@pytest.mark.parametrize("kind", WORK)
def test_each_step_is_done_as_soon_as_there_is_something_to_do(plain_database: Any, rounds: Rounds, kind: str) -> None:
    work, begins, left = WORK[kind]
    rounds.go()
    run(plain_database.url, work)
    assert scalar(plain_database.url, left) == 1
    assert rounds.go()[:2] == ["what_is_due", begins]
    assert scalar(plain_database.url, left) == 0
    assert rounds.go() == ["what_is_due"]


def test_a_step_that_fails_is_tried_again_in_each_round(plain_database: Any, rounds: Rounds) -> None:
    """Whether or not the look finds something: a right that is missing is reported until it is there."""
    url = plain_database.url
    run(url, "ALTER TABLE kombu_throttle RENAME TO elsewhere")
    rounds.go()
    # The look reads that table too: all steps tell for themselves.
    assert {"what_is_due", *(begins for _, begins, _ in WORK.values())} <= set(rounds.go())
    run(url, "ALTER TABLE elsewhere RENAME TO kombu_throttle")
    assert rounds.go() == ["what_is_due", "drop_idle_throttles"]
    assert rounds.go() == ["what_is_due"]

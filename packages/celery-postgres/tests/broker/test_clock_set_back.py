"""A server whose clock goes back: what runs of a key is counted, whatever time its claim has noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from celery_postgres import operations
from celery_postgres.consumer import server_clock
from celery_postgres.consumer.fairness import Fairness
from celery_postgres.consumer.server_clock import ServerClock
from celery_postgres.database.fair_store import FairStore
from celery_postgres.database.message_store import Claim, MessageStore
from celery_postgres.database.session import Session
from environment.testkit.keyed import fill
from environment.testkit.tables import run, scalar

CONCURRENCY = 2
#: Comes before the server's own in a search_path that says so, and is as wrong as the table says.
CLOCK = """
CREATE SCHEMA wrong;
CREATE TABLE wrong.clock AS SELECT interval '0' AS ahead;
CREATE FUNCTION wrong.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + ahead FROM wrong.clock'
"""


@pytest.fixture
def url(plain_database: Any) -> str:
    """A database with a fair queue of one key, of which two may run, and a clock that tests set."""
    url = str(plain_database.url)
    run(url, CLOCK)
    fill(url, 10, keys=1)
    with operations.connect(url) as broker:
        broker.set_limit("q", key="*", concurrency=CONCURRENCY)
    return url


@pytest.fixture
def sessions(url: str) -> Iterator[list[Session]]:
    with ExitStack() as opened:
        made = [opened.enter_context(closing(Session(url))) for _ in range(2)]
        for session in made:
            session.script("SET search_path = wrong, pg_catalog, public")
        yield made


class Consumer:
    """Claims one message at a time by the turns that the queue's keys have."""

    def __init__(self, url: str, session: Session) -> None:
        self._queue = int(scalar(url, "SELECT id FROM kombu_queue"))
        self._messages = MessageStore(session)
        self._held: set[Claim] = set()
        self._fairness = Fairness(FairStore(session), lambda claim: claim in self._held)
        self.counted_all = 0

    def claim(self) -> list[Claim]:
        turns = self._fairness.turn(self._queue)
        if turns is None:  # the key is closed until something is acknowledged
            return []
        result = self._messages.claim_turns(1, turns, limit=1)
        self.counted_all += result.clock is not None and result.clock < turns.clock
        self._fairness.claimed(turns, 1, result)
        claims = [one.claim for one in result.messages]
        self._held |= set(claims)
        return claims

    def acknowledge(self, claim: Claim) -> None:
        self._held.remove(claim)
        self._messages.settle([claim])


@pytest.mark.parametrize("behind_s", [2, 60])
def test_what_others_claim_by_a_clock_that_was_set_back_is_counted(
    url: str, sessions: list[Session], behind_s: int
) -> None:
    one, other = (Consumer(url, session) for session in sessions)
    (first,) = one.claim()
    one.acknowledge(first)
    run(url, f"UPDATE wrong.clock SET ahead = '-{behind_s} seconds'")  # noqa: S608
    for _ in range(CONCURRENCY):
        assert other.claim()
    # The clock is after the time from which on the first consumer counts, as it is some seconds later.
    run(url, f"UPDATE wrong.clock SET ahead = '-{behind_s - 1} seconds'")  # noqa: S608
    assert one.claim() == []
    assert one.counted_all == 1
    assert scalar(url, "SELECT count(*) FROM kombu_message WHERE NOT visible") == CONCURRENCY


def test_a_clock_that_runs_on_is_trusted(url: str, sessions: list[Session]) -> None:
    consumer = Consumer(url, sessions[0])
    for _ in range(5):
        (claim,) = consumer.claim()
        consumer.acknowledge(claim)
    run(url, "UPDATE wrong.clock SET ahead = '60 seconds'")
    assert consumer.claim()
    assert consumer.counted_all == 0


def test_a_clock_that_is_slowed_down_is_noticed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(server_clock.time, "monotonic", lambda: now)
    clock, noticed = ServerClock(), []
    assert clock.earliest == 0.0
    for number in range(30):
        now = 1_000.0 + 100 * number
        noticed += [number] * clock.shows(5_000.0 + 99.95 * number, clock.earliest, now)
    assert noticed == [11, 22]
    clock.forget()
    assert clock.earliest == 0.0

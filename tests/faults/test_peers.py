"""Redis and stock Kombu's ``sqla`` under two of these faults, with late acknowledgements and Celery's defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import celery_postgres
from benchmarks import servers
from environment.installation import DEFAULT_MAJOR
from environment.waiting import wait_until
from tests.faults.conftest import reach
from tests.faults.field import RECOVERY_S, Field, Outcome, busy

#: Every answered write is on disk: what PostgreSQL promises too, and more than Redis does by default.
DURABLE = {"save": "", "appendonly": "yes", "appendfsync": "always"}
#: Seconds that a peer has.  Redis would send again what a dead worker held after an hour (``visibility_timeout``).
PATIENCE_S = 60


@dataclass(frozen=True)
class Peer:
    """A broker, and the server behind it."""

    name: str
    variables: Mapping[str, str]
    server: Any


@contextmanager
def _ours() -> Iterator[Peer]:
    with servers.postgres(DEFAULT_MAJOR) as cluster:
        celery_postgres.create_schema(cluster.url())
        yield Peer("celery_postgres", reach(cluster.tcp_url()), cluster)


@contextmanager
def _stock() -> Iterator[Peer]:
    with servers.postgres(DEFAULT_MAJOR) as cluster:
        yield Peer("stock sqla", {"BENCH_BROKER": f"sqla+{cluster.tcp_url()}"}, cluster)


@contextmanager
def _redis() -> Iterator[Peer]:
    with servers.Redis(DURABLE) as redis:
        yield Peer("Redis", {"BENCH_BROKER": redis.url}, redis)


@pytest.fixture(params=[_ours, _stock, _redis], ids=["ours", "stock", "redis"])
def peer(request: pytest.FixtureRequest, peers_python: str, program: Callable[[str], str]) -> Iterator[Peer]:
    if request.param is _redis:
        program("redis-server")
    with request.param() as peer:
        yield peer


@pytest.fixture
def peers_field(peer: Peer, peers_python: str) -> Iterator[Field]:
    with Field(peer.variables, python=peers_python, system=peer.name) as field:
        yield field


def test_workers_that_are_killed(peers_field: Field, peer: Peer, record: Callable[[Outcome], None]) -> None:
    field = peers_field
    field.worker("threads")
    victims = [field.worker("threads")]
    field.publish(rate=20, seconds=0.1)
    for _ in range(3):
        wait_until(lambda: busy(victims[-1]), RECOVERY_S, "the worker to run a task")
        with field.fault():
            victims[-1].kill()
        victims.append(field.worker("threads"))
    field.noted["killed"] = len(victims) - 1
    _compare(field, "peers: `kill -9` of workers", record)


def test_a_server_that_is_killed(peers_field: Field, peer: Peer, record: Callable[[Outcome], None]) -> None:
    field = peers_field
    field.worker("threads")
    field.worker("threads")
    field.publish()
    for _ in range(3):
        field.accepted(60)
        with field.fault():
            peer.server.kill()
            peer.server.start()
    field.noted["restarts"] = 3
    _compare(field, "peers: `kill -9` of the server", record)


def _compare(field: Field, fault: str, record: Callable[[Outcome], None]) -> None:
    ours = field.system == "celery_postgres"
    outcome = field.finish(fault, deadline_s=PATIENCE_S, patient=ours)
    record(outcome)
    assert outcome.tasks_in > 0
    assert outcome.lost == 0 or not ours

"""Redis and stock Kombu's ``sqla`` under two of these faults, with late acknowledgement and Celery's defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import celery_postgres
from environment.installation import DEFAULT_MAJOR
from environment.testkit import servers
from environment.waiting import wait_until
from tests.faults.conftest import broker_variables
from tests.faults.load import RECOVERY_S, Load, Outcome, busy

#: Every answered write is on disk, as in PostgreSQL; by default Redis promises less.
DURABLE = {"save": "", "appendonly": "yes", "appendfsync": "always"}
#: Seconds that a system has.  Redis redelivers the messages of a dead worker after an hour (``visibility_timeout``).
PATIENCE_S = 60


@dataclass(frozen=True)
class Peer:
    """A broker and its server."""

    name: str
    variables: Mapping[str, str]
    server: Any


@contextmanager
def _ours() -> Iterator[Peer]:
    with servers.postgres(DEFAULT_MAJOR) as cluster:
        celery_postgres.create_schema(cluster.url())
        yield Peer("celery_postgres", broker_variables(cluster.tcp_url()), cluster)


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
def peer_load(peer: Peer, peers_python: str) -> Iterator[Load]:
    with Load(peer.variables, python=peers_python, system=peer.name) as load:
        yield load


def test_workers_that_are_killed(peer_load: Load, peer: Peer, record: Callable[[Outcome], None]) -> None:
    load = peer_load
    load.worker("threads")
    victims = [load.worker("threads")]
    load.publish(rate=20, seconds=0.1)
    for _ in range(3):
        wait_until(lambda: busy(victims[-1]), RECOVERY_S, "the worker to run a task")
        with load.fault():
            victims[-1].kill()
        victims.append(load.worker("threads"))
    load.notes["killed"] = len(victims) - 1
    _compare(load, "peers: `kill -9` of workers", record)


def test_a_server_that_is_killed(peer_load: Load, peer: Peer, record: Callable[[Outcome], None]) -> None:
    load = peer_load
    load.worker("threads")
    load.worker("threads")
    load.publish()
    for _ in range(3):
        load.wait_for_accepted(60)
        with load.fault():
            peer.server.kill()
            peer.server.start()
    load.notes["restarts"] = 3
    _compare(load, "peers: `kill -9` of the server", record)


def _compare(load: Load, fault: str, record: Callable[[Outcome], None]) -> None:
    ours = load.system == "celery_postgres"
    outcome = load.finish(fault, deadline_s=PATIENCE_S, patient=ours)
    record(outcome)
    assert outcome.tasks_in > 0
    assert outcome.lost == 0 or not ours

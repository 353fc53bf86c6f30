"""Three nodes under Patroni and etcd: the leader dies, hands over, or is cut off from the others.

Workers, a producer, a beat and a client in ``get()`` follow by a URL that names all nodes, or through HAProxy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

import pytest

import celery_postgres
from environment.testkit.databases import rows
from environment.testkit.haproxy import HAProxy
from environment.testkit.journal_app import TICKS
from environment.testkit.patroni import Node, Patroni
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until
from tests.faults.conftest import assert_settled, broker_variables
from tests.faults.load import RATE, RECOVERY_S, Load, Outcome

#: Replication lag on a loaded machine, in seconds at most.
LAG_S = 1.0
#: What may have run and is not stored when the leader goes: of two workers, what each runs and has reserved.
AT_WORK = 8
#: How many lines a worker may log for one fault: attempts have pauses from 0.05 s to 2 s, in a handful of threads.
LINES = 150
FAULTS = ("leader killed", "switchover", "leader cut off")
MODES = ("asynchronous", "synchronous", "strict")
WAYS = ("hosts", "haproxy")
#: Connections of clients.
CLIENTS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
#: Each fault, mode and way once; everything else runs without ``--quick``.
QUICK = {
    ("leader killed", "synchronous", "haproxy"),
    ("switchover", "strict", "hosts"),
    ("leader cut off", "asynchronous", "haproxy"),
}

Record = Callable[[Outcome], None]


@pytest.fixture(scope="module")
def patroni(program: Callable[[str], str], quick: bool) -> Iterator[Patroni]:
    with Patroni(program, hurried=quick) as patroni:
        yield patroni


@pytest.fixture
def thorough(quick: bool) -> None:
    if quick:
        pytest.skip("without --quick only")


@contextmanager
def address(patroni: Patroni, way: str, database: str, program: Callable[[str], str]) -> Iterator[str]:
    """The URL by which clients follow the leader."""
    if way == "hosts":
        yield patroni.url(database)
    else:
        with HAProxy(program("haproxy"), patroni) as haproxy:
            yield haproxy.url(database)


@contextmanager
def by_haproxy(patroni: Patroni, program: Callable[[str], str], **options: Any) -> Iterator[tuple[Load, str]]:
    """A worker that follows the leader of a synchronous cluster through HAProxy; what it does, and its URL."""
    patroni.repair()
    patroni.configure("synchronous")
    database = patroni.create_database()
    with HAProxy(program("haproxy"), patroni, **options) as haproxy:
        url = haproxy.url(database)
        celery_postgres.create_schema(url)
        with Load(broker_variables(url)) as load:
            load.worker("solo", 1)
            yield load, url


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_leader_that_goes(
    patroni: Patroni, program: Callable[[str], str], record: Record, quick: bool, fault: str, mode: str, way: str
) -> None:
    """With synchronous replication nothing accepted is lost, and no result that a client has seen. Without it the new
    leader may lack what a killed one had committed in the last moment, and all that one had committed which was cut off
    from the others, and not from its clients, until it gave up."""
    if quick and (fault, mode, way) not in QUICK:
        pytest.skip("without --quick only")
    patroni.repair()
    patroni.configure(mode)
    database = patroni.create_database()
    with ExitStack() as stack:
        url = stack.enter_context(address(patroni, way, database, program))
        celery_postgres.create_schema(url)
        load = stack.enter_context(Load(broker_variables(url)))
        workers = [load.worker("solo", 1, ready=False), load.worker("prefork", 2, ready=False)]
        for worker in workers:
            wait_until(worker.is_ready, RECOVERY_S, "the worker to be ready")
        load.beat()
        load.ask(RECOVERY_S if mode != "asynchronous" else 20)
        load.publish(rate=RATE / 2)
        load.wait_for_tasks(30)
        before, ticks, logged = patroni.leader(), rows_of(url, TICKS), lines(load)
        with load.fault():
            after = happen(patroni, fault, before)
        load.wait_for_tasks(30)
        heard = len(load.answers())
        wait_until(lambda: len(load.answers()) > heard + 2, RECOVERY_S, "the client to be answered", 0.1)
        wait_until(lambda: rows_of(url, TICKS) > ticks + 2, RECOVERY_S, "the beat to go on", 0.1)
        load.notes |= {"publishing stood still": pause(load.accepted_ns()), "tasks": pause(load.ended_ns())}
        lossless = mode != "asynchronous"
        may_lose = 0 if lossless else int(RATE * (patroni.ttl_s if fault == "leader cut off" else LAG_S))
        outcome = load.finish(
            f"Patroni, {mode}: {fault}, by {way}", patient=lossless, deadline_s=RECOVERY_S if lossless else 30
        )
        stored = {task_id for (task_id,) in rows(url, "SELECT task_id FROM celery_taskmeta WHERE status = 'SUCCESS'")}
        done = {*load.answers(), *(str(UUID(int=number)) for number in load.published().keys() & load.ends().keys())}
        load.notes |= {"results lost": len(done - stored), "new leader": f"{before.name} → {after.name}"}
        record(outcome)
        assert_settled(outcome, url, may_lose)
        assert len(done - stored) <= may_lose
        assert "no answer" not in load.log_of("client") or not lossless
        assert outcome.finished_again <= AT_WORK + outcome.published_again + may_lose
        assert lines(load) - logged < LINES * len(workers)
        assert load.count_logged("Traceback") + load.log_of("beat").count("Traceback") == 0


@pytest.mark.usefixtures("thorough")
def test_a_leader_whose_patroni_is_gone(patroni: Patroni, program: Callable[[str], str], record: Record) -> None:
    """Its PostgreSQL goes on as a second primary. HAProxy moves clients to the new leader all the same; with
    synchronous replication the old one has accepted nothing that the new one lacks."""
    with by_haproxy(patroni, program) as (load, url):
        load.publish()
        load.wait_for_tasks(30)
        leader = patroni.leader()
        with load.fault():
            leader.kill_patroni()
            patroni.leader(but=leader)
        load.wait_for_tasks(30)
        assert scalar(leader.superuser_url, "SELECT NOT pg_is_in_recovery()"), "only one primary is left"
        outcome = load.finish("Patroni killed, its PostgreSQL goes on, by haproxy")
        record(outcome)
        assert_settled(outcome, url)


@pytest.mark.usefixtures("thorough")
def test_commits_that_wait_for_a_standby(patroni: Patroni, record: Record) -> None:
    """In strict mode without a standby nothing is accepted, and nothing is lost: publishers and workers wait. Their
    attempts do not use up the server's connections."""
    patroni.repair()
    patroni.configure("strict")
    url = patroni.url(patroni.create_database())
    celery_postgres.create_schema(url)
    with Load(broker_variables(url)) as load:
        load.worker("solo", 1)
        load.worker("prefork", 2)
        load.publish()
        load.wait_for_tasks(40)
        leader = patroni.leader()
        standbys = [node for node in patroni.nodes if node is not leader]
        with load.fault():
            for node in standbys:
                node.kill()
            accepted = len(load.published())
            # By then every statement under way has been given up, and tried again.
            wait_until(lambda: load.count_logged("has not answered for") >= 2, RECOVERY_S, "workers to try again", 0.2)
            load.notes["accepted meanwhile"] = len(load.published()) - accepted
            load.notes["connections"] = scalar(leader.superuser_url, CLIENTS)
            for node in standbys:
                node.start()
            patroni.wait_complete()
        load.wait_for_tasks(40)
        outcome = load.finish("Patroni, strict: no standby")
        record(outcome)
        assert_settled(outcome, url)
        assert load.notes["accepted meanwhile"] <= 1
        assert load.notes["connections"] < 40


@pytest.mark.usefixtures("thorough")
def test_a_proxy_that_closes_idle_connections(patroni: Patroni, program: Callable[[str], str], record: Record) -> None:
    """HAProxy with a timeout of a few seconds: a worker that waits for notifications loses its connection again and
    again, and goes on."""
    with by_haproxy(patroni, program, idle_s=2) as (load, url):
        with load.fault():
            wait_until(lambda: load.count_logged("Notifications do not arrive") >= 2, RECOVERY_S, "idle closes", 0.2)
        load.ask()
        load.publish()
        outcome = load.finish("HAProxy closes idle connections", more=2)
        record(outcome)
        assert_settled(outcome, url)
        assert outcome.finished_again == 0
        assert lines(load) < LINES


def happen(patroni: Patroni, fault: str, leader: Node) -> Node:
    """Have the fault happen; returns the node that leads from then on."""
    if fault == "switchover":
        return patroni.switchover()
    if fault == "leader killed":
        leader.kill()
    else:
        leader.isolate()
    return patroni.leader(but=leader)


def lines(load: Load) -> int:
    """Return how many lines the workers have logged."""
    return sum(len(worker.log_text().splitlines()) for worker in load.workers)


def pause(times_ns: list[int]) -> str:
    """Return the longest time between two events."""
    times = sorted(times_ns)
    longest = max((later - earlier for earlier, later in itertools.pairwise(times)), default=0)
    return f"{longest / 1e9:.1f} s"

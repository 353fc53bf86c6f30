"""Waiting for results: the connections that it takes, and faults in the meantime."""

from __future__ import annotations

import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from math import inf
from typing import Any

import pytest
from celery import Celery, states
from celery.exceptions import TimeoutError
from celery.result import GroupResult, ResultSet

from celery_postgres.database import slow_commits
from celery_postgres.database.result_store import Outcome, ResultStore
from celery_postgres.database.session import Session
from celery_postgres.errors import UnstorableResultError
from celery_postgres.results.listener import Listener, listener
from celery_postgres.results.write import Write, record
from environment.testkit.canvas import count
from environment.testkit.databases import rows
from environment.testkit.kombu_programs import environment
from environment.testkit.probe import DEADLINE_S
from environment.testkit.tables import backends, run, scalar, terminate
from environment.waiting import wait_until


@pytest.fixture
def named(make_app: Callable[..., Celery], plain_database: Any) -> tuple[Celery, str, str]:
    """A program with a database of its own, the name of its connections, and the address of the database."""
    url = plain_database.url
    name = "probe-waiting"
    return make_app(f"{url}{'&' if '?' in url else '?'}application_name={name}"), name, url


class Waiters:
    """Threads that each wait for one task, and what they got."""

    def __init__(self, app: Celery, task_ids: list[str], **options: Any) -> None:
        self.got: dict[str, Any] = {}
        self.app, self.options = app, {"timeout": 2 * DEADLINE_S, **options}
        self.threads = [threading.Thread(target=self._wait, args=[one], daemon=True) for one in task_ids]
        for thread in self.threads:
            thread.start()

    def _wait(self, task_id: str) -> None:
        try:
            self.got[task_id] = self.app.AsyncResult(task_id).get(**self.options)
        except Exception as error:  # the test checks `got`
            self.got[task_id] = error

    def join(self) -> dict[str, Any]:
        for thread in self.threads:
            thread.join(3 * DEADLINE_S)
        return self.got


def waiting(url: str) -> int:
    return count(url, "celery_waiter")


def registered(url: str, number: int) -> None:
    wait_until(lambda: waiting(url) == number, DEADLINE_S, f"{number} to be registered")


def store(app: Celery, *task_ids: str) -> None:
    for task_id in task_ids:
        app.backend.store_result(task_id, task_id.upper(), states.SUCCESS)


def within(work: Callable[[], Any]) -> Any:
    """What the call returns or raises. An endless wait only fails the test."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(work())
        except Exception as error:  # the caller checks it
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert came, "it waits without end"
    return came[0]


WAITS: dict[str, Callable[[Celery, list[str], float], Any]] = {
    "get": lambda app, ids, seconds: app.AsyncResult(ids[-1]).get(timeout=seconds),
    "wait": lambda app, ids, seconds: app.AsyncResult(ids[-1]).wait(timeout=seconds),
    "get without parents": lambda app, ids, seconds: app.AsyncResult(ids[-1]).get(
        timeout=seconds, follow_parents=False, propagate=False
    ),
    "get of a set": lambda app, ids, seconds: ResultSet(asked(app, ids), app=app).get(timeout=seconds)[-1],
    "join": lambda app, ids, seconds: ResultSet(asked(app, ids), app=app).join(timeout=seconds)[-1],
    "join_native": lambda app, ids, seconds: ResultSet(asked(app, ids), app=app).join_native(timeout=seconds)[-1],
    "iter_native": lambda app, ids, seconds: dict(ResultSet(asked(app, ids), app=app).iter_native(timeout=seconds))[
        ids[-1]
    ]["result"],
    "a group in a group": lambda app, ids, seconds: GroupResult(
        "outer", [GroupResult("inner", asked(app, ids), app=app)], app=app
    ).get(timeout=seconds)[0][-1],
    "get_many": lambda app, ids, seconds: dict(app.backend.get_many(ids, timeout=seconds))[ids[-1]]["result"],
    "wait_for": lambda app, ids, seconds: app.backend.wait_for(ids[-1], timeout=seconds)["result"],
}


def asked(app: Celery, ids: list[str]) -> list[Any]:
    return [app.AsyncResult(one) for one in ids]


@pytest.mark.parametrize("seconds", [0, 0.0, -1, 0.05])
@pytest.mark.parametrize("way", WAITS)
def test_a_wait_ends_after_its_timeout(make_app: Callable[..., Celery], way: str, seconds: float) -> None:
    app = make_app()
    ids = [f"{way}-{seconds}-{number}" for number in range(2)]
    store(app, ids[0])
    assert isinstance(within(lambda: WAITS[way](app, ids, seconds)), TimeoutError)
    store(app, ids[1])
    assert within(lambda: WAITS[way](app, ids, seconds)) == ids[1].upper()


def test_time_spent_in_a_callback_counts_towards_the_timeout(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    store(app, "spent")
    results = ResultSet(asked(app, ["spent", "never"]), app=app)
    slow = threading.Event()
    for join in (results.join, results.join_native, results.get):
        error = within(lambda join=join: join(timeout=0.1, callback=lambda *_: slow.wait(0.2)))
        assert isinstance(error, TimeoutError)


def test_on_interval_is_also_called_after_the_last_event(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    store(app, "ended")
    seen: list[str] = []
    assert app.AsyncResult("ended").get(timeout=DEADLINE_S, on_interval=lambda: seen.append("single")) == "ENDED"
    ResultSet(asked(app, ["ended"]), app=app).get(timeout=DEADLINE_S, on_interval=lambda: seen.append("set"))
    assert seen == ["single", "set"]

    def enough() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        app.AsyncResult("ended").get(timeout=DEADLINE_S, on_interval=enough)


def test_a_thousand_waiting_threads_use_two_connections(
    named: tuple[Celery, str, str], make_app: Callable[..., Celery]
) -> None:
    app, name, url = named
    task_ids = [f"task-{number}" for number in range(1000)]
    waiters = Waiters(app, task_ids)
    registered(url, 1000)
    assert len(backends(url, name)) <= 2
    store(make_app(url), *task_ids)
    assert waiters.join() == {task_id: task_id.upper() for task_id in task_ids}
    assert len(backends(url, name)) <= 2
    registered(url, 0)


def test_several_threads_wait_for_one_task(named: tuple[Celery, str, str]) -> None:
    app, _, url = named
    several = [Waiters(app, ["one"]) for _ in range(20)]
    registered(url, 1)
    store(app, "one")
    assert [waiters.join() for waiters in several] == [{"one": "ONE"}] * 20


@pytest.mark.parametrize(("polls_for_s", "notified"), [(inf, []), (0.0, ["7 8"])])
@pytest.mark.parametrize("statement", ["record_one", "record"])
def test_who_registered_while_a_result_was_committed_is_notified_unless_it_still_polls(
    plain_database: Any, monkeypatch: pytest.MonkeyPatch, statement: str, polls_for_s: float, notified: list[str]
) -> None:
    """A commit may wait for a standby for longer than a listener polls that registers meanwhile."""
    with closing(Session(plain_database.url)) as session, closing(Session(plain_database.url)) as waits:
        waits.listen("celery_result_1")
        ids = ["ended", "ended too"][: 1 + (statement == "record")]

        class Slow:
            def run(self, name: str, **parameters: Any) -> list[Any]:
                answer = session.run(name, **parameters)
                if name == statement:
                    ResultStore(session).await_results(1, {one: 7 + number for number, one in enumerate(ids)})
                return answer

        monkeypatch.setattr(slow_commits, "POLLS_FOR_S", polls_for_s)
        outcomes = [Outcome(one, states.SUCCESS, b"1", None) for one in ids]
        record(ResultStore(Slow()), [Write([one]) for one in outcomes])
        session.script("NOTIFY celery_result_1, 'mark'")
        heard: list[str] = []
        wait_until(lambda: heard.extend(waits.notifications()) or "mark" in heard, DEADLINE_S, "the mark")
        assert heard == [" ".join(one.split()[: len(ids)]) for one in notified] + ["mark"]
        assert waiting(plain_database.url) == (0 if notified else len(ids))


def test_a_listener_that_ends_when_idle_starts_again(
    named: tuple[Celery, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it ends after each result, often while the next thread begins to wait."""
    monkeypatch.setattr(Listener, "IDLE_S", 0.0)
    app, _, url = named
    for number in range(30):
        waiters = Waiters(app, [f"task-{number}"])
        registered(url, 1)
        store(app, f"task-{number}")
        assert waiters.join() == {f"task-{number}": f"TASK-{number}"}
    here = listener(app.backend.sessions)
    wait_until(lambda: not here.connected, DEADLINE_S, "the listener to end")


def test_a_thread_that_gives_up_is_removed_and_the_others_wait_on(named: tuple[Celery, str, str]) -> None:
    app, _, url = named
    patient = Waiters(app, ["one", "two"])
    registered(url, 2)
    hasty = Waiters(app, ["one", "three"], timeout=0.2)
    assert {type(error) for error in hasty.join().values()} == {TimeoutError}
    registered(url, 2)
    store(app, "one", "two")
    assert patient.join() == {"one": "ONE", "two": "TWO"}


def test_a_result_stored_before_the_registration_is_found(named: tuple[Celery, str, str]) -> None:
    app, _, url = named
    store(app, "one")
    assert app.AsyncResult("one").get(timeout=DEADLINE_S) == "ONE"
    assert waiting(url) == 0


def test_a_state_that_is_not_final_notifies_nobody(named: tuple[Celery, str, str]) -> None:
    app, _, url = named
    waiters = Waiters(app, ["one"])
    registered(url, 1)
    app.backend.store_result("one", {"done": 1}, "PROGRESS")
    assert waiting(url) == 1
    store(app, "one")
    assert waiters.join() == {"one": "ONE"}


@pytest.mark.parametrize(
    "how", ["the connection is terminated", "the registrations are lost", "no notification arrives"]
)
def test_a_waiting_client_gets_the_result_whatever_happens(
    named: tuple[Celery, str, str], make_app: Callable[..., Celery], how: str
) -> None:
    app, name, url = named
    waiters = Waiters(app, ["one", "two"])
    registered(url, 2)
    if how == "the connection is terminated":
        for pid in backends(url, name):
            terminate(url, pid)
        store(make_app(url), "one", "two")
    elif how == "the registrations are lost":
        run(url, "TRUNCATE celery_waiter")
        store(make_app(url), "one", "two")
    else:
        # A stock worker knows nothing of waiters.
        from environment.testkit.databases import stock_results

        for task_id in ("one", "two"):
            stock_results(url).store_result(task_id, task_id.upper(), states.SUCCESS)
    assert waiters.join() == {"one": "ONE", "two": "TWO"}


@pytest.mark.parametrize("payload", ["", "x", "1 y 2", "-1", "99999999999", "1" * 5000])
def test_a_foreign_notification_does_not_disturb_waiting_clients(named: tuple[Celery, str, str], payload: str) -> None:
    app, _, url = named
    waiters = Waiters(app, ["one"])
    registered(url, 1)
    listener = scalar(url, "SELECT listener FROM celery_waiter")
    run(url, f"NOTIFY celery_result_{listener}, '{payload}'")
    store(app, "one")
    assert waiters.join() == {"one": "ONE"}
    again = Waiters(app, ["two"])
    store(app, "two")
    assert again.join() == {"two": "TWO"}


@pytest.mark.parametrize(
    "task_id", ["x" * 156, "".join(map(chr, range(256, 4000)))], ids=["long", "too long for an index"]
)
def test_waiting_for_an_impossible_id_does_not_disturb_the_others(named: tuple[Celery, str, str], task_id: str) -> None:
    app, _, url = named
    waiters = Waiters(app, ["one"])
    registered(url, 1)
    with pytest.raises(UnstorableResultError):
        app.AsyncResult(task_id).get(timeout=DEADLINE_S)
    assert app.AsyncResult(task_id).state == "PENDING"
    store(app, "one")
    assert waiters.join() == {"one": "ONE"}


def test_a_result_set_of_which_many_have_ended(named: tuple[Celery, str, str]) -> None:
    app, _, url = named
    task_ids = [f"task-{number}" for number in range(500)]
    store(app, *task_ids[:250])
    group = GroupResult("group", [app.AsyncResult(task_id) for task_id in task_ids], app=app)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(group.get(timeout=2 * DEADLINE_S)))
    thread.start()
    registered(url, 250)
    store(app, *task_ids[250:])
    thread.join()
    assert found == [task_id.upper() for task_id in task_ids]


def test_on_interval_and_on_message_are_called(named: tuple[Celery, str, str]) -> None:
    app, _, _ = named
    ticks: list[int] = []

    def tick(*_: Any) -> None:
        ticks.append(1)
        store(app, "one")

    messages: list[Any] = []
    assert app.AsyncResult("one").get(timeout=DEADLINE_S, on_interval=tick, on_message=messages.append) == "ONE"
    assert ticks
    assert [message["task_id"] for message in messages] == ["one"]


PROGRAM = """
import sys
import celery_postgres
from celery import Celery

celery_postgres.install()
app = Celery("waiter", broker="memory://", backend="db+" + sys.argv[1])
app.AsyncResult("one").get(timeout=60)
"""


def test_a_killed_waiting_process_is_unregistered_when_its_task_ends(named: tuple[Celery, str, str]) -> None:
    app, _, url = named
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, url], env=environment())
    registered(url, 1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    alive = Waiters(app, ["one", "two"])
    registered(url, 3)
    store(app, "one", "two")
    assert alive.join() == {"one": "ONE", "two": "TWO"}
    registered(url, 0)


def test_the_registration_of_a_killed_process_expires(named: tuple[Celery, str, str]) -> None:
    app, _, url = named
    run(
        url,
        "INSERT INTO celery_waiter (task_id, listener, slot, since) VALUES ('old', 1, 1, now() - interval '2 days'),"
        " ('new', 1, 2, now())",
    )
    app.backend.cleanup()
    assert rows(url, "SELECT task_id FROM celery_waiter") == [("new",)]


FORK = """
import os, sys
import celery_postgres
from celery import Celery

celery_postgres.install()
app = Celery("waiter", broker="memory://", backend="db+" + sys.argv[1])
app.backend.store_result("parent", 1, "SUCCESS")
assert app.AsyncResult("parent").get(timeout=10) == 1
try:
    app.AsyncResult("none").get(timeout=0.3)
except Exception as error:
    assert type(error).__name__ == "TimeoutError", error
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            app.backend.store_result(f"child-{number}", number, "SUCCESS")
            code = app.AsyncResult("later").get(timeout=20)
        finally:
            os._exit(code)
    children.append(child)
for number in range(3):
    assert app.AsyncResult(f"child-{number}").get(timeout=20) == number
app.backend.store_result("later", 0, "SUCCESS")
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert codes == [0, 0, 0], codes
assert app.AsyncResult("later").get(timeout=10) == 0
"""


def test_a_process_may_fork_while_it_waits(named: tuple[Celery, str, str]) -> None:
    _, _, url = named
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, url],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_a_client_that_waits_for_an_unreachable_server_retries_with_a_backoff(make_app: Callable[..., Celery]) -> None:
    """Each attempt is a connection to a server that is busy starting."""
    connections: list[int] = []
    text = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"

    class Starting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(1)
            self.request.recv(4096)
            self.request.sendall(b"E" + (len(text) + 4).to_bytes(4, "big") + text)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Starting) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            app = make_app(f"postgresql://u@127.0.0.1:{server.server_address[1]}/d?sslmode=disable&gssencmode=disable")
            results = [app.AsyncResult(f"task-{number}") for number in range(20)]
            waiters = [threading.Thread(target=_until_late, args=[one, 6]) for one in results]
            for waiter in waiters:
                waiter.start()
            for waiter in waiters:
                waiter.join()
        finally:
            server.shutdown()
            serving.join()
    # Each of them has looked once by itself.
    assert 20 < len(connections) <= 20 + 14


def _until_late(result: Any, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        result.get(timeout=seconds)


def test_a_client_reads_all_parts_of_a_chord_in_one_statement(
    named: tuple[Celery, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _, url = named
    parts = [app.AsyncResult(f"part-{number}") for number in range(20)]
    body = app.AsyncResult("body", parent=GroupResult("chord", [*parts[:10], GroupResult("inner", parts[10:])]))
    run_statement, read = Session.run, []

    def run_noted(self: Session, name: str, **parameters: Any) -> Any:
        read.append(name)
        return run_statement(self, name, **parameters)

    monkeypatch.setattr(Session, "run", run_noted)
    app.backend.store_result("part-3", 1, states.SUCCESS)
    with pytest.raises(TimeoutError):
        body.get(timeout=0.01)
    assert "result" not in read
    assert read.count("results") <= 10
    app.backend.store_result("part-13", ValueError("of a part"), states.FAILURE)
    with pytest.raises(ValueError, match="of a part"):
        body.get(timeout=DEADLINE_S)
    assert "result" not in read
    assert count(url, "celery_taskmeta") == 2

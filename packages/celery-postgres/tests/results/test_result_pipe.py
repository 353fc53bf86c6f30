"""What prefork children have finished is stored by the main process, and by themselves where that is killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg2
import pytest
from celery import chord, signature

from celery_postgres.database.message_store import Claim
from celery_postgres.database.result_store import Outcome, Part
from celery_postgres.results.result_pipe import ResultPipe
from celery_postgres.results.write import Write
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, Probe, ProbeWorker, unique
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until

RESCUE_S = 40
HERE = ("this", "database")


@contextlib.contextmanager
def results_locked(url: str) -> Iterator[None]:
    """No result can be stored in the block."""
    connection = psycopg2.connect(url)
    try:
        connection.cursor().execute("LOCK TABLE celery_taskmeta IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()


def finish(probe: Probe, worker: ProbeWorker, task: str, number: int) -> tuple[str, list[Any]]:
    """Run tasks until a child has passed each on. Needs `results_locked`."""
    tag = unique("work")
    sent = [probe.send(task, f"{tag}-{one}") for one in range(number)]
    wait_until(lambda: worker.log_text().count("succeeded in") >= number, DEADLINE_S, f"{number} tasks to end")
    assert len(probe.notes("end", f"{tag}-*")) == number
    if task == "run":  # a killed worker's messages would run again
        wait_until(lambda: rows_of(probe.url) == 0, DEADLINE_S, "the messages to be acknowledged")
    return tag, sent


def children_of(probe: Probe, worker: ProbeWorker) -> list[int]:
    children: list[int] = probe.inspect(worker, "stats")["pool"]["processes"]
    assert len(children) == 2
    return children


def all_stored(probe: Probe, tag: str, number: int) -> None:
    statement = "SELECT status, count(*) FROM celery_taskmeta GROUP BY status"
    wait_until(lambda: rows(probe.url, statement) == [("SUCCESS", number)], RESCUE_S, f"{number} results")
    wait_until(lambda: rows_of(probe.url) == 0, RESCUE_S, "the messages to be acknowledged")
    assert len(probe.notes("start", f"{tag}-*")) == number


@pytest.mark.parametrize("task", ["run", "run_late"])
def test_children_store_what_their_killed_worker_had_not_stored(probe: Probe, task: str) -> None:
    worker = probe.start(pool="prefork")
    with results_locked(probe.url):
        tag, _ = finish(probe, worker, task, 30)
        os.kill(worker.pid, signal.SIGKILL)
    all_stored(probe, tag, 30)


@pytest.mark.parametrize("task", ["run", "run_late"])
def test_the_worker_stores_what_a_killed_child_has_finished(probe: Probe, task: str) -> None:
    worker = probe.start(pool="prefork")
    children = children_of(probe, worker)
    with results_locked(probe.url):
        tag, _ = finish(probe, worker, task, 30)
        for child in children:
            os.kill(child, signal.SIGKILL)
    all_stored(probe, tag, 30)


def test_children_that_are_replaced_lose_no_result(probe: Probe) -> None:
    """Each waits before it ends, 10 s at most."""
    worker = probe.start(pool="prefork", args=["--max-tasks-per-child", "3"])
    with results_locked(probe.url):
        tag, _ = finish(probe, worker, "run", 9)
    all_stored(probe, tag, 9)


def test_a_worker_that_is_told_to_stop_stores_what_its_children_have_finished(probe: Probe) -> None:
    worker = probe.start(pool="prefork")
    with results_locked(probe.url):
        tag, _ = finish(probe, worker, "run", 30)
        os.kill(worker.pid, signal.SIGTERM)
        wait_until(lambda: "Warm shutdown" in worker.log_text(), DEADLINE_S, "the worker to stop")
    all_stored(probe, tag, 30)


@pytest.mark.parametrize("task", ["read_itself", "read_itself_late"])
def test_a_task_reads_its_own_final_state(pool: Probe, task: str) -> None:
    """In `on_success` and `after_return`, which run when the result has been passed on."""
    tag = unique("own")
    pool.send(task, tag).get(timeout=DEADLINE_S)
    notes = pool.wait_for("own state", tag, 2)
    assert [note["state"] for note in notes] == ["SUCCESS", "SUCCESS"]


def test_results_that_do_not_fit_are_stored_by_the_child(probe: Probe) -> None:
    worker = probe.start(pool="prefork")
    sizes = [select.PIPE_BUF - 400, select.PIPE_BUF, 50_000, 200_000]
    sent = [probe.send("echo", "x" * size) for size in sizes]
    assert [len(one.get(timeout=DEADLINE_S)) for one in sent] == sizes
    assert worker.process.poll() is None


def test_children_open_no_connection(probe: Probe) -> None:
    """Eight children: with a connection each there would be eight more than these."""
    worker = probe.start(pool="prefork", concurrency=8)
    tag = unique("busy")
    names = [f"{tag}-{one}" for one in range(8)]
    sent = [probe.send(task, name, gate) for name in names for task, gate in [("run", tag), ("run_late", None)]]
    probe.wait_for_all("start", names)
    (probe.folder / "gates" / tag).touch()
    assert {one.get(timeout=DEADLINE_S) for one in sent} == set(names)
    body = chord([signature("probe.add", (one, 1), app=probe.app) for one in range(20)])(
        signature("probe.total", app=probe.app)
    )
    assert body.get(timeout=DEADLINE_S) == sum(range(20)) + 20
    assert len({note["pid"] for note in probe.notes("end", f"{tag}-*")}) > 4
    statement = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name IN ('probe-0', 'probe-results')"
    )
    assert 1 < scalar(probe.url, statement) < 8
    assert worker.process.poll() is None


def test_a_killed_worker_loses_no_chord(probe: Probe) -> None:
    """Its children store the parts. They send the body, or the next worker does, where the server has still executed
    the killed worker's statement."""
    worker = probe.start(pool="prefork")
    with results_locked(probe.url):
        parts = [signature("probe.run_late", (f"part-{one}",), app=probe.app) for one in range(4)]
        body = chord(parts)(signature("probe.body", ("chord",), app=probe.app))
        wait_until(lambda: worker.log_text().count("succeeded in") >= 4, DEADLINE_S, "the parts to end")
        os.kill(worker.pid, signal.SIGKILL)
    probe.start()
    assert body.get(timeout=RESCUE_S) == [f"part-{one}" for one in range(4)]
    assert len(probe.notes("start", "part-*")) == 4


# -- the pipe itself


def ended(task_id: str, size: int = 2, claim: Claim | None = None) -> Write:
    return Write([Outcome(task_id, "SUCCESS", b"1" * size, None)], claim=claim)


@contextlib.contextmanager
def forked(pipe: ResultPipe, work: Callable[[], bool]) -> Iterator[int]:
    """A child that ends with 0 if `work` returns True. It waits to be killed before, if `work` does."""
    pipe.before_fork()
    pid = os.fork()
    if pid:
        pipe.after_fork_in_parent()
    else:
        status = 1
        with contextlib.suppress(BaseException):
            pipe.after_fork_in_child()
            status = 0 if work() else 2
        os._exit(status)
    yield pid
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def read(pipe: ResultPipe, number: int) -> list[Write]:
    found: list[Write] = []

    def complete() -> bool:
        found.extend(pipe.read())
        return len(found) >= number

    wait_until(complete, DEADLINE_S, f"{number} records")
    return found


def test_a_child_that_ends_leaves_nothing_to_a_killed_worker(probe: Probe) -> None:
    """It ends after three tasks, and waits until the main process has stored them, or is gone."""
    worker = probe.start(pool="prefork", concurrency=1, args=["--max-tasks-per-child", "3"])
    with results_locked(probe.url):
        tag, _ = finish(probe, worker, "run", 3)
        os.kill(worker.pid, signal.SIGKILL)
    all_stored(probe, tag, 3)


@pytest.mark.parametrize("task", ["run", "run_late"])
def test_a_worker_that_cannot_store_still_ends(probe: Probe, task: str) -> None:
    """More results than the pipe holds: the children store the others themselves, and so wait as they always did."""
    worker = probe.start(pool="prefork", conf={"worker_prefetch_multiplier": 500})
    tag = unique("work")
    with results_locked(probe.url):
        for one in range(600):
            probe.send(task, f"{tag}-{one}")
        probe.wait_for("end", f"{tag}-*", 100)
        os.kill(worker.pid, signal.SIGTERM)
        worker.process.wait(100)
    if task == "run_late":
        probe.start(pool="prefork")
        statement = "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"
        wait_until(lambda: scalar(probe.url, statement) == 600, RESCUE_S, "600 results")


def test_a_child_that_dies_after_its_task_has_ended_does_not_repeat_it(probe: Probe) -> None:
    """Its result is in the pipe when the main process learns of its death."""
    worker = probe.start(pool="prefork", concurrency=1)
    tag = unique("work")
    with results_locked(probe.url):
        sent = probe.send("die_afterwards", tag)
        wait_until(lambda: "SIGKILL" in worker.log_text(), DEADLINE_S, "the main process to learn of its death")
    assert sent.get(timeout=DEADLINE_S) == tag
    assert probe.send("run", f"{tag}-next").get(timeout=DEADLINE_S) == f"{tag}-next"
    wait_until(lambda: rows_of(probe.url) == 0, DEADLINE_S, "the messages to be acknowledged")
    assert len(probe.notes("start", tag)) == 1


def test_records_arrive_complete_and_in_order_from_several_children() -> None:
    pipe, claim = ResultPipe(), (7, 9)
    assert pipe.serve(HERE)

    def send(name: str) -> bool:
        for one in range(500):
            # It does not wait where it is full; this test does.
            wait_until(partial(pipe.offer, HERE, ended(f"{name}-{one}", one, claim), lambda: None), DEADLINE_S, "room")
        return True

    with forked(pipe, lambda: send("a")), forked(pipe, lambda: send("b")):
        found = read(pipe, 1000)
    for name in "ab":
        mine = [one for one in found if one.outcomes[0].task_id.startswith(name)]
        assert [one.outcomes[0] for one in mine] == [ended(f"{name}-{one}", one).outcomes[0] for one in range(500)]
        assert {one.claim for one in mine} == {claim}


def test_large_records_of_several_children_arrive_in_pieces() -> None:
    pipe = ResultPipe()
    pipe.serve(HERE)
    sizes = [2, select.PIPE_BUF, 3 * select.PIPE_BUF, 15 * select.PIPE_BUF] * 20

    def send(name: str) -> bool:
        for number, size in enumerate(sizes):
            one = ended(f"{name}-{number}", size)
            wait_until(partial(pipe.offer, HERE, one, lambda: None), DEADLINE_S, "room")
        return True

    with forked(pipe, lambda: send("a")), forked(pipe, lambda: send("b")):
        found = read(pipe, 2 * len(sizes))
    for name in "ab":
        mine = [one.outcomes[0] for one in found if one.outcomes[0].task_id.startswith(name)]
        assert mine == [ended(f"{name}-{number}", size).outcomes[0] for number, size in enumerate(sizes)]


def test_a_child_that_dies_within_a_record_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = ResultPipe()
    pipe.serve(HERE)

    def die_after_two_pieces() -> bool:
        write, pieces = os.write, iter(range(2))

        def die(descriptor: int, data: bytes) -> int:
            if next(pieces, None) is None:
                os._exit(0)
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", die)
        pipe.offer(HERE, ended("torn", 5 * select.PIPE_BUF), lambda: None)
        return False

    def pass_on() -> bool:
        return all(pipe.offer(HERE, ended(str(size), size), lambda: None) for size in (2, 9000))

    with forked(pipe, die_after_two_pieces):
        pass
    with forked(pipe, pass_on):
        found = read(pipe, 2)
    assert [one.outcomes[0].task_id for one in found] == ["2", "9000"]


def test_a_full_pipe_takes_no_more_and_says_so() -> None:
    pipe = ResultPipe()
    pipe.serve(HERE)

    def fill() -> bool:
        passed = 0
        while pipe.offer(HERE, ended(str(passed), 1000), lambda: None):
            passed += 1
        return 10 < passed == len(pipe.unconfirmed())

    with forked(pipe, fill):
        pass
    assert pipe.read()


def test_a_child_forgets_what_is_confirmed_and_remembers_the_rest() -> None:
    pipe = ResultPipe()
    pipe.serve(HERE)
    confirmed, seen = os.pipe(), os.pipe()

    def work() -> bool:
        for one in range(5):
            pipe.offer(HERE, ended(str(one)), lambda: None)
        os.write(seen[1], b"x")
        os.read(confirmed[0], 1)
        return [one.outcomes[0].task_id for one in pipe.unconfirmed()] == ["3", "4"]

    with forked(pipe, work):
        os.read(seen[0], 1)
        pipe.confirm(read(pipe, 5)[:3])
        os.write(confirmed[1], b"x")
    for end in (*confirmed, *seen):
        os.close(end)


@pytest.mark.parametrize("reason", ["another database", "no database", "too large", "behind"])
def test_what_the_main_process_cannot_take_is_refused(reason: str) -> None:
    pipe = ResultPipe()
    if reason != "no database":
        pipe.serve(("another",) if reason == "another database" else HERE)
    pipe.accept(reason != "behind")
    write = ended("a", 16 * select.PIPE_BUF if reason == "too large" else 2)
    with forked(pipe, lambda: not pipe.offer(HERE, write, lambda: None) and not pipe.unconfirmed()):
        pass
    assert pipe.read() == []


def test_the_child_of_a_child_stores_its_results_itself() -> None:
    pipe = ResultPipe()
    pipe.serve(HERE)

    def work() -> bool:
        grandchild = os.fork()
        if grandchild == 0:
            pipe.after_fork_in_child()
            os._exit(1 if pipe.offer(HERE, ended("a"), lambda: None) else 0)
        return os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0

    with forked(pipe, work):
        pass


def test_a_chord_part_arrives_with_its_result_or_without() -> None:
    pipe = ResultPipe()
    pipe.serve(HERE)
    part = Part("chord", "a", 3, "SUCCESS", b"1", '{"task": "body"}')
    writes = [Write(ended("a").outcomes, [part], (7, 9)), Write([], [part])]
    with forked(pipe, lambda: all(pipe.offer(HERE, one, lambda: None) for one in writes)):
        found = read(pipe, 2)
    assert [(one.outcomes, one.parts, one.claim) for one in found] == [
        (one.outcomes, one.parts, one.claim) for one in writes
    ]


def test_a_state_of_a_task_whose_end_is_unconfirmed_is_found() -> None:
    pipe = ResultPipe()
    pipe.serve(HERE)
    confirmed, seen = os.pipe(), os.pipe()

    def work() -> bool:
        pipe.offer(HERE, ended("a"), lambda: None)
        pipe.offer(HERE, ended("b"), lambda: None)
        before = [pipe.includes(ended(one)) for one in "abc"]
        os.write(seen[1], b"x")
        os.read(confirmed[0], 1)
        after = [pipe.includes(ended(one)) for one in "abc"]
        return (before, after) == ([True, True, False], [False, True, False])

    with forked(pipe, work):
        os.read(seen[0], 1)
        pipe.confirm(read(pipe, 2)[:1])
        os.write(confirmed[1], b"x")
    for end in (*confirmed, *seen):
        os.close(end)


def test_what_another_process_may_not_end_is_stored_by_the_child() -> None:
    """States that are not final, and parts of a chord with errbacks, which may be a task's own code."""
    started = Outcome("a", "STARTED", None, None)
    quiet = Part("chord", "a", 0, "SUCCESS", None, '{"task": "body", "options": {}}')
    loud = Part("chord", "a", 0, "SUCCESS", None, '{"task": "body", "options": {"link_error": [{"task": "errback"}]}}')
    assert ended("a").is_end
    assert Write(ended("a").outcomes, [quiet]).is_end
    assert Write([], [quiet]).is_end
    assert not Write([started]).is_end
    assert not Write(ended("a").outcomes, [loud]).is_end

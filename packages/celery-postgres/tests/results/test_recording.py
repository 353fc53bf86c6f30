"""Recording results in batches, and finishing chords, without workers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery, chord, group, signature, states
from celery.app.task import Context
from celery.utils import uuid

from celery_postgres.database.chord_store import ChordStore
from celery_postgres.database.result_store import Outcome, Part, ResultStore
from celery_postgres.database.session import Session
from celery_postgres.errors import UnstorableResultError
from celery_postgres.results import chords
from celery_postgres.results.backend import DatabaseBackend
from celery_postgres.results.batch_writer import BatchWriter
from celery_postgres.results.serializer import dump
from celery_postgres.results.write import Write, record
from environment.testkit.canvas import count, stored
from environment.testkit.client import DEADLINE_S
from environment.testkit.databases import rows
from environment.testkit.kombu_programs import environment
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until


def outcome(task_id: str, state: str = states.SUCCESS, value: Any = 1, **columns: Any) -> Outcome:
    return Outcome(task_id, state, dump(value), None, **columns)


# -- batches

#: Values that the serializer accepts and the driver or the database refuses.
BAD: dict[str, dict[str, Any]] = {
    "a number that is too large": {"retries": 1 << 40},
    "a text where a number belongs": {"retries": "many"},
    "an object that the driver cannot adapt": {"retries": {"a": 1}},
    "NUL in a text": {"traceback": "a\0b"},
    "half of a surrogate pair": {"traceback": "\ud800"},
    "a text that is too long": {"name": "x" * 156},
    "a state that is too long": {"status": "x" * 51},
}


@pytest.mark.parametrize("kind", BAD)
def test_a_refused_result_fails_only_its_own_task(store: ResultStore, url: str, kind: str) -> None:
    writes = [Write([outcome(f"good-{number}")]) for number in range(5)]
    bad = replace(outcome("bad"), **BAD[kind])
    writes.insert(2, Write([bad]))
    assert record(store, writes) == []
    assert {stored(url, f"good-{number}") for number in range(5)} == {"SUCCESS"}
    # A custom state is not final, so it does not become a failure either.
    assert stored(url, "bad") == (None if kind == "a state that is too long" else "FAILURE")


def test_the_failure_names_the_reason_and_quotes_nothing(app: Celery, store: ResultStore) -> None:
    record(store, [Write([outcome("bad", traceback="s3cret\0")])])
    error = app.AsyncResult("bad").result
    assert type(error) is UnstorableResultError
    assert "s3cret" not in str(error)


def test_a_refused_chord_part_counts_as_a_failure(store: ResultStore, url: str) -> None:
    part = Part("chord", "bad", 0, states.SUCCESS, None, "{}")
    record(store, [Write([outcome("bad", retries=1 << 40)], [part])])
    assert rows(url, "SELECT status FROM celery_chord_part") == [("FAILURE",)]


def test_a_chord_id_too_long_for_the_index_does_not_stop_the_batch(store: ResultStore, url: str) -> None:
    endless = "".join(map(chr, range(256, 4000)))
    record(store, [Write([outcome("good")]), Write([outcome("bad")], [Part(endless, "bad", 0, "SUCCESS", None, "{}")])])
    assert stored(url, "good") == "SUCCESS"


def test_the_batch_writer_survives_refused_results_and_stores_the_rest(store: ResultStore, url: str) -> None:
    settled: list[Any] = []
    writer = BatchWriter(store, settled.extend, lambda chord: None, lambda: 3600.0)
    try:
        for kind, columns in BAD.items():
            writer.add(Write([replace(outcome(f"bad {kind}"), **columns)], claim=(1, 1)))
            writer.add(Write([outcome(f"good {kind}")]))
        assert writer.flush(DEADLINE_S)
        assert {stored(url, f"good {kind}") for kind in BAD} == {"SUCCESS"}
        assert settled == [(1, 1)] * len(BAD)
    finally:
        writer.stop()
    assert not writer._thread.is_alive()


def test_the_batch_writer_survives_failing_maintenance(store: ResultStore, url: str) -> None:
    def maintain() -> float:
        raise OverflowError("a date that does not exist")

    writer = BatchWriter(store, lambda claims: None, lambda chord: None, maintain)
    writer.add(Write([outcome("good")]))
    assert writer.flush(DEADLINE_S)
    writer.stop()
    assert stored(url, "good") == "SUCCESS"


def test_a_lone_result_after_a_lone_result_is_stored_at_once(
    store: ResultStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends one task after the other waits for each result."""
    monkeypatch.setattr(BatchWriter, "INTERVAL_S", 0.0)
    writer = BatchWriter(store, lambda claims: None, lambda chord: None, lambda: 3600.0)
    writer.add(Write([outcome("first")]))
    wait_until(lambda: stored(url, "first") == "SUCCESS", DEADLINE_S, "the first result")
    monkeypatch.setattr(BatchWriter, "INTERVAL_S", 3600.0)
    writer.add(Write([outcome("second")]))
    wait_until(lambda: stored(url, "second") == "SUCCESS", DEADLINE_S, "the second result")
    writer.stop()


def test_the_last_result_of_a_worker_takes_its_batch_along(
    store: ResultStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last part of a chord: there is no task left whose result could join the batch."""
    from celery.worker import state

    monkeypatch.setattr(BatchWriter, "INTERVAL_S", 3600.0)
    monkeypatch.setattr(state, "reserved_requests", [Context(id="first"), Context(id="last")])
    writer = BatchWriter(store, lambda claims: None, lambda chord: None, lambda: 3600.0)
    writer._last = time.monotonic()
    writer.add(Write([outcome("first")]))
    with pytest.raises(TimeoutError):
        wait_until(lambda: stored(url, "first") == "SUCCESS", 0.2, "a result that is to wait for another")
    writer.add(Write([outcome("last")]))
    wait_until(lambda: stored(url, "last") == "SUCCESS", DEADLINE_S, "both results")
    assert stored(url, "first") == "SUCCESS"
    writer.stop()


def test_the_batch_writer_survives_a_task_that_begins_while_it_counts_them(
    store: ResultStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's main thread adds to the set of its tasks while the writer's thread reads it."""
    from celery.worker import state

    kept = [Context(id="first"), Context(id="second")]

    class Growing(weakref.WeakSet[Context]):
        def __iter__(self) -> Iterator[Context]:
            for one in super().__iter__():
                kept.append(Context(id="meanwhile"))
                self.add(kept[-1])
                yield one

    reserved = Growing(kept)
    with pytest.raises(RuntimeError, match="changed size"):
        list(reserved)
    monkeypatch.setattr(state, "reserved_requests", reserved)
    writer = BatchWriter(store, lambda claims: None, lambda chord: None, lambda: 3600.0)
    writer.add(Write([outcome("first")]))
    writer.add(Write([outcome("second")]))
    assert writer.flush(DEADLINE_S)
    assert (stored(url, "first"), stored(url, "second")) == ("SUCCESS", "SUCCESS")
    writer.stop()


def test_large_results_are_stored_in_several_statements(
    store: ResultStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchWriter, "MOST_BYTES", 1 << 20)
    sizes: list[int] = []
    record_batch = ResultStore.record

    def counting(self: ResultStore, outcomes: Any, parts: Any, claims: Any) -> list[str]:
        sizes.append(len(outcomes))
        return record_batch(self, outcomes, parts, claims)

    monkeypatch.setattr(ResultStore, "record", counting)
    held = threading.Event()
    writer = BatchWriter(
        store, lambda claims: None, lambda chord: None, lambda: 3600.0 if held.wait(DEADLINE_S) else 0.0
    )
    for number in range(10):
        writer.add(Write([outcome(f"large-{number}", value=b"x" * (600 << 10))]))
    held.set()
    assert writer.flush(DEADLINE_S)
    writer.stop()
    assert sizes == [2] * 5
    assert count(url, "celery_taskmeta") == 10


def test_several_states_of_one_task_in_one_batch_leave_the_last(store: ResultStore, url: str) -> None:
    given = [states.STARTED, "PROGRESS", states.SUCCESS]
    record(store, [Write([outcome("one", state)]) for state in given])
    assert stored(url, "one") == "SUCCESS"


@pytest.mark.parametrize("company", [[], [Write([outcome("another")])]], ids=["alone", "together"])
@pytest.mark.parametrize("end", [states.SUCCESS, states.FAILURE, states.REVOKED])
def test_a_later_state_does_not_replace_a_final_one(
    store: ResultStore, url: str, end: str, company: list[Write]
) -> None:
    """Celery stores RETRY after it has published the retry; a second execution of a successful task may fail."""
    error = {"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"}

    def then(state: str) -> str:
        record(store, [Write([outcome("one", state, error)]), *company])
        return str(stored(url, "one"))

    assert then(end) == end
    assert then(states.RETRY) == end
    assert then(states.SUCCESS) == "SUCCESS"
    assert then(states.FAILURE) == "SUCCESS"


@pytest.mark.parametrize("company", [[], [Write([outcome("another")])]], ids=["alone", "together"])
def test_a_result_acknowledges_its_own_message_and_removes_its_waiters(
    store: ResultStore, url: str, company: list[Write]
) -> None:
    run(
        url,
        "INSERT INTO kombu_message (id, visible, version, payload, queue_id, fence)"
        " VALUES (1, false, 1, '{}', 1, 3), (2, false, 1, '{}', 1, 4), (3, true, 1, '{}', 1, 3)",
        "INSERT INTO celery_waiter (task_id, listener, slot) VALUES ('one', 1, 5), ('one', 2, 6), ('two', 1, 7)",
    )
    record(store, [Write([outcome("one", states.STARTED)]), *company])
    assert count(url, "celery_waiter") == 3
    for claim in ((1, 3), (2, 3), (3, 3)):
        record(store, [Write([outcome("one")], claim=claim), *company])
    assert [row for (row,) in rows(url, "SELECT id FROM kombu_message ORDER BY id")] == [2, 3]
    assert [row for (row,) in rows(url, "SELECT task_id FROM celery_waiter")] == ["two"]


def test_overlapping_batches_do_not_deadlock(store: ResultStore, url: str) -> None:
    task_ids = [uuid() for _ in range(40)]

    def write(ids: list[str]) -> None:
        for _ in range(20):
            record(
                store,
                [Write([outcome(one)], [Part(f"chord-{task_ids.index(one) % 3}", one, number, "SUCCESS", None, "{}")])
                 for number, one in enumerate(ids)],
            )  # fmt: skip

    threads = [
        threading.Thread(target=write, args=[ids]) for ids in (task_ids, task_ids[::-1], task_ids[20:], task_ids[:20])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(url, "celery_taskmeta") == 40
    assert scalar(url, "SELECT sum(done) FROM celery_chord") == 40


# -- chords


def returned(backend: DatabaseBackend, chord_id: str, number: int, body: Any, state: str = states.SUCCESS) -> None:
    """End a part of a chord, as a worker does through its backend."""
    request = Context(
        id=f"{chord_id}-{number}", group=chord_id, group_index=number, chord=body, errbacks=None, chain=None, task="t"
    )
    if state == states.SUCCESS:
        backend.mark_as_done(request.id, number, request)
    else:
        backend.mark_as_failure(request.id, ValueError("on request"), None, request)


@pytest.fixture
def body(app: Celery) -> Any:
    """A body for a queue that nobody consumes."""
    return signature("probe.total", app=app, options={"queue": "bodies", "task_id": uuid()})


def bodies(url: str) -> int:
    return rows_of(url, "bodies") if scalar(url, "SELECT count(*) FROM kombu_queue WHERE name = 'bodies'") else 0


def test_a_chord_part_that_is_delivered_twice_counts_once(app: Celery, url: str, body: Any) -> None:
    app.backend.set_chord_size("chord", 2)
    for _ in range(3):
        returned(app.backend, "chord", 0, body)
    assert rows(url, "SELECT done, due_at FROM celery_chord") == [(1, None)]
    assert bodies(url) == 0
    returned(app.backend, "chord", 1, body)
    assert bodies(url) == 1
    assert count(url, "celery_chord") + count(url, "celery_chord_part") == 0


def test_a_chord_part_after_the_end_sends_no_second_body(app: Celery, url: str, body: Any) -> None:
    app.backend.set_chord_size("chord", 1)
    returned(app.backend, "chord", 0, body)
    returned(app.backend, "chord", 0, body)
    assert bodies(url) == 1


def test_parts_may_end_before_the_size_is_known(app: Celery, url: str, body: Any) -> None:
    for number in range(2):
        returned(app.backend, "chord", number, body)
    assert bodies(url) == 0
    app.backend.set_chord_size("chord", 2)
    assert bodies(url) == 1


def test_the_first_size_recorded_wins(app: Celery, url: str, body: Any) -> None:
    """A chain that ends in a group reports its own size later, when a worker publishes that group."""
    nested = group(signature("probe.add", (1,), app=app) | group(signature("probe.add", app=app) for _ in range(2)),
                   signature("probe.add", (2,), app=app), app=app)  # fmt: skip
    result = chord(nested, body).apply_async()
    assert rows(url, "SELECT size FROM celery_chord") == [(3,)]
    app.backend.set_chord_size(result.parent.id, 2)
    assert rows(url, "SELECT size FROM celery_chord") == [(3,)]


def test_a_partly_published_header_never_calls_its_body(app: Celery, url: str, body: Any) -> None:
    good = signature("probe.add", (1,), app=app)
    with pytest.raises(Exception, match="JSON serializable"):
        chord([good, good, signature("probe.add", (object(),), app=app), good], body).apply_async()
    published = rows(url, "SELECT payload FROM kombu_message")
    assert len(published) == 2
    for (payload,) in published:
        headers = json.loads(payload)["headers"]
        task_id, chord_id = headers["id"], headers["group"]
        request = Context(id=task_id, group=chord_id, chord=dict(body), errbacks=None, chain=None, task="t")
        app.backend.mark_as_done(task_id, 1, request)
    assert bodies(url) == 0
    assert rows(url, "SELECT done, size, due_at FROM celery_chord") == [(2, None, None)]


def due(app: Celery, url: str, body: Any, size: int = 3, state: str = states.SUCCESS) -> None:
    """A due chord whose last part was stored by a worker that was killed immediately afterwards."""
    backend = app.backend
    send, backend.send_body = backend.send_body, lambda chord: None
    backend.set_chord_size("chord", size)
    for number in range(size):
        returned(backend, "chord", number, body, state if number == 0 else states.SUCCESS)
    backend.send_body = send
    assert scalar(url, "SELECT count(*) FROM celery_chord WHERE due_at IS NOT NULL") == 1


def test_maintenance_sends_an_overdue_body(app: Celery, url: str, body: Any) -> None:
    due(app, url, body)
    app.backend.maintain()
    assert bodies(url) == 0  # the process that counted the last part may still send it
    run(url, "UPDATE celery_chord SET due_at = now() - interval '1 minute'")
    app.backend.maintain()
    assert bodies(url) == 1
    assert count(url, "celery_chord") == 0


FINISH = """
import sys
import celery_postgres
from celery import Celery
from celery_postgres.results import chords

celery_postgres.install()
app = Celery("p", broker="sqla+" + sys.argv[1], backend="db+" + sys.argv[1])
app.backend.sessions.run("look")
print("ready", flush=True)
sys.stdin.readline()
chords.finish(app.backend, "chord")
"""

BODIES: dict[str, Callable[[Celery, Any], Any]] = {
    "a task": lambda app, body: body,
    "a chain": lambda app, body: body | body.clone(),
    "a group": lambda app, body: group(body.clone(), body.clone(), app=app),
    "a chord": lambda app, body: chord([body.clone(), body.clone()], body.clone()),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("state", [states.SUCCESS, states.FAILURE])
def test_concurrent_processes_send_one_body(app: Celery, url: str, body: Any, kind: str, state: str) -> None:
    body.options.pop("task_id")
    made = BODIES[kind](app, body)
    made.freeze()
    due(app, url, json.loads(json.dumps(made)), state=state)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", FINISH, url],
            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    expected = 0 if state == states.FAILURE else {"a task": 1, "a chain": 1}.get(kind, 2)
    assert bodies(url) == expected
    assert scalar(url, "SELECT count(*) FROM celery_chord WHERE due_at IS NOT NULL") == 0


def test_a_body_for_an_exchange_is_sent_once(app: Celery, url: str, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that finish the chord both look up the queues, and one of them sends."""
    from kombu import Exchange, Queue

    app.conf.task_queues = [Queue("bodies", Exchange("bodies", "direct"), "bodies")]
    body.options.pop("queue")
    body.options.update(exchange="bodies", routing_key="bodies")
    with app.connection_for_write() as connection:
        app.conf.task_queues[0](connection.default_channel).declare()
    due(app, url, body)
    found = app.backend.chord_store.due("chord")
    chords.finish(app.backend, "chord")
    assert bodies(url) == 1
    # The other process has read the parts before.
    monkeypatch.setattr(ChordStore, "due", lambda self, chord_id: found)
    chords.finish(app.backend, "chord")
    assert bodies(url) == 1


def test_a_body_whose_queue_was_deleted_is_sent_once_to_a_new_one(
    app: Celery, url: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    due(app, url, body)
    finish = ChordStore.finish
    missing: list[list[str]] = []

    def deleted_before(self: ChordStore, chord_id: str, messages: Any) -> list[str]:
        if not missing:
            run(url, "DELETE FROM kombu_queue WHERE name = 'bodies'")
        missing.append(finish(self, chord_id, messages))
        return missing[-1]

    monkeypatch.setattr(ChordStore, "finish", deleted_before)
    chords.finish(app.backend, "chord")
    assert missing == [["bodies"], []]
    assert bodies(url) == 1
    assert count(url, "celery_chord") + count(url, "celery_chord_part") == 0


def test_a_body_wakes_two_of_many_sleeping_consumers(app: Celery, url: str, body: Any) -> None:
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("bodies")
    session = Session(url)
    try:
        for number in range(1, 6):
            session.listen(f"kombu_{number}")
            run(
                url,
                f"INSERT INTO kombu_consumer (id, hostname, pid) OVERRIDING SYSTEM VALUE VALUES ({number}, 'h', 1)",  # noqa: S608
            )
        run(
            url,
            "INSERT INTO kombu_subscription (queue_id, consumer_id, asleep)"
            " SELECT queue.id, consumer.id, true FROM kombu_queue AS queue, kombu_consumer AS consumer"
            " WHERE queue.name = 'bodies' AND consumer.hostname = 'h'",
        )
        due(app, url, body)
        chords.finish(app.backend, "chord")
        session.script("SELECT 1")
        assert len(session.notifications()) == 2
    finally:
        session.close()
    assert bodies(url) == 1


def test_a_chord_whose_body_cannot_be_read_does_not_hold_up_the_others(app: Celery, url: str, body: Any) -> None:
    run(
        url,
        "INSERT INTO celery_chord (id, due_at, size, done, body) VALUES"
        " ('broken', now() - interval '1 hour', 1, 1, '{\"task\": 5}'), ('none', now() - interval '1 hour', 1, 1, 'x')",
        "INSERT INTO celery_chord_part (chord_id, task_id, status) VALUES"
        " ('broken', 'a', 'SUCCESS'), ('none', 'b', 'SUCCESS')",
    )
    app.backend.set_chord_size("chord", 1)
    returned(app.backend, "chord", 0, body)
    app.backend.maintain()
    assert bodies(url) == 1


def test_a_poisoned_part_fails_the_body_and_runs_nothing(app: Celery, url: str, body: Any, tmp_path: Any) -> None:
    import os
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/touched",)

    due(app, url, body)
    run(url, f"UPDATE celery_taskmeta SET result = '\\x{pickle.dumps(Evil()).hex()}' WHERE task_id = 'chord-1'")  # noqa: S608
    chords.finish(app.backend, "chord")
    assert list(tmp_path.iterdir()) == []
    assert bodies(url) == 0
    error = app.AsyncResult(body.options["task_id"]).result
    assert type(error).__name__ == "ChordError"
    wait_until(lambda: count(url, "celery_chord") == 0, DEADLINE_S, "the chord to end")

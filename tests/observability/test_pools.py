"""One worker per pool plays every way in which a message can end; then its log and its metrics are read."""

from __future__ import annotations

import json
import re
import secrets
import signal
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, chord
from celery.result import AsyncResult

#: One worker for the module, hence one process of pytest-xdist.
pytestmark = pytest.mark.xdist_group("observability_pools")
DEADLINE_S = 60
POOLS = {"solo": 1, "threads": 8, "prefork": 4}
SECRET = f"do-not-log-{secrets.token_hex(6)}"
TENANT = str(uuid.uuid4())
CORRELATION = "call-4711"
SAMPLES = (
    "celery_tasks_total",
    "celery_task_retries_total",
    "celery_task_duration_seconds_count",
    "celery_task_duration_seconds_bucket",
    "celery_task_queue_wait_seconds_bucket",
    "celery_task_queue_wait_seconds_sum",
    "celery_queue_ready",
    "celery_queue_delayed",
    "celery_queue_claimed",
    "celery_queue_oldest_ready_age_seconds",
    "celery_dead_letters",
    "celery_claim_duration_seconds_count",
    "celery_claim_batch_size_sum",
    "celery_expired_leases_total",
    "celery_worker_slots",
)
BUSY = "celery_worker_busy_slots"


@dataclass
class Played:
    """What a worker left behind."""

    pool: str
    results: dict[str, AsyncResult[Any]]
    states: dict[str, str]
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]]
    text: str
    lines: list[dict[str, Any]]
    exit_status: int

    @property
    def queue(self) -> str:
        return queue_of(self.pool)

    def of(self, name: str, logger: str) -> list[dict[str, Any]]:
        """The lines that `logger` wrote about one of the tasks that were sent."""
        task_id = self.results[name].id
        return [line for line in self.lines if line.get("task_id") == task_id and line["logger"] == logger]

    def counts(self, sample: str) -> dict[tuple[str, ...], float]:
        """Values by the labels except the queue's, which must be ours; what has none is only there from the start."""
        found = {}
        for labels, value in self.samples[sample].items():
            named = dict(labels)
            assert named.pop("queue") == self.queue
            if value:
                found[tuple(named[name] for name in ("task", "state") if name in named)] = value
        return found


def queue_of(pool: str) -> str:
    return f"of-{pool}"


def publish(app: Celery, queue: str, body: object, content_type: str = "application/json", **headers: Any) -> None:
    """A message as somebody else's program might send it."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish(
            encoded,
            exchange="",
            routing_key=queue,
            content_type=content_type,
            content_encoding="utf-8",
            headers=headers,
        )


def play(app: Celery, pool: str) -> dict[str, AsyncResult[Any]]:
    """Send everything. What has a result is returned by name."""
    queue = queue_of(pool)

    def send(task: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        return app.send_task(f"observed.{task}", args=args, queue=queue, **options)

    def foreign(**headers: Any) -> AsyncResult[Any]:
        """Published by somebody else, who sets the headers; our own sends are stamped with the time."""
        task_id = str(uuid.uuid4())
        publish(app, queue, [[], {}, {}], task="observed.nobody", id=task_id, **headers)
        return app.AsyncResult(task_id)

    tenant = {"tenant_id": TENANT, "correlation_id": CORRELATION}
    sent = {
        "tenant": send("tenant", kwargs=tenant, headers={"tenant_id": TENANT, "x-correlation-id": CORRELATION}),
        "bare": send("tenant", kwargs=tenant),
        "nobody": send("nobody"),
        "returns": send("returns", SECRET, kwargs={"more": SECRET}),
        "fails": send("fails", SECRET),
        "expected": send("fails_as_expected", SECRET),
        "database": send("fails_in_the_database", SECRET),
        "retries": send("retries", SECRET),
        "gives_up": send("gives_up", SECRET),
        "object": send("returns_an_object", SECRET),
        "wrong_arguments": send("nobody", SECRET, kwargs={SECRET: SECRET}),
        "bad_tenant": send("tenant", kwargs={"tenant_id": SECRET}),
        "says": send("says", SECRET),
        "expired": send("returns", SECRET, expires=datetime.now(UTC) - timedelta(hours=1)),
        "rejects": send("rejects", SECRET),
        "ignores": send("ignores", SECRET),
        "old": foreign(**{"x-enqueued-at": time.time() - 65}),
        "odd_clock": foreign(**{"x-enqueued-at": SECRET}),
        "no_clock": foreign(),
        "later": foreign(**{"x-enqueued-at": time.time() - 65}, eta=datetime.now(UTC).isoformat()),
        "odd_headers": send("nobody", headers={"tenant_id": SECRET, "x-correlation-id": SECRET * 20}),
    }
    app.send_task("observed.unknown", args=[SECRET], kwargs={"more": SECRET}, queue=queue)
    named = {"task": "observed.returns", "id": "1"}
    publish(app, queue, b'["' + SECRET.encode(), **named)  # JSON that breaks off
    publish(app, queue, SECRET.encode(), "application/x-python-serialize", **named)
    publish(app, queue, [[SECRET], {}, {}], eta=SECRET, **named)
    publish(app, queue, {"args": SECRET}, somebody=SECRET)  # names no task
    publish(app, queue, {**named, "args": [SECRET], "kwargs": SECRET})  # protocol 1, and no mapping
    parts = chord([app.signature("observed.fails", args=[SECRET], queue=queue)])
    sent["chord"] = parts(app.signature("observed.returns", args=[SECRET], queue=queue))
    return sent


@pytest.fixture(scope="module")
def plays(
    module_database: Any,
    start_module_worker: Any,
    worker_options: Any,
    client_of: Any,
    observe: Any,
    wait_until: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Played]:
    """All pools at the same time, each on a queue of its own."""
    workers = {
        pool: start_module_worker(
            module_database.url,
            pool=pool,
            concurrency=concurrency,
            ready=False,
            **worker_options("--loglevel=DEBUG", "-Q", queue_of(pool)),
        )
        for pool, concurrency in POOLS.items()
    }
    folder = tmp_path_factory.mktemp("blocked")
    played = {}
    with client_of(module_database.url) as app:
        for worker in workers.values():
            worker.wait_ready(DEADLINE_S)
        sent = {pool: play(app, pool) for pool in POOLS}
        for pool in ("solo", "threads"):  # the children of prefork do not share the set of revoked tasks
            revoked = str(uuid.uuid4())
            queue = queue_of(pool)
            app.send_task("observed.revokes", args=[revoked], queue=queue).get(timeout=DEADLINE_S)
            sent[pool]["revoked"] = app.send_task("observed.returns", args=[SECRET], task_id=revoked, queue=queue)
        blocked = {}
        for pool, worker in workers.items():
            seen = observe(worker)
            reported = [result for name, result in sent[pool].items() if name not in ("rejects", "ignores")]
            wait_until(lambda r=reported: all(result.ready() for result in r), DEADLINE_S, f"results of {pool}")
            wait_until(lambda s=seen: s.total(state="rejected") >= 7, DEADLINE_S, f"rejected of {pool}")
            wait_until(lambda s=seen: s.total(state="ignored") >= 1, DEADLINE_S, f"ignored of {pool}")
            busy = folder / pool
            task = "observed.waits_for"
            blocked[pool] = app.send_task(task, args=[str(busy)], kwargs={"value": SECRET}, queue=queue_of(pool))
        for pool, worker in workers.items():
            busy = folder / pool
            wait_until(busy.exists, DEADLINE_S, f"a task of {pool} to run")
            worker.process.send_signal(signal.SIGUSR1)
            wait_until(lambda w=worker: "stacks of all" in w.log_text(), DEADLINE_S, f"stacks of {pool}")
            # A child of prefork runs its task before the main process knows.
            wait_until(lambda w=worker: observe(w).samples(BUSY) == {(): 1.0}, DEADLINE_S, f"{pool} to be busy")
            busy.unlink()
            blocked[pool].get(timeout=DEADLINE_S)
            seen = observe(worker)
            wait_until(lambda s=seen: s.total(task="observed.waits_for") == 1, DEADLINE_S, f"counts of {pool}")
            wait_until(lambda s=seen: s.samples(BUSY) == {(): 0.0}, DEADLINE_S, f"the slot of {pool} to be free")
            samples = {name: seen.samples(name) for name in SAMPLES}
            worker.process.terminate()
            played[pool] = (seen, samples)
        return {
            pool: Played(
                pool,
                sent[pool],
                {name: result.state for name, result in sent[pool].items()},
                samples,
                exit_status=seen.worker.process.wait(DEADLINE_S),
                text=seen.worker.log_text(),
                lines=seen.lines(),
            )
            for pool, (seen, samples) in played.items()
        }


@pytest.fixture(params=POOLS)
def played(request: pytest.FixtureRequest, plays: dict[str, Played]) -> Played:
    return plays[request.param]


def test_every_line_is_json_from_start_to_term(played: Played) -> None:
    # Standard output and standard error are one stream here; reading it has parsed each line.
    assert played.exit_status == 0
    messages = [line["message"] for line in played.lines]
    assert any(message.startswith("metrics and health on http://127.0.0.1:") for message in messages)
    assert "worker: Warm shutdown (MainProcess)" in messages
    for line in played.lines:
        assert list(line)[:5] == ["timestamp", "level", "logger", "message", "service"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
        assert line["service"] == "skeldir-worker"
        assert None not in line.values()
    assert max(len(line) for line in played.text.splitlines()) < 4096


def test_no_payload_and_no_result_is_logged(played: Played) -> None:
    assert [line for line in played.text.splitlines() if SECRET in line] == []


def test_each_message_ended_as_it_should(played: Played) -> None:
    expected = {
        **dict.fromkeys(["tenant", "bare", "nobody", "returns", "says", "retries", "old", "later"], "SUCCESS"),
        **dict.fromkeys(["odd_clock", "no_clock", "odd_headers"], "SUCCESS"),
        **dict.fromkeys(["fails", "expected", "database", "gives_up", "object"], "FAILURE"),
        **dict.fromkeys(["wrong_arguments", "bad_tenant", "chord"], "FAILURE"),
        "expired": "REVOKED",
        **({} if played.pool == "prefork" else {"revoked": "REVOKED"}),
    }
    unreported = {"rejects", "ignores"}
    assert {name: state for name, state in played.states.items() if name not in unreported} == expected


def test_each_delivery_is_counted_once(played: Played) -> None:
    shares_its_process = played.pool != "prefork"
    assert played.counts("celery_tasks_total") == {
        ("observed.tenant", "success"): 2,
        ("observed.tenant", "failure"): 1,
        ("observed.nobody", "success"): 6,
        ("observed.nobody", "failure"): 1,
        ("observed.returns", "success"): 1,
        ("observed.returns", "revoked"): 2 if shares_its_process else 1,
        ("observed.returns", "rejected"): 3,  # not JSON, not allowed, not an ETA
        ("observed.fails", "failure"): 2,  # alone and in the chord
        ("observed.fails_as_expected", "failure"): 1,
        ("observed.fails_in_the_database", "failure"): 1,
        ("observed.retries", "retry"): 1,
        ("observed.retries", "success"): 1,
        ("observed.gives_up", "failure"): 1,
        ("observed.returns_an_object", "failure"): 1,
        ("observed.says", "success"): 1,
        ("observed.rejects", "rejected"): 1,
        ("observed.ignores", "ignored"): 1,
        ("observed.waits_for", "success"): 1,
        # Not registered, no task at all, and a task of protocol 1, which names it in the body.
        ("unknown", "rejected"): 3,
        **({("observed.revokes", "success"): 1} if shares_its_process else {}),
    }
    assert played.counts("celery_task_retries_total") == {("observed.retries",): 1}


def test_outcomes_are_shown_before_there_are_any(played: Played) -> None:
    """Prometheus sees no increase in a series that begins with its first failures."""
    shown = {(dict(labels)["task"], dict(labels)["state"]) for labels in played.samples["celery_tasks_total"]}
    assert {("app.tasks.housekeeping.ping", state) for state in ("success", "failure", "revoked")} < shown


def test_each_execution_is_timed_once(played: Played) -> None:
    executed: dict[str, float] = {}
    for (task, state), count in played.counts("celery_tasks_total").items():
        unread = task == "unknown" or (task, state) == ("observed.returns", "rejected")
        if state != "revoked" and not unread:
            executed[task] = executed.get(task, 0) + count
    assert {task: n for (task,), n in played.counts("celery_task_duration_seconds_count").items()} == executed
    buckets = {dict(labels)["le"] for labels in played.samples["celery_task_duration_seconds_bucket"]}
    assert {"0.05", "900.0", "+Inf"} <= buckets


def test_the_wait_begins_with_enqueueing_or_eta(played: Played) -> None:
    waits = {dict(labels)["le"]: n for labels, n in played.samples["celery_task_queue_wait_seconds_bucket"].items()}
    # Enqueued 65 s ago were two, but one of them was not due until now.
    assert waits["120.0"] - waits["60.0"] == 1
    assert waits["+Inf"] == waits["120.0"]
    # Two were executed whose messages tell no time.
    assert waits["+Inf"] == sum(played.samples["celery_task_duration_seconds_count"].values()) - 2
    (total,) = played.samples["celery_task_queue_wait_seconds_sum"].values()
    assert total >= 65


def test_the_depth_of_the_queues_is_shown(played: Played) -> None:
    ours = (("queue", played.queue),)
    for name in ("ready", "delayed", "oldest_ready_age_seconds"):
        assert played.samples[f"celery_queue_{name}"][ours] == 0.0
    # Each worker shows the queues of all.
    assert played.samples["celery_queue_claimed"].keys() == {(("queue", queue_of(pool)),) for pool in POOLS}
    assert played.samples["celery_dead_letters"][ours] >= 1  # what could not be read, and what was rejected


def test_what_the_broker_does_is_counted(played: Played) -> None:
    claims = {dict(labels)["found"]: n for labels, n in played.samples["celery_claim_duration_seconds_count"].items()}
    assert claims["yes"] > 0
    (taken,) = played.samples["celery_claim_batch_size_sum"].values()
    assert taken >= len(played.results)
    assert played.samples["celery_expired_leases_total"] == {(): 0.0}


def test_the_slots_of_the_pool_are_shown(played: Played) -> None:
    assert played.samples["celery_worker_slots"] == {(): POOLS[played.pool]}


def test_a_task_without_tenant_does_not_log_the_tenant_before(played: Played) -> None:
    (for_tenant,) = played.of("tenant", "observed_tasks")
    (for_nobody,) = played.of("nobody", "observed_tasks")
    assert (for_tenant["tenant_id"], for_tenant["correlation_id"]) == (TENANT, CORRELATION)
    assert "tenant_id" not in for_nobody
    assert for_nobody["correlation_id"] == for_nobody["task_id"]
    assert for_tenant["task_name"] == "observed.tenant"
    assert (for_tenant["queue"], for_tenant["retries"]) == (played.queue, 0)


@pytest.mark.parametrize("logger", ["celery.worker.strategy", "celery.app.trace"])
def test_celerys_lines_around_the_body_have_the_context_too(played: Played, logger: str) -> None:
    (line,) = played.of("tenant", logger)
    (bare,) = played.of("bare", logger)
    for one in (line, bare):
        assert (one["tenant_id"], one["correlation_id"]) == (TENANT, CORRELATION)
    assert (line["task_name"], line["queue"], line["retries"]) == ("observed.tenant", played.queue, 0)
    assert ("duration_ms" in line) == (logger == "celery.app.trace")
    (odd,) = played.of("odd_headers", logger)
    assert "tenant_id" not in odd
    assert odd["correlation_id"] == odd["task_id"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("fails", "ValueError", "withheld: it may quote data"),
        ("database", "sqlalchemy.exc.IntegrityError", "SQLSTATE 23505 (UniqueViolation), constraint one_of_each"),
        ("wrong_arguments", "TypeError", "withheld: it may quote data"),
        ("bad_tenant", "app.tasks.context.TenantError", "tenant_id is not a UUID"),
        ("gives_up", "celery.exceptions.MaxRetriesExceededError", "no retries are left"),
        (
            "object",
            "celery_postgres.errors.UnstorableResultError",
            "the result cannot be stored: Object of type Thing is not JSON serializable",
        ),
        ("expected", "observed_tasks.ExpectedError", "withheld: it may quote data"),
        ("rejects", "celery.exceptions.Reject", "withheld: it may quote data"),
    ],
)
def test_an_error_is_told_by_type_place_and_what_may_be_said(
    played: Played, name: str, kind: str, message: str
) -> None:
    (line,) = played.of(name, "celery.app.trace")
    assert line["error.type"] == kind
    assert line["error.message"].startswith(message)
    assert "Traceback" in line["error.stack_trace"]
    assert kind in line["message"] or name == "rejects"


def test_a_stack_trace_shows_the_cause_first_and_no_values(played: Played) -> None:
    (line,) = played.of("fails", "celery.app.trace")
    first, _, second = line["error.stack_trace"].partition("caused:")
    assert re.search(r'File "observed_tasks.py", line \d+, in fails\nKeyError', first)
    assert re.search(r'File "observed_tasks.py", line \d+, in fails\nValueError', second)


def test_a_retry_says_why_and_when(played: Played) -> None:
    first, second = played.of("retries", "celery.app.trace")
    assert "retry in 0.1 s" in first["message"]
    assert (first["error.type"], first["retries"], second["retries"]) == ("ValueError", 0, 1)


def test_what_is_ours_to_log_is_logged_without_secrets(played: Played) -> None:
    own = {line["message"]: line for line in played.lines if line["logger"] == "observed_tasks"}
    fields = {"password": "***", "api_key": "***", "things": "<list>", "prompt_tokens": 7}
    assert fields.items() <= own["own line"].items()
    assert "went wrong: ValueError" in own
    assert "at postgresql://me:***@host/db" in own
    strangers = [line["message"] for line in played.lines if line["logger"] == "some.library"]
    assert strangers == ["got … and … after 3 tries", "went wrong"]
    messages = [line["message"] for line in played.lines]
    assert "thread short-lived ended with an exception" in messages
    assert "printed" in messages
    assert any(re.fullmatch(r"UserWarning at observed_tasks.py:\d+", message) for message in messages)
    assert any(re.fullmatch(r"FutureWarning at .*: old way", message) for message in messages)

"""An ordinary Celery program: three lines for the broker, and tasks that append events to a log.

Run by the tests as ``celery -A environment.testkit.probe_app worker``.  Events go to the file ``log`` in PROBE_FOLDER,
one JSON object a line, so that it is still written while PostgreSQL is away and survives a kill -9.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psycopg2
from celery import Celery, bootsteps, group, signals
from celery.exceptions import Ignore, Reject
from celery.worker.request import Request
from kombu import Consumer, Queue

import celery_postgres
from celery_postgres.compat import publish_patience
from celery_postgres.consumer.failure_detector import FailureDetector
from celery_postgres.consumer.polling import PollingBackoff
from celery_postgres.database import keepalive
from environment.testkit.values import VALUES
from environment.waiting import wait_until

celery_postgres.install()
app = Celery("probe", broker=os.environ["PROBE_BROKER"], backend=os.environ["PROBE_RESULTS"])
app.conf.update(json.loads(os.environ.get("PROBE_CONF", "{}")))

FOLDER = Path(os.environ["PROBE_FOLDER"])

if lease := os.environ.get("PROBE_LEASE_S"):  # tests wait seconds instead of half a minute
    keepalive.LEASE_S = int(lease)  # the least unresponsive_timeout
    FailureDetector.LEASE_S = float(lease)
if dense := os.environ.get("PROBE_DENSE_S"):  # a consumer leads already when messages come less often
    PollingBackoff.DENSE_S = float(dense)
if look := os.environ.get("PROBE_LOOK_S"):  # how often a beat reads what operators want, instead of each 5 s
    from celery_postgres import beat

    beat.LOOK_S = float(look)
if patience := os.environ.get("PROBE_PATIENCE_S"):  # instead of half a minute
    publish_patience.PATIENCE_S = float(patience)
if addresses := os.environ.get("PROBE_DATABASES"):  # by name, each with the queues `<name>.*`
    urls = json.loads(addresses)
    placed = celery_postgres.Databases(urls, queues={f"{name}.*": name for name in urls})
    app.conf.broker_transport_options = {**(app.conf.broker_transport_options or {}), "databases": placed}


def note(event: str, **what: Any) -> None:
    """Append an event.  O_APPEND keeps the lines of several processes apart."""
    what |= {"event": event, "pid": os.getpid(), "thread": threading.get_ident(), "at": time.time()}
    with contextlib.closing(os.fdopen(os.open(FOLDER / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb", 0)) as log:
        log.write(json.dumps(what).encode() + b"\n")


@signals.worker_ready.connect(weak=False)
def _say_ready(**_: Any) -> None:
    Path(os.environ["CELERY_WORKER_FILE"]).write_text(str(os.getpid()))


@signals.task_received.connect(weak=False)
def _note_received(request: Any, **_: Any) -> None:
    eta = request.eta and request.eta.isoformat()
    note("received", id=request.id, tag=_tag(request.argsrepr), eta=eta)


@signals.task_revoked.connect(weak=False)
def _note_revoked(request: Any, expired: bool, terminated: bool, **_: Any) -> None:
    note("revoked", id=request.id, tag=_tag(request.argsrepr), expired=bool(expired), terminated=bool(terminated))


def _tag(argsrepr: str | None) -> str:
    """Return the first argument, which every task here uses as its name."""
    return (argsrepr or "").split("'")[1] if "'" in (argsrepr or "") else ""


def _run(self: Any, tag: str, gate: str | None = None) -> str:
    note(
        "start",
        tag=tag,
        id=self.request.id,
        redelivered=self.request.delivery_info.get("redelivered"),
        eta=self.request.eta,
    )
    if gate:
        wait_until((FOLDER / "gates" / gate).exists, 120, f"the gate {gate}")
    note("end", tag=tag, id=self.request.id)
    return tag


app.task(_run, name="probe.run", bind=True)
app.task(_run, name="probe.run_late", bind=True, acks_late=True, reject_on_worker_lost=True)
app.task(_run, name="probe.run_quiet", bind=True, ignore_result=True)
app.task(_run, name="probe.run_late_quiet", bind=True, acks_late=True, reject_on_worker_lost=True, ignore_result=True)


@app.task(name="probe.hold_lock", bind=True, acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def hold_lock(self: Any, tag: str, seconds: int) -> None:
    """Hold the GIL, as a C library that does not release it or a backtracking regular expression does."""
    note("start", tag=tag, id=self.request.id)
    ctypes.PyDLL(None).sleep(seconds)
    note("end", tag=tag, id=self.request.id)


@app.task(name="probe.digest", bind=True)
def digest(self: Any, value: str) -> dict[str, Any]:
    return {"length": len(value), "sha256": hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()}


@app.task(name="probe.echo")
def echo(value: Any) -> Any:
    return value


@app.task(name="probe.add")
def add(*numbers: int) -> int:
    return sum(numbers)


@app.task(name="probe.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="probe.fail", bind=True, acks_late=True)
def fail(self: Any, tag: str) -> None:
    note("start", tag=tag, id=self.request.id)
    raise ValueError(tag)


@app.task(name="probe.fail_unacknowledged", bind=True, acks_late=True, acks_on_failure_or_timeout=False)
def fail_unacknowledged(self: Any, tag: str) -> None:
    note("start", tag=tag, id=self.request.id)
    raise ValueError(tag)


@app.task(name="probe.ignore", bind=True, acks_late=True)
def ignore(self: Any, tag: str) -> None:
    note("start", tag=tag, id=self.request.id)
    raise Ignore


@app.task(name="probe.reject", bind=True, acks_late=True)
def reject(self: Any, tag: str, requeue: bool = False, times: int = 1) -> str:
    """Reject its message the first ``times`` times."""
    note("start", tag=tag, id=self.request.id, redelivered=self.request.delivery_info.get("redelivered"))
    if _starts(tag) <= times:
        raise Reject("as told", requeue=requeue)
    return tag


@app.task(name="probe.again", bind=True, max_retries=3)
def again(self: Any, tag: str, countdown: float = 0) -> int:
    """Retry twice."""
    note("start", tag=tag, id=self.request.id, retries=self.request.retries, eta=self.request.eta)
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    return int(self.request.retries)


@app.task(name="probe.again_within", bind=True)
def again_within(self: Any, tag: str, how: str) -> str:
    """Go on with the task within a transaction of its own, which that rolls back."""
    note("start", tag=tag, retries=self.request.retries)
    if self.request.retries:
        return tag
    connection = psycopg2.connect(os.environ["PROBE_BROKER"].removeprefix("sqla+"))
    with contextlib.closing(connection), connection, celery_postgres.publishing_on(connection):
        app.send_task("probe.echo", ("rolled back",), queue=f"within-{tag}")
        if how == "retry":
            raise self.retry(countdown=0)
        raise self.replace(app.signature("probe.echo", (tag,)))


@app.task(name="probe.die", bind=True, acks_late=True, reject_on_worker_lost=True)
def die(self: Any, tag: str, times: int = 1) -> str:
    """Kill its own process, as the kernel's OOM killer would, the first ``times`` times."""
    note("start", tag=tag, id=self.request.id, redelivered=self.request.delivery_info.get("redelivered"))
    if _starts(tag) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    note("end", tag=tag, id=self.request.id)
    return tag


@app.task(name="probe.publish", bind=True)
def publish(self: Any, tag: str, count: int) -> list[str]:
    """Send ``count`` tasks from where it runs."""
    return [app.send_task("probe.run_quiet", [f"{tag}-{number}"], ignore_result=True).id for number in range(count)]


@app.task(name="probe.spin", bind=True)
def spin(self: Any, tag: str) -> None:
    """Never end, for what ends tasks from outside."""
    note("start", tag=tag, id=self.request.id)
    threading.Event().wait(300)


@app.task(name="probe.anything")
def anything(*arguments: Any, **named: Any) -> None:
    """Take any arguments, and return nothing that a callback could fail with."""


class Hopeless(Exception):  # noqa: N818
    """A failure that no retry helps."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __str__ = __repr__


class FailsTwice(app.Task):  # type: ignore[name-defined, misc]
    """A task whose failure handler fails."""

    def on_failure(self, *_: Any) -> None:
        raise RuntimeError("again")

    def run(self) -> None:
        raise Hopeless(Hopeless())


app.register_task(type("Early", (FailsTwice,), {"name": "probe.fails_twice"})())
app.register_task(type("Late", (FailsTwice,), {"name": "probe.fails_twice_late", "acks_late": True})())


class FragileRequest(Request):
    """Fail before the worker hands the task to its pool."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise RuntimeError("fragile")


@app.task(name="probe.fragile", Request=FragileRequest)
def fragile() -> None:
    """Never runs."""


class OwnConsumers(bootsteps.ConsumerStep):
    """Consumers that the program adds to its worker, and that cannot process their messages."""

    def get_consumers(self, channel: Any) -> list[Consumer]:
        def fail(*_: Any) -> None:
            raise RuntimeError("own")

        return [
            Consumer(channel, [Queue(f"own-{name}")], callbacks=[fail], no_ack=name == "eaten", accept=["json"])
            for name in ("acked", "eaten")
        ]


if "PROBE_OWN_CONSUMERS" in os.environ:
    app.steps["consumer"].add(OwnConsumers)


# -- results of tasks


class ProbeError(Exception):
    """An error with two arguments, which the caller of ``get()`` receives."""


class Opaque:
    """A value that neither JSON nor a permitted pickle can hold."""

    def __init__(self) -> None:
        self.secret = "s3cret"


@app.task(name="probe.value")
def value(name: str) -> Any:
    return VALUES[name]()


@app.task(name="probe.opaque")
def opaque(where: str = "alone") -> Any:
    return {"alone": Opaque(), "inside": {"a": [1, Opaque()]}, "key": {(1, Opaque()): 1}, "lambda": lambda: 1}[where]


@app.task(name="probe.odd")
def odd(kind: str) -> Any:
    """Return a value that cannot be stored, for a different reason each time."""
    import collections

    point = collections.namedtuple("point", "x y")
    if kind == "endless":
        endless: list[Any] = []
        endless.append(endless)
        return endless
    return {"set of records": {point(1, 2)}, "record as a key": {point(1, 2): 3}, "generator": (n for n in range(3))}[
        kind
    ]


@app.task(name="probe.raise_error")
def raise_error(*arguments: Any, kind: str = "probe") -> None:
    raise {"probe": ProbeError, "key": KeyError, "value": ValueError}[kind](*arguments)


@app.task(name="probe.raise_opaque")
def raise_opaque() -> None:
    raise ProbeError(Opaque(), 5)


@app.task(name="probe.raise_text")
def raise_text(which: str) -> None:
    """Raise an error whose text is in the traceback too."""
    raise ProbeError({"nul": "a\x00b", "surrogate": "half \ud800 a pair", "long": "x" * 100_000}[which])


@app.task(name="probe.fail_quietly", ignore_result=True, store_errors_even_if_ignored=True)
def fail_quietly(tag: str) -> None:
    raise ProbeError(tag)


@app.task(name="probe.tracked", bind=True, track_started=True)
def tracked(self: Any, tag: str, gate: str) -> str:
    return _run(self, tag, gate)


@app.task(name="probe.progress", bind=True, acks_late=True)
def progress(self: Any, tag: str, gate: str, state: str = "PROGRESS", end: str = "return") -> str:
    """Report progress, and wait."""
    self.update_state(state=state, meta={"done": 1, "of": 2})
    _run(self, tag, gate)
    if end == "ignore":
        raise Ignore
    return tag


class ReadsItself(app.Task):  # type: ignore[name-defined, misc]
    """A task that asks for its own state when it has ended."""

    def on_success(self, _: Any, task_id: str, arguments: Any, __: Any) -> None:
        note("own state", tag=arguments[0], state=app.AsyncResult(task_id).state)

    def after_return(self, _: Any, __: Any, task_id: str, arguments: Any, *___: Any) -> None:
        note("own state", tag=arguments[0], state=app.AsyncResult(task_id).state)


class DiesAfterwards(app.Task):  # type: ignore[name-defined, misc]
    """A task whose process is killed when its result has been passed on, and before its end is reported."""

    def after_return(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


app.task(_run, name="probe.die_afterwards", bind=True, base=DiesAfterwards, acks_late=True, reject_on_worker_lost=True)
app.task(_run, name="probe.read_itself", bind=True, base=ReadsItself)
app.task(_run, name="probe.read_itself_late", bind=True, base=ReadsItself, acks_late=True)


@app.task(name="probe.retry_slowly", bind=True, max_retries=3)
def retry_slowly(self: Any, tag: str) -> int:
    """Fail, with the next attempt far away."""
    note("start", tag=tag, id=self.request.id)
    raise self.retry(exc=ProbeError(tag, "again"), countdown=3600)


@app.task(name="probe.retry_to", bind=True, acks_late=True)
def retry_to(self: Any, tag: str, queue: str) -> str:
    """Ask for a second attempt, in another queue."""
    note("start", tag=tag, id=self.request.id)
    if self.request.retries:
        return tag
    raise self.retry(countdown=0, queue=queue)


@app.task(name="probe.replace_to", bind=True, acks_late=True)
def replace_to(self: Any, tag: str, queue: str) -> Any:
    """Be replaced by a task in another queue."""
    note("start", tag=tag, id=self.request.id)
    raise self.replace(app.signature("probe.echo", (tag,), queue=queue))


@app.task(name="probe.retry_late", bind=True, acks_late=True)
def retry_late(self: Any, tag: str, gate: str) -> str:
    """Wait, and ask for a second attempt."""
    if self.request.retries:
        return tag
    _run(self, tag, gate)
    raise self.retry(countdown=0)


@app.task(name="probe.retry_then_fail", bind=True)
def retry_then_fail(self: Any, tag: str) -> None:
    """The second attempt fails before the first has recorded its retry."""
    if self.request.retries:
        raise ProbeError(tag)
    raise self.retry(countdown=0, max_retries=1)


@app.task(name="probe.children", bind=True)
def children(self: Any, count: int) -> str:
    for number in range(count):
        add.delay(number)
    return "parent"


# -- parts of the canvas


@app.task(name="probe.note_it")
def note_it(tag: str, value: Any = None) -> Any:
    """A part whose runs are counted.  Bodies of chords get the values first."""
    note("ran", tag=tag, value=repr(value))
    return value


@app.task(name="probe.body")
def body(values: Any, tag: str) -> Any:
    note("body", tag=tag)
    return values


@app.task(name="probe.errback_old")
def errback_old(task_id: str, *, tag: str) -> None:
    """An old-style errback: a task of its own that reads the failed result."""
    note("errback", tag=tag, id=task_id, state=app.AsyncResult(task_id).state)


@app.task(name="probe.errback")
def errback(request: Any, error: Any, trace: Any, tag: str) -> None:
    note("errback", tag=tag, id=request.id, error=type(error).__name__, text=str(error))


@app.task(name="probe.replace_with_task", bind=True)
def replace_with_task(self: Any, *numbers: int) -> Any:
    raise self.replace(add.s(*numbers, 100))


@app.task(name="probe.replace_with_group", bind=True)
def replace_with_group(self: Any, *numbers: int) -> Any:
    raise self.replace(group(add.s(number, 100) for number in numbers))


@app.task(name="probe.replace_with_chain", bind=True)
def replace_with_chain(self: Any, *numbers: int) -> Any:
    raise self.replace(add.s(*numbers) | add.s(1000))


@app.task(name="probe.one_more", bind=True)
def one_more(self: Any, number: int) -> int:
    """A chord part that adds another part."""
    self.add_to_chord(add.s(number, 1000))
    return number


@app.task(name="probe.again_add", bind=True, max_retries=3)
def again_add(self: Any, *numbers: int) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return sum(numbers)


@app.task(name="probe.join_inside", bind=True)
def join_inside(self: Any, task_id: str) -> Any:
    from celery.result import allow_join_result

    with allow_join_result():
        return app.AsyncResult(task_id).get(timeout=20)


def _starts(tag: str) -> int:
    lines = [json.loads(line) for line in (FOLDER / "log").read_text().splitlines()]
    return sum(line["event"] == "start" and line["tag"] == tag for line in lines)

"""A Celery program like anybody's: three lines for the broker, and tasks that write down what happens to them.

Run by the tests as ``celery -A tests.broker.probe_app worker``.  What happens goes to the file ``log`` in PROBE_FOLDER,
one JSON object a line, so that it is still written while PostgreSQL is away and survives a kill -9.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.exceptions import Ignore, Reject

import celery_postgres
from environment.waiting import wait_until

celery_postgres.install()
app = Celery("probe", broker=os.environ["PROBE_BROKER"], backend=os.environ["PROBE_RESULTS"])
app.conf.update(json.loads(os.environ.get("PROBE_CONF", "{}")))

FOLDER = Path(os.environ["PROBE_FOLDER"])


def note(event: str, **what: Any) -> None:
    """Append one line.  O_APPEND keeps the lines of many processes apart."""
    what |= {"event": event, "pid": os.getpid(), "thread": threading.get_ident(), "at": time.time()}
    with contextlib.closing(os.fdopen(os.open(FOLDER / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb", 0)) as log:
        log.write(json.dumps(what).encode() + b"\n")


@signals.worker_ready.connect(weak=False)
def _say_ready(**_: Any) -> None:
    Path(os.environ["CELERY_WORKER_FILE"]).write_text(str(os.getpid()))


@signals.task_received.connect(weak=False)
def _note_received(request: Any, **_: Any) -> None:
    note("received", id=request.id, tag=_tag(request.argsrepr))


@signals.task_revoked.connect(weak=False)
def _note_revoked(request: Any, expired: bool, terminated: bool, **_: Any) -> None:
    note("revoked", id=request.id, tag=_tag(request.argsrepr), expired=bool(expired), terminated=bool(terminated))


def _tag(argsrepr: str | None) -> str:
    """The first argument, which every task here takes for its name."""
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
    note("start", tag=tag, id=self.request.id, retries=self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    return int(self.request.retries)


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


def _starts(tag: str) -> int:
    lines = [json.loads(line) for line in (FOLDER / "log").read_text().splitlines()]
    return sum(line["event"] == "start" and line["tag"] == tag for line in lines)

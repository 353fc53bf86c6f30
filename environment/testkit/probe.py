"""The probe: workers of a small Celery program, a client for it, and the log of its tasks' events."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from celery.result import AsyncResult

from environment.waiting import wait_until
from environment.worker import WorkerError, WorkerProcess

DEADLINE_S = 25
#: Until a worker takes tasks: 2 s, and ten times that while several start on a busy machine.
READY_S = 90
APPLICATION = "environment.testkit.probe_app"
COMMAND = (sys.executable, "-P", "-m", "environment.celery", "-A", APPLICATION)

#: The pools that every case must pass in, and how many tasks each runs at once.
POOLS = {"solo": 1, "threads": 3, "prefork": 2}


class ProbeWorker(WorkerProcess):
    """A worker of the probe program.  It is ready when it has written its process id."""

    def is_ready(self) -> bool:
        return self.file.exists() and self.file.read_text() == str(self.pid)

    def wait_ready(self, deadline_s: float = READY_S) -> None:  # type: ignore[override]
        def settled() -> bool:
            return self.process.poll() is not None or self.is_ready()

        wait_until(settled, deadline_s, f"the worker to be ready:\n{self.log_text()[-4000:]}")
        if self.process.returncode is not None:
            raise WorkerError(f"the worker ended with {self.process.returncode}:\n{self.log_text()[-4000:]}")


class Probe:
    """A database, a client of the probe program on it, and its workers.

    Args:
        url: the database as ``postgresql://…``.
        folder: an empty folder for logs and gates.
        broker_url: the same database by another route, such as a proxy, for the broker of the workers.
    """

    def __init__(self, url: str, folder: Path, broker_url: str | None = None) -> None:
        self.url = url
        self.broker_url = broker_url or url
        self.folder = folder
        (folder / "gates").mkdir()
        self.workers: list[ProbeWorker] = []
        self.app = Celery("client", broker=broker(url, "probe-client"), backend=results(url), set_as_current=False)
        self.app.conf.update(broker_connection_retry_on_startup=True, task_ignore_result=False)

    def start(
        self,
        *,
        pool: str = "solo",
        concurrency: int | None = None,
        queues: Sequence[str] = ("celery",),
        conf: Mapping[str, Any] | None = None,
        broker_url: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
        ready: bool = True,
    ) -> ProbeWorker:
        """Start a worker; with ``ready`` return when it takes tasks.

        Its connections carry the application name ``probe-<number>``, those for results ``probe-results``.
        """
        number = len(self.workers)
        state = self.folder / f"worker-{number}"
        state.mkdir()
        worker = ProbeWorker(
            self.url,
            state=state,
            log=state / "log",
            arguments=[
                *("-P", pool, "-c", str(concurrency or POOLS[pool]), "-n", f"{secrets.token_hex(4)}@probe"),
                *("-Q", ",".join(queues)),
                *args,
            ],
            environment={
                "PROBE_BROKER": broker(broker_url or self.broker_url, f"probe-{number}"),
                "PROBE_RESULTS": results(self.url),
                "PROBE_FOLDER": str(self.folder),
                "PROBE_CONF": json.dumps(conf or {}),
                **(env or {}),
            },
            command=command,
        )
        worker.name = worker.command[worker.command.index("-n") + 1]
        worker.application_name = f"probe-{number}"
        self.workers.append(worker)
        worker.start()
        if ready:
            worker.wait_ready()
        return worker

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult:
        """``send_task("probe.<task>", args, **options)``; results of tasks named ``…_quiet`` are ignored."""
        # By name Celery knows no task's own ignore_result.
        options.setdefault("ignore_result", task.endswith("_quiet"))
        return self.app.send_task(f"probe.{task}", args, **options)

    def notes(self, event: str | None = None, tag: str | None = None) -> list[dict[str, Any]]:
        """Return the events that the workers logged, in order; a tag that ends with ``*`` is a prefix."""
        path = self.folder / "log"
        text = path.read_text() if path.exists() else ""
        # A line is one write, and still a reader may see only half of the last line.
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

        def wanted(line: dict[str, Any]) -> bool:
            name = str(line.get("tag", ""))
            fits = tag is None or (name.startswith(tag[:-1]) if tag.endswith("*") else name == tag)
            return fits and event in (None, line["event"])

        return [line for line in lines if wanted(line)]

    def wait_for(self, event: str, tag: str, count: int = 1, deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
        """Wait until an event has been logged ``count`` times."""
        try:
            wait_until(lambda: len(self.notes(event, tag)) >= count, deadline_s, f"{count} times {event} of {tag}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {len(self.notes(event, tag))} came") from None
        return self.notes(event, tag)

    def wait_for_all(self, event: str, tags: Sequence[str], deadline_s: float = DEADLINE_S) -> dict[str, int]:
        """Wait until an event has been logged for every tag; return how often for each."""

        def counted() -> dict[str, int]:
            counts = dict.fromkeys(tags, 0)
            for line in self.notes(event):
                if line.get("tag") in counts:
                    counts[line["tag"]] += 1
            return counts

        try:
            wait_until(lambda: all(counted().values()), deadline_s, f"{event} of {len(tags)} tasks")
        except TimeoutError as error:
            missing = [tag for tag, count in counted().items() if not count]
            raise TimeoutError(f"{error}; {len(missing)} missing: {missing[:10]}") from None
        return counted()

    def open(self, gate: str) -> None:
        """Let tasks through a gate."""
        (self.folder / "gates" / gate).touch()

    def inspect(self, worker: ProbeWorker, command: str, *args: Any, timeout: float = DEADLINE_S) -> Any:
        """Return the answer of one worker to ``celery inspect``."""
        inspector = self.app.control.inspect(destination=[worker.name], timeout=timeout, limit=1)
        answers = getattr(inspector, command)(*args)
        assert answers is not None, f"no answer to {command}"
        return answers[worker.name]

    def control(self, worker: ProbeWorker, command: str, *args: Any, **options: Any) -> Any:
        """Return the answer of one worker to ``celery control``."""
        answers = getattr(self.app.control, command)(
            *args,
            destination=[worker.name],
            reply=True,
            timeout=DEADLINE_S,
            limit=1,
            **options,
        )
        assert len(answers) == 1, answers
        return answers[0][worker.name]

    def close(self) -> None:
        """End the workers and close the client.

        Kills them: a drain would wait for tasks that wait for a gate.
        """
        for worker in self.workers:
            worker.kill()
        self.close_client()

    def close_client(self) -> None:
        """Close the client with all its connections."""
        self.app.amqp.producer_pool.force_close_all()
        self.app.pool.force_close_all()
        self.app.close()


def broker(url: str, name: str) -> str:
    """Return the broker URL, with an application name that identifies its connections."""
    return "sqla+" + _named(url, name)


def results(url: str) -> str:
    """The result backend's URL."""
    return "db+" + _named(url, "probe-results")


def _named(url: str, name: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}application_name={name}"


def before_due(send: Callable[[float], AsyncResult], act: Callable[[AsyncResult], object]) -> AsyncResult:
    """Send a task with a countdown, and do something with it before it is due; the last one that was sent.

    On a machine that is busy for a moment it may be due before: then another one is sent, with a longer countdown.
    """
    countdown_s = 1.0
    while True:
        begun = time.monotonic()
        sent = send(countdown_s)
        act(sent)
        if time.monotonic() < begun + countdown_s:
            return sent
        countdown_s *= 3


#: Makes unique names: ``unique("tag")`` is ``tag-1f2e3d4c``.
unique: Callable[[str], str] = lambda word: f"{word}-{secrets.token_hex(4)}"  # noqa: E731


def every_slot_works(probe: Probe, pool: str) -> None:
    """As many tasks as there are slots run at the same time."""
    tag, gate = unique("slot"), unique("gate")
    sent = [probe.send("run", tag, gate=gate) for _ in range(POOLS[pool])]
    probe.wait_for("start", tag, count=POOLS[pool])
    probe.open(gate)
    assert [result.get(timeout=DEADLINE_S) for result in sent] == [tag] * POOLS[pool]

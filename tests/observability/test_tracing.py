"""Traces, from a process that sends to a worker that runs, each with an exporter of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT
from environment.waiting import wait_until

HERE = Path(__file__).parent
SECRET = "hunter2"  # stands for what a task works on
SEND = f"""
import observed_tasks
from app.celery_app import celery_app
from opentelemetry import trace

with trace.get_tracer("sender").start_as_current_span("request"):
    for task in (observed_tasks.returns, observed_tasks.retries, observed_tasks.fails):
        task.delay("{SECRET}").get(timeout=60, propagate=False)
"""


def variables(**more: str) -> dict[str, str]:
    paths = [str(HERE), str(CHECKOUT / "backend"), str(CHECKOUT)]
    mine = {name: value for name, value in os.environ.items() if name != "TRACING_EXPORTER"}
    return {**mine, "PYTHONPATH": os.pathsep.join(paths), **more}


def python(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=variables(**more), capture_output=True, text=True, check=False, timeout=120)


def tracing(file: Path) -> dict[str, str]:
    # A batch a tenth of a second, not one in five seconds.
    return {"TRACING_EXPORTER": "kept_spans:KeptSpans", "KEPT_SPANS": str(file), "OTEL_BSP_SCHEDULE_DELAY": "100"}


def spans(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def named(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return sorted((span for span in found if span["name"] == name), key=lambda span: str(span["start_time"]))


def parent(span: dict[str, Any]) -> Any:
    return span["parent_id"]


def identity(span: dict[str, Any]) -> Any:
    return span["context"]["span_id"]


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_trace_goes_from_the_sender_through_the_broker_to_the_task(
    database: Any, start_worker: Any, worker_options: Callable[..., Any], tmp_path: Path, pool: str
) -> None:
    pytest.importorskip("opentelemetry.instrumentation.celery")
    ours, theirs = tmp_path / "sender", tmp_path / "worker"
    start_worker(database.url, pool=pool, **worker_options(**tracing(theirs)))
    sent = python(SEND, DATABASE_URL=database.url, **tracing(ours))
    assert sent.returncode == 0, sent.stderr

    def runs(task: str) -> list[dict[str, Any]]:
        return named(spans(theirs), f"run/observed.{task}")

    wait_until(lambda: len(runs("returns") + runs("retries") + runs("fails")) == 4, 90, "the worker's spans")
    everything = spans(ours) + spans(theirs)
    (request,) = named(everything, "request")
    assert parent(request) is None
    assert {span["context"]["trace_id"] for span in everything} == {request["context"]["trace_id"]}

    (publish,) = named(spans(ours), "apply_async/observed.returns")
    (run,) = runs("returns")
    assert parent(publish) == identity(request)
    assert parent(run) == identity(publish)
    assert (publish["kind"], run["kind"]) == ("SpanKind.PRODUCER", "SpanKind.CONSUMER")
    assert run["attributes"]["celery.state"] == "SUCCESS"
    assert run["resource"]["attributes"]["service.name"] == "skeldir-worker"

    # A retry is sent by the worker, from within the first run.
    first, second = runs("retries")
    (again,) = named(spans(theirs), "apply_async/observed.retries")
    assert parent(again) == identity(first)
    assert parent(second) == identity(again)

    (failure,) = runs("fails")
    assert failure["status"] == {"status_code": "ERROR"}
    assert [event["attributes"]["exception.type"] for event in failure["events"]] == ["ValueError"]
    assert SECRET not in ours.read_text() + theirs.read_text()


def test_spans_of_a_worker_that_ends_are_not_lost(
    database: Any, start_worker: Any, worker_options: Callable[..., Any], tmp_path: Path
) -> None:
    """With batches of an hour: also those of a child that has ended before its parent."""
    pytest.importorskip("opentelemetry.instrumentation.celery")
    ours, theirs = tmp_path / "sender", tmp_path / "worker"
    slow = {**tracing(theirs), "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    worker = start_worker(database.url, pool="prefork", **worker_options(**slow))
    sent = python(SEND, DATABASE_URL=database.url, **tracing(ours))
    assert sent.returncode == 0, sent.stderr
    assert spans(theirs) == []
    assert worker.stop() == 0
    assert len(named(spans(theirs), "run/observed.returns")) == 1


def test_nothing_of_it_is_there_unless_it_is_switched_on(database: Any) -> None:
    done = python(
        "import sys, app.celery_app; print([name for name in sys.modules if name.startswith('opentelemetry')])",
        DATABASE_URL=database.url,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize(
    ("exporter", "hidden", "said"),
    [
        ("kept_spans:Absent", "", "TRACING_EXPORTER cannot be used: AttributeError when making it"),
        ("absent.module:Exporter", "", "TRACING_EXPORTER cannot be used: ModuleNotFoundError when making it"),
        ("kept_spans:Unmakeable", "", "TRACING_EXPORTER cannot be used: ValueError when making it"),
        (
            "kept_spans:KeptSpans",
            "opentelemetry",
            "TRACING_EXPORTER is set, and the package opentelemetry is missing: install the extra `otel`",
        ),
        ("no-path", "", "TRACING_EXPORTER: String should match pattern"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(database: Any, exporter: str, hidden: str, said: str) -> None:
    if not hidden:
        pytest.importorskip("opentelemetry.instrumentation.celery")
    # A module that is None in sys.modules cannot be imported, and the error names it. The name of the program is what
    # makes the application end in one line.
    code = f"""
import sys
sys.argv[0] = "/bin/celery"
if {hidden!r}:
    sys.modules[{hidden!r}] = None
import app.celery_app
"""
    done = python(code, DATABASE_URL=database.url, TRACING_EXPORTER=exporter)
    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1

"""Submissions a second over HTTP with one uvicorn process: durable, each with its message.  Needs wrk.

Each connection of wrk sends its next request as soon as the last one is answered.  No worker runs.  At the end every
submission that was answered with 202 must be in the database with its message, also where the web process was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from benchmarks.cells import Cell
from benchmarks.run import Run
from benchmarks.samples import Results
from benchmarks.systems.clusters import connect
from environment.installation import DEFAULT_MAJOR
from environment.testkit.children import environment
from environment.testkit.servers import postgres
from environment.testkit.web import WebProcess

_TENANT = UUID(int=1)
_SCRIPT = Path(__file__).parent.with_name("submit.lua")
_CONNECTIONS = (1, 8, 32)


def measure(run: Run, variant: str) -> dict[str, Any]:
    """Requests answered, refused and broken, their latency, and what of them is not in the database.

    Raises:
        AssertionError: when an accepted submission was lost or has no message.
    """
    words = variant.split()
    found = _measure(int(words[1]), int(run.pick(2, 5)), killed="killed" in words)
    assert not found["lost"], found
    assert not found["torn"], found
    return found


def _measure(connections: int, seconds: int, *, killed: bool) -> dict[str, Any]:
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres(DEFAULT_MAJOR))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-web-")))
        variables = environment({"DATABASE_URL": cluster.url()})
        _python(variables, "environment.cli", "migrate")
        key = _python(variables, "app.keys", "issue", str(_TENANT), "load").strip()
        longest = {"WEB_MAX_QUEUE_LENGTH": "1000000", "WEB_MAX_QUEUE_LENGTH_PER_TENANT": "1000000"}
        web = stack.enter_context(WebProcess(cluster.url(), folder, longest))
        # A moment to connect, as after a deploy.
        _wrk(web.address, key, connections, 2)
        before = _written(cluster.url())[0]
        if killed:
            threading.Timer(seconds / 2, web.kill).start()
        done = _wrk(web.address, key, connections, seconds)
        web.stop()
        submissions, whole = _written(cluster.url())
    answered = done["requests"] - done["refused"]
    # Besides those that were answered, each connection may have one that was not.
    return {
        **done,
        "rate": done["requests"] / done["seconds"],
        "answered": answered,
        "lost": max(0, answered - (submissions - before)),
        "torn": submissions - whole,
    }


def _python(variables: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout


def _wrk(address: str, key: str, connections: int, seconds: int) -> dict[str, Any]:
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(_SCRIPT), address]
    variables = {**os.environ, "API_KEY": key}
    output = subprocess.run(words, env=variables, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(output.rpartition("JSON")[2])
    return result


def _written(url: str) -> tuple[int, int]:
    """Return how many submissions there are, and how many of them have their message."""
    connection = connect(url)
    try:
        connection.autocommit = False
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('app.current_tenant_id', %s, true)", (str(_TENANT),))
            cursor.execute(
                "SELECT count(*), count(message.id) FROM task_submission AS submission"
                " LEFT JOIN kombu_message AS message ON message.task_id = submission.task_id"
            )
            submissions, whole = cursor.fetchone()
            return int(submissions), int(whole)
    finally:
        connection.close()


def table(samples: Results) -> str:
    """The table of docs/benchmarks/front.md."""
    lines = ["| connections | submissions/s | p50 ms | p99 ms | refused, broken | lost |", "|---|---|---|---|---|---|"]
    for variant, runs in samples.items():
        rates = sorted(one["rate"] for one in runs)
        wrong, lost = (sum(one[a] + one[b] for one in runs) for a, b in (("refused", "broken"), ("lost", "torn")))
        p50, p99 = (median(one[key] for one in runs) for key in ("p50_ms", "p99_ms"))
        lines.append(
            f"| {variant.removeprefix('web ')} | {median(rates):.0f} ({rates[0]:.0f} to {rates[-1]:.0f})"
            f" | {p50:.1f} | {p99:.1f} | {wrong} | {lost} |"
        )
    return "\n".join(lines)


def variants(run: Run) -> list[str]:
    if shutil.which("wrk") is None:
        print("bench: front needs wrk (Debian: apt-get install wrk)", file=sys.stderr)
        return []
    return [*(f"web {connections}" for connections in _CONNECTIONS), "web 8 killed"]


CELL = Cell("front", variants, measure, per_system=False, repetitions=3)

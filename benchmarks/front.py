"""``python -m benchmarks.front``: submissions per second over HTTP, durable, with one uvicorn process; needs wrk.

Each connection of wrk asks again as soon as it is answered.  PostgreSQL keeps what a commit promises (fsync,
synchronous_commit, full_page_writes).  No worker runs: what is measured is the way in.  At the end every submission
that was answered with 202 must be in the database, with its message; also where the web process is killed half-way.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import psycopg2

from benchmarks import machine
from benchmarks.processes import dies_with_us
from benchmarks.servers import postgres
from environment.installation import DEFAULT_MAJOR
from environment.validation import is_well
from environment.waiting import wait_until

_TENANT = UUID(int=1)
_SCRIPT = Path(__file__).with_name("submit.lua")


def main() -> int:
    """Measure; 1 if anything was lost or refused."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, action="append")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        print("benchmarks: wrk is not there (Debian: apt-get install wrk)", file=sys.stderr)
        return 2
    lost = 0
    about = machine.describe()
    print(f"{about['processors']} x {about['processor']}, {about['memory_gb']} GB, {about['system']}\n")
    print("| connections | submissions/s | p50 ms | p99 ms | refused, broken | lost |\n|---|---|---|---|---|---|")
    for connections in given.connections or [1, 8, 32]:
        runs = [_measure(wrk, connections, given.seconds) for _ in range(given.repeat)]
        rates = sorted(run["requests"] / run["seconds"] for run in runs)
        wrong, missing = sum(run["refused"] + run["broken"] for run in runs), sum(run["lost"] for run in runs)
        lost += wrong + missing
        print(
            f"| {connections} | {median(rates):.0f} ({rates[0]:.0f} to {rates[-1]:.0f})"
            f" | {median(run['p50_ms'] for run in runs):.1f} | {median(run['p99_ms'] for run in runs):.1f}"
            f" | {wrong} | {missing} |",
            flush=True,
        )
    killed = _measure(wrk, 8, 5, kill_after_s=2.5)
    print(f"\nkill -9 half-way: {killed['answered']} answered, {killed['lost']} of them lost, {killed['torn']} torn")
    return int(bool(lost + killed["lost"] + killed["torn"]))


def _measure(wrk: str, connections: int, seconds: int, kill_after_s: float | None = None) -> dict[str, Any]:
    with postgres(DEFAULT_MAJOR) as cluster, socket.create_server(("127.0.0.1", 0)) as listener:
        # uvicorn takes a socket that it is handed for one without Nagle's algorithm.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        url, number = cluster.url(), listener.fileno()
        longest = {"WEB_MAX_QUEUE_LENGTH": "1000000", "WEB_MAX_QUEUE_LENGTH_PER_TENANT": "1000000"}
        variables = {**os.environ, "DATABASE_URL": url, **longest}
        subprocess.run(
            [sys.executable, "-m", "environment.cli", "migrate"], env=variables, check=True, capture_output=True
        )
        words = [sys.executable, "-m", "app.keys", "issue", str(_TENANT), "load"]
        key = subprocess.run(words, env=variables, check=True, capture_output=True, text=True).stdout.strip()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        web = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app.main:app", "--fd", str(number), "--no-access-log"],
            env=variables,
            pass_fds=[number],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=dies_with_us(),
        )
        try:
            wait_until(lambda: is_well(f"{address}/health"), 30, "the web process")
            # A moment to connect, as after a deploy.
            _wrk(wrk, address, key, connections, 2)
            before = _written(url)[0]
            if kill_after_s is not None:
                timer = threading.Timer(kill_after_s, web.send_signal, [signal.SIGKILL])
                timer.start()
            done = _wrk(wrk, address, key, connections, seconds)
            if kill_after_s is not None:
                web.wait()
                listener.close()
        finally:
            web.kill()
            web.wait()
        noted, whole = _written(url)
        answered = done["requests"] - done["refused"]
        # Besides those that were answered, each connection may have one that was not.
        return done | {"answered": answered, "lost": max(0, answered - (noted - before)), "torn": noted - whole}


def _wrk(wrk: str, address: str, key: str, connections: int, seconds: int) -> dict[str, Any]:
    words = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(_SCRIPT), address]
    said = subprocess.run(words, env={**os.environ, "API_KEY": key}, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(said.rpartition("JSON")[2])
    return result


def _written(url: str) -> tuple[int, int]:
    """Submissions, and how many of them have their message."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('app.current_tenant_id', %s, true)", (str(_TENANT),))
            cursor.execute(
                "SELECT count(*), count(message.id) FROM task_submission AS submission"
                " LEFT JOIN kombu_message AS message ON message.task_id = submission.task_id"
            )
            noted, whole = cursor.fetchone()
            return int(noted), int(whole)
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())

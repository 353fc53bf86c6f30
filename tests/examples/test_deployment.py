"""What the guide to deployment states: the units are valid, and a process opens as many connections as it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import celery_postgres
from environment.sources import CHECKOUT
from environment.testkit.tables import backends
from environment.waiting import wait_until
from tests.examples.shell import environment

FOLDER = CHECKOUT / "examples/deployment"
GUIDE = CHECKOUT / "docs/guides/deployment.md"
DEADLINE_S = 60
#: By the name of the process in the guide's table: the arguments of celery, and its N.
PROCESSES = {
    "worker, `--pool solo`": (["worker", "--pool", "solo"], 1),
    "worker, `--pool threads`": (["worker", "--pool", "threads", "--concurrency", "3"], 3),
    "worker, `--pool prefork`": (["worker", "--pool", "prefork", "--concurrency", "2"], 2),
    "beat": (["beat", "--pidfile="], 1),  # of the example whose entry is due every second
}
#: A prefork child stores parts of chords itself; most other results go through its main process.
SEND = """
import sys, mine
from celery import chord, group
for _ in range(3):
    work = [mine.work.s(0.1) for _ in range(12)]
    results = chord(work)(mine.work.si()) if "prefork" in sys.argv else group(work)()
    for _ in range(12):
        mine.spread.delay(5)
    results.get(timeout=60)
"""


@pytest.mark.parametrize("name", ["celery-worker", "celery-beat"])
def test_a_unit_is_valid(name: str, program: Callable[[str], str], tmp_path: Path) -> None:
    text = (FOLDER / f"{name}.service").read_text()
    here = text.replace("/srv/mine/.venv/bin/celery", "/usr/bin/env celery").replace("/srv/mine", str(tmp_path))
    unit = tmp_path / f"{name}.service"
    unit.write_text(here.replace("User=mine\n", ""))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def documented(process: str, number: int) -> int:
    """What the guide's table says, for N processes or threads."""
    row = re.search(rf"^\| {re.escape(process)}[^|]*\| ([^|]+) \|", GUIDE.read_text(), re.MULTILINE)
    assert row is not None, process
    formula = re.fullmatch(r"(\d+)(?: \+ (?:(\d+) \S )?N)?", row[1])
    assert formula is not None, row[1]
    return int(formula[1]) + (number * int(formula[2] or 1) if "N" in row[1] else 0)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_opens_as_many_connections_as_the_guide_says(process: str, fresh: Any, tmp_path: Path) -> None:
    arguments, number = PROCESSES[process]
    source = FOLDER if "worker" in arguments else CHECKOUT / "examples/several-beats"
    folder = shutil.copytree(source, tmp_path / "mine")
    with fresh() as database:
        url = database.tcp_url or database.url
        celery_postgres.create_schema(url)
        named = f"{url}{'&' if '?' in url else '?'}application_name=counted"

        def counted() -> int:
            return len(backends(url, "counted"))

        with running(["celery", "-A", "mine", *arguments], folder, named):
            wait_until(lambda: counted() > 0, DEADLINE_S, "the process to connect")
            if "worker" in arguments:
                subprocess.run(
                    ["python", "-c", SEND, *arguments],
                    cwd=folder,
                    env=environment(folder, {"DATABASE_URL": url}),
                    timeout=DEADLINE_S,
                    check=True,
                )
            # Whether each of its threads has published in the same moment as all others is chance.
            spare = number if "threads" in process else 1
            at_most = documented(process, number)
            wait_until(lambda: counted() >= at_most - spare, DEADLINE_S, "the connections that it keeps")
            assert counted() <= at_most


@contextmanager
def running(words: list[str], folder: Path, url: str) -> Iterator[None]:
    """Run a program, and stop it."""
    variables = {"DATABASE_URL": url, "READY_FILE": str(folder / "ready")}
    with (folder / "process.log").open("w") as log:
        process = subprocess.Popen(
            words, cwd=folder, env=environment(folder, variables), stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

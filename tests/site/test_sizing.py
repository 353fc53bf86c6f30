"""The connections of docs/guides/sizing.md, against those of running workers, beats and clients."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale_sizing
from environment.sources import CHECKOUT
from environment.testkit.kombu_programs import environment
from environment.testkit.probe import COMMAND, DEADLINE_S, Probe, broker, unique
from environment.testkit.tables import backends, rows_of
from environment.waiting import wait_until
from tests.runbook.pages import read

PAGE = "docs/guides/sizing.md"
SLOTS = {"solo": 1, "threads": 3, "prefork": 2, "gevent": 3}
#: What the page's words for a process say, by pool.
FORMULA = re.compile(r"(\d+)(?: \+ (?:(\d+) x )?N)?")
pytestmark = pytest.mark.usefixtures("installed")


def stated(process: str) -> tuple[int, int]:
    """Return what the page states of a process: its connections, and those for each slot."""
    (text,) = re.findall(rf"^\| {re.escape(process)}[^|]*\| ([^|]*) \|", read(PAGE), re.MULTILINE)
    cell = text.replace("\N{MULTIPLICATION SIGN}", "x")
    found = FORMULA.fullmatch("0 + N" if cell == "N" else cell)
    assert found is not None, cell
    return int(found[1]), (int(found[2] or 1) if "N" in cell else 0)


@pytest.mark.parametrize("pool", SLOTS)
def test_a_worker_has_as_many_connections_as_the_page_says(probe: Probe, pool: str) -> None:
    if pool == "gevent" and importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not in the locks; ./dev test --newest has it")
    fixed, each = stated(f"worker, `--pool {pool}`")
    slots = SLOTS[pool]
    count = start(probe, pool, slots)
    waited([probe.send("echo", number) for number in range(60)])
    # Neither tasks nor their results need a connection of their slot. Threads that need one at the same moment open it.
    ready = fixed if pool != "gevent" else fixed - 1
    most = ready + (each * slots if pool == "threads" else 0)
    wait_until(lambda: ready <= count() <= most, DEADLINE_S, f"{ready} connections, of which there are {count()}")

    tag, gate = unique("own"), unique("gate")
    running = [probe.send("progress", f"{tag}-{number}", gate) for number in range(slots)]
    probe.open(gate)
    waited(running)

    def all_publish() -> bool:
        waited([probe.send("publish", unique("sent"), 60) for _ in range(slots)])
        return count() >= fixed + each * slots

    wait_until(all_publish, DEADLINE_S, "the slots to publish at the same moment")
    all_publish()
    assert count() == fixed + each * slots


def test_the_examples_are_computed_with_the_numbers_of_the_page() -> None:
    assert stated("worker, `--pool prefork`") == (scale_sizing.MAIN, scale_sizing.SLOT["prefork"])
    assert stated("worker, `--pool threads`") == (scale_sizing.MAIN, scale_sizing.SLOT["threads"])
    assert stated("beat") == (scale_sizing.BEAT, 0)
    assert stated("a producer, N threads")[1] + stated("a process that waits")[0] == scale_sizing.CLIENT


def test_a_client_has_one_connection_for_all_threads_that_wait(probe: Probe) -> None:
    probe.start(pool="threads", concurrency=2)
    gate = unique("gate")
    sent = [probe.send("run", unique("waits"), gate) for _ in range(6)]
    before = len(backends(probe.url, "probe-client"))
    assert before == 1
    # The results of the client and of the worker have one name; the worker's are there already.
    others = len(backends(probe.url, "probe-results"))
    threads = [threading.Thread(target=result.get, kwargs={"timeout": DEADLINE_S}) for result in sent]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(backends(probe.url, "probe-results")) > others, DEADLINE_S, "the client's connection")
    probe.open(gate)
    for thread in threads:
        thread.join()
    assert len(backends(probe.url, "probe-client")) == before
    # One that waits, and one that the worker has for its results.
    assert len(backends(probe.url, "probe-results")) <= others + stated("a process that waits")[0] + 1


def test_a_beat_has_as_many_connections_as_the_page_says(plain_database: Any, tmp_path: Path) -> None:
    name = "beat-0"
    address = broker(plain_database.url, name).removeprefix("sqla+")
    schedule = {"tick": {"task": "probe.echo", "schedule": 0.2, "args": [1], "options": {"queue": "ticks"}}}
    variables = {
        **environment(),
        "PROBE_BROKER": f"sqla+{address}",
        "PROBE_RESULTS": f"db+{address}",
        "PROBE_FOLDER": str(tmp_path),
        "PROBE_CONF": json.dumps({"beat_schedule": schedule}),
    }
    words = [*COMMAND, "beat", "--pidfile=", "--scheduler", "celery_postgres.beat:Scheduler"]
    with (tmp_path / "beat.log").open("wb") as log:
        beat = subprocess.Popen(words, env=variables, cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: rows_of(plain_database.url, "ticks") > 5, DEADLINE_S, "ticks")
        assert len(backends(plain_database.url, name)) == stated("beat")[0]
    finally:
        beat.kill()
        beat.wait()


def start(probe: Probe, pool: str, slots: int) -> Callable[[], int]:
    """Start a worker with one address for broker and results; return what counts its connections."""
    name = "probe-0"
    address = broker(probe.url, name).removeprefix("sqla+")
    worker = probe.start(
        pool=pool, concurrency=slots, args=["-E"], conf={"task_acks_late": True}, env={"PROBE_RESULTS": f"db+{address}"}
    )
    assert probe.inspect(worker, "ping") == {"ok": "pong"}
    return lambda: len(backends(probe.url, name))


def waited(results: list[object]) -> None:
    """Wait for all of them."""
    for result in results:
        result.get(timeout=DEADLINE_S)  # type: ignore[attr-defined]

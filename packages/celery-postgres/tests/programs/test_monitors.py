"""Programs that watch workers, unmodified, started with the launcher: Flower, and an exporter for Prometheus."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.cluster import free_port
from environment.testkit.machine import unavailable
from environment.testkit.probe import Probe
from environment.testkit.tables import rows, scalar
from environment.waiting import wait_until

RUN = ["-m", "celery_postgres", "run", "--"]
DEADLINE_S = 60
#: Event and reply queues, and those of remote control.
QUEUES = "SELECT name FROM kombu_queue WHERE name LIKE 'celeryev.%' OR name LIKE '%.pidbox' ORDER BY name"
Start = Callable[..., subprocess.Popen[str]]


def queues(url: str) -> set[str]:
    return {name for (name,) in rows(url, QUEUES)}


def page(port: int, path: str) -> str:
    """The text of a page; empty while there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def metrics(port: int) -> dict[str, float]:
    """What a Prometheus would scrape, without the help."""
    lines = [line for line in page(port, "/metrics").splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def run_tasks(probe: Probe) -> None:
    """Three that succeed, and one that fails."""
    for result in [probe.send("echo", number) for number in range(3)] + [probe.send("fail", "no")]:
        result.get(timeout=DEADLINE_S, propagate=False)


@pytest.fixture
def watched(probe: Probe) -> Probe:
    """A worker that sends events."""
    probe.start(args=["-E"])
    return probe


@pytest.fixture
def flower(watched: Probe, start: Start, mine: Any) -> tuple[Any, int]:
    """Flower, with the URL in a variable, and its port."""
    if importlib.util.find_spec("flower") is None:
        pytest.skip("flower is not installed: it is an optional extra")
    port = free_port()
    variables = {"CELERY_BROKER_URL": watched.url, "FLOWER_UNAUTHENTICATED_API": "true"}
    process = start([*RUN, "flower", "--address=127.0.0.1", f"--port={port}"], mine() | variables)
    worker = watched.workers[0].name
    wait_until(
        lambda: process.poll() is not None or metrics(port).get(f'flower_worker_online{{worker="{worker}"}}') == 1,
        DEADLINE_S,
        f"Flower to know the worker: {process.log.read_text()}",  # type: ignore[attr-defined]
    )
    assert process.poll() is None, process.log.read_text()  # type: ignore[attr-defined]
    return process, port


def test_flower_shows_tasks_and_counts_them(watched: Probe, flower: tuple[Any, int]) -> None:
    process, port = flower
    worker = watched.workers[0].name
    run_tasks(watched)

    def count(kind: str, task: str) -> float | None:
        return metrics(port).get(f'flower_events_total{{task="{task}",type="{kind}",worker="{worker}"}}')

    wait_until(lambda: count("task-succeeded", "probe.echo") == 3, DEADLINE_S, "three successes")
    wait_until(lambda: count("task-failed", "probe.fail") == 1, DEADLINE_S, "a failure")
    tasks = json.loads(page(port, "/api/tasks")).values()
    assert sorted((task["name"], task["state"]) for task in tasks) == [
        ("probe.echo", "SUCCESS"),
        ("probe.echo", "SUCCESS"),
        ("probe.echo", "SUCCESS"),
        ("probe.fail", "FAILURE"),
    ]

    def queues_shown() -> list[str]:  # asked of the worker by remote control, for whose answer Flower waits one second
        known = json.loads(page(port, "/api/workers?refresh=1") or "{}").get(worker, {})
        return [queue["name"] for queue in known.get("active_queues", ())]

    wait_until(lambda: queues_shown() == ["celery"], DEADLINE_S, "the queues of the worker")
    process.terminate()
    assert process.wait(DEADLINE_S) == 0


def test_nothing_is_left_of_a_killed_flower(watched: Probe, flower: tuple[Any, int]) -> None:
    process, port = flower
    page(port, "/api/workers?refresh=1")  # with a reply queue
    before = queues(watched.url)
    process.kill()
    process.wait()
    own = {f"{watched.workers[0].name}.celery.pidbox"} | {
        name
        for (name,) in rows(
            watched.url,
            "SELECT queue.name FROM kombu_queue AS queue JOIN kombu_subscription AS s ON s.queue_id = queue.id"
            " JOIN kombu_consumer AS consumer ON consumer.id = s.consumer_id WHERE consumer.pid = :pid",
            pid=watched.workers[0].pid,
        )
    }
    assert before - own
    wait_until(lambda: queues(watched.url) <= own, 60, "what Flower has left to go")
    assert scalar(watched.url, "SELECT count(*) FROM kombu_queue WHERE name = 'celery'") == 1
    run_tasks(watched)


@pytest.mark.long
def test_an_exporter_of_metrics(watched: Probe, start: Start, mine: Any, tmp_path: Path) -> None:
    """An exporter that takes a URL, pings workers, listens to events and reads the lengths of queues."""
    folder = tmp_path / "exporter"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder, "celery-prometheus-exporter==1.7.0"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        unavailable(f"pip cannot install the exporter here: {done.stderr[-500:]}")
    port = free_port()
    variables = mine()
    variables |= {"BROKER_URL": watched.url, "PYTHONPATH": f"{folder}:{variables['PYTHONPATH']}"}
    words = [folder / "bin/celery-prometheus-exporter", "--addr", f"127.0.0.1:{port}", "--queue-list", "celery"]
    process = start([*RUN, *map(str, words)], variables)
    wait_until(lambda: metrics(port).get("celery_workers") == 1, DEADLINE_S, f"the worker: {process.log}")  # type: ignore[attr-defined]
    run_tasks(watched)
    wait_until(
        lambda: metrics(port).get('celery_tasks_by_name{name="probe.echo",state="SUCCESS"}') == 3,
        DEADLINE_S,
        "three successes",
    )
    wait_until(lambda: metrics(port).get('celery_tasks{state="FAILURE"}') == 1, DEADLINE_S, "a failure")
    assert metrics(port)['celery_queue_length{queue_name="celery"}'] == 0
    process.terminate()
    process.wait(DEADLINE_S)

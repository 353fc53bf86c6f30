"""The dashboard's queries and the rules, on a Prometheus that scrapes two workers of one database."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from environment.sources import CHECKOUT
from environment.testkit.databases import run
from tests.ops.prometheus_server import PrometheusServer

DASHBOARD = json.loads((CHECKOUT / "ops/grafana/celery.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
#: What Grafana would put there; its rate interval is four scrapes at least.
VARIABLES = {"$job": "celery", "$__rate_interval": "10s"}
OBSERVED = CHECKOUT / "tests/observability"
DELAYED = 3

pytestmark = pytest.mark.xdist_group("prometheus")


def expressions(panel: dict[str, Any]) -> list[str]:
    """A panel's queries as Grafana sends them."""
    found = [target["expr"] for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    assert not [expression for expression in found if "$" in expression]
    return found


@pytest.fixture(scope="module")
def workers(module_database: Any, start_module_worker: Any, program: Callable[[str], str]) -> list[Any]:
    """Two: their queues are the same."""
    program("prometheus")  # where there is none, no worker is started either
    # A beat has sent the schedule's entry just now.
    run(
        module_database.url,
        "INSERT INTO celery_beat_entry (name) VALUES ('observed-hourly')",
        "INSERT INTO celery_beat (id, hostname, pid, entries) VALUES (1, 'here', 1, '{observed-hourly}')",
    )
    options = {"args": ["-I", "observed_tasks,observed_schedule"], "env": {"PYTHONPATH": str(OBSERVED)}}
    return [start_module_worker(module_database.url, pool=pool, **options) for pool in ("solo", "prefork")]


@pytest.fixture(scope="module")
def run_some(module_database: Any, workers: list[Any]) -> Iterator[Callable[[], None]]:
    """A function that has the workers do something of each kind. Tasks fail in its first two rounds only: ten failures
    would be an alert."""
    from app.celery_app import celery_app, create_app
    from app.core.settings import Settings

    app = create_app(Settings(database_url=module_database.url, _env_file=None))
    rounds = itertools.count()

    def send(name: str) -> Any:
        return app.send_task(f"observed.{name}", args=["x"])

    def once() -> None:
        if next(rounds) < 2:
            send("fails").get(timeout=60, propagate=False)
        for answer in [send("returns"), send("returns"), send("retries")]:
            answer.get(timeout=60)

    try:
        for _ in range(DELAYED):
            app.send_task("observed.returns", args=["x"], countdown=3600)
        once()
        yield once
    finally:
        app.close()
        celery_app.set_current()


@pytest.fixture(scope="module")
def prometheus(
    program: Callable[[str], str],
    workers: list[Any],
    run_some: Callable[[], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    targets = [worker.metrics_url.removeprefix("http://") for worker in workers]
    with PrometheusServer(program("prometheus"), tmp_path_factory.mktemp("prometheus"), targets) as server:
        yield server


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_query_of_a_panel_gives_data(
    panel: dict[str, Any],
    prometheus: Any,
    run_some: Callable[[], None],
    wait_until: Callable[[Callable[[], Any], float, str], Any],
) -> None:
    for expression in expressions(panel):

        def has_data(expression: str = expression) -> bool:
            run_some()
            # NaN, 0 divided by 0, is a gap in Grafana: right for a task that does not run now, not for all of them.
            return any(math.isfinite(value) for value in prometheus.values(expression).values())

        wait_until(has_data, 60, f"data of {expression}")


def test_the_jobs_of_its_list_are_those_of_prometheus(
    prometheus: Any, wait_until: Callable[[Callable[[], Any], float, str], Any]
) -> None:
    (variable,) = [each for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert asked is not None
    path = f"label/{asked[2]}/values"
    wait_until(lambda: prometheus.get(path, **{"match[]": asked[1]}) == ["celery"], 30, "the job to be listed")


def test_two_workers_do_not_double_their_queue(
    prometheus: Any, wait_until: Callable[[Callable[[], Any], float, str], Any]
) -> None:
    """Of the queries that show queues, on what surely is in one: the delayed."""
    (delayed,) = [e for panel in PANELS for e in expressions(panel) if "celery_queue_delayed" in e]
    # A retry is delayed as well, for a tenth of a second.
    shown = f"celery_queue_delayed == {DELAYED}"
    wait_until(lambda: len(prometheus.values(shown)) == 2, 30, "both workers to show the queue")
    shown_once = {(("queue", "celery"),): DELAYED}
    wait_until(lambda: prometheus.values(delayed) == shown_once, 30, "the queue to be shown once")
    recorded = "job_queue:celery_queue_delayed:max"
    wait_until(lambda: list(prometheus.values(recorded).values()) == [DELAYED], 30, "the same to be recorded")


def test_the_rules_can_be_evaluated_and_none_alarms_about_workers_that_are_well(
    prometheus: Any, run_some: Callable[[], None], wait_until: Callable[[Callable[[], Any], float, str], Any]
) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), 60, "every rule to be evaluated")
    assert [rule["name"] for rule in rules() if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules() if rule.get("state") == "firing"] == []
    # What the rules record is there, so each speaks of metrics that the workers have.
    recorded = [rule["name"] for rule in rules() if rule["type"] == "recording"]
    for name in recorded:
        wait_until(lambda name=name: run_some() or prometheus.values(name), 60, f"{name} to be recorded")  # type: ignore[misc]


def test_every_metric_of_the_worker_is_on_it(workers: list[Any]) -> None:
    shown = " ".join(expression for panel in PANELS for expression in expressions(panel))
    _, page = workers[0].info.get("/metrics")
    families = set(re.findall(r"^# TYPE (celery_\w+) ", page, re.MULTILINE))
    assert "celery_claim_batch_size" in families
    assert [name for name in sorted(families) if name not in shown] == []


def test_it_is_laid_out_and_explained() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert [panel["title"] for panel in PANELS if not panel["description"]] == []
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in everything
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    targets = [target for panel in PANELS for target in panel["targets"]]
    assert {json.dumps(each["datasource"]) for each in [*PANELS, *targets]} == {
        '{"type": "prometheus", "uid": "${datasource}"}'
    }

"""The alerts, as Prometheus's own tool judges them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT

PROMETHEUS = CHECKOUT / "ops/prometheus"
UNIT_TESTS = sorted(PROMETHEUS.glob("*.test.yml"))


def promtool(program: Callable[[str], str], *words: str | Path) -> str:
    done = subprocess.run([program("promtool"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_the_rules_that_it_names_are_valid(program: Callable[[str], str]) -> None:
    assert "1 rule files found" in promtool(program, "check", "config", PROMETHEUS / "prometheus.yml")


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.name)
def test_the_rules_pass_their_unit_tests(program: Callable[[str], str], path: Path) -> None:
    promtool(program, "test", "rules", path)


def test_the_unit_tests_see_each_alert_fire_and_not_fire(
    alerts: dict[str, Any], load_yaml: Callable[[Path], Any]
) -> None:
    seen = {
        (case["alertname"], bool(case["exp_alerts"]))
        for path in UNIT_TESTS
        for test in load_yaml(path)["tests"]
        for case in test.get("alert_rule_test", ())
    }
    assert seen == {(name, fires) for name in alerts for fires in (True, False)}


def test_each_alert_says_how_urgent_it_is_and_what_is_the_matter(alerts: dict[str, Any]) -> None:
    assert {rule["labels"]["severity"] for rule in alerts.values()} == {"critical", "warning"}
    assert [name for name, rule in alerts.items() if not rule["annotations"].get("summary")] == []


def test_every_condition_of_the_rules_is_held_by_a_unit_test(program: Callable[[str], str], tmp_path: Path) -> None:
    """All moved out of reach at once: each has a unit test, by the beginning of its name, that then fails."""
    moved = {
        "max > 300": ("max > 30000", "the oldest task of a queue waits"),
        "celery_queue_claimed:max > 0": ("celery_queue_claimed:max > 1", "tasks wait and nobody takes them"),
        "celery_queue_consumers:max == 0": ("celery_queue_consumers:max == 9", "nobody consumes a queue of which"),
        "letters_recent:max > 0": ("letters_recent:max > 3", "tasks become dead letters"),
        "unless on (job) job_queue:": ("unless on (job) unknown:", "a worker that answers without its queues"),
        "up == 0 and": ("up == 2 and", "one of two workers goes"),
        "or absent(last": ("or 2 < absent(last", "no worker was ever seen"),
        "leases_total[15m])) > 0": ("leases_total[15m])) > 9", "a worker takes back what another held, once"),
        "age_seconds < 900": ("age_seconds < 0", "a worker takes back what another held b"),
        "_seconds >= -60": ("_seconds >= -90000", "half of the tasks failed long ago"),
        "(celery_worker_slots) > 0": ("(celery_worker_slots) > 9", "a task waits in a queue that is consumed"),
        "claim_failures_total[2m])) > 0": ("claim_failures_total[2m])) > 999", "the database refuses every claim"),
        "[5m]))) > 0.1": ("[5m]))) > 0.3", "one claim of a hundred"),
        "(increase(celery_tasks_total[1h])) > 0.5": ("(increase(celery_tasks_total[1h])) > 0.2", "most tasks expire"),
        "[6h])) >= 100": ("[6h])) >= 50", "a task retries without end"),
        "beat_seen_age_seconds) > 300": ("beat_seen_age_seconds) > 30000", "no beat is seen from minute 10"),
        "> 10 * max": ("> 1000 * max", "one run goes on for 10 times"),
        "ratio_rate1h > 14.4": ("ratio_rate1h > 30", "a fifth of the tasks fails"),
        "ratio_rate6h > 6 ": ("ratio_rate6h > 9 ", "8 of 100 tasks fail"),
        'increase6h{state="failure"} >= 10': ("increase6h >= 1", "half of very few tasks fails"),
        "age_seconds < 300\n            )": ("age_seconds < 0\n            )", "two new workers have had a burst"),
        "age_seconds < 1800\n            )": ("age_seconds < 0\n            )", "two new workers have had a burst"),
    }
    rules = (PROMETHEUS / "celery.rules.yml").read_text()
    for before, (after, _) in moved.items():
        assert rules.count(before) == 1, before
        rules = rules.replace(before, after)
    (tmp_path / "celery.rules.yml").write_text(rules)
    unit_tests = tmp_path / "celery.test.yml"
    unit_tests.write_text((PROMETHEUS / unit_tests.name).read_text())
    words = [program("promtool"), "test", "rules", str(unit_tests)]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    said_of_failures = said.stdout + said.stderr
    assert [name for _, name in moved.values() if f"name: {name}" not in said_of_failures] == []
    assert said.returncode == 1

"""The alerts and the problems of the read model have one table of thresholds."""

from __future__ import annotations

from typing import Any

import pytest

from celery_postgres.readmodel.thresholds import ALERTS, HOLDS_S, RECENT_S, Alert
from environment.sources import CHECKOUT

#: Alerts for which the read model has no rule: what they need is a counter over time, or a worker that answers.
ALERTS_ALONE = {
    "CeleryQueuesUnknown",
    "CeleryNoWorker",
    "CeleryWorkerNotScraped",
    "CeleryLeasesExpired",
    "CeleryClaimsFail",
    "CeleryClaimsSlow",
    "CeleryTasksRevoked",
    "CeleryTasksOnlyRetry",
}


def test_every_alert_is_in_the_table_or_is_known_to_have_no_rule(alerts: dict[str, Any]) -> None:
    assert set(alerts) == ALERTS_ALONE | {one.name for one in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_the_threshold_of_its_rule(alerts: dict[str, Any], alert: Alert) -> None:
    found = alerts[alert.name]
    assert alert.contains in found["expr"]
    assert found["labels"]["severity"] == alert.severity


@pytest.mark.parametrize("name", HOLDS_S)
def test_an_alert_fires_when_its_rule_is_critical(alerts: dict[str, Any], name: str) -> None:
    minutes = alerts[name]["for"]
    assert minutes.endswith("m")
    assert int(minutes[:-1]) * 60 == HOLDS_S[name]


def test_dead_letters_are_recent_for_as_long_in_both(alerts: dict[str, Any]) -> None:
    assert f"{RECENT_S / 60:g} minutes" in alerts["CeleryDeadLettersGrowing"]["annotations"]["summary"]
    statement = (CHECKOUT / "packages/celery-postgres/src/celery_postgres/database/sql/monitor.sql").read_text("utf-8")
    assert f"interval '{RECENT_S / 60:g} minutes'" in statement

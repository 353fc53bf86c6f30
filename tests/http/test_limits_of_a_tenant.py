"""`/v1/limits`: a tenant sees its own limits, and is told when to come again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_postgres import operations
from celery_postgres.operations import Operations
from environment.testkit.tables import run
from tests.http.front import A, B, Front


@pytest.fixture
def broker(front: Front) -> Iterator[Operations]:
    """The default queue is fair, and has no messages and no limits."""
    run(
        front.database_url,
        "INSERT INTO kombu_queue (name, fair) VALUES ('celery', true) ON CONFLICT (name) DO UPDATE SET fair = true",
        "DELETE FROM kombu_message",
        "DELETE FROM kombu_limit",
    )
    with operations.connect(front.database_url) as broker:
        yield broker
    run(front.database_url, "DELETE FROM kombu_limit", "UPDATE kombu_queue SET refuses = false")


def test_a_tenant_sees_its_own_limits_and_nothing_of_others(front: Front, broker: Operations) -> None:
    broker.set_limit("celery", key="*", concurrency=5)
    broker.set_limit("celery", key=str(B), concurrency=1, per_second=2, burst=3)
    for tenant in (A, A, B):
        assert front.submit(tenant=tenant).status == 202
    answers = {tenant: front.get("/v1/limits", tenant=tenant) for tenant in (A, B)}
    assert {answer.status for answer in answers.values()} == {200}
    expected = {"queue": "celery", "running": 0, "refuses": False, "opens_in_s": None}
    assert answers[A].json["items"] == [
        {**expected, "concurrency": 5, "per_second": None, "burst": None, "waiting": 2},
    ]
    assert answers[B].json["items"] == [{**expected, "concurrency": 1, "per_second": 2.0, "burst": 3, "waiting": 1}]
    assert front.get("/v1/limits", tenant=None).status == 401


def test_a_submission_beyond_the_rate_is_refused_with_the_time_to_come_again(front: Front, broker: Operations) -> None:
    broker.set_limit("celery", key="*", per_second=0.01, burst=1, refuse=True)
    assert front.submit(tenant=A).status == 202
    refused = front.submit(tenant=A)
    assert (refused.status, refused.code) == (429, "rate-limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 100
    assert front.submit(tenant=B).status == 202
    (shown,) = front.get("/v1/limits", tenant=A).json["items"]
    assert (shown["waiting"], shown["refuses"]) == (1, True)
    assert 0 < shown["opens_in_s"] <= 100

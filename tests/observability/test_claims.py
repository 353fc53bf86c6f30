"""What a worker counts of its claims: tasks and not its neighbours' gossip, and what the database refuses."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from typing import Any

import psycopg2
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from app.core.dsn import PostgresDSN
from environment.cluster import free_port

pytestmark = pytest.mark.xdist_group("observability_claims")
DEADLINE_S = 60
PINGS = 20


@pytest.fixture(scope="module")
def worker(module_database: Any, start_module_worker: Any, worker_options: Any, observe: Any) -> Any:
    return observe(start_module_worker(module_database.url, **worker_options()))


def claims(worker: Any) -> dict[str, float]:
    samples = worker.samples("celery_claim_duration_seconds_count")
    return {dict(labels)["found"]: value for labels, value in samples.items()}


def test_remote_control_and_events_are_no_claims(
    worker: Any, module_database: Any, client_of: Any, wait_until: Any
) -> None:
    def received() -> bool:
        return connected.execute(text("SELECT NOT EXISTS (SELECT FROM kombu_message)")).scalar_one() is True

    engine = create_engine(module_database.url, poolclass=NullPool)
    with client_of(module_database.url) as app, engine.connect() as connected:
        connected.execution_options(isolation_level="AUTOCOMMIT")
        for _ in range(PINGS):
            app.control.broadcast("ping")
            wait_until(received, DEADLINE_S, "the worker to receive it")
        assert claims(worker).get("yes", 0) == 0
        assert claims(worker)["no"] < PINGS
        app.send_task("observed.returns", args=["x"]).get(timeout=DEADLINE_S)
    wait_until(lambda: claims(worker).get("yes") == 1, DEADLINE_S, "the claim to be counted")
    assert worker.samples("celery_claim_batch_size_sum") == {(): 1.0}


def test_claims_that_a_read_only_database_refuses_are_counted(
    worker: Any, module_database: Any, wait_until: Any
) -> None:
    """As after a failover to a standby: connections work, and so does every look."""
    assert worker.samples("celery_claim_failures_total") == {(): 0.0}
    with contextlib.closing(psycopg2.connect(PostgresDSN.parse(module_database.url).libpq())) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        read_only = f"ALTER DATABASE {module_database.name} SET default_transaction_read_only"
        cursor.execute(f"{read_only} = on")
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        try:
            wait_until(lambda: worker.total("celery_claim_failures_total") >= 2, DEADLINE_S, "claims to fail")
            assert worker.samples("celery_queue_ready")  # the gauges see nothing wrong
        finally:
            cursor.execute("SET default_transaction_read_only = off")
            cursor.execute(f"{read_only} = off")
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )


def test_a_worker_that_starts_on_one_counts_too(database: Any, start_worker: Any, wait_until: Any) -> None:
    """It has claimed nothing and never will until it may write: without it the alert would be about nobody."""
    port = free_port()

    def failures() -> float:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page,
        ):
            found = re.search(r"^celery_claim_failures_total (\S+)$", page.read().decode(), re.MULTILINE)
            return float(found[1]) if found else 0.0
        return 0.0

    with contextlib.closing(psycopg2.connect(PostgresDSN.parse(database.url).libpq())) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    worker = start_worker(database.url, ready=False, env={"CELERY_METRICS_PORT": str(port)})
    wait_until(lambda: failures() >= 2, DEADLINE_S, "its tries to be counted")
    assert worker.stop() == 0

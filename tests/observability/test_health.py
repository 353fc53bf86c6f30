"""What the pages of a worker say while its database is away, silent, or back, and while it drains."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from app.core.settings import Settings
from app.db.checks import schema_head, schema_is_behind, schema_revision
from app.observability.health import HealthMonitor
from environment.temporary import TemporaryCluster

#: One worker for the module, hence one process of pytest-xdist.
pytestmark = pytest.mark.xdist_group("observability_health")
DEADLINE_S = 60
#: Looks every 0.2 s; a look that fails takes 2 s at most; what is older than 3 intervals and those 2 s is stale.
SOON_S = 45
#: What PostgreSQL's manual calls it.
NO_WRITES = "25006 read_only_sql_transaction"


@pytest.fixture(scope="module")
def cluster(migrate: Any) -> Iterator[TemporaryCluster]:
    """A server of these tests alone, since it is stopped and frozen."""
    with TemporaryCluster(tcp=True) as cluster:
        migrate(cluster.url())
        yield cluster


@pytest.fixture
def app(cluster: TemporaryCluster, client_of: Any) -> Iterator[Celery]:
    with client_of(cluster.url()) as app:
        yield app


@pytest.fixture(scope="module")
def worker(cluster: TemporaryCluster, start_module_worker: Any, worker_options: Any, observe: Any) -> Any:
    return observe(start_module_worker(cluster.tcp_url(), **worker_options(HEALTH_INTERVAL="0.2")))


@pytest.fixture
def busy(worker: Any, app: Celery, tmp_path: Path, wait_until: Any) -> Iterator[Path]:
    """A task that holds the solo worker's only slot until this file is removed."""
    file = tmp_path / "busy"
    app.send_task("observed.waits_for", args=[str(file)])
    wait_until(file.exists, DEADLINE_S, "the task to run")
    yield file
    file.unlink(missing_ok=True)


def test_a_healthy_worker_says_so(worker: Any) -> None:
    status, health = worker.page("/health")
    assert (status, health["status"], health["broker"], health["database"]) == (200, "ok", "ok", "ok")
    assert set(health["checks"]) == {"broker", "database"}
    for check in health["checks"].values():
        assert check["latency_ms"] > 0
        assert check["checked_at"].endswith("Z")
    status, ready = worker.page("/readyz")
    assert (status, set(ready["checks"])) == (200, {"started", "not_draining", "schema", "database"})
    assert worker.page("/livez")[1]["consumer"] == "ok"


def test_other_pages_and_methods_are_refused(worker: Any) -> None:
    assert worker.status("/") == 404
    assert worker.status("/metrics/x") == 404
    host, port = worker._info.metrics_host, worker._info.metrics_port
    for method, expected in (("POST", b" 501 "), ("HEAD", b" 200 ")):
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(f"{method} /health HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))
        assert expected in answer.splitlines()[0]
        if method == "HEAD":
            assert answer.endswith(b"\r\n\r\n")


def test_metrics_are_served_in_the_format_and_coding_that_is_asked_for(worker: Any) -> None:
    request = urllib.request.Request(  # noqa: S310
        f"{worker._info.metrics_url}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert answer.headers["Content-Encoding"] == "gzip"


def test_the_worker_file_tells_where_the_worker_is(worker: Any) -> None:
    file: Path = worker.worker.file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = json.loads(file.read_text())
    assert content["pid"] == worker.worker.pid
    assert (content["pool"], content["metrics_host"]) == ("solo", "127.0.0.1")
    assert content["metrics_port"] == worker._info.metrics_port
    assert set(content) == {"pid", "hostname", "pool", "metrics_host", "metrics_port", "started_at"}


def test_a_stopped_database_is_told_while_a_task_holds_the_worker(
    worker: Any, cluster: TemporaryCluster, busy: Path, wait_until: Any
) -> None:
    assert worker.samples("celery_queue_ready") == {(("queue", "celery"),): 0.0}
    cluster.stop()
    wait_until(lambda: worker.status("/health") == 503, SOON_S, "the fault to be seen")
    _, health = worker.page("/health")
    assert (health["status"], health["broker"], health["database"]) == ("failed", "failed", "failed")
    error = health["checks"]["database"]["error"]
    assert error.startswith(f"127.0.0.1:{cluster.port}/skeldir_validation: ")
    assert error.splitlines() == [error]
    assert "app_user" not in json.dumps(health)
    assert worker.status("/livez") == 200
    assert worker.status("/readyz") == 503
    # No numbers rather than old ones; what is counted in the worker stays.
    assert worker.samples("celery_queue_ready") == {}
    assert worker.total() >= 0
    cluster.start()
    wait_until(lambda: worker.status("/health") == 200, SOON_S, "the worker to see its database again")
    # This asks for the schema too, which is looked at after the database.
    wait_until(lambda: worker.status("/readyz") == 200, SOON_S, "the worker to see its schema again")
    assert worker.samples("celery_queue_ready") == {(("queue", "celery"),): 0.0}
    busy.unlink()
    wait_until(lambda: worker.total(task="observed.waits_for") >= 1, DEADLINE_S, "the task to end")


def test_a_database_that_does_not_answer_any_more_is_told_too(
    worker: Any, cluster: TemporaryCluster, busy: Path, wait_until: Any
) -> None:
    """Every process of the server is stopped: its sockets are open, its kernel acknowledges, and nothing comes."""
    frozen = backends(cluster)
    with stopped(frozen):
        wait_until(lambda: worker.status("/health") == 503, SOON_S, "the silence to be noticed")
        wait_until(lambda: "no answer" in why(worker) or "connection" in why(worker), SOON_S, "its name")
        assert worker.status("/livez") == 200
        assert worker.samples("celery_queue_ready") == {}
    wait_until(lambda: worker.status("/health") == 200, SOON_S, "the worker to see its database again")


def test_a_database_that_takes_no_writes_is_told_and_costs_no_task(
    worker: Any, cluster: TemporaryCluster, app: Celery, busy: Path, tmp_path: Path, wait_until: Any
) -> None:
    """As a managed one that was set read-only, or a standby behind the same address."""
    waiting, second = app.send_task("observed.returns", args=["late"]), tmp_path / "second"
    before = worker.total(task="observed.waits_for")
    told = len(worker.lines())

    def said(*words: str) -> bool:
        return any(all(word in line["message"] for word in words) for line in worker.lines()[told:])

    with read_only(cluster):
        wait_until(lambda: "no writes" in why(worker), SOON_S, "the fault to be seen")
        error = why(worker)
        assert error.startswith(f"127.0.0.1:{cluster.port}/skeldir_validation: it takes no writes: ")
        assert error.endswith("default_transaction_read_only is on")
        status, health = worker.page("/health")
        assert (status, health["broker"], health["database"]) == (503, "failed", "failed")
        assert (worker.status("/readyz"), worker.status("/livez")) == (503, 200)
        with pytest.raises(OperationalError, match="read-only transaction"):
            app.send_task("observed.waits_for", args=[str(second)])
        wait_until(lambda: said("Cannot reach the broker", NO_WRITES), SOON_S, "the heartbeat's reason")
        busy.unlink()
        wait_until(lambda: said("Claiming failed", NO_WRITES), SOON_S, "the reason why nothing is claimed")
        wait_until(lambda: said("Cannot store results", NO_WRITES), SOON_S, "the reason why nothing is stored")
        assert not waiting.ready()
    assert waiting.get(timeout=DEADLINE_S) == "late"
    wait_until(lambda: worker.status("/health") == 200, SOON_S, "the worker to see that it may write")
    wait_until(lambda: worker.status("/readyz") == 200, SOON_S, "the worker to be ready again")
    # Once, and what could not be sent was not.
    assert worker.total(task="observed.waits_for") == before + 1
    assert not second.exists()


def test_a_worker_that_starts_on_a_database_without_writes_waits_for_them(
    cluster: TemporaryCluster, start_worker: Any, wait_until: Any
) -> None:
    with read_only(cluster):
        worker = start_worker(cluster.url(), ready=False)
        wait_until(lambda: "cannot be used (it takes no writes" in worker.log_text(), DEADLINE_S, "the reason")
        assert worker.process.poll() is None
    worker.wait_ready(DEADLINE_S)
    assert "Traceback" not in worker.log_text()


def test_an_old_schema_keeps_a_worker_from_being_ready(worker: Any, cluster: TemporaryCluster, wait_until: Any) -> None:
    admin = cluster.superuser_url.replace("/postgres?", "/skeldir_validation?")
    with contextlib.closing(psycopg2.connect(admin)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("UPDATE alembic_version SET version_num = '202512120900'")
        try:
            wait_until(lambda: worker.status("/readyz") == 503, SOON_S, "the schema check")
            _, ready = worker.page("/readyz")
            assert "the database is at revision 202512120900, this worker expects" in ready["checks"]["schema"]["error"]
            assert worker.status("/health") == 200
        finally:
            cursor.execute("UPDATE alembic_version SET version_num = %s", [schema_head()])
    wait_until(lambda: worker.status("/readyz") == 200, SOON_S, "the worker to be ready again")


def test_a_newer_schema_leaves_an_old_worker_in_service(cluster: TemporaryCluster) -> None:
    with contextlib.closing(create_engine(cluster.url(), poolclass=NullPool).connect()) as connection:
        assert not schema_is_behind(schema_revision(connection))
    assert not schema_is_behind("from-a-newer-version")
    assert schema_is_behind("202512120900")
    assert schema_is_behind(None)


def test_a_broker_that_cannot_be_used_is_told(cluster: TemporaryCluster, wait_until: Any) -> None:
    """Not on a live worker: the stock transport ends with an error that it does not know."""
    name = "broken"
    with contextlib.closing(psycopg2.connect(cluster.superuser_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name} OWNER app_user")
    settings = Settings(database_url=cluster.url(database=name), _env_file=None)
    monitor = HealthMonitor(settings)
    monitor.start()
    try:
        wait_until(lambda: monitor.result("schema")["checked_at"], SOON_S, "the first looks")
        assert monitor.result("database")["status"] == "ok"
        assert monitor.result("broker")["error"].endswith(f"{name}: SQLSTATE 42P01 (UndefinedTable)")
        assert monitor.result("schema")["error"].startswith("app.observability.health.SchemaBehind: ")
    finally:
        monitor.stop()


def test_a_port_that_is_taken_ends_the_worker_with_one_clear_line(
    worker: Any, cluster: TemporaryCluster, start_worker: Any, wait_until: Any
) -> None:
    taken = str(worker._info.metrics_port)
    second = start_worker(cluster.url(), env={"CELERY_METRICS_PORT": taken}, ready=False)
    wait_until(lambda: second.process.poll() is not None, DEADLINE_S, "the second worker to end")
    assert second.process.returncode == os.EX_CONFIG
    critical = [line for line in map(json.loads, second.log_text().splitlines()) if line["level"] == "CRITICAL"]
    assert len(critical) == 1
    assert f"127.0.0.1:{taken}" in critical[0]["message"]
    assert "CELERY_METRICS_PORT" in critical[0]["message"]
    assert worker.status("/health") == 200


def test_a_draining_worker_is_not_ready(worker: Any, busy: Path, wait_until: Any) -> None:
    assert worker.status("/readyz") == 200
    file = worker.worker.file
    worker.worker.process.terminate()
    wait_until(lambda: worker.status("/readyz") == 503, SOON_S, "the worker to drain")
    _, ready = worker.page("/readyz")
    assert ready["checks"]["not_draining"]["error"] == "the worker is shutting down"
    assert (worker.status("/livez"), worker.status("/health")) == (200, 200)
    assert file.exists()
    busy.unlink()
    assert worker.worker.process.wait(DEADLINE_S) == 0
    assert not file.exists()
    worker.lines()  # all of them JSON, through all of this


def test_a_worker_whose_database_never_answers_serves_its_pages(
    cluster: TemporaryCluster, start_worker: Any, wait_until: Any
) -> None:
    """A listener that accepts and says nothing: the worker is not ready, and says why; it need not be restarted."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        threading.Thread(target=accept_all, args=(silent, held), daemon=True).start()
        port = silent.getsockname()[1]
        url = f"postgresql://somebody:hushhush@127.0.0.1:{port}/somewhere"
        worker = start_worker(url, env={"HEALTH_INTERVAL": "0.2"}, ready=False)
        wait_until(lambda: "metrics and health on" in worker.log_text(), DEADLINE_S, "the HTTP server")
        (line,) = [line for line in worker.log_text().splitlines() if "metrics and health on" in line]
        base = json.loads(line)["message"].split()[4]
        wait_until(lambda: fetch(f"{base}/health")[1]["checks"]["database"]["latency_ms"], SOON_S, "the first look")
        status, health = fetch(f"{base}/health")
        assert status == 503
        assert health["checks"]["database"]["error"] == f"127.0.0.1:{port}/somewhere: no answer in time"
        assert fetch(f"{base}/livez")[0] == 200
        assert fetch(f"{base}/readyz")[0] == 503
        assert not worker.file.exists()
        worker.stop()
        assert "hushhush" not in worker.log_text()
        for connection in held:
            connection.close()


@contextlib.contextmanager
def read_only(cluster: TemporaryCluster) -> Iterator[None]:
    """Within the block new sessions may not write, and there are no others."""
    name = "skeldir_validation"
    with contextlib.closing(psycopg2.connect(cluster.superuser_url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND backend_type = 'client backend'",
                [name],
            )
            yield
        finally:
            cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


def why(worker: Any) -> str:
    return str(worker.page("/health")[1]["checks"]["database"].get("error", ""))


def backends(cluster: TemporaryCluster) -> list[int]:
    postmaster = cluster.pid()
    assert postmaster is not None
    return [postmaster]


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """The processes and their children, stopped; the postmaster first, so that nobody new comes."""
    everybody: list[int] = []
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            everybody.append(pid)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGSTOP)
                everybody.append(int(child))
        yield
    finally:
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def accept_all(listener: socket.socket, held: list[socket.socket]) -> None:
    with contextlib.suppress(OSError):
        while True:
            held.append(listener.accept()[0])


def fetch(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.request.HTTPError as error:
        with error:
            return error.code, json.load(error)

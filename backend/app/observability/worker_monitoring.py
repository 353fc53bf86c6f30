"""The worker's HTTP server and the file that tells where it is.

One server per worker, in its main process, whatever the pool: Celery's `worker_process_init` fires in the main
process of a solo worker, never with threads, and in every child of prefork, so it is the wrong place. It starts
before the worker connects to anything, so that /health can say why it does not.

    /metrics   Prometheus text format
    /health    broker and database: 200, or 503 and why
    /livez     503 only if a restart would help; never because of the database
    /readyz    started, not draining, schema at head, database reachable and taking writes, no step
               of the maintenance failing
"""

from __future__ import annotations

import atexit
import gzip
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.exceptions import WorkerShutdown
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

import celery_postgres
from app.core.settings import Settings, get_settings
from app.observability import multiprocess
from app.observability.beat import BeatCollector
from app.observability.broker_maintenance import maintenance
from app.observability.health import HealthMonitor
from app.observability.http_server import Page, PageServer, json_page
from app.observability.key_depth import KeyDepthCollector
from app.observability.metrics import SlotsCollector
from app.observability.queue_depth import QueueDepthCollector
from app.observability.slow_tasks import SlowTaskCollector
from app.observability.worker_state import WorkerState

logger = logging.getLogger(__name__)

POOL_NAMES = {"thread": "threads"}

_monitoring: WorkerMonitoring | None = None


def install(app: Celery) -> None:
    """Make `app`'s workers serve metrics and health over HTTP. Safe to call again."""
    signals.celeryd_after_setup.connect(_on_setup, weak=False)
    signals.worker_ready.connect(_on_ready, weak=False)
    signals.worker_shutting_down.connect(_on_shutting_down, weak=False)
    signals.worker_shutdown.connect(_on_shutdown, weak=False)


class WorkerMonitoring:
    """Everything that watches one worker, from its start to its end.

    Raises:
        OSError: the HTTP address cannot be bound.
    """

    def __init__(self, worker: Any, settings: Settings) -> None:
        self._settings = settings
        self._owner = os.getpid()
        celery_postgres.observe(maintenance)
        self.state = WorkerState(worker)
        self.health = HealthMonitor(settings)
        self._registry = _registry(worker)
        self.health.after_each = self._after_each_look
        self.server = PageServer(
            settings.celery_metrics_addr,
            settings.celery_metrics_port,
            {
                "/metrics": self._metrics_page,
                "/health": self._health_page,
                "/livez": self._livez_page,
                "/readyz": self._readyz_page,
            },
            most=settings.celery_metrics_max_connections,
            timeout_s=settings.celery_metrics_timeout,
        )

    def start(self) -> None:
        """Start the checks and the server."""
        if self._settings.celery_worker_file is not None:
            with suppress(OSError):  # of a worker that was killed: a container that is restarted keeps its files
                self._settings.celery_worker_file.unlink()
        self.health.start()
        self.server.start()
        logger.info("metrics and health on %s (/metrics /health /livez /readyz)", self.server.url)

    def ready(self) -> None:
        """Record that the worker takes tasks."""
        self.state.ready = True
        self.health.look_again()
        if self._settings.celery_worker_file is not None:
            self._write_file(self._settings.celery_worker_file)

    def close(self) -> None:
        """End; harmless in a child and when done twice."""
        global _monitoring
        if os.getpid() != self._owner or _monitoring is not self:
            return
        _monitoring = None
        self._remove_file()
        self.health.stop()
        self.server.close()
        multiprocess.close()

    def _after_each_look(self) -> None:
        self.state.look()
        folder = multiprocess.current_folder()
        if folder is not None:
            folder.sweep()

    def _write_file(self, path: Path) -> None:
        worker = self.state.worker
        pool = worker.pool_cls if isinstance(worker.pool_cls, str) else worker.pool_cls.__module__
        pool = pool.rpartition(".")[2]
        content = {
            "pid": self._owner,
            "hostname": str(worker.hostname),
            "pool": POOL_NAMES.get(pool, pool),
            "metrics_host": self.server.host,
            "metrics_port": self.server.port,
            "started_at": worker.startup_time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        try:
            # mkstemp creates it with mode 0600; after a rename in the folder readers see all of it or nothing.
            descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file)
            os.replace(temporary, path)
        except OSError as error:
            logger.error("CELERY_WORKER_FILE cannot be written: %s", error)  # noqa: TRY400  # one line says it

    def _remove_file(self) -> None:
        path = self._settings.celery_worker_file
        if path is None or not self.state.ready:
            return
        with suppress(OSError, ValueError, AttributeError):
            if json.loads(path.read_text()).get("pid") == self._owner:
                path.unlink()

    def _metrics_page(self, headers: Mapping[str, str]) -> Page:
        encode, content_type = choose_encoder(headers.get("accept", ""))
        body: bytes = encode(self._registry)
        if gzip_accepted(headers.get("accept-encoding", "")):
            return Page(200, content_type, gzip.compress(body, 1), (("Content-Encoding", "gzip"),))
        return Page(200, content_type, body)

    def _health_page(self, _: Mapping[str, str]) -> Page:
        return _page({name: self.health.result(name) for name in ("broker", "database")})

    def _livez_page(self, _: Mapping[str, str]) -> Page:
        stuck = self.state.stuck(self.health.database_well_since)
        return _page({"consumer": _check(stuck) | {"seconds_since_tick": round(self.state.since_tick, 1)}})

    def _readyz_page(self, _: Mapping[str, str]) -> Page:
        checks = {
            "started": _check(None if self.state.ready else "the worker does not take tasks yet"),
            "not_draining": _check("the worker is shutting down" if self.state.draining else None),
            "schema": self.health.result("schema"),
            "database": self.health.result("database"),
        }
        return _page(checks | ({"maintenance": _check(maintenance.error)} if maintenance.error else {}))


def _registry(worker: Any) -> CollectorRegistry:
    folder = multiprocess.current_folder()
    registry = REGISTRY
    if folder is not None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(multiprocess.MultiprocessCollector(folder))
    registry.register(SlotsCollector(worker))
    registry.register(maintenance)
    registry.register(QueueDepthCollector())
    registry.register(KeyDepthCollector())
    registry.register(BeatCollector(worker.app))
    registry.register(SlowTaskCollector(worker.app))
    return registry


def _check(error: str | None) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    shown: dict[str, Any] = {"status": "failed" if error else "ok", "latency_ms": 0.0, "checked_at": now}
    return shown | ({"error": error} if error else {})


def _page(checks: dict[str, dict[str, Any]]) -> Page:
    well = all(check["status"] == "ok" for check in checks.values())
    summary = {name: check["status"] for name, check in checks.items()}
    return json_page(200 if well else 503, {"status": "ok" if well else "failed", **summary, "checks": checks})


def _on_setup(instance: Any, **_: Any) -> None:
    """Before the worker starts anything. Celery only logs a receiver's exception, except one that ends the worker."""
    global _monitoring
    settings = get_settings()
    address = f"{settings.celery_metrics_addr}:{settings.celery_metrics_port}"
    try:
        _monitoring = WorkerMonitoring(instance, settings)
    except OSError as error:
        logger.critical(
            "the worker's HTTP server cannot listen on %s (%s): set CELERY_METRICS_PORT to another port, 0 for any "
            "free one, or CELERY_METRICS_ADDR to an address of this machine",
            address,
            error,
        )
        multiprocess.close()
        raise WorkerShutdown(os.EX_CONFIG) from None
    _monitoring.start()
    atexit.register(_monitoring.close)


def _on_ready(**_: Any) -> None:
    if _monitoring is not None:
        _monitoring.ready()


def _on_shutting_down(**_: Any) -> None:
    # In a signal handler: only set a flag.
    if _monitoring is not None:
        _monitoring.state.signalled = True


def _on_shutdown(**_: Any) -> None:
    if _monitoring is not None:
        _monitoring.close()

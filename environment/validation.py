"""``./dev validate``: start everything in the Procfile, use it over HTTP for two tenants, and check who listens."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from app.core.dsn import PostgresDSN
from environment.database import check_settings, setting
from environment.errors import UserError
from environment.naming import program
from environment.ports import listening, unexpected
from environment.sources import CHECKOUT, python_path
from environment.temporary import TemporaryCluster
from environment.waiting import wait_until

TENANTS = (UUID(int=0xE1), UUID(int=0xE2))
_PATIENCE_S = 60.0

#: A submission of each task that the HTTP front accepts.
ONE_OF_EACH: Mapping[str, Mapping[str, Any]] = {
    "app.tasks.housekeeping.ping": {},
    "app.tasks.llm.routing": {"payload": {"request": "Where is my refund?", "routes": ["billing", "shipping"]}},
    "app.tasks.llm.explanation": {"payload": {"subject": "churn", "facts": {"lost": 3, "kept": 40}}},
    "app.tasks.llm.investigation": {"payload": {"question": "Why?", "evidence": ["a log", "a trace"]}},
    "app.tasks.llm.budget": {
        "payload": {"total_cents": 100, "channels": [{"name": "tv", "spend_cents": 1, "revenue_cents": 2}]}
    },
    "app.tasks.maintenance.scrub_pii": {},
    "app.tasks.maintenance.apply_retention": {"dry_run": True},
}


def validate(arguments: Sequence[str]) -> int:
    """Start everything on DATABASE_URL, or on a temporary PostgreSQL, and use it.

    Raises:
        UserError: with what failed.
    """
    if arguments:
        raise UserError(f"{program()} validate takes no arguments")
    before = listening()
    with _database() as url, TemporaryDirectory(prefix="skeldir-validate-") as state:
        Path(state).chmod(
            0o755
        )  # root's PostgreSQL runs as another account, which must be able to enter a state folder
        host = "127.0.0.1"
        web, metrics = (_free_port(host, setting(name)) for name in ("PORT", "CELERY_METRICS_PORT"))
        variables = {
            **os.environ,
            "PYTHONPATH": python_path(),
            "DATABASE_URL": url,
            "SKELDIR_STATE_DIR": state,
            "WEB_HOST": host,
            "PORT": str(web),
            "CELERY_METRICS_ADDR": host,
            "CELERY_METRICS_PORT": str(metrics),
        }
        with _everything(variables) as ended, _keys(url) as keys:
            page, health = f"http://{host}:{web}", f"http://{host}:{metrics}/health"
            for address in (f"{page}/health", health):
                wait_until(lambda: ended() or is_well(address), _PATIENCE_S, f"{address} to be well")  # noqa: B023
                if ended():
                    raise UserError(f"{program()} up ended before everything was ready")
                print(f"ok  {address}", flush=True)
            exercise(page, keys)
            expected = [f"{host}:{web}", f"{host}:{metrics}", *_port_of(url)]
            wrong = unexpected(listening(), before, expected)
            if wrong:
                raise UserError("; ".join(wrong))
            print(f"ok  nothing listens but {', '.join(expected)}", flush=True)
    print("empirical validation: passed", flush=True)
    return 0


def exercise(address: str, keys: Mapping[UUID, str]) -> None:
    """Submit one task of each kind for each tenant; its tenant sees it to its end, and no other tenant sees it.

    Args:
        keys: an API key for each tenant; two or more.

    Raises:
        UserError: with what failed.
    """
    sent = {}
    for tenant, key in keys.items():
        for name, body in ONE_OF_EACH.items():
            status, task = ask(f"{address}/v1/tasks/{name}", key, body)
            _demand(status == 202, f"{name} was answered with {status}")
            sent[tenant, name] = task["task_id"]
    for (tenant, name), task_id in sent.items():
        where = f"{address}/v1/tasks/{task_id}"

        def ended(where: str = where, key: str = keys[tenant]) -> dict[str, Any] | None:
            task: dict[str, Any] = ask(where, key)[1]
            return task if task["done_at"] else None

        task = wait_until(ended, _PATIENCE_S, f"{name} to end")
        assert task is not None  # noqa: S101
        _demand(task["state"] == "SUCCESS", f"{name} ended as {task['state']}: {task['error']}")
        _demand(isinstance(task["result"], dict), f"{name} has no result")
        _demand(task["result"].get("tenant_id", str(tenant)) == str(tenant), f"{name} ran for another tenant")
        for other, key in keys.items():
            if other != tenant:
                _demand(ask(where, key)[0] == 404, f"{name} of one tenant can be seen by another")
        print(f"ok  {name} for {tenant}", flush=True)


def ask(url: str, key: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
    """Send a request with an API key: POST if there is a body, otherwise GET. Return its status and the JSON of the
    answer.
    """
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, headers)  # noqa: S310  an address of our own
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextmanager
def _database() -> Iterator[str]:
    configured = setting("DATABASE_URL")
    with ExitStack() as stack:
        url = configured or stack.enter_context(TemporaryCluster()).url()
        os.environ["DATABASE_URL"] = url
        check_settings()
        yield url


@contextmanager
def _everything(variables: Mapping[str, str]) -> Iterator[Callable[[], bool]]:
    """Run ``./dev up``; yield a function that tells whether it has ended. Afterwards it must have ended with
    success.
    """
    process = subprocess.Popen([sys.executable, "-P", "-m", "environment.cli", "up"], env=variables, cwd=CHECKOUT)
    try:
        yield lambda: process.poll() is not None
    except BaseException:
        process.terminate()
        process.wait(_PATIENCE_S)
        raise
    process.send_signal(signal.SIGTERM)
    status = process.wait(_PATIENCE_S)
    _demand(status == 0, f"{program()} up ended with {status}")


@contextmanager
def _keys(url: str) -> Iterator[dict[UUID, str]]:
    """A key for each tenant, revoked afterwards."""
    from app.core.settings import load_settings
    from app.db import api_keys
    from app.db.engine import build_engine
    from environment.migration import upgrade

    upgrade(url)
    engine = build_engine(load_settings())
    with engine.begin() as connection:
        issued = {tenant: api_keys.issue(connection, tenant, "validation") for tenant in TENANTS}
    try:
        yield {tenant: key for tenant, (_, key) in issued.items()}
    finally:
        with engine.begin() as connection:
            for record, _ in issued.values():
                api_keys.revoke(connection, record.id)
        engine.dispose()


def is_well(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def _port_of(url: str) -> list[str]:
    """PostgreSQL's port, unless it listens on a socket in the file system."""
    dsn = PostgresDSN.parse(url)
    if not dsn.hosts or dsn.hosts[0].startswith("/"):
        return []
    return [dsn.ports[0] or "5432"]


def _free_port(host: str, configured: str | None) -> int:
    if configured:
        return int(configured)
    with socket.create_server((host, 0)) as anyone:
        return int(anyone.getsockname()[1])


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise UserError(what)

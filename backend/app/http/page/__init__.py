"""The page at `/`: queues, workers, and the tasks of the tenant whose API key is entered.

The server renders it. Its one script asks again every two seconds, and the page works without it. The key is in the
form and in the body of requests: never in a URL, a cookie or the browser's storage. Others choose the names of queues,
hosts and tasks: the template escapes everything that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.db import submissions
from app.db.submissions import Submitted
from app.http import problems
from app.http.credentials import tenant_transaction
from app.http.overview import CAP, Overview, overview

_FOLDER = Path(__file__).parent
_PAGE = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
).get_template("page.html")
_FILES = {
    "page.js": ((_FOLDER / "page.js").read_bytes(), "text/javascript; charset=utf-8"),
    "page.css": ((_FOLDER / "page.css").read_bytes(), "text/css; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
#: The number of tasks that are shown.
MOST = 20
#: A sign before the word distinguishes the states without color.
_SIGNS = {"SUCCESS": "✓", "FAILURE": "✗", "REVOKED": "⊘", "STARTED": "▶", "RETRY": "↻", "UNKNOWN": "?"}


class Table(NamedTuple):
    """A table of the page, in the order in which the template's macro takes it."""

    name: str
    caption: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


def router() -> APIRouter:
    """The routes."""
    routes = APIRouter(include_in_schema=False)

    # One route, so that an answer to another method names both.
    @routes.api_route("/", methods=["GET", "POST"])
    async def page(request: Request) -> Response:
        if request.method == "GET":
            return _page(200, [], "Enter an API key to see what is going on.")
        key = _entered((await request.body()).decode("latin-1"))
        try:
            tables = await run_in_threadpool(_tables, key)
        except Exception as error:
            problem = problems.of(error)
            return _page(problem.status, [], f"{problem.detail[:1].upper()}{problem.detail[1:]}.")
        return _page(200, tables, f"As of {datetime.now(UTC):%H:%M:%S} UTC.")

    @routes.get("/page/{name}")
    async def file(name: str) -> Response:
        if name not in _FILES:
            raise problems.Problem(404, "not-found", "there is no such file")
        content, media_type = _FILES[name]
        return Response(content, media_type=media_type)

    return routes


def _entered(form: str) -> str:
    """The key in a browser's form; an empty text if the body is no such form."""
    try:
        return parse_qs(form, max_num_fields=5).get("key", [""])[0].strip()
    except ValueError:
        return ""


def _page(status: int, tables: Sequence[Table], note: str) -> Response:
    return Response(_PAGE.render(tables=tables, note=note), status, _HEADERS, "text/html; charset=utf-8")


def _tables(key: str) -> list[Table]:
    with tenant_transaction(key) as (connection, tenant_id):
        tasks = submissions.newest(connection, tenant_id, MOST)
    now = overview()
    return [_queues(now), _workers(now), _tasks(tasks)]


def _queues(now: Overview) -> Table:
    rows = [
        (
            queue.name,
            _count(queue.ready),
            _count(queue.scheduled),
            _count(queue.claimed),
            _age(queue.oldest_s, queue.ready),
        )
        for queue in now.queues
    ]
    caption = f"Queues ({_count(now.dead_letters)} dead letters)"
    return Table("queues", caption, ("Queue", "Ready", "Scheduled", "Claimed", "Oldest waits"), rows)


def _workers(now: Overview) -> Table:
    rows = [
        (
            f"{worker.hostname} ({worker.pid})",
            ", ".join(worker.queues),
            str(worker.claimed),
            _time(worker.started_at) if worker.started_at else "",
        )
        for worker in now.workers
    ]
    return Table("workers", "Workers", ("Worker (process)", "Queues", "Claimed", "Since (UTC)"), rows)


def _tasks(tasks: Sequence[Submitted]) -> Table:
    rows = [
        (
            f"{_SIGNS.get(task.state, '…')} {task.state}",
            task.name.removeprefix("app.tasks."),
            _time(task.created_at),
            task.task_id,
        )
        for task in tasks
    ]
    return Table("tasks", "Your tasks, the newest first", ("State", "Task", "Submitted (UTC)", "Id"), rows)


def _count(number: int) -> str:
    return f"{CAP - 1:,}+" if number >= CAP else f"{number:,}"


def _age(seconds: float, ready: int) -> str:
    if not ready:
        return "none"
    return (
        f"{seconds:.1f} s"
        if seconds < 60
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

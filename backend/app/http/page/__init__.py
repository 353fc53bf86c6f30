"""The page at `/`: queues, workers, and the tasks of the tenant whose API key is entered.

The server renders it. Its one script asks again every two seconds, and the page works without it. The key is in the
form and in the body of requests: never in a URL, a cookie or the browser's storage.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.db import submissions
from app.db.submissions import Submitted
from app.http import problems
from app.http.credentials import tenant_transaction
from app.http.overview import CAP, Overview, overview

_FOLDER = Path(__file__).parent
_PAGE = Template((_FOLDER / "page.html").read_text(encoding="utf-8"))
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


def router() -> APIRouter:
    """The routes."""
    routes = APIRouter(include_in_schema=False)

    # One route, so that an answer to another method names both.
    @routes.api_route("/", methods=["GET", "POST"])
    async def page(request: Request) -> Response:
        if request.method == "GET":
            return _page(200, "", "Enter an API key to see what is going on.")
        key = _entered((await request.body()).decode("latin-1"))
        try:
            live = await run_in_threadpool(_live, key)
        except Exception as error:
            problem = problems.of(error)
            return _page(problem.status, "", f"{problem.detail[:1].upper()}{problem.detail[1:]}.")
        return _page(200, live, f"As of {datetime.now(UTC):%H:%M:%S} UTC.")

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


def _page(status: int, live: str, note: str) -> Response:
    text = _PAGE.substitute(live=live, note=html.escape(note))
    return Response(text, status, _HEADERS, "text/html; charset=utf-8")


def _live(key: str) -> str:
    with tenant_transaction(key) as (connection, tenant_id):
        tasks = submissions.newest(connection, tenant_id, MOST)
    return _queues(overview()) + _workers(overview()) + _tasks(tasks)


def _queues(now: Overview) -> str:
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
    return _table("queues", caption, ("Queue", "Waiting", "Delayed", "With workers", "Oldest waits"), rows)


def _workers(now: Overview) -> str:
    rows = [
        (
            f"{worker.hostname} ({worker.pid})",
            ", ".join(worker.queues),
            str(worker.claimed),
            _time(worker.started_at) if worker.started_at else "",
        )
        for worker in now.workers
    ]
    return _table("workers", "Workers", ("Worker (process)", "Queues", "Holds", "Since (UTC)"), rows)


def _tasks(tasks: Sequence[Submitted]) -> str:
    rows = [
        (
            f"{_SIGNS.get(task.state, '…')} {task.state}",
            task.name.removeprefix("app.tasks."),
            _time(task.created_at),
            task.task_id,
        )
        for task in tasks
    ]
    return _table("tasks", "Your tasks, the newest first", ("State", "Task", "Submitted (UTC)", "Id"), rows)


def _table(name: str, caption: str, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in titles)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{html.escape(cell)}</th>' if number == 0 else f"<td>{html.escape(cell)}</td>"
            for number, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    body = body or f'<tr><td colspan="{len(titles)}">None.</td></tr>'
    return (
        f'<table id="{name}"><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>\n"
    )


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

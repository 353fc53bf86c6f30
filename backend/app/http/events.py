"""`/v1/tasks/{id}/events`: a task as server-sent events (the WHATWG's HTML standard, 9.2), pushed as it ends.

All streams of a process share one LISTEN connection: that of the result backend, which also polls where notifications
do not arrive. Intermediate states (STARTED, RETRY) are not notified but polled, and each poll checks that the key is
still valid.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.celery_app import celery_app
from app.core.settings import Settings
from app.http import problems, views
from app.http.credentials import PresentedKey
from app.http.problems import Problem
from app.http.shares import Shares
from app.http.tasks import TaskId, look_as
from celery_postgres import operations

logger = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
#: Milliseconds after which a client that lost its stream reconnects.
RETRY_MS = 2_000
#: Seconds between two polls of a task that has not ended.
LOOK_S = 2.0

LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=200, description="The last event that the client has seen.")
]


class _Stream(StreamingResponse):
    """A stream that frees its place when it ends, for whatever reason."""

    def __init__(self, content: AsyncIterator[str], on_end: Callable[[], None]) -> None:
        # A proxy that buffers responses would delay the events.
        super().__init__(content, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


def router(settings: Settings) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["tasks"])
    streams = Shares("event streams", "streams", settings.web_max_streams, settings.web_max_streams_per_tenant)

    @routes.get(
        "/v1/tasks/{task_id}/events",
        operation_id="watch_task",
        response_class=StreamingResponse,
        responses={
            200: {"content": {MEDIA_TYPE: {}}, "description": "Events named `task`; their data is a Task."},
            204: {"description": "The client has already seen the final state."},
        },
    )
    async def watch_task(task_id: TaskId, key: PresentedKey, last_event_id: LastEventId = None) -> Response:
        """Send the task now and whenever its state changes; the stream ends with the task.

        `id` is the state in an event: a client that reconnects with it as `Last-Event-ID` does not get that event
        again.
        """
        found, task = await run_in_threadpool(look_as, key, task_id)
        if task.ended and last_event_id == _event_id(task):
            return Response(status_code=204)
        streams.take(found.tenant_id)
        events = _events(lambda: look_as(key, task_id)[1], task, last_event_id, settings.web_heartbeat)
        return _Stream(events, lambda: streams.give_back(found.tenant_id))

    return routes


async def _events(
    look_again: Callable[[], views.Task], task: views.Task, seen: str | None, heartbeat_s: float
) -> AsyncIterator[str]:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(ended.set)

    with operations.watching(celery_app, task.task_id, on_end):
        yield f"retry: {RETRY_MS}\n\n"
        next_beat = time.monotonic() + heartbeat_s
        next_look = time.monotonic() + LOOK_S
        while True:
            if _event_id(task) != seen:
                seen = _event_id(task)
                yield f"event: task\nid: {seen}\ndata: {task.written()}\n\n"
                next_beat = time.monotonic() + heartbeat_s
            if task.ended:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(next_look, next_beat) - time.monotonic())):
                    await ended.wait()
            if time.monotonic() >= next_beat:
                yield ": still here\n\n"
                next_beat = time.monotonic() + heartbeat_s
            if not ended.is_set() and time.monotonic() < next_look:
                continue
            ended.clear()
            next_look = time.monotonic() + LOOK_S
            try:
                task = await run_in_threadpool(look_again)
            except Problem:
                return  # the key was revoked, or the task is gone
            except Exception as error:
                problems.of(error)  # the database is unreachable: heartbeats go on, and the next poll tries again


def _event_id(task: views.Task) -> str:
    # Always one line, whatever is stored as a state.
    state = "".join(sign for sign in task.state if sign.isprintable())
    return state if task.done_at is None else f"{state}.{task.done_at.timestamp():.6f}"

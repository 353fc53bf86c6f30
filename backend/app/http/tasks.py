"""`/v1/tasks`: submit, view, list and revoke tasks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from app.celery_app import celery_app
from app.core.context import correlation_id_var
from app.core.settings import Settings
from app.db import submissions
from app.db.api_keys import ApiKey
from app.http import cursors, idempotency, problems, views
from app.http.backlog import Backlog
from app.http.catalogue import KINDS, Kind, Submission
from app.http.credentials import PresentedKey, key_transaction, tenant_transaction
from app.http.documents import Limits, parse
from app.http.problems import Problem
from celery_postgres import RateLimited, operations, publishing_on

logger = logging.getLogger(__name__)

#: Seconds after which a new task is worth polling.
RETRY_AFTER_S = 1
#: And after which a submission may be tried again that no rate allows.
RETRY_LATER_S = 60
MOST_A_PAGE = 100

TaskId = Annotated[str, Path(min_length=1, max_length=155)]
IdempotencyKey = Annotated[
    str | None,
    # Only in the document: a header that does not fit is answered with 400, as in the draft.
    Header(alias="Idempotency-Key", json_schema_extra={"maxLength": 1024, "pattern": idempotency.PATTERN}),
]


@lru_cache(maxsize=1)
def broker() -> operations.Operations:
    """The broker, on the connections that this process shares."""
    return operations.of(celery_app)


def answer(content: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with a model, without validating it again."""
    text = content.written() if isinstance(content, views.Task) else content.model_dump_json()
    return Response(text, status, headers, "application/json")


def look(key: str, task_id: str) -> views.Task:
    """As `look_as`, without the key."""
    return look_as(key, task_id)[1]


def look_as(key: str, task_id: str) -> tuple[ApiKey, views.Task]:
    """Return one task, for the tenant of `key`, and what may be shown of the key.

    Raises:
        Problem: 401; or 404 if the tenant has no such task, whether or not another tenant has.
    """
    with key_transaction(key) as (connection, record):
        found = submissions.find(connection, record.tenant_id, task_id) if "\0" not in task_id else None
    if found is None:
        raise Problem(404, "no-such-task", "there is no such task")
    return record, views.task(found)


def router(settings: Settings) -> APIRouter:
    """The routes, one for each task that may be submitted."""
    routes = APIRouter(tags=["tasks"])
    backlog = Backlog(settings)
    for kind in KINDS:
        routes.add_api_route(
            f"/v1/tasks/{kind.name}",
            _submitter(kind, backlog, settings),
            methods=["POST"],
            status_code=202,
            summary=kind.summary,
            operation_id=f"submit_{kind.name}",
            responses={202: {"model": views.Task, "description": "Enqueued; `Location` is the URL of the task."}},
            openapi_extra={"requestBody": kind.described},
        )

    @routes.post("/v1/tasks/{name}", include_in_schema=False)
    def no_such_kind(name: str, key: PresentedKey) -> Response:
        raise Problem(404, "no-such-kind", "there is no task of this name that can be submitted")

    @routes.get("/v1/tasks", response_model=views.TaskPage, operation_id="list_tasks")
    def list_tasks(
        key: PresentedKey,
        limit: Annotated[int, Query(ge=1, le=MOST_A_PAGE)] = 20,
        cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of another page.")] = None,
    ) -> Response:
        """The tenant's tasks, newest first."""
        after = None if cursor is None else cursors.read(cursor)
        if cursor is not None and after is None:
            raise Problem(404, "no-such-page", "this server did not issue this cursor")
        with tenant_transaction(key) as (connection, tenant_id):
            found = submissions.newest(connection, tenant_id, limit + 1, after)
        last = found[limit - 1] if len(found) > limit else None
        page = views.TaskPage(
            items=[views.summary(one) for one in found[:limit]],
            next_cursor=None if last is None else cursors.written(last.created_at, last.task_id),
        )
        return answer(page)

    @routes.get("/v1/tasks/{task_id}", response_model=views.Task, operation_id="get_task")
    def get_task(task_id: TaskId, key: PresentedKey) -> Response:
        """The state of a task, and its result or error."""
        task = look(key, task_id)
        return answer(task, headers=None if task.ended else {"Retry-After": str(RETRY_AFTER_S)})

    @routes.delete("/v1/tasks/{task_id}", status_code=202, response_model=views.Task, operation_id="revoke_task")
    def revoke_task(task_id: TaskId, key: PresentedKey) -> Response:
        """Revoke a task that has not begun: a worker discards it. A running task continues to its end."""
        record, task = look_as(key, task_id)
        if task.ended:
            if task.state == "REVOKED":
                return answer(task, 202)
            raise Problem(409, "ended", "the task has ended and cannot be revoked any more")
        _revoke(record, task_id)
        logger.info("task revoked", extra={"task_id": task_id, "task_name": task.name})
        return answer(look(key, task_id), 202, {"Retry-After": str(RETRY_AFTER_S)})

    return routes


def _revoke(key: ApiKey, task_id: str) -> None:
    """Revoke a task, and record who did, as the console does. What cannot be recorded is not done."""
    if broker().state(task_id).phase is operations.TaskPhase.REVOKED:
        return  # by an earlier request: the same again is no action
    with broker().actions.recorded(
        source="http",
        actor=f"{key.name} of tenant {key.tenant_id}",
        action="revoke",
        subject=task_id,
        conditions={"key": f"tenant:{key.id}", "correlation_id": correlation_id_var.get()},
    ) as action:
        # A waiting message is marked in the database; a worker that has claimed it is told.
        action.done = broker().cancel(task_id)
        celery_app.control.revoke(task_id)
        action.outcome = "The task is revoked." if action.done else "Nothing waits of it: the workers are told."


async def _json(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Problem(415, "no-json", "Content-Type has to be application/json")
    return await request.body()


def _submitter(kind: Kind, backlog: Backlog, settings: Settings) -> Callable[..., Response]:
    limits = Limits(settings.web_max_json_depth, settings.web_max_json_members)
    names = problems.field_names(kind.submission) | {"body"}

    # FastAPI would parse and validate on the event loop; this runs in a thread.
    def submit(
        body: Annotated[bytes, Depends(_json)], key: PresentedKey, idempotency_key: IdempotencyKey = None
    ) -> Response:
        chosen = idempotency.parse(idempotency_key, required=settings.web_require_idempotency_key)
        try:
            submission = kind.submission.model_validate(parse(body, limits))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise problems.invalid([{**one, "loc": ("body", *one["loc"])} for one in found], names) from None
        return _submit(kind, submission, key, chosen, backlog)

    return submit


def _submit(kind: Kind, submission: Submission, key: str, idempotency_key: str | None, backlog: Backlog) -> Response:
    task_id = str(uuid4())
    fingerprint = None if idempotency_key is None else idempotency.fingerprint(kind.name, submission)
    with tenant_transaction(key) as (connection, tenant_id):
        if submission.tenant_id not in (None, tenant_id):
            raise Problem(403, "other-tenant", "tenant_id is not the tenant of the API key")
        if idempotency_key is not None:
            if not submissions.reserve(connection, tenant_id, idempotency_key):
                raise Problem(
                    409,
                    "idempotency-key-in-use",
                    "a submission with this Idempotency-Key is being handled",
                    headers={"Retry-After": str(RETRY_AFTER_S)},
                )
            earlier = submissions.find_by_key(connection, tenant_id, idempotency_key)
            if earlier is not None:
                if earlier[1] != fingerprint:
                    raise Problem(422, "idempotency-key-reused", "this Idempotency-Key was used for another submission")
                found = submissions.find(connection, tenant_id, earlier[0])
                assert found is not None  # noqa: S101  # the same row
                return _accepted(views.task(found), {"Idempotency-Replayed": "true"})
        backlog.check(connection, tenant_id)
        created_at = submissions.add(
            connection, tenant_id, task_id, kind.name, idempotency_key=idempotency_key, fingerprint=fingerprint
        )
        arguments = submission.arguments() | {
            "tenant_id": str(tenant_id),
            "correlation_id": correlation_id_var.get(),
        }
        try:
            with publishing_on(connection):
                kind.task.apply_async(kwargs=arguments, task_id=task_id)
        except RateLimited as error:
            raise _too_fast(error) from None
    return _accepted(views.Task(task_id=task_id, name=kind.name, state=submissions.PENDING, created_at=created_at))


def _too_fast(error: RateLimited) -> Problem:
    """The answer to a tenant whose rate limit refuses the task; nothing was stored."""
    wait_s = RETRY_LATER_S if error.retry_in_s is None else max(1, math.ceil(error.retry_in_s))
    headers = {"Retry-After": str(wait_s)}
    return Problem(429, "rate-limited", "this tenant submits tasks faster than its limit allows", headers=headers)


def _accepted(task: views.Task, headers: dict[str, str] | None = None) -> Response:
    where = {"Location": f"/v1/tasks/{task.task_id}", "Retry-After": str(RETRY_AFTER_S)}
    return answer(task, 202, where | (headers or {}))

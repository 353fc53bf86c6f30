"""Errors in one form: RFC 9457 `application/problem+json` with a correlation id. No text quotes a value."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from kombu.exceptions import OperationalError as BrokerError
from psycopg2 import InterfaceError, OperationalError
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.core.context import correlation_id_var
from app.db.transient import is_transient
from app.observability.faults import brief
from celery_postgres import NotPublishedError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Seconds after which a client may repeat a request that failed because of the database.
RETRY_AFTER_S = 2

#: The number of invalid fields that an answer names; a body may have a hundred thousand.
MOST_ERRORS = 50

#: The schema in the OpenAPI document.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457. `code` is for programs, `correlation_id` finds the request in the logs.",
    "required": ["type", "title", "status", "code", "correlation_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "correlation_id": {"type": ["string", "null"]},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["location", "rule"],
                "properties": {"location": {"type": "string"}, "rule": {"type": "string"}},
            },
        },
    },
}


class Problem(Exception):  # noqa: N818
    """An answer that is an error.

    Args:
        code: a word that programs can rely on.
        detail: a sentence for people.
        errors: what is wrong with which field: `location` and `rule`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = list(errors)

    def response(self) -> Response:
        """The answer, with the correlation id of the request that this context handles."""
        content = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "correlation_id": correlation_id_var.get(),
        } | ({"errors": self.errors} if self.errors else {})
        return Response(json.dumps(content), self.status, self.headers, MEDIA_TYPE)


def unavailable(detail: str, code: str = "unavailable", retry_after_s: int = RETRY_AFTER_S) -> Problem:
    """503, with the time after which to try again."""
    return Problem(503, code, detail, headers={"Retry-After": str(retry_after_s)})


def of(error: Exception) -> Problem:
    """Answer an unforeseen error, and log as much of it as may be shown."""
    if isinstance(error, Problem):
        return error
    passing = (
        (isinstance(error, DBAPIError) and is_transient(error))
        or isinstance(error, PoolTimeoutError | BrokerError | OperationalError | InterfaceError)
        or (isinstance(error, NotPublishedError) and error.sqlstate != "25P02")
    )
    if passing:
        logger.warning("a request could not use the database: %s", brief(error))
        return unavailable("the database cannot be used at the moment")
    logger.error("a request failed", exc_info=error)
    return Problem(500, "internal", "the request failed; the log has the reason under the correlation id")


def install(app: FastAPI, known_names: frozenset[str]) -> None:
    """Make `app` answer every error in this form. `known_names`: fields that may be named; other names are the sender's
    text.
    """

    async def on_problem(_: Request, error: Exception) -> Response:
        return of(error).response()

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return invalid(error.errors(), known_names).response()

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        status = HTTPStatus(error.status_code)
        code = status.phrase.lower().replace(" ", "-")
        headers = dict(error.headers or {})
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            # Starlette lists the methods of routes that are not in the document.
            allowed = _allowed(app, request.url.path) or sorted(headers.get("Allow", "").split(", "))
            headers["Allow"] = ", ".join(allowed)
        return Problem(status, code, status.description or status.phrase, headers=headers).response()

    for passing in (Problem, DBAPIError, PoolTimeoutError, BrokerError, NotPublishedError):
        app.add_exception_handler(passing, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def _allowed(app: FastAPI, path: str) -> list[str]:
    """The methods of all routes of the path; Starlette considers only the first route."""
    document = app.openapi()["paths"]
    # The paths of single tasks also match the path of all tasks; as in OpenAPI, they take precedence.
    found = (
        [path]
        if path in document
        else [known for known in document if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(known)), path)]
    )
    return sorted({method.upper() for known in found for method in document[known]})


def field_names(model: type[BaseModel]) -> frozenset[str]:
    """The names of a model's fields and of the fields of the models in it."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return frozenset(name for part in parts for name in part.get("properties", {}))


def invalid(found: Sequence[Mapping[str, Any]], known_names: Collection[str]) -> Problem:
    """The fields that do not fit the schema, from pydantic's errors; the first `MOST_ERRORS` of them."""
    errors = [
        {"location": _location(one["loc"], known_names), "rule": _rule(one["type"], one.get("ctx"))}
        for one in found[:MOST_ERRORS]
    ]
    return Problem(422, "invalid", "the request does not fit its schema", errors=errors)


def _location(parts: Sequence[int | str], known_names: Collection[str]) -> str:
    shown = [part if isinstance(part, int) or part in known_names else "…" for part in parts]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in shown).lstrip(".")


def _rule(kind: str, context: Mapping[str, Any] | None) -> str:
    limits = [f"{name}={value}" for name, value in sorted((context or {}).items()) if isinstance(value, int | float)]
    return kind + (f" ({', '.join(limits)})" if limits else "")

"""Tenant and correlation of a task: checked at the caller, carried in headers, set around the body.

    @shared_task(bind=True, name="app.tasks.example.count")
    @tenant_task
    def count(self, tenant_id, correlation_id=None): ...

`ContextTask` is the base of every task of the application (`task_cls`), so that a task without a tenant starts
clean too. Enforcement lives here and never in a signal: an exception in a `task_prerun` receiver is logged and
the task runs all the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import UUID, uuid4

from celery import Task
from pydantic import BaseModel, ValidationError

from app.core.context import (
    CORRELATION_HEADER,
    CORRELATION_ID_MAX,
    TENANT_HEADER,
    correlation_id_var,
    tenant_id_var,
    working_for,
)
from app.core.errors import LoggableError

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=BaseModel)

#: The number of invalid fields that are named: the line goes into a log and into the result.
_MOST_ERRORS = 50


class TenantError(LoggableError, ValueError):
    """The task has no tenant, or a value that is not a tenant id. Permanent: a retry cannot help."""


class PayloadError(LoggableError, ValueError):
    """The payload, or another argument, does not fit the task. Permanent; the text names fields and rules, never
    values.
    """


def tenant_task(body: Callable[P, R]) -> Callable[P, R]:
    """Make a task body run for exactly one tenant.

    The body must have a parameter `tenant_id` and may have `correlation_id`. Before it runs, `tenant_id` is
    checked; while it runs, the contextvars hold both, and every transaction on `app.db.engine` belongs to the
    tenant; afterwards both are reset, whatever happened.

    Raises (in the caller of `apply_async` and in the worker):
        TenantError: `tenant_id` is missing or is not a UUID. The body does not run.
    """
    signature = inspect.signature(body)
    if "tenant_id" not in signature.parameters:
        raise TypeError(f"{body.__qualname__} is a tenant_task and needs a parameter tenant_id")

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind_partial(*args, **kwargs).arguments
        tenant_id = require_tenant(given.get("tenant_id"))
        correlation_id = check_correlation_id(given.get("correlation_id") or correlation_id_var.get())
        with working_for(tenant_id, correlation_id):
            return body(*args, **kwargs)

    run.__tenant_task__ = True  # type: ignore[attr-defined]
    return run


def typed_payload(model: type[BaseModel]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a task body receive its parameter `payload` as `model`.

    Callers of `apply_async` may give a mapping or an instance of the model.

    Raises (in the caller of `apply_async` and in the worker):
        PayloadError: the payload does not fit. The body does not run.
    """

    def decorate(body: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(body)

        @wraps(body)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind_partial(*args, **kwargs)
            bound.arguments["payload"] = validate_payload(model, bound.arguments.get("payload"))
            return body(*bound.args, **bound.kwargs)

        run.__payload_model__ = model  # type: ignore[attr-defined]
        return run

    return decorate


def checked(name: str, check: Callable[[Any], object]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let `check` inspect the argument `name` of a task body, where a caller passes it.

    Args:
        check: raises `PayloadError` for a value that the body cannot take.

    Raises (in the caller of `apply_async` and in the worker):
        PayloadError: as `check` does. The body does not run.
    """

    def decorate(body: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(body)

        @wraps(body)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind_partial(*args, **kwargs).arguments
            if name in given:
                check(given[name])
            return body(*args, **kwargs)

        run.__checks__ = {**getattr(body, "__checks__", {}), name: check}  # type: ignore[attr-defined]
        return run

    return decorate


def require_tenant(value: object) -> UUID:
    """Return `value` as a tenant id. Raises `TenantError`, which never quotes the value."""
    if value is None or value == "":
        raise TenantError("tenant_id is missing: this task works for one tenant and needs its UUID")
    try:
        return value if isinstance(value, UUID) else UUID(str(value))
    except ValueError:
        raise TenantError("tenant_id is not a UUID") from None


def validate_payload(model: type[M], payload: object) -> M:
    """Return `payload` as `model`. Raises `PayloadError` with field names and rules, and none of the values."""
    try:
        return payload if isinstance(payload, model) else model.model_validate(payload)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        problems = [_problem(model, e["loc"], e["type"], e.get("ctx")) for e in errors[:_MOST_ERRORS]]
        if len(errors) > _MOST_ERRORS:
            problems.append(f"and {len(errors) - _MOST_ERRORS} more")
        raise PayloadError("; ".join(problems)) from None


if TYPE_CHECKING:  # generic in the stubs only
    _Task = Task[Any, Any]
else:
    _Task = Task


class ContextTask(_Task):
    """Base of the application's tasks: each starts with a clean context and publishes checked arguments."""

    abstract = True
    Request = "app.observability.requests:ObservedRequest"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with working_for(None, self._correlation_id()):
            return super().__call__(*args, **kwargs)

    def _correlation_id(self) -> str | None:
        """The sender's id, or the task's own where there is none or it is unfit for a log line."""
        try:
            return check_correlation_id((self.request.headers or {}).get(CORRELATION_HEADER) or self.request.id)
        except ValueError:
            return self.request.id

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *positional: Any,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Publish as Celery does, after checking tenant, payload and arguments, with both ids in the message headers.

        Raises:
            TenantError, PayloadError: nothing was published.
        """
        arguments = self._arguments(args or (), kwargs or {})
        tenant_id = arguments.get("tenant_id")
        if getattr(self.run, "__tenant_task__", False):
            tenant_id = require_tenant(tenant_id)
        model = getattr(self.run, "__payload_model__", None)
        if model is not None:
            validate_payload(model, arguments.get("payload"))
        for name, check in getattr(self.run, "__checks__", {}).items():
            if name in arguments:
                check(arguments[name])
        carried = dict(headers or {})
        if tenant_id is not None:
            carried[TENANT_HEADER] = str(require_tenant(tenant_id))
        carried[CORRELATION_HEADER] = check_correlation_id(
            arguments.get("correlation_id") or carried.get(CORRELATION_HEADER) or correlation_id_var.get()
        )
        args = tuple(_plain(value) for value in args or ())
        kwargs = {name: _plain(value) for name, value in (kwargs or {}).items()}
        return super().apply_async(args, kwargs, *positional, headers=carried, **options)

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The call's arguments by name; Celery itself reports, after this, those that do not fit."""
        signature = inspect.signature(self.run)
        try:
            return dict(signature.bind_partial(*args, **kwargs).arguments)
        except TypeError:
            return dict(kwargs)


def check_correlation_id(value: object) -> str:
    """Return `value`, or a new id where there is none. Raises ValueError if it is not short printable text."""
    if value is None:
        return str(uuid4())
    text = str(value)
    if len(text) > CORRELATION_ID_MAX or not text.isprintable():
        raise ValueError(f"correlation_id must be printable text of {CORRELATION_ID_MAX} characters at most")
    return text


def current_tenant() -> UUID:
    """Return the tenant of the running task. Raises `TenantError` outside a `tenant_task`."""
    return require_tenant(tenant_id_var.get())


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _problem(model: type[BaseModel], location: tuple[int | str, ...], kind: str, context: dict[str, Any] | None) -> str:
    """One pydantic error without values: a key of a mapping, or an unknown field's name, is the sender's text too."""
    fields = _field_names(model)
    known = [part if part in fields or isinstance(part, int) else "…" for part in location]
    path = "payload" + "".join(f"[{part}]" if isinstance(part, int) or part == "…" else f".{part}" for part in known)
    limits = [f"{name}={value}" for name, value in sorted((context or {}).items()) if isinstance(value, int | float)]
    return f"{path}: {kind}" + (f" ({', '.join(limits)})" if limits else "")


def _field_names(model: type[BaseModel]) -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(name)
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                names |= _field_names(candidate)
    return names

"""An error's message is its producer's text. Where it is withheld, nothing in it is taken for a type or a call."""

from __future__ import annotations

import ast
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.utils.serialization import get_pickleable_exception

from celery_postgres.console import tracebacks
from celery_postgres.readmodel import ReadModel, State, TaskFilter
from environment.testkit.databases import rows, run

SECRET = "hunter2"
LIKE_CALLS = f'first\n  File "x.py", line 3, in f\n    SECR2 = "{SECRET}"\n{SECRET}: (email)=({SECRET})'
LIKE_A_TRACEBACK = f"Traceback (most recent call last):\n{LIKE_CALLS}"


class NeedsKeywordError(Exception):
    """Pickle cannot make it again, so Celery stores a wrapper in its place."""

    def __init__(self, *, order: str) -> None:
        super().__init__(f"order {order}")


def as_celery_has_it(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301
    except BaseException as caught:
        return caught


def caused(message: str) -> BaseException:
    try:
        try:
            raise KeyError(message)  # noqa: TRY301
        except KeyError as cause:
            raise RuntimeError(message) from cause
    except RuntimeError as caught:
        return caught


def read_by_python(text: str) -> BaseException:
    try:
        ast.literal_eval(text)
    except SyntaxError as caught:
        return caught
    raise AssertionError


ERRORS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "like calls": (lambda: raised(ValueError(LIKE_CALLS)), "ValueError"),
    "like a traceback": (lambda: raised(RuntimeError(LIKE_A_TRACEBACK)), "RuntimeError"),
    "ends of lines of old": (lambda: raised(ValueError(LIKE_CALLS.replace("\n", "\r"))), "ValueError"),
    "of another process": (lambda: raised(RuntimeError(f"helper failed:\n{LIKE_A_TRACEBACK}")), "RuntimeError"),
    "long": (lambda: raised(ValueError(f"{LIKE_A_TRACEBACK}\n" * 200)), "ValueError"),
    "never raised": (lambda: ValueError(LIKE_A_TRACEBACK), "ValueError"),
    "with a cause": (lambda: caused(LIKE_CALLS), "RuntimeError"),
    "a source line that is data": (lambda: read_by_python(f"{SECRET} ="), "SyntaxError"),
    "a group": (lambda: raised(ExceptionGroup(LIKE_CALLS, [raised(KeyError(LIKE_A_TRACEBACK))])), "ExceptionGroup"),
    "a keyword": (lambda: raised(NeedsKeywordError(order=LIKE_CALLS)), "NeedsKeywordError"),
    "a keyword, long": (lambda: raised(NeedsKeywordError(order=LIKE_CALLS * 200)), "NeedsKeywordError"),
}


@pytest.fixture(scope="module")
def model(module_database: Any) -> Iterator[ReadModel]:
    made = ReadModel(module_database.url)
    yield made
    made.close()


@pytest.mark.parametrize("options", [{}, {"pickle": "refuse"}], ids=["pickle", "json"])
def test_nothing_of_a_message_is_shown(
    make_app: Callable[..., Celery], module_database: Any, model: ReadModel, options: dict[str, str]
) -> None:
    """By what is remembered of an attempt, and by the result alone."""
    backend: Any = make_app(result_backend_transport_options=options).backend
    for which, (make, kind) in ERRORS.items():
        original = make()
        error = get_pickleable_exception(original)
        error.__traceback__ = original.__traceback__
        task_id = str(uuid.uuid4())
        request = Context({"id": task_id, "task": "mine.task", "hostname": "w@h", "retries": 0, "properties": {}})
        backend.mark_as_failure(task_id, error, traceback=as_celery_has_it(error), request=request)
        backend.flush()
        assert rows(module_database.url, "SELECT error FROM celery_attempt") == [(kind,)]
        shown(model, task_id, kind, calls=which != "never raised")
        run(module_database.url, "DELETE FROM celery_attempt")
        shown(model, task_id, kind, calls=which not in ("never raised", "with a cause"))


def shown(model: ReadModel, task_id: str, kind: str, *, calls: bool) -> None:
    """Check what a task's page and a list show of an error."""
    found = model.task(task_id)
    assert found is not None
    lines = tracebacks.frames(found.calls)
    (listed,) = [row for row in model.tasks(TaskFilter(state=State.FAILED)).rows if row.task_id == task_id]
    assert (listed.error, found.row.error) == (kind, kind)
    assert SECRET not in repr((listed, found.row, found.attempts, found.calls, lines))
    assert "x.py" not in repr(lines)
    assert not calls or any("test_withheld.py" in line.text for line in lines), lines


def test_what_may_be_seen_is_whole(make_app: Callable[..., Celery], model: ReadModel, task_id: str) -> None:
    error = raised(ValueError("x" * 20_000 + LIKE_CALLS))
    request = Context({"id": task_id, "task": "mine.task", "hostname": "w@h", "retries": 0, "properties": {}})
    backend: Any = make_app().backend
    backend.remember_retry(request, error, as_celery_has_it(error))
    backend.flush()
    found = model.task(task_id)
    assert found is not None
    assert found.traceback is not None
    assert found.traceback.rstrip().endswith(LIKE_CALLS), "the end of the message is remembered too"
    assert "in raised" in found.calls

"""The stock backend on the same rows: each reads what the other has written."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import Celery, states
from celery.app.task import Context
from celery.exceptions import SecurityError, TaskRevokedError
from celery.result import AsyncResult, GroupResult

from celery_postgres.results.backend import DatabaseBackend
from environment.testkit.canvas import answer
from environment.testkit.client import DEADLINE_S
from environment.testkit.databases import rows, stock_results
from environment.testkit.probe import Probe
from environment.testkit.tables import run, scalar
from environment.testkit.values import VALUES


@pytest.fixture
def stock(module_database: Any) -> Any:
    return stock_results(module_database.url)


@pytest.fixture(params=["stock writes", "we write"])
def pair(request: pytest.FixtureRequest, stock: Any, make_app: Callable[..., Celery]) -> tuple[Any, Any]:
    """(the backend that writes, the backend that reads)."""
    ours = make_app(result_extended=True).backend
    return (stock, ours) if request.param == "stock writes" else (ours, stock)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_read_as_it_was(pair: tuple[Any, Any], task_id: str, name: str) -> None:
    writer, reader = pair
    if not isinstance(writer, DatabaseBackend) and celery.VERSION >= (5, 7) and name in ("time", "collections", "deep"):
        pytest.skip("since Celery 5.7 stock stores JSON, which has no timedelta, no set and no tuple")
    writer.mark_as_done(task_id, VALUES[name]())
    meta = reader.get_task_meta(task_id)
    assert meta["status"] == states.SUCCESS
    assert meta["result"] == VALUES[name]()
    assert type(meta["result"]) is type(VALUES[name]())


@pytest.mark.parametrize("state", [states.STARTED, states.SUCCESS, "PROGRESS"])
def test_a_state_is_read_as_it_was(pair: tuple[Any, Any], task_id: str, state: str) -> None:
    writer, reader = pair
    writer.store_result(task_id, {"pid": 1}, state)
    meta = reader.get_task_meta(task_id)
    assert (meta["status"], meta["result"]) == (state, {"pid": 1})
    if state == states.SUCCESS:
        assert abs(meta["date_done"] - datetime.datetime.now(datetime.UTC).replace(tzinfo=None)).total_seconds() < 60


@pytest.mark.parametrize("state", [states.FAILURE, states.RETRY, states.REVOKED])
def test_an_exception_is_read_as_it_was(pair: tuple[Any, Any], task_id: str, state: str) -> None:
    writer, reader = pair
    error = TaskRevokedError("why") if state == states.REVOKED else KeyError("a", 1)
    writer.store_result(task_id, error, state, traceback="Traceback: …")
    meta = reader.get_task_meta(task_id)
    assert (meta["status"], meta["traceback"]) == (state, "Traceback: …")
    assert (type(meta["result"]), meta["result"].args) == (type(error), error.args)


def test_the_arguments_of_a_task_are_read_as_they_were(pair: tuple[Any, Any], task_id: str) -> None:
    writer, reader = pair
    request = Context(
        id=task_id, task="a.task", args=[1, "ü"], kwargs={"a": 2}, hostname="worker@host", retries=3,
        delivery_info={"routing_key": "a queue"}, children=[], ignore_result=False,
    )  # fmt: skip
    writer.store_result(task_id, 1, states.SUCCESS, request=request)
    result = AsyncResult(task_id, backend=reader, app=reader.app)
    assert (result.name, result.args, result.kwargs) == ("a.task", [1, "ü"], {"a": 2})
    assert (result.worker, result.retries, result.queue) == ("worker@host", 3, "a queue")


def tree(app: Celery, backend: Any) -> GroupResult:
    def leaf(name: str, parent: Any = None) -> AsyncResult:
        return AsyncResult(name, app=app, backend=backend, parent=parent)

    inner = GroupResult("inner", [leaf("c", leaf("parent"))], app=app)
    return GroupResult(str(uuid.uuid4()), [leaf("a"), inner, leaf("b")], app=app)


def test_a_saved_group_is_read_as_it_was(pair: tuple[Any, Any]) -> None:
    writer, reader = pair
    group = tree(writer.app, writer)
    writer.save_group(group.id, group)
    assert reader.restore_group(group.id).as_tuple() == group.as_tuple()
    reader.delete_group(group.id)
    assert reader.restore_group(group.id, cache=False) is None


def test_each_backend_overwrites_and_forgets_the_rows_of_the_other(pair: tuple[Any, Any], task_id: str) -> None:
    writer, reader = pair
    writer.store_result(task_id, None, states.STARTED)
    reader.store_result(task_id, 1, states.SUCCESS)
    assert writer.get_task_meta(task_id)["result"] == 1
    reader.forget(task_id)
    assert writer.get_task_meta(task_id, cache=False)["status"] == states.PENDING


def test_our_group_rows_contain_no_address(module_database: Any, make_app: Callable[..., Celery]) -> None:
    url = module_database.url
    app = make_app(f"{url}{'&' if '?' in url else '?'}password=s3cret")
    group = tree(app, app.backend)
    group.save()
    data = bytes(scalar(url, "SELECT result FROM celery_tasksetmeta WHERE taskset_id = :i", i=group.id))
    for secret in (b"s3cret", b"postgresql", b"host="):
        assert secret not in data


def test_our_client_waits_for_the_result_of_a_stock_worker(stock: Any, backend: DatabaseBackend, task_id: str) -> None:
    """The stock worker does not notify, so the client polls."""
    stock.mark_as_done(task_id, {"price": Decimal("1.10")})
    assert backend.app.AsyncResult(task_id).get(timeout=DEADLINE_S) == {"price": Decimal("1.10")}


# -- the forms that rows may have


@pytest.mark.parametrize("form", ["write", "read", "refuse"])
@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_read_in_each_form(make_app: Callable[..., Celery], task_id: str, form: str, name: str) -> None:
    """A backend that writes JSON and reads pickles reads all forms."""
    backend = make_app(result_backend_transport_options={"pickle": form}).backend
    backend.mark_as_done(task_id, VALUES[name]())
    readers = [backend, make_app(result_backend_transport_options={"pickle": "read"}).backend]
    for reader in readers:
        assert reader.get_task_meta(task_id)["result"] == VALUES[name]()


@pytest.mark.parametrize("form", ["write", "read", "refuse"])
def test_a_failure_and_a_group_are_read_in_each_form(
    module_database: Any, make_app: Callable[..., Celery], task_id: str, form: str
) -> None:
    app = make_app(result_backend_transport_options={"pickle": form})
    app.backend.store_result(task_id, KeyError("a", 1), states.FAILURE)
    error = app.backend.get_task_meta(task_id)["result"]
    assert (type(error), error.args) == (KeyError, ("a", 1))
    group = tree(app, app.backend)
    group.save()
    assert app.GroupResult.restore(group.id).as_tuple() == group.as_tuple()
    for table, key, value in (("celery_taskmeta", "task_id", task_id), ("celery_tasksetmeta", "taskset_id", group.id)):
        data = bytes(scalar(module_database.url, f"SELECT result FROM {table} WHERE {key} = :v", v=value))  # noqa: S608
        assert (data[:1] == b"\x80") == (form == "write")


def test_pickles_are_refused_if_the_option_says_so(make_app: Callable[..., Celery], stock: Any, task_id: str) -> None:
    if celery.VERSION >= (5, 7):
        pytest.skip("since Celery 5.7 stock stores JSON")
    stock.mark_as_done(task_id, 1)
    app = make_app(result_backend_transport_options={"pickle": "refuse"})
    with pytest.raises(SecurityError, match="no pickle is read"):
        app.AsyncResult(task_id).get(timeout=DEADLINE_S)
    assert make_app().AsyncResult(task_id).get(timeout=DEADLINE_S) == 1


# -- hostile rows


def test_a_group_whose_keys_have_one_hash_is_refused(module_database: Any, backend: DatabaseBackend) -> None:
    """780 kB of integers once took a worker more than a minute when its chord was due."""
    group = tree(backend.app, backend)
    group.save()
    keys = b"".join(b"\x8a\x0a" + (number * (2**61 - 1)).to_bytes(10, "little") + b"N" for number in range(1, 60_000))
    data = b"\x80\x04}(" + keys + b"u."
    run(
        module_database.url,
        f"UPDATE celery_tasksetmeta SET result = '\\x{data.hex()}' WHERE taskset_id = '{group.id}'",  # noqa: S608
    )
    with pytest.raises(SecurityError, match="cannot be read"):
        backend.restore_group(group.id, cache=False)


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def poison(url: str, table: str, key: str, value: str, evil: Any) -> None:
    run(url, f"UPDATE {table} SET result = '\\x{pickle.dumps(evil).hex()}' WHERE {key} = '{value}'")  # noqa: S608


def test_a_poisoned_result_is_refused_and_the_rest_of_its_group_is_read(
    module_database: Any, backend: DatabaseBackend, tmp_path: Path
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for number, one in enumerate(ids):
        backend.store_result(one, number, states.SUCCESS)
    poison(module_database.url, "celery_taskmeta", "task_id", ids[1], [Evil(os.system, f"touch {tmp_path}/touched")])
    group = GroupResult("group", [backend.app.AsyncResult(one) for one in ids], app=backend.app)
    with pytest.raises(SecurityError, match="system"):
        group.get(timeout=DEADLINE_S)
    with pytest.raises(SecurityError, match="system"):
        group.results[1].get(timeout=DEADLINE_S)
    with pytest.raises(SecurityError, match="system"):
        _ = group.results[1].state
    assert [backend.app.AsyncResult(ids[number]).get(timeout=DEADLINE_S) for number in (0, 2)] == [0, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_poisoned_exception_calls_nothing(module_database: Any, backend: DatabaseBackend, tmp_path: Path) -> None:
    """The other way in: an exception's class that is not a class of exceptions."""
    task_id = str(uuid.uuid4())
    backend.store_result(task_id, ValueError("x"), states.FAILURE)
    description = {"exc_type": "system", "exc_module": "os", "exc_message": f"touch {tmp_path}/touched"}
    poison(module_database.url, "celery_taskmeta", "task_id", task_id, description)
    with pytest.raises(SecurityError):
        backend.app.AsyncResult(task_id).get(timeout=DEADLINE_S)
    assert list(tmp_path.iterdir()) == []


def test_a_poisoned_group_is_refused(module_database: Any, backend: DatabaseBackend, tmp_path: Path) -> None:
    group = tree(backend.app, backend)
    group.save()
    evils: list[Any] = [
        Evil(os.system, f"touch {tmp_path}/touched"),
        Evil(GroupResult, "id", [Evil(eval, f"open('{tmp_path}/touched', 'w')")]),
    ]
    for evil in evils:
        poison(module_database.url, "celery_tasksetmeta", "taskset_id", group.id, evil)
        with pytest.raises(SecurityError, match=r"system|eval"):
            backend.restore_group(group.id, cache=False)
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_group_row_is_an_error_and_not_a_crash(module_database: Any, backend: DatabaseBackend) -> None:
    group = tree(backend.app, backend)
    group.save()
    for odd in (5, None, [], "x", (1, 2, 3), {"a": 1}, ((None, None), [5])):
        poison(module_database.url, "celery_tasksetmeta", "taskset_id", group.id, odd)
        # What Celery makes of it is its own matter; it must not be more than an error.
        with contextlib.suppress(SecurityError, TypeError, ValueError, AttributeError, KeyError):
            backend.restore_group(group.id, cache=False)


# -- workers


def test_a_stock_client_reads_what_workers_store(pool: Probe) -> None:
    result = pool.send("add", 1, 2)
    assert answer(result) == 3
    reader = stock_results(pool.url)
    meta = reader.get_task_meta(result.id)
    assert (meta["status"], meta["result"]) == ("SUCCESS", 3)
    failed = pool.send("raise_error", "a", kwargs={"kind": "key"})
    answer(failed, propagate=False)
    meta = reader.get_task_meta(failed.id)
    assert (meta["status"], type(meta["result"]), meta["result"].args) == ("FAILURE", KeyError, ("a",))
    assert rows(pool.url, "SELECT count(*) FROM celery_taskmeta WHERE date_done IS NULL") == [(0,)]

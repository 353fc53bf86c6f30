"""A result names its task, queue and worker, so that what ended can be found again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

import pytest
from celery import Celery, chain, chord, states
from celery.app.task import Context

from celery_postgres.readmodel import ReadModel, State
from celery_postgres.results.description import description_of, history_of
from environment.testkit.canvas import answer
from environment.testkit.databases import rows, run
from environment.testkit.probe import Probe

DESCRIBED = "SELECT name, queue, worker, retries, args FROM celery_taskmeta WHERE task_id = :id"


def test_a_worker_of_every_pool_describes_its_results(pool: Probe) -> None:
    result = pool.send("add", 2, 3)
    assert answer(result) == 5
    ((name, queue, worker, retries, args),) = rows(pool.url, DESCRIBED, id=result.id)
    assert (name, queue, retries, args) == ("probe.add", "celery", 0, None)
    assert worker


HISTORY = """
    SELECT meta.tenant_id::text, meta.root_id, meta.parent_id, meta.due_at IS NOT NULL,
        meta.published_at <= meta.started_at AND meta.started_at <= meta.date_done AT TIME ZONE 'UTC',
        meta.started_at >= meta.due_at
    FROM celery_taskmeta AS meta WHERE meta.task_id = :id
"""
TENANT = "6f2d7f0e-53a7-4d1e-9d3a-0b9a4d2c7f11"


def test_a_result_tells_when_its_task_was_published_and_begun(pool: Probe) -> None:
    """In every pool: the two machines' clocks are one here."""
    alone = pool.send("add", 2, 3, headers={"tenant_id": TENANT.upper()})
    later = pool.send("add", 2, 4, countdown=0.2)
    last = chain(pool.app.signature("probe.add", (1, 1)), pool.app.signature("probe.add", (1,))).apply_async()
    assert (answer(alone), answer(later), answer(last)) == (5, 6, 3)
    first = last.parent
    assert rows(pool.url, HISTORY, id=alone.id) == [(TENANT, None, None, False, True, None)]
    assert rows(pool.url, HISTORY, id=later.id) == [(None, None, None, True, True, True)]
    assert rows(pool.url, HISTORY, id=first.id) == [(None, None, None, False, True, None)]
    assert rows(pool.url, HISTORY, id=last.id) == [(None, first.id, first.id, False, True, None)]


def test_the_last_attempt_replaces_the_times_of_the_one_before(make_app: Callable[..., Celery]) -> None:
    app, request = make_app(), Context(REQUEST | {"id": "twice"})
    for state, properties in (
        (states.RETRY, {"published_at": 1000.5, "due_at": 1001.5}),
        (states.SUCCESS, {"published_at": 2000.25}),
    ):
        request.properties = properties
        app.backend.store_result("twice", 1, state, request=request)
        app.backend.flush()
    stored = "SELECT extract(epoch FROM published_at)::float, due_at FROM celery_taskmeta WHERE task_id = 'twice'"
    assert rows(app.backend.url.removeprefix("db+"), stored) == [(2000.25, None)]


KNOWN = (
    "SELECT status, name, queue, worker, retries, tenant_id::text, root_id, parent_id,"
    " extract(epoch FROM published_at)::float, extract(epoch FROM due_at)::float, started_at IS NOT NULL, args, kwargs"
    " FROM celery_taskmeta WHERE task_id = :id"
)


@pytest.mark.parametrize("together", [False, True], ids=["one", "several"])
def test_what_is_stored_without_a_request_deletes_nothing_that_is_known(
    make_app: Callable[..., Celery], *, together: bool
) -> None:
    """A program may store a state, and a worker of an older release knows less. Both statements that store results."""
    app, task_id = make_app(result_extended=True), f"known-{together}"
    url = app.backend.url.removeprefix("db+")
    request = Context(
        {
            **REQUEST,
            **{"id": task_id, "root_id": "root", "parent_id": "parent", "tenant_id": TENANT, "kwargs": {"a": 1}},
            "properties": {"published_at": 1000.5, "due_at": 1001.5},
        }
    )
    app.backend.store_result(task_id, 1, states.STARTED, request=request)
    app.backend.flush()
    run(url, f"UPDATE celery_taskmeta SET started_at = now() WHERE task_id = '{task_id}'")  # noqa: S608
    ((_, *before),) = rows(url, KNOWN, id=task_id)
    assert None not in before
    with app.backend._collecting() if together else nullcontext() as write:
        for one in (task_id, "beside it")[: 1 + together]:
            app.backend.store_result(one, "lost", states.REVOKED)
    if together:
        app.backend.submit(write)
    app.backend.flush()
    ((status, *after),) = rows(url, KNOWN, id=task_id)
    assert (status, after) == (states.REVOKED, before)


def store(app: Celery, task_id: str, **request: Any) -> tuple[Any, ...]:
    app.backend.store_result(task_id, 1, states.SUCCESS, request=Context(request))
    app.backend.flush()
    ((*found,),) = rows(app.backend.url.removeprefix("db+"), DESCRIBED, id=task_id)
    return tuple(found)


REQUEST = {"task": "mine.add", "hostname": "w@h", "retries": 2, "delivery_info": {"routing_key": "q"}, "args": [1]}


def test_describing_can_be_off(make_app: Callable[..., Celery]) -> None:
    assert store(make_app(), "described", **REQUEST) == ("mine.add", "q", "w@h", 2, None)
    off = make_app(result_backend_transport_options={"describe": False})
    assert store(off, "not described", **REQUEST) == (None, None, None, None, None)
    extended = make_app(result_backend_transport_options={"describe": False}, result_extended=True)
    assert store(extended, "extended", **REQUEST)[:4] == ("mine.add", "q", "w@h", 2)


@pytest.mark.parametrize(
    "request_",
    [
        {
            **{"task": "a\0b", "hostname": "\ud800", "retries": 1 << 40, "delivery_info": {"routing_key": ["q"]}},
            **{"root_id": "r\0", "parent_id": "\ud800", "tenant_id": "\0", "properties": {"published_at": "now"}},
        },
        {
            **{"task": "x" * 156, "hostname": "", "retries": "many", "delivery_info": "q"},
            **{"root_id": "x" * 156, "parent_id": "", "tenant_id": "x", "properties": {"published_at": 1e300}},
        },
        {
            **{"task": {"a": 1}, "hostname": b"h", "retries": True, "delivery_info": None},
            **{"root_id": [1], "parent_id": b"p", "tenant_id": [], "properties": {"due_at": float("nan")}},
        },
        {"task": None, "hostname": 3, "retries": -1, "tenant_id": 5, "properties": None},
    ],
    ids=["text", "size", "types", "absent"],
)
def test_what_cannot_be_stored_costs_no_result(make_app: Callable[..., Celery], request_: dict[str, Any]) -> None:
    assert set(description_of(Context(request_)).values()) == {None}
    assert set(history_of(Context(request_)).values()) == {None}
    assert store(make_app(), f"hostile-{id(request_)}", **request_) == (None,) * 5


def test_a_client_that_stores_a_state_describes_nothing() -> None:
    assert description_of(None) == history_of(None) == {}


def test_what_never_ran_names_the_task_that_failed(pool: Probe) -> None:
    """Celery stores the failure of a part as that of the rest of its chain, and of the body of its chord."""
    fails, add = pool.app.signature("probe.fail", ("tag",)), pool.app.signature("probe.add", (1,))
    last = chain(fails, add, add.clone()).apply_async()
    body = chord([pool.app.signature("probe.fail", ("other",))])(pool.app.signature("probe.total"))
    for one in (last, body):
        with pytest.raises(Exception, match=r"."):
            answer(one)
    first = last.parent.parent
    never = "SELECT name, root_id, parent_id, worker, started_at FROM celery_taskmeta WHERE task_id = :id"
    assert rows(pool.url, never, id=last.id) == [("probe.add", first.id, first.id, None, None)]
    assert rows(pool.url, never, id=last.parent.id) == [("probe.add", first.id, first.id, None, None)]
    ((name, _, parent, worker, _),) = rows(pool.url, never, id=body.id)
    assert (name, parent, worker) == ("probe.total", body.parent.results[0].id, None)
    with closing(ReadModel(pool.url)) as model:
        found, failed = model.task(last.id), model.task(first.id)
        assert found is not None
        assert failed is not None
        assert (found.never_ran, found.attempts, found.row.state) == (True, (), State.FAILED)
        assert (failed.never_ran, len(failed.attempts)) == (False, 1)
        for one in (found, failed):
            canvas = model.canvas(one)
            assert canvas is not None
            assert {member.task_id for member in canvas.members} == {first.id, last.parent.id, last.id}

"""A result names its task, queue and worker, so that what ended can be found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, states
from celery.app.task import Context

from celery_postgres.results.description import description_of
from environment.testkit.canvas import answer
from environment.testkit.databases import rows
from environment.testkit.probe import Probe

DESCRIBED = "SELECT name, queue, worker, retries, args FROM celery_taskmeta WHERE task_id = :id"


def test_a_worker_of_every_pool_describes_its_results(pool: Probe) -> None:
    result = pool.send("add", 2, 3)
    assert answer(result) == 5
    ((name, queue, worker, retries, args),) = rows(pool.url, DESCRIBED, id=result.id)
    assert (name, queue, retries, args) == ("probe.add", "celery", 0, None)
    assert worker


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
        {"task": "a\0b", "hostname": "\ud800", "retries": 1 << 40, "delivery_info": {"routing_key": ["q"]}},
        {"task": "x" * 156, "hostname": "", "retries": "many", "delivery_info": "q"},
        {"task": {"a": 1}, "hostname": b"h", "retries": True, "delivery_info": None},
        {"task": None, "hostname": 3, "retries": -1},
    ],
    ids=["text", "size", "types", "absent"],
)
def test_what_cannot_be_stored_costs_no_result(make_app: Callable[..., Celery], request_: dict[str, Any]) -> None:
    assert set(description_of(Context(request_)).values()) == {None}
    assert store(make_app(), f"hostile-{id(request_)}", **request_) == (None,) * 5


def test_a_client_that_stores_a_state_describes_nothing() -> None:
    assert description_of(None) == {}

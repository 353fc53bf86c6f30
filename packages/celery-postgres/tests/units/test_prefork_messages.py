"""What is told to a prefork child, and what it reports, as Celery and billiard read it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from billiard import get_context
from billiard.einfo import ExceptionInfo
from billiard.pool import ACK, READY, TASK
from celery import signals
from celery.app.trace import fast_trace_task
from celery.worker.request import Request
from kombu.serialization import registry  # type: ignore[attr-defined, unused-ignore]

from celery_postgres.compat.prefork_messages import _put, with_parsed_body

NOTHING_FOLLOWS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


#: A value that a program's own function loads, perhaps from a database.
TAGGED = '[[{"__type__": "order", "__value__": 1}], {}, {}]'


class TaskRequest(Request):  # type: ignore[misc, unused-ignore]
    """As Celery makes one for each task."""


class OwnRequest(TaskRequest):
    """As it does for a task that has a class of requests of its own."""


def job(payload: Any, kind: type[Any] = TaskRequest) -> Any:
    request = kind.__new__(kind)
    request.__dict__["_payload"] = payload
    return SimpleNamespace(_callback=request.on_success)


def task(tracer: Any = fast_trace_task, content: str = "application/json", body: str | bytes = "[[1], {}, {}]") -> Any:
    arguments = ("work", "id", {"args": [1]}, body, content, "utf-8")
    return TASK, (7, None, tracer, arguments, {})


def test_a_child_gets_the_body_that_the_main_process_has_parsed() -> None:
    payload = [[1], {"by": "name"}, NOTHING_FOLLOWS]
    kind, (number, part, tracer, arguments, named) = with_parsed_body(task(), job(payload))
    assert (kind, number, part, tracer, named) == (TASK, 7, None, fast_trace_task, {})
    assert arguments == ("work", "id", {"args": [1]}, payload, None, None)


@pytest.mark.parametrize(
    ("sent", "given"),
    [
        pytest.param(task(), job([[1], {}, {**NOTHING_FOLLOWS, "chain": ["next"]}]), id="something follows"),
        pytest.param(task(content="application/x-python-serialize"), job([[1], {}, NOTHING_FOLLOWS]), id="a pickle"),
        pytest.param(task(tracer=len), job([[1], {}, NOTHING_FOLLOWS]), id="no task of Celery's"),
        pytest.param(task(), job([[1], {}, NOTHING_FOLLOWS], OwnRequest), id="a request of the program's"),
        pytest.param(task(), job({"args": [1]}), id="protocol 1"),
        pytest.param(task(), SimpleNamespace(_callback=len), id="no request"),
        pytest.param(task(body=TAGGED), job([[1], {}, NOTHING_FOLLOWS]), id="a value of the program's"),
        pytest.param(task(body=TAGGED.encode()), job([[1], {}, NOTHING_FOLLOWS]), id="the same in bytes"),
    ],
)
def test_any_other_task_stays_as_it_is(sent: Any, given: Any) -> None:
    assert with_parsed_body(sent, given) is sent


def test_the_text_counts_where_a_program_decodes_json_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._decoders, "application/json", lambda text: [])
    sent = task()
    assert with_parsed_body(sent, job([[1], {}, NOTHING_FOLLOWS])) is sent


def test_the_text_counts_where_a_program_looks_at_requests() -> None:
    def receiver(**_: Any) -> None:
        """May change the arguments in place, which Celery's child does not see."""

    signals.task_received.connect(receiver)
    try:
        sent = task()
        assert with_parsed_body(sent, job([[1], {}, NOTHING_FOLLOWS])) is sent
    finally:
        signals.task_received.disconnect(receiver)


@pytest.fixture
def queue() -> Iterator[Any]:
    made = get_context("fork").SimpleQueue()
    yield made
    made._reader.close()
    made._writer.close()


def failed() -> ExceptionInfo:
    try:
        int("no number")
    except ValueError:
        return ExceptionInfo()
    raise AssertionError


@pytest.mark.parametrize(
    ("report", "own"),
    [
        pytest.param((ACK, (7, None, 1.5, 123, None)), True, id="accepted"),
        pytest.param((READY, (7, None, (True, (0, "'\ud800'", 0.5)), 9)), True, id="succeeded"),
        pytest.param((READY, (7, None, (True, (0, "x" * 5_000, 0.5)), 9)), False, id="long"),
        pytest.param((READY, (7, None, (True, (1, failed(), 0.5)), 9)), False, id="failed"),
        pytest.param((READY, (7, None, (False, failed()), 9)), False, id="raised by the pool"),
        pytest.param((READY, (7, None, (True, [1]), 9)), False, id="no task of Celery's"),
    ],
)
def test_a_report_is_read_as_it_was_written(queue: Any, report: Any, own: bool) -> None:
    by_billiard = []

    def original(report: Any) -> None:
        by_billiard.append(report)
        type(queue).put(queue, report)

    _put(queue, original, ACK, READY)(report)
    assert bool(by_billiard) is not own
    assert pickle.dumps(queue.get()[1][:2]) == pickle.dumps(report[1][:2])

"""Tenant, correlation and payload at the caller and in the body, without a worker in between."""

from __future__ import annotations

import time
from typing import Annotated, Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Connection
from pydantic import BaseModel, ConfigDict, Field

from app.core.context import (
    CORRELATION_HEADER,
    ENQUEUED_HEADER,
    TENANT_HEADER,
    correlation_id_var,
    tenant_id_var,
    working_for,
)
from app.observability import metrics
from app.tasks.context import (
    PayloadError,
    TenantError,
    checked,
    current_tenant,
    tenant_task,
    typed_payload,
)

TENANT = uuid4()


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amount: Annotated[int, Field(le=10)]


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    note: Annotated[str, Field(max_length=5)]
    lines: list[Inner] = []
    labels: dict[str, int] = {}


@pytest.fixture
def app() -> Celery:
    app = Celery("test", broker="memory://", task_cls="app.tasks.context:ContextTask", set_as_current=False)
    app.conf.task_always_eager = False
    return app


@pytest.fixture
def whoami(app: Celery) -> Any:
    @app.task(bind=True, name="test.whoami")
    @tenant_task
    def whoami(self: Any, tenant_id: str, correlation_id: str | None = None) -> list[str | None]:
        return [str(tenant_id_var.get()), correlation_id_var.get()]

    return whoami


@pytest.fixture
def order(app: Celery) -> Any:
    @app.task(bind=True, name="test.order")
    @tenant_task
    @typed_payload(Order)
    def order(self: Any, payload: Order, tenant_id: str, correlation_id: str | None = None) -> str:
        assert isinstance(payload, Order)
        return payload.note

    return order


def published(app: Celery) -> list[Any]:
    """The messages that lie in the queue now."""
    with Connection(app.conf.broker_url) as connection, connection.SimpleQueue("celery") as queue:
        messages = []
        while queue.qsize():
            message = queue.get(block=False)
            message.ack()
            messages.append(message)
    return messages


@pytest.mark.parametrize("wrong", [None, "", "not-a-uuid", 7, "hunter2"])
def test_without_a_tenant_nothing_is_published_and_nothing_runs(app: Celery, whoami: Any, wrong: object) -> None:
    with pytest.raises(TenantError) as at_the_caller:
        whoami.apply_async(kwargs={"tenant_id": wrong})
    with pytest.raises(TenantError) as in_the_worker:
        whoami.apply(kwargs={"tenant_id": wrong}, throw=True)
    assert published(app) == []
    for caught in (at_the_caller, in_the_worker):
        assert isinstance(caught.value, ValueError)
        assert "hunter2" not in str(caught.value)


def test_a_call_that_forgets_the_tenant_is_told_so(whoami: Any) -> None:
    with pytest.raises(TenantError, match="tenant_id is missing"):
        whoami.delay()
    with pytest.raises(TenantError, match="tenant_id is missing"):
        whoami()


def test_the_body_sees_tenant_and_correlation_and_they_are_gone_afterwards(whoami: Any) -> None:
    assert whoami.apply(kwargs={"tenant_id": str(TENANT), "correlation_id": "c-1"}).get() == [str(TENANT), "c-1"]
    assert whoami.apply(args=[str(TENANT)]).get()[0] == str(TENANT)
    assert tenant_id_var.get() is None
    assert correlation_id_var.get() is None


def test_a_body_that_fails_leaves_no_tenant(app: Celery) -> None:
    @app.task(bind=True)
    @tenant_task
    def fails(self: Any, tenant_id: str) -> None:
        raise RuntimeError(str(current_tenant()))

    with pytest.raises(RuntimeError, match=str(TENANT)):
        fails.apply(kwargs={"tenant_id": TENANT}, throw=True)
    assert tenant_id_var.get() is None


def test_a_task_without_a_tenant_starts_clean_whatever_was_there(app: Celery) -> None:
    @app.task(bind=True)
    def anybody(self: Any) -> list[str | None]:
        return [tenant_id_var.get() and "leaked", correlation_id_var.get()]

    with working_for(TENANT, "left-over"):
        tenant, correlation = anybody.apply().get()
    assert tenant is None
    assert correlation != "left-over"


def test_headers_carry_what_the_broker_and_the_worker_need(app: Celery, whoami: Any) -> None:
    whoami.apply_async(kwargs={"tenant_id": TENANT, "correlation_id": "c-2"}, headers={"x-own": "kept"})
    (message,) = published(app)
    assert message.headers[TENANT_HEADER] == str(TENANT)
    assert message.headers[CORRELATION_HEADER] == "c-2"
    assert message.headers["x-own"] == "kept"
    assert message.properties["correlation_id"] == message.headers["id"]  # Celery's own, untouched


def test_a_message_says_when_its_wait_began_however_it_was_sent(app: Celery, whoami: Any) -> None:
    metrics.install(app)
    before = time.time()
    whoami.delay(tenant_id=str(TENANT))
    app.send_task("test.whoami", headers={ENQUEUED_HEADER: 0})
    assert all(before <= message.headers[ENQUEUED_HEADER] <= time.time() for message in published(app))


def test_a_correlation_id_is_inherited_or_made(app: Celery, whoami: Any) -> None:
    with working_for(None, "outer"):
        whoami.delay(tenant_id=str(TENANT))
    whoami.delay(tenant_id=str(TENANT))
    inherited, made = (message.headers[CORRELATION_HEADER] for message in published(app))
    assert inherited == "outer"
    assert len(made) == 36


@pytest.mark.parametrize("wrong", ["x" * 129, "two\nlines"])
def test_a_correlation_id_is_short_and_printable(app: Celery, whoami: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match="correlation_id must be printable"):
        whoami.delay(tenant_id=str(TENANT), correlation_id=wrong)
    assert published(app) == []


@pytest.mark.parametrize("wrong", ["x" * 129, "two\nlines"])
def test_a_sender_that_does_not_check_gets_no_such_id_into_the_context(app: Celery, whoami: Any, wrong: str) -> None:
    answer = whoami.apply(kwargs={"tenant_id": TENANT}, headers={CORRELATION_HEADER: wrong})
    assert answer.get()[1] == answer.id
    with pytest.raises(ValueError, match="correlation_id must be printable"):
        whoami.apply(kwargs={"tenant_id": TENANT, "correlation_id": wrong}, throw=True)


def test_a_payload_may_be_a_mapping_or_the_model(app: Celery, order: Any) -> None:
    assert order.apply(kwargs={"payload": {"note": "a"}, "tenant_id": TENANT}).get() == "a"
    order.delay(payload=Order(note="b"), tenant_id=str(TENANT))
    (message,) = published(app)
    assert message.decode()[1]["payload"] == {"note": "b", "lines": [], "labels": {}}


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"note": "hunter2"}, "payload.note: string_too_long (max_length=5)"),
        ({"note": "a", "hunter2": 1}, "payload[…]: extra_forbidden"),
        ({"note": "a", "lines": [{"amount": 1}, {"amount": 99}]}, "payload.lines[1].amount: less_than_equal (le=10)"),
        ({"note": "a", "labels": {"hunter2": "hunter2"}}, "payload.labels[…]: int_parsing"),
        ({}, "payload.note: missing"),
        (None, "payload: model_type"),
        ("hunter2", "payload: model_type"),
    ],
)
def test_a_wrong_payload_names_field_and_rule_and_no_value(app: Celery, order: Any, payload: object, says: str) -> None:
    with pytest.raises(PayloadError) as at_the_caller:
        order.delay(payload=payload, tenant_id=str(TENANT))
    with pytest.raises(PayloadError) as in_the_worker:
        order.apply(kwargs={"payload": payload, "tenant_id": str(TENANT)}, throw=True)
    assert published(app) == []
    for caught in (at_the_caller, in_the_worker):
        assert says in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("wrong", [{"limit": -1}, {"limit": "hunter2"}])
def test_a_checked_argument_is_refused_at_both_ends(app: Celery, wrong: dict[str, Any]) -> None:
    def check(value: object) -> None:
        if value not in (1, 2):
            raise PayloadError("limit must be 1 or 2")

    @app.task(bind=True, name="test.limited")
    @tenant_task
    @checked("limit", check)
    @typed_payload(Order)
    def limited(self: Any, payload: Order, tenant_id: str, limit: int = 1) -> int:
        return limit

    right = {"payload": {"note": "a"}, "tenant_id": str(TENANT)}
    with pytest.raises(PayloadError, match="limit must be 1 or 2"):
        limited.apply_async(kwargs=right | wrong)
    with pytest.raises(PayloadError, match="limit must be 1 or 2"):
        limited.apply(args=[right["payload"], str(TENANT), *wrong.values()], throw=True)
    assert published(app) == []
    limited.delay(**right, limit=2)
    assert len(published(app)) == 1
    assert limited.apply(kwargs=right).get() == 1


def test_a_retry_keeps_tenant_and_correlation(app: Celery) -> None:
    @app.task(bind=True, name="test.retries", autoretry_for=(ConnectionError,), max_retries=1, default_retry_delay=0)
    @tenant_task
    def retries(self: Any, tenant_id: str, correlation_id: str | None = None) -> list[str | None]:
        if self.request.retries == 0:
            raise ConnectionError
        return [str(tenant_id_var.get()), correlation_id_var.get()]

    answer = retries.apply(kwargs={"tenant_id": TENANT}, headers={CORRELATION_HEADER: "c-3"})
    assert answer.get() == [str(TENANT), "c-3"]


def test_a_tenant_task_must_take_a_tenant() -> None:
    with pytest.raises(TypeError, match="needs a parameter tenant_id"):

        @tenant_task
        def forgot(self: Any) -> None: ...

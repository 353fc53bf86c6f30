"""Submitting over HTTP: what comes back, what is enqueued with it, and what is refused."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from app.celery_app import celery_app
from app.celery_app import create_app as create_celery_app
from app.core.settings import Settings
from app.http.application import create_app
from app.http.documents import Limits
from app.http.problems import MOST_ERRORS
from celery_postgres import bulk
from environment.testkit.databases import rows, run
from environment.testkit.tables import scalar
from environment.waiting import wait_until
from tests.http.front import A, B, Front

ROUTING = {"payload": {"request": "Where is my refund?", "routes": ["billing", "shipping"]}}


def submitted(front: Front, tenant: UUID = A) -> int:
    """How many submissions of a tenant the database has."""
    engine = create_engine(front.database_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT set_config('app.current_tenant_id', :tenant, true)"), {"tenant": str(tenant)})
        return int(connection.execute(text("SELECT count(*) FROM task_submission")).scalar_one())


def enqueued(front: Front, task_id: str) -> list[tuple[Any, ...]]:
    return rows(front.database_url, "SELECT tenant_id, payload FROM kombu_message WHERE task_id = :id", id=task_id)


# -- what is accepted


def test_it_is_accepted_with_where_to_look(front: Front) -> None:
    answer = front.submit("app.tasks.llm.routing", ROUTING)
    assert answer.status == 202
    task = answer.json
    assert (task["name"], task["state"], task["result"]) == ("app.tasks.llm.routing", "PENDING", None)
    assert answer.headers["location"] == f"/v1/tasks/{task['task_id']}"
    assert int(answer.headers["retry-after"]) >= 1
    found = front.get(answer.headers["location"])
    assert (found.status, found.json["state"]) == (200, "PENDING")


def test_the_message_is_the_tenants_and_carries_the_correlation_id(front: Front) -> None:
    correlation_id = f"order-{uuid4()}"
    answer = front.submit(tenant=B, headers={"X-Correlation-ID": correlation_id})
    assert answer.headers["x-correlation-id"] == correlation_id
    ((tenant, payload),) = enqueued(front, answer.json["task_id"])
    assert tenant == B
    assert json.loads(payload)["headers"]["x-correlation-id"] == correlation_id


def test_the_tenant_of_the_key_may_be_repeated(front: Front) -> None:
    assert front.submit(body={"tenant_id": str(A)}).status == 202


def test_a_whole_number_may_be_written_with_a_point(front: Front) -> None:
    """For JSON Schema, and so for the OpenAPI document, 2.0 is an integer; 2.5 is none."""
    channel = {"name": "tv", "spend_cents": 1.0, "revenue_cents": 2}
    body = {"payload": {"total_cents": 100.0, "channels": [channel]}, "max_cost_cents": 50.0}
    assert front.submit("app.tasks.llm.budget", body).status == 202
    assert front.submit("app.tasks.llm.budget", {**body, "max_cost_cents": 2.5}).status == 422


def test_each_task_has_its_payload_in_the_openapi_document(front: Front) -> None:
    document = front.get("/openapi.json", tenant=None).json
    schemas = document["components"]["schemas"]
    for name, payload in (("routing", "RoutingPayload"), ("budget", "BudgetPayload")):
        operation = document["paths"][f"/v1/tasks/app.tasks.llm.{name}"]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert schemas[body]["properties"]["payload"]["$ref"].endswith(f"/{payload}")
        assert schemas[payload]["additionalProperties"] is False
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
    assert "app.tasks.maintenance.refresh_materialized_views" not in json.dumps(document)


# -- who is asked, and who may


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/x", "/v1/tasks/x/events"])
@pytest.mark.parametrize("authorization", [None, "Bearer sk_nonsense", "Basic YTpi"])
def test_without_a_key_there_is_nothing(front: Front, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = front.get(path, tenant=None, headers=headers)
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_revoked_key_is_refused_at_once(front: Front) -> None:
    tenant = uuid4()
    assert front.submit(tenant=tenant).status == 202
    run(
        front.database_url,
        f"SELECT set_config('app.current_tenant_id', '{tenant}', false)",
        "UPDATE api_key SET revoked_at = now()",
    )
    assert front.submit(tenant=tenant).status == 401


def test_another_tenant_in_the_body_is_refused(front: Front) -> None:
    before = submitted(front), submitted(front, B)
    answer = front.submit(body={"tenant_id": str(B)})
    assert (answer.status, answer.code) == (403, "other-tenant")
    assert (submitted(front), submitted(front, B)) == before


def test_a_task_of_another_tenant_is_not_there(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    other, missing = front.get(f"/v1/tasks/{task_id}", tenant=B), front.get(f"/v1/tasks/{uuid4()}", tenant=B)
    assert (other.status, other.code) == (missing.status, missing.code) == (404, "no-such-task")
    assert front.request("DELETE", f"/v1/tasks/{task_id}", tenant=B).status == 404
    assert [one["task_id"] for one in front.get("/v1/tasks?limit=100", tenant=B).json["items"]].count(task_id) == 0
    assert len(enqueued(front, task_id)) == 1


@pytest.mark.parametrize(
    "name", ["app.tasks.maintenance.refresh_materialized_views", "celery.backend_cleanup", "os.system", "x%00y"]
)
def test_what_is_not_on_the_list_cannot_be_submitted(front: Front, name: str) -> None:
    answer = front.submit(name)
    assert (answer.status, answer.code) == (404, "no-such-kind")


# -- what is refused


@pytest.mark.parametrize(
    ("body", "location", "rule"),
    [
        ({}, "body.payload", "missing"),
        (
            {"payload": {"request": "x", "routes": []}},
            "body.payload.routes",
            "too_short (actual_length=0, min_length=1)",
        ),
        ({"payload": {"request": 7, "routes": ["a"]}}, "body.payload.request", "string_type"),
        ({"payload": {"request": "x", "routes": ["a"], "s3cret": 1}}, "body.payload.…", "extra_forbidden"),
        ({**ROUTING, "max_cost_cents": True}, "body.max_cost_cents", "int_type"),
        ({**ROUTING, "tenant_id": "s3cret"}, "body.tenant_id", "uuid_parsing"),
    ],
)
def test_what_does_not_fit_names_the_field_and_quotes_nothing(
    front: Front, body: Any, location: str, rule: str
) -> None:
    answer = front.submit("app.tasks.llm.routing", body)
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.json["errors"] == [{"location": location, "rule": rule}]
    assert "s3cret" not in answer.body.decode()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"nonsense", b"]["])
def test_what_is_no_json(front: Front, body: bytes) -> None:
    answer = front.request("POST", "/v1/tasks/app.tasks.housekeeping.ping", body)
    assert answer.status in (400, 422)
    assert answer.code in ("malformed-json", "invalid")


def test_too_deep_and_too_long(front: Front) -> None:
    deep = front.request("POST", "/v1/tasks/app.tasks.housekeeping.ping", b"[" * 21 + b"]" * 21)
    assert (deep.status, deep.code) == (400, "too-deep")
    very = front.request("POST", "/v1/tasks/app.tasks.housekeeping.ping", b'{"a":' * 100_000)
    assert (very.status, very.code) == (400, "too-deep")
    long = front.request("POST", "/v1/tasks/app.tasks.housekeeping.ping", b" " * 1_048_577)
    assert (long.status, long.code) == (413, "too-long")


def test_of_very_many_unknown_fields_some_are_told(front: Front) -> None:
    answer = front.submit(body={f"unknown {number}": number for number in range(1000)})
    assert (answer.status, answer.code) == (422, "invalid")
    assert len(answer.json["errors"]) == MOST_ERRORS


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-32-be"])
def test_json_is_utf_8(front: Front, encoding: str) -> None:
    # The first byte of U+0122 in UTF-16 is that of a quote: what is between two of them would look like a string.
    hidden = '{"\u0122": ' + "[" * 700 + "]" * 700 + ', "\u0122": 1}'
    for body in ("{}", hidden):
        answer = front.request("POST", "/v1/tasks/app.tasks.housekeeping.ping", body.encode(encoding))
        assert (answer.status, answer.code) == (400, "malformed-json")


def test_a_body_without_end_is_cut_off(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as connection:
        head = (
            "POST /v1/tasks/app.tasks.housekeeping.ping HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        )
        connection.sendall(f"{head}Authorization: Bearer {front.key()}\r\n\r\n".encode())

        def pour() -> None:
            while True:
                connection.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            pour()


def test_a_body_that_is_cut_off_submits_nothing(front: Front) -> None:
    front.key()
    before = submitted(front)
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as connection:
        mark = uuid4()
        head = f"POST /v1/tasks/app.tasks.housekeeping.ping HTTP/1.1\r\nHost: localhost\r\nX-Correlation-ID: {mark}\r\n"
        key = f"Authorization: Bearer {front.key()}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        connection.sendall((head + key + "{}").encode())
    wait_until(lambda: str(mark) in front.log_text(), 60, "the request to be logged")
    assert submitted(front) == before


@pytest.mark.parametrize(
    ("document", "levels"),
    [
        (b"1", 0),
        (b"[]", 1),
        (b'{"a": [1, {"b": "[[[[{{{{"}]}', 3),
        (b'["\\"[", "\\\\", []]', 2),
        (b"[[],[],[[]]]", 3),
        (b"[" * 20 + b"]" * 20, 20),
        (b'[1, "[[', 1),
        (b'"\\', 0),
    ],
)
def test_how_deep_a_document_is(document: bytes, levels: int) -> None:
    assert Limits(levels, 100).exceeded(document) is None
    assert levels == 0 or Limits(levels - 1, 100).exceeded(document) == "levels"


def test_a_string_that_is_not_closed_costs_no_time(front: Front) -> None:
    begun = time.monotonic()
    answer = front.request("POST", "/v1/tasks/app.tasks.housekeeping.ping", b'"' + b'\\"' * 50_000)
    assert (answer.status, answer.code) == (400, "malformed-json")
    assert time.monotonic() - begun < 5  # it was 20


@pytest.mark.parametrize(
    "document", [b"1", b"[]", b'{"a": 1, "b": [1, 2, {}], "c": ",,,,[[["}', b"[[[]]]", b'["\\",", ","]']
)
def test_members_are_counted_before_anything_is_made_of_them(document: bytes) -> None:
    def members(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else max(1, len(value)) + sum(members(one) for one in inner)

    found = members(json.loads(document))
    assert Limits(9, found).exceeded(document) is None
    assert found == 0 or Limits(9, found - 1).exceeded(document) == "members"


@pytest.mark.parametrize("body", [{f"{n}": 1 for n in range(50_000)}, {"tenant_id": [1] * 50_000}, [[]] * 50_000])
def test_more_members_than_anybody_needs(front: Front, body: Any) -> None:
    answer = front.request("POST", "/v1/tasks/app.tasks.housekeeping.ping", json.dumps(body).encode())
    assert (answer.status, answer.code) == (400, "too-many-members")


def test_a_body_that_is_not_called_json(front: Front) -> None:
    answer = front.request(
        "POST", "/v1/tasks/app.tasks.housekeeping.ping", b"{}", headers={"Content-Type": "text/plain"}
    )
    assert (answer.status, answer.code) == (415, "no-json")
    assert front.submit(headers={"Content-Type": "application/json; charset=utf-8"}).status == 202


def test_no_body_is_parsed_on_the_event_loop() -> None:
    """FastAPI does that with bodies that it knows of; then one body keeps all other requests waiting."""
    routes = create_app(Settings(database_url="postgresql://host/name")).routes
    assert [one.path for one in routes if getattr(one, "body_field", None) is not None] == []  # type: ignore[attr-defined]


def test_a_full_queue_is_said_with_when_to_come_back(make_front: Callable[..., Front], database: Any) -> None:
    front = make_front(database.url, WEB_MAX_QUEUE_LENGTH="1")
    assert front.submit().status == 202
    # The count is believed for half a second.
    statuses: list[int] = []

    def refused() -> bool:
        answer = front.submit()
        statuses.append(answer.status)
        return answer.status == 503 and answer.code == "queue-full" and int(answer.headers["retry-after"]) > 0

    wait_until(refused, 60, "the queue to be full")
    assert submitted(front) == statuses.count(202) + 1
    run(database.url, "DELETE FROM kombu_message")
    wait_until(lambda: front.submit().status == 202, 60, "the queue to be open again")


def test_one_tenant_cannot_fill_the_queue(make_front: Callable[..., Front], database: Any) -> None:
    front = make_front(database.url, WEB_MAX_QUEUE_LENGTH="6", WEB_MAX_QUEUE_LENGTH_PER_TENANT="3")
    answers = [front.submit() for _ in range(5)]
    assert [answer.status for answer in answers] == [202] * 3 + [429] * 2
    assert answers[-1].code == "tenant-queue-full"
    assert int(answers[-1].headers["retry-after"]) > 0
    assert [front.submit(tenant=B).status for _ in range(4)] == [202] * 3 + [429]
    run(database.url, "DELETE FROM kombu_message")
    wait_until(lambda: front.submit().status == 202, 60, "the queue to be open again")


def test_what_a_tenant_has_queued_elsewhere_takes_nothing_from_others(
    make_front: Callable[..., Front], database: Any
) -> None:
    """A hundred tasks that came by another way than the front are more than all shares together."""
    front = make_front(database.url, WEB_MAX_QUEUE_LENGTH="60", WEB_MAX_QUEUE_LENGTH_PER_TENANT="30")
    app = create_celery_app(Settings(database_url=database.url, _env_file=None))
    try:
        with app.producer_or_acquire() as producer, bulk(producer):
            for _ in range(100):
                app.tasks["app.tasks.housekeeping.ping"].apply_async(kwargs={"tenant_id": str(A)}, producer=producer)
    finally:
        app.close()
        celery_app.set_current()
    assert front.submit().code == "tenant-queue-full"
    assert [front.submit(tenant=B).status for _ in range(31)] == [202] * 30 + [429]
    run(database.url, "DELETE FROM kombu_message WHERE tenant_id = '00000000-0000-0000-0000-00000000000b'")
    wait_until(lambda: front.submit(tenant=B).status == 202, 60, "the tenant's share to be empty again")


def test_who_has_little_goes_on_when_all_shares_are_full(make_front: Callable[..., Front], database: Any) -> None:
    front = make_front(database.url, WEB_MAX_QUEUE_LENGTH="40", WEB_MAX_QUEUE_LENGTH_PER_TENANT="20")
    for tenant in (A, B):
        assert [front.submit(tenant=tenant).status for _ in range(20)] == [202] * 20
    assert [front.submit(tenant=UUID(int=0xC)).status for _ in range(3)] == [202, 202, 503]


# -- Idempotency-Key


def test_the_same_submission_twice_is_one_task(front: Front) -> None:
    headers = {"Idempotency-Key": f'"{uuid4()}"'}
    first = front.submit("app.tasks.llm.routing", ROUTING, headers=headers)
    other_order = json.dumps({"max_cost_cents": 50, **ROUTING}, indent=2).encode()
    second = front.request("POST", "/v1/tasks/app.tasks.llm.routing", other_order, headers=headers)
    assert (first.status, second.status) == (202, 202)
    assert first.json["task_id"] == second.json["task_id"]
    assert first.headers["location"] == second.headers["location"]
    assert ("idempotency-replayed" in first.headers, second.headers["idempotency-replayed"]) == (False, "true")
    assert len(enqueued(front, first.json["task_id"])) == 1


def test_the_same_key_for_something_else_is_refused(front: Front) -> None:
    headers = {"Idempotency-Key": f'"{uuid4()}"'}
    assert front.submit("app.tasks.llm.routing", ROUTING, headers=headers).status == 202
    before = submitted(front)
    for name, body in (
        ("app.tasks.housekeeping.ping", {}),
        ("app.tasks.llm.routing", {**ROUTING, "max_cost_cents": 1}),
    ):
        answer = front.submit(name, body, headers=headers)
        assert (answer.status, answer.code) == (422, "idempotency-key-reused")
    assert submitted(front) == before


def test_keys_of_two_tenants_are_two(front: Front) -> None:
    headers = {"Idempotency-Key": f'"{uuid4()}"'}
    ids = {front.submit(tenant=tenant, headers=headers).json["task_id"] for tenant in (A, B)}
    assert len(ids) == 2


def test_a_key_that_is_being_handled_is_refused_at_once(front: Front) -> None:
    key = str(uuid4())
    engine = create_engine(front.database_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"skeldir.submission {A} {key}"}
        )
        answer = front.submit(headers={"Idempotency-Key": key})
        assert (answer.status, answer.code) == (409, "idempotency-key-in-use")
        assert int(answer.headers["retry-after"]) >= 1
    assert front.submit(headers={"Idempotency-Key": key}).status == 202


def test_of_many_at_once_one_is_enqueued(front: Front) -> None:
    headers = {"Idempotency-Key": f'"{uuid4()}"'}
    gate = threading.Barrier(8)
    front.key()
    before = submitted(front)

    def submit(_: int) -> tuple[int, str | None]:
        gate.wait()
        answer = front.submit(headers=headers)
        return answer.status, answer.json.get("task_id")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(submit, range(8)))
    assert {status for status, _ in answers} <= {202, 409}
    assert len({task_id for status, task_id in answers if status == 202}) == 1
    assert submitted(front) == before + 1


@pytest.mark.parametrize("key", ["", '""', '"open', "two words", '"' + "x" * 256 + '"', "x" * 1025, '"\\n"', "ü"])
def test_a_malformed_key(front: Front, key: str) -> None:
    answer = front.submit(headers={"Idempotency-Key": key})
    assert (answer.status, answer.code) == (400, "idempotency-key-malformed")


def test_a_missing_key_where_one_is_demanded(make_front: Callable[..., Front], database: Any) -> None:
    front = make_front(database.url, WEB_REQUIRE_IDEMPOTENCY_KEY="true")
    answer = front.submit()
    assert (answer.status, answer.code) == (400, "idempotency-key-missing")
    assert front.submit(headers={"Idempotency-Key": '"a"'}).status == 202


# -- one transaction


def test_what_cannot_be_noted_is_not_enqueued(front: Front) -> None:
    """The submission and the message are one transaction: break the second half, then the first."""
    before = submitted(front)
    waiting = scalar(front.database_url, "SELECT count(*) FROM kombu_message")
    for table, column in (("kombu_message", "payload"), ("task_submission", "name")):
        run(front.database_url, f"ALTER TABLE {table} ADD CONSTRAINT broken CHECK (length({column}) < 0) NOT VALID")
        try:
            answer = front.submit("app.tasks.llm.routing", ROUTING)
        finally:
            run(front.database_url, f"ALTER TABLE {table} DROP CONSTRAINT broken")
        assert answer.status >= 500
        assert answer.code in ("internal", "unavailable")
        assert "refund" not in answer.body.decode() + front.log_text()
    assert submitted(front) == before
    assert scalar(front.database_url, "SELECT count(*) FROM kombu_message") == waiting
    assert front.submit().status == 202


def test_what_fails_at_the_commit_is_not_enqueued_either(make_front: Callable[..., Front], database: Any) -> None:
    """By then both were written: only one transaction takes both back."""
    front = make_front(database.url)
    assert front.submit().status == 202
    run(
        database.url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$",
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON task_submission DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    refused = front.submit()
    assert (refused.status, refused.code) == (500, "internal")
    assert submitted(front) == 1
    assert scalar(database.url, "SELECT count(*) FROM kombu_message") == 1

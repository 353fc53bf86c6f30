"""Event streams: pushed at the end, over one connection, from where the client left off."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPResponse
from typing import Any
from uuid import UUID

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from app.db import api_keys
from app.http.events import LOOK_S
from celery_postgres.database.pool import Sessions
from celery_postgres.database.result_store import Outcome, ResultStore
from celery_postgres.results.serializer import dump
from celery_postgres.results.write import Write, record
from environment.testkit.databases import run
from environment.testkit.tables import scalar
from environment.waiting import wait_until
from tests.http.front import A, B, Front

WAITERS = "SELECT count(DISTINCT listener) FROM celery_waiter WHERE task_id = ANY(:ids)"


def event(stream: HTTPResponse) -> dict[str, str]:
    """The next event; comments and what is no event are passed over. Empty at the end of the stream."""
    fields: dict[str, str] = {}
    while line := stream.readline().decode():
        if line == "\n":
            if "data" in fields:
                return fields
            fields = {}
        else:
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value
    return {}


def comment(stream: HTTPResponse) -> str:
    """The next comment."""
    while line := stream.readline().decode():
        if line.startswith(":"):
            return line
    return ""


def finish(front: Front, task_id: str, status: str = "SUCCESS") -> None:
    """As a worker does it: with the statement that notifies whoever waits."""
    sessions = Sessions(front.database_url)
    record(ResultStore(sessions), [Write([Outcome(task_id, status, dump({"answer": 42}), None)])])
    sessions.close()


def test_the_state_now_and_the_end_as_it_happens(front: Front) -> None:
    """Ten times in a row within half a second, which looks every two seconds hit once in a million times; on a machine
    that is busy for a moment, later."""
    took = [LOOK_S]
    while max(took[-10:]) > LOOK_S / 4:
        assert len(took) < 100, "it was looked for, and not pushed"
        task_id = front.submit().json["task_id"]
        with front.events(task_id) as stream:
            assert (stream.status, stream.getheader("Content-Type")) == (200, "text/event-stream; charset=utf-8")
            first = event(stream)
            assert (first["event"], first["id"]) == ("task", "PENDING")
            assert json.loads(first["data"])["state"] == "PENDING"
            wait_until(lambda: scalar(front.database_url, WAITERS, ids=[task_id]), 60, "the listener to wait")  # noqa: B023
            begun = time.monotonic()
            finish(front, task_id)
            task = json.loads(event(stream)["data"])
            took.append(time.monotonic() - begun)
            assert (task["state"], task["result"]) == ("SUCCESS", {"answer": 42})
            assert event(stream) == {}


def test_a_state_in_between_is_told_too(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    with front.events(task_id) as stream:
        assert event(stream)["id"] == "PENDING"
        finish(front, task_id, "STARTED")
        assert json.loads(event(stream)["data"])["state"] == "STARTED"
        finish(front, task_id)
        assert json.loads(event(stream)["data"])["state"] == "SUCCESS"


def test_many_streams_are_one_connection(front: Front) -> None:
    ids = [front.submit().json["task_id"] for _ in range(12)]
    with ExitStack() as stack:
        streams = [stack.enter_context(front.events(task_id)) for task_id in ids]
        assert [event(stream)["id"] for stream in streams] == ["PENDING"] * 12
        count = "SELECT count(*) FROM celery_waiter WHERE task_id = ANY(:ids)"
        wait_until(lambda: scalar(front.database_url, count, ids=ids) == 12, 60, "twelve to wait")
        assert scalar(front.database_url, WAITERS, ids=ids) == 1
        for task_id in ids:
            finish(front, task_id)
        assert [json.loads(event(stream)["data"])["state"] for stream in streams] == ["SUCCESS"] * 12


def test_a_client_that_comes_back_is_told_what_is_new(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    with front.events(task_id, headers={"Last-Event-ID": "PENDING"}) as stream:
        assert comment(stream)  # nothing new, and yet a sign of life
        finish(front, task_id)
        last = event(stream)
        assert last["id"].startswith("SUCCESS")
    with front.events(task_id, headers={"Last-Event-ID": "PENDING"}) as stream:
        assert event(stream)["id"] == last["id"]
    with front.events(task_id, headers={"Last-Event-ID": last["id"]}) as stream:
        assert (stream.status, stream.read()) == (204, b"")


def test_a_stream_shows_that_it_lives(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    with front.events(task_id) as stream:
        assert [comment(stream) for _ in range(3)] == [": still here\n"] * 3


def test_a_stream_that_nobody_reads_any_more_is_ended(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    with front.events(task_id) as stream:
        assert event(stream)["id"] == "PENDING"
        wait_until(lambda: scalar(front.database_url, WAITERS, ids=[task_id]) == 1, 60, "the listener to wait")
    wait_until(lambda: scalar(front.database_url, WAITERS, ids=[task_id]) == 0, 60, "the listener to give up")


def test_somebody_elses_task_has_no_stream(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    with front.events(task_id, tenant=B) as stream:
        assert stream.status == 404


def test_a_revoked_key_ends_its_streams(front: Front) -> None:
    tenant = UUID(int=0xC)
    task_id = front.submit(tenant=tenant).json["task_id"]
    with front.events(task_id, tenant=tenant) as stream:
        assert event(stream)["id"] == "PENDING"
        engine = create_engine(front.database_url, poolclass=NullPool)
        with engine.begin() as connection:
            api_keys.revoke(connection, UUID(front.key(tenant).split("_")[1]))
        assert event(stream) == {}


def test_no_more_streams_than_there_is_room_for(make_front: Callable[..., Front], database: Any) -> None:
    front = make_front(database.url, WEB_MAX_STREAMS="1", WEB_HEARTBEAT="0.2")
    task_id = front.submit().json["task_id"]
    with front.events(task_id) as stream:
        assert event(stream)["id"] == "PENDING"
        refused = front.get(f"/v1/tasks/{task_id}/events")
        assert (refused.status, refused.code) == (503, "streams-full")
        assert int(refused.headers["retry-after"]) > 0
    finish(front, task_id)
    wait_until(lambda: front.get(f"/v1/tasks/{task_id}/events").status == 200, 60, "the room to be free again")


def test_one_tenant_cannot_take_all_streams(make_front: Callable[..., Front], database: Any) -> None:
    front = make_front(database.url, WEB_MAX_STREAMS="3", WEB_MAX_STREAMS_PER_TENANT="2", WEB_HEARTBEAT="0.2")
    ids = {tenant: front.submit(tenant=tenant).json["task_id"] for tenant in (A, B)}
    with ExitStack() as stack:
        for _ in range(2):
            assert event(stack.enter_context(front.events(ids[A])))["id"] == "PENDING"
        refused = front.get(f"/v1/tasks/{ids[A]}/events")
        assert (refused.status, refused.code) == (429, "tenant-streams-full")
        assert int(refused.headers["retry-after"]) > 0
        assert event(stack.enter_context(front.events(ids[B], tenant=B)))["id"] == "PENDING"
        assert front.get(f"/v1/tasks/{ids[B]}/events", tenant=B).code == "streams-full"
    finish(front, ids[A])
    wait_until(lambda: front.get(f"/v1/tasks/{ids[A]}/events").status == 200, 60, "the room to be free again")


def test_a_state_of_two_lines_is_no_event_of_its_own(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    finish(front, task_id, "X\n\nevent: forged")
    with front.events(task_id) as stream:
        fields = event(stream)
    assert (fields["event"], fields["id"]) == ("task", "Xevent: forged")


def test_a_listener_that_is_cut_off_goes_on(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    with front.events(task_id) as stream:
        assert event(stream)["id"] == "PENDING"
        wait_until(lambda: scalar(front.database_url, WAITERS, ids=[task_id]) == 1, 60, "the listener to wait")
        run(
            front.database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'celery_postgres'",
        )
        finish(front, task_id)
        assert json.loads(event(stream)["data"])["state"] == "SUCCESS"


def test_with_a_real_worker(front: Front, start_module_worker: Any) -> None:
    start_module_worker(front.database_url)
    task_id = front.submit(body={}).json["task_id"]
    states = []
    with front.events(task_id) as stream:
        while fields := event(stream):
            states.append(json.loads(fields["data"])["state"])
    assert states[-1] == "SUCCESS"
    assert states == sorted(set(states), key=["PENDING", "STARTED", "SUCCESS"].index)

"""Unique and debounced tasks: one message of a key in a queue, however it is published."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from celery import Celery, chain, chord, group
from kombu import Queue

import celery_postgres
from celery_postgres import DuplicateTaskError, Flow, FlowError, NotPublishedError, publishing_on
from celery_postgres.broker import transaction as publishing
from environment.testkit.callers import KINDS, calling
from environment.testkit.client import DEADLINE_S
from environment.testkit.databases import rows
from environment.testkit.tables import rows_of, run, scalar

MESSAGES = """
    SELECT message.task_id, CAST(message.payload AS json) ->> 'body',
        CAST(message.payload AS json) -> 'headers' ->> 'id'
    FROM kombu_message AS message JOIN kombu_queue AS queue ON queue.id = message.queue_id
    WHERE queue.name = :queue ORDER BY message.id
"""
#: Publishers of one key at once.
PUBLISHERS = 16


def _key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    return None if args[0] is None else f"customer {args[0]}"


@pytest.fixture
def app(app: Celery, queue: str) -> Celery:
    """Tasks that are unique by their first argument, one for each way of meeting a conflict."""
    app.conf.update(task_default_queue=queue, task_acks_late=True)
    for name, flow in {
        "returns": Flow(unique=_key),
        "raises": Flow(unique=_key, on_conflict="raise"),
        "replaces": Flow(unique=_key, on_conflict="replace"),
        "done": Flow(unique=_key, until="done"),
        "by_arguments": Flow(unique=True),
        "debounced": Flow(unique=_key, debounce=(30, 100)),
    }.items():
        app.task(name=f"unique.{name}", flow=flow, shared=False)(_run)
    app.task(name="unique.plain", shared=False)(_run)
    return app


def _run(customer: str | None, number: int = 0) -> int:
    return number


def waiting(database: Any, queue: str) -> list[tuple[str, int, str]]:
    """The id, the second argument and the id in the payload of each message, in their order."""
    return [(one, json.loads(body)[0][1], header) for one, body, header in rows(database.url, MESSAGES, queue=queue)]


# -- one publish after another


def test_a_second_publish_returns_the_result_of_the_first(app: Celery, module_database: Any, queue: str) -> None:
    task = app.tasks["unique.returns"]
    first, second, other = task.delay("a", 1), task.delay("a", 2), task.delay("b", 3)
    assert second.id == first.id != other.id
    assert waiting(module_database, queue) == [(first.id, 1, first.id), (other.id, 3, other.id)]


def test_a_second_publish_raises_an_error_with_the_id_of_the_first(
    app: Celery, module_database: Any, queue: str
) -> None:
    task = app.tasks["unique.raises"]
    first = task.delay("a", 1)
    with pytest.raises(DuplicateTaskError, match=first.id) as caught:
        task.delay("a", 2)
    assert caught.value.task_id == first.id
    assert [number for _, number, _ in waiting(module_database, queue)] == [1]


def test_a_second_publish_replaces_the_arguments_and_keeps_the_id(
    app: Celery, module_database: Any, queue: str
) -> None:
    task = app.tasks["unique.replaces"]
    first, second = task.delay("a", 1), task.delay("a", 2)
    assert second.id == first.id
    assert waiting(module_database, queue) == [(first.id, 2, first.id)]


def test_what_replaces_decides_how_long_the_key_is_held(app: Celery, module_database: Any, queue: str) -> None:
    task = app.tasks["unique.plain"]
    for until, before, held in (("done", "started", True), ("started", "done", False)):
        headers = {"unique_key": until}
        first = task.apply_async(("a", 1), headers={**headers, "unique_until": before})
        task.apply_async(
            ("a", 2),
            headers={**headers, "unique_until": until, "unique_conflict": "replace"},
            task_id=f"{until}-{queue}",
        )
        run(module_database.url, "UPDATE kombu_message SET visible = false, consumer_id = 1, fence = 1")
        again = {**headers, "unique_conflict": "raise"}
        if held:
            with pytest.raises(DuplicateTaskError, match=first.id):
                task.apply_async(("a", 3), headers=again)
        else:
            task.apply_async(("a", 3), headers=again)
        run(module_database.url, "DELETE FROM kombu_message WHERE NOT visible")
    assert [number for _, number, _ in waiting(module_database, queue)] == [3]


def test_the_new_call_decides_what_becomes_of_one_that_raises(app: Celery, module_database: Any, queue: str) -> None:
    headers = {"unique_key": "u"}
    first = app.tasks["unique.raises"].apply_async(("a", 1), headers=headers)
    with pytest.raises(DuplicateTaskError, match=first.id):
        app.tasks["unique.raises"].apply_async(("a", 2), headers=headers | {"unique_conflict": "raise"})
    task = app.tasks["unique.raises"]
    task.apply_async(("a", 3), headers=headers | {"unique_conflict": "replace"})
    assert waiting(module_database, queue) == [(first.id, 3, first.id)]
    task.apply_async(("a", 4), headers=headers | {"unique_conflict": "replace", "debounce": 30})
    assert waiting(module_database, queue) == [(first.id, 4, first.id)]


def test_keys_of_two_tasks_and_calls_without_one_are_no_conflict(app: Celery, module_database: Any, queue: str) -> None:
    app.tasks["unique.returns"].delay("a", 1)
    app.tasks["unique.raises"].delay("a", 2)
    app.tasks["unique.returns"].delay(None, 3)
    app.tasks["unique.returns"].delay(None, 4)
    assert [number for _, number, _ in waiting(module_database, queue)] == [1, 2, 3, 4]


def test_all_arguments_are_one_key_however_they_are_given(app: Celery, module_database: Any, queue: str) -> None:
    task = app.tasks["unique.by_arguments"]
    first = task.delay("a", 1)
    assert task.apply_async(kwargs={"number": 1, "customer": "a"}).id == first.id
    assert task.delay("a", 2).id != first.id
    assert rows_of(module_database.url, queue) == 2


# -- many at once

Publish = Callable[[Celery, str, int], Any]


def _alone(app: Celery, name: str, number: int) -> Any:
    return app.tasks[name].delay("a", number)


def _in_bulk(app: Celery, name: str, number: int) -> Any:
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        app.tasks["unique.plain"].apply_async(("other", number), producer=producer)
        return app.tasks[name].apply_async(("a", number), producer=producer)


@pytest.mark.parametrize("publish", [_alone, _in_bulk])
@pytest.mark.parametrize("name", ["unique.returns", "unique.raises", "unique.replaces", "unique.done"])
def test_one_of_many_publishers_publishes(
    app: Celery, module_database: Any, queue: str, name: str, publish: Publish
) -> None:
    barrier = threading.Barrier(PUBLISHERS, timeout=2 * DEADLINE_S)

    def one(number: int) -> str:
        barrier.wait()
        try:
            return publish(app, name, number).id
        except DuplicateTaskError as error:
            return error.task_id

    with ThreadPoolExecutor(PUBLISHERS) as threads:
        ids = set(threads.map(one, range(PUBLISHERS)))
    unique = [one for one, _, _ in waiting(module_database, queue) if one in ids]
    assert len(ids) == 1
    assert unique == [*ids]
    assert rows_of(module_database.url, queue) == 1 + (PUBLISHERS if publish is _in_bulk else 0)


def test_bulks_with_the_same_keys_in_any_order_do_not_wait_for_each_other(
    app: Celery, module_database: Any, queue: str
) -> None:
    task, keys = app.tasks["unique.replaces"], [str(number) for number in range(40)]
    barrier = threading.Barrier(4, timeout=2 * DEADLINE_S)

    def one(order: list[str]) -> list[Any]:
        barrier.wait()
        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            return [task.apply_async((key, 1), producer=producer) for key in order]

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(one, [keys, keys[::-1], keys, keys[::-1]]))
    ids = [sorted(result.id for result in one) for one in results]
    assert ids[0] == ids[1] == ids[2] == ids[3] == sorted(one for one, _, _ in waiting(module_database, queue))


def test_a_bulk_tells_of_a_duplicate_and_publishes_the_others(app: Celery, module_database: Any, queue: str) -> None:
    task, first = app.tasks["unique.raises"], app.tasks["unique.raises"].delay("a", 0)
    with (  # noqa: PT012
        app.producer_or_acquire() as producer,
        pytest.raises(DuplicateTaskError, match=first.id),
        celery_postgres.bulk(producer),
    ):
        for number, key in enumerate(["b", "a", "c"], 1):
            task.apply_async((key, number), producer=producer)
    assert sorted(number for _, number, _ in waiting(module_database, queue)) == [0, 1, 3]


# -- in a caller's transaction


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_transaction_publishes_one_of_a_key(
    app: Celery, module_database: Any, queue: str, kind: str, commits: bool
) -> None:
    names = ["unique.returns", "unique.replaces", "unique.done"]

    async def main() -> list[list[Any]]:
        async with calling(kind, module_database.url) as caller:
            async with caller.publishing():
                results = [[app.tasks[name].delay("a", number) for number in (1, 2)] for name in names]
            await (caller.commit() if commits else caller.rollback())
            return results

    results = asyncio.run(main())
    assert all(first.id == second.id for first, second in results)
    left = [(results[0][0].id, 1), (results[1][0].id, 2), (results[2][0].id, 1)]
    assert sorted((one, number) for one, number, _ in waiting(module_database, queue)) == sorted(
        left if commits else []
    )
    after = [app.tasks[name].delay("a", 3).id for name in names]
    assert (after == [first.id for first, _ in results]) is commits


@pytest.mark.parametrize("kind", KINDS)
def test_a_duplicate_in_a_transaction_leaves_it_usable(
    app: Celery, module_database: Any, queue: str, kind: str
) -> None:
    first = app.tasks["unique.raises"].delay("a", 1)

    async def main() -> None:
        async with calling(kind, module_database.url) as caller:
            with pytest.raises(DuplicateTaskError, match=first.id):
                async with caller.publishing():
                    app.tasks["unique.raises"].delay("a", 2)
            async with caller.publishing():
                app.tasks["unique.raises"].delay("b", 3)
            await caller.commit()

    asyncio.run(main())
    assert [number for _, number, _ in waiting(module_database, queue)] == [1, 3]


@pytest.mark.parametrize("kind", ["psycopg2", "asyncpg"])
@pytest.mark.parametrize("name", ["unique.returns", "unique.replaces", "unique.done"])
def test_one_of_many_transactions_publishes(
    app: Celery, module_database: Any, queue: str, name: str, kind: str
) -> None:
    barrier = threading.Barrier(PUBLISHERS, timeout=2 * DEADLINE_S)

    async def publish(number: int) -> str:
        async with calling(kind, module_database.url) as caller:
            barrier.wait()
            async with caller.publishing():
                result = app.tasks[name].delay("a", number)
            await (caller.commit() if number % 2 else caller.rollback())
            return result.id

    with ThreadPoolExecutor(PUBLISHERS) as threads:
        ids = list(threads.map(lambda number: asyncio.run(publish(number)), range(PUBLISHERS)))
    ((kept, _, _),) = waiting(module_database, queue)
    assert set(ids[1::2]) == {kept}  # those that have committed


@pytest.mark.parametrize("name", ["unique.returns", "unique.raises", "unique.replaces"])
def test_a_publish_waits_for_another_transaction_no_longer_than_its_bound(
    make_app: Callable[[str], Celery], app: Celery, module_database: Any, queue: str, name: str
) -> None:
    url = f"{module_database.url}{'&' if '?' in module_database.url else '?'}options=-clock_timeout%3D100"
    hasty = make_app(url)
    hasty.conf.update(task_default_queue=queue)
    task = hasty.task(name=name, flow=app.tasks[name].flow, shared=False)(_run)
    with closing(psycopg2.connect(module_database.url)) as holder, publishing_on(holder):
        app.tasks[name].delay("a", 1)
        with publishing.at_once(), pytest.raises(NotPublishedError, match="has not ended within 5 s") as caught:
            task.delay("a", 2)
        assert caught.value.sqlstate == "55P03"
        with closing(psycopg2.connect(url)) as other, publishing_on(other):
            with pytest.raises(NotPublishedError, match="can only be rolled back"):
                app.tasks[name].delay("a", 3)
            other.rollback()
            app.tasks[name].delay("b", 4)
            other.commit()
        holder.commit()
    assert sorted(number for _, number, _ in waiting(module_database, queue)) == [1, 4]


def test_a_wait_that_ends_changes_no_setting_of_the_callers_session(
    app: Celery, module_database: Any, queue: str
) -> None:
    with closing(psycopg2.connect(module_database.url)) as connection, connection.cursor() as cursor:
        with publishing_on(connection):
            app.tasks["unique.returns"].delay("a", 1)
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",)
        connection.rollback()


# -- what holds a key


def test_a_tenants_key_is_its_own(app: Celery, module_database: Any, queue: str) -> None:
    task = app.tasks["unique.returns"]
    tenants = [{"tenant_id": str(uuid.UUID(int=number))} for number in (1, 2)]
    first, second, third = (task.apply_async(("a", 1), headers=one) for one in [*tenants, tenants[0]])
    assert first.id == third.id != second.id
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        again = [task.apply_async(("a", 1), headers=one, producer=producer) for one in tenants]
    assert [one.id for one in again] == [first.id, second.id]


def test_any_text_is_a_tenant_and_no_two_are_one(app: Celery, module_database: Any, queue: str) -> None:
    task, number = app.tasks["unique.returns"], uuid.UUID(int=5)
    tenants: list[Any] = [None, "acme", "globex", "gl\u00f6bex", 7, number]
    firsts = [task.apply_async(("a", 1), headers={"tenant_id": one}) for one in tenants]
    assert len({one.id for one in firsts}) == len(tenants)
    for tenant, first in zip(["", "acme", "globex", "gl\u00f6bex", "7", str(number).upper()], firsts, strict=True):
        assert task.apply_async(("a", 2), headers={"tenant_id": tenant}).id == first.id
    for wrong in (["acme"], {"a": 1}, True, 1.5, "a\0b", "x" * 201, 10**5000, "\ud800"):
        with pytest.raises(FlowError, match=r"^a tenant_id that is a key"):
            task.apply_async(("a", 3), headers={"tenant_id": wrong})
    assert rows_of(module_database.url, queue) == len(tenants)


@pytest.mark.parametrize("fair", [False, True])
def test_a_fair_queue_takes_any_text_as_a_tenant_and_nothing_else(
    app: Celery, module_database: Any, queue: str, fair: bool
) -> None:
    task, url = app.tasks["unique.plain"], module_database.url
    with app.connection_for_write() as connection:
        Queue(queue, queue_arguments={"x-fair": fair})(connection).declare()
    refusing = pytest.raises(FlowError, match="is fair, and the tenant_id") if fair else nullcontext()
    for tenant in ("acme", 7):
        task.apply_async(("a",), headers={"tenant_id": tenant})
    for text in ("short", "x" * 100_000):
        with refusing:
            task.apply_async((text,), headers={"tenant_id": ["acme"]})
    with app.producer_or_acquire() as producer, refusing, celery_postgres.bulk(producer):
        task.apply_async(("a",), headers={"tenant_id": {}}, producer=producer)
    task.apply_async(("a",), headers={"tenant_id": [], "flow_key": "k"})
    task.apply_async(("a",), headers={"tenant_id": []}, retries=1)
    found = rows(
        url,
        "SELECT flow_key FROM kombu_message AS message JOIN kombu_queue AS queue ON queue.id = queue_id"
        " WHERE queue.name = :queue ORDER BY message.id",
        queue=queue,
    )
    hashes = [scalar(url, "SELECT hashtextextended(:key, 0)", key=key) for key in ("acme", "7", "k", "")]
    assert [key for (key,) in found] == (hashes if fair else [None] * 7)


@pytest.mark.parametrize("flow", [Flow, {"unique": True}])
def test_a_flow_that_is_none_is_refused_at_the_first_publish(
    app: Celery, module_database: Any, queue: str, flow: Any
) -> None:
    task = app.task(name=f"unique.wrong.{queue}", flow=flow, shared=False)(_run)
    for _ in range(2):
        with pytest.raises(FlowError, match="is no Flow but"):
            task.delay("a", 1)
    late = app.task(name=f"unique.late.{queue}", shared=False)(_run)
    late.__class__.flow = Flow(unique=True)
    with pytest.raises(FlowError, match="set too late"):
        late.delay("a", 1)
    assert rows_of(module_database.url, queue) == 0


@pytest.mark.parametrize("flow", ["checkout", {"steps": 3}, {}, lambda args, kwargs: "k"])
def test_a_programs_own_attribute_of_this_name_is_left_alone(
    app: Celery, module_database: Any, queue: str, flow: Any, caplog: pytest.LogCaptureFixture
) -> None:
    task = app.task(name=f"unique.own.{queue}", flow=flow, shared=False)(_run)
    task.delay("a", 1)
    task.delay("a", 1)
    assert rows_of(module_database.url, queue) == 2
    assert caplog.text.count("is no Flow of celery_postgres, and is ignored") == 1


def test_headers_by_hand_are_enough_and_win(app: Celery, module_database: Any, queue: str) -> None:
    headers = {"unique_key": "mine", "unique_conflict": "raise"}
    app.tasks["unique.plain"].apply_async(("a", 1), headers=headers, task_id=f"first-{queue}")
    with pytest.raises(DuplicateTaskError, match=f"first-{queue}"):
        app.send_task("unique.plain", ("a", 2), headers=headers)
    app.tasks["unique.raises"].apply_async(("a", 3), headers={"unique_key": "other"})
    app.tasks["unique.raises"].apply_async(("a", 4))
    assert [number for _, number, _ in waiting(module_database, queue)] == [1, 3, 4]


def test_headers_by_hand_return_no_id_whose_result_never_comes(app: Celery, module_database: Any, queue: str) -> None:
    headers = {"unique_key": "mine"}
    task = app.tasks["unique.plain"]
    first = task.apply_async(("a", 1), headers=headers)
    for publish in (task.apply_async, lambda args, **options: app.send_task("unique.plain", args, **options)):
        with pytest.raises(DuplicateTaskError, match=first.id):
            publish(("a", 2), headers=headers)
    task.apply_async(("a", 3), headers={**headers, "unique_conflict": "return"})  # who asks for no result
    assert app.tasks["unique.returns"].apply_async(("a", 4), headers=headers).id
    assert app.tasks["unique.returns"].apply_async(("a", 5), headers=headers).id
    assert [number for _, number, _ in waiting(module_database, queue)] == [1, 4]


def test_a_message_that_has_expired_frees_its_key(app: Celery, module_database: Any, queue: str) -> None:
    task = app.tasks["unique.returns"]
    first = task.apply_async(("a", 1), expires=datetime.now(UTC) - timedelta(seconds=1))
    second = task.apply_async(("a", 2), expires=60)
    assert task.apply_async(("a", 3)).id == second.id != first.id


def test_a_revoked_task_frees_its_key(app: Celery, module_database: Any, queue: str) -> None:
    task = app.tasks["unique.returns"]
    first = task.delay("a", 1)
    app.control.revoke(first.id)
    assert task.delay("a", 2).id != first.id


def test_a_purge_frees_all_keys(app: Celery, module_database: Any, queue: str) -> None:
    first = app.tasks["unique.done"].delay("a", 1)
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(queue)
    second = app.tasks["unique.done"].delay("a", 2)
    assert second.id != first.id
    assert rows_of(module_database.url, queue) == 1


def test_a_scheduled_task_holds_its_key_and_a_replacement_sets_its_time(
    app: Celery, module_database: Any, queue: str
) -> None:
    task = app.tasks["unique.replaces"]
    first = task.apply_async(("a", 1), countdown=3600)
    assert task.delay("a", 2).id == first.id
    due = "SELECT available_at <= now() FROM kombu_message WHERE task_id = :id"
    assert scalar(module_database.url, due, id=first.id) is True


def test_a_replaced_payload_is_the_ids_of_the_first_whatever_they_are(
    app: Celery, module_database: Any, queue: str
) -> None:
    task = app.tasks["unique.replaces"]
    odd = f'ä"\\ py {queue}'
    task.apply_async(("a", 1), task_id=odd)
    assert task.apply_async(("a", 2), task_id="py").id == odd
    assert waiting(module_database, queue) == [(odd, 2, odd)]
    payload = json.loads(scalar(module_database.url, "SELECT payload FROM kombu_message WHERE task_id = :id", id=odd))
    assert payload["headers"]["root_id"] == payload["properties"]["correlation_id"] == odd
    assert payload["headers"]["lang"] == "py"


def test_a_publish_that_is_sent_twice_is_one_message(app: Celery, module_database: Any, queue: str) -> None:
    """Kombu sends it again if the answer of the first time was lost."""
    for name in ("unique.returns", "unique.raises", "unique.replaces"):
        for _ in range(2):
            assert app.tasks[name].apply_async(("a", 1), task_id=f"{name}-{queue}").id == f"{name}-{queue}"
    assert rows_of(module_database.url, queue) == 3


# -- debounce


def test_each_publish_moves_a_debounced_task_up_to_its_bound(app: Celery, module_database: Any, queue: str) -> None:
    task = app.tasks["unique.debounced"]
    starts = (
        "SELECT round(extract(epoch FROM available_at - enqueued_at))::integer FROM kombu_message WHERE task_id = :id"
    )
    first = task.delay("a", 1)
    assert scalar(module_database.url, starts, id=first.id) == 30
    run(module_database.url, "UPDATE kombu_message SET enqueued_at = enqueued_at - interval '50 seconds'")
    assert task.delay("a", 2).id == first.id
    assert 80 <= scalar(module_database.url, starts, id=first.id) < 100  # and as long as this has taken
    run(module_database.url, "UPDATE kombu_message SET enqueued_at = enqueued_at - interval '45 seconds'")
    assert task.delay("a", 3).id == first.id
    assert scalar(module_database.url, starts, id=first.id) == 100
    assert waiting(module_database, queue) == [(first.id, 3, first.id)]


def test_debounce_by_hand_is_a_number_of_seconds(app: Celery, module_database: Any, queue: str) -> None:
    headers = {"unique_key": "mine", "debounce": 20}
    for number in (1, 2):
        app.send_task("unique.plain", ("a", number), headers=headers)
    ((_, number, _),) = waiting(module_database, queue)
    assert number == 2


# -- what follows


def test_a_duplicate_in_a_canvas_is_never_dropped_in_silence(app: Celery, module_database: Any, queue: str) -> None:
    """What follows it would not run, and the canvas' result would be waited for without end."""
    app.conf.result_backend = f"db+{module_database.url}"
    task, plain = app.tasks["unique.returns"], app.tasks["unique.plain"]
    first = task.delay("a", 1)
    for canvas in (
        chain(task.si("a", 2), plain.si("b", 3)),
        task.signature(("a", 2), link=plain.si("b", 3), immutable=True),
        chord([task.si("a", 2)], plain.si("b", 3)),
        group(task.si("a", 2)),
    ):
        with pytest.raises(DuplicateTaskError, match=first.id):
            canvas.apply_async()
    assert [number for _, number, _ in waiting(module_database, queue)] == [1]


def test_a_part_of_a_canvas_is_never_replaced(app: Celery, module_database: Any, queue: str) -> None:
    task, plain = app.tasks["unique.replaces"], app.tasks["unique.plain"]
    chain(task.si("a", 1), plain.si("b", 3)).apply_async()
    with pytest.raises(DuplicateTaskError, match="which waits"):
        task.delay("a", 2)
    assert [number for _, number, _ in waiting(module_database, queue)] == [1]


# -- bad input


def _raises(args: Any, kwargs: Any) -> str:
    raise LookupError("a secret")


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ({"unique": _raises}, r"`unique` in the flow of bad.task has raised LookupError"),
        ({"key": _raises}, r"`key` in the flow of bad.task has raised LookupError"),
        ({"unique": lambda args, kwargs: 7}, "has returned int: return a text, or None"),
        ({"key": lambda args, kwargs: b"x"}, "has returned bytes"),
        ({"unique": lambda args, kwargs: "x" * 10_000}, "at most 200 characters; this one has 10000"),
        ({"key": lambda args, kwargs: "x" * 10_000}, "at most 200 characters; this one has 10000"),
        ({"unique": lambda args, kwargs: ""}, "not an empty one"),
        ({"unique": "x", "until": "done"}, "acknowledged when it starts: set acks_late=True"),
    ],
)
@pytest.mark.parametrize("publish", [_alone, _in_bulk])
def test_a_flow_that_fails_is_one_error_and_nothing_is_published(
    app: Celery, module_database: Any, queue: str, flow: Any, message: str, publish: Publish
) -> None:
    app.task(name="bad.task", flow=Flow(**flow), shared=False, acks_late=False)(_run)
    with pytest.raises(FlowError, match=message) as caught:
        publish(app, "bad.task", 1)
    assert "secret" not in str(caught.value)
    assert rows_of(module_database.url, queue) == 0


def test_wrong_arguments_are_celerys_type_error(app: Celery) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        app.tasks["unique.returns"].delay()


@pytest.mark.parametrize(
    "headers",
    [
        {"unique_key": 7},
        {"unique_key": "x" * 201},
        {"unique_key": "x", "unique_until": "tomorrow"},
        {"unique_key": "x", "unique_until": ["done"]},
        {"unique_key": "x", "unique_conflict": None},
        {"unique_key": "x", "debounce": -1},
        {"unique_key": "x", "debounce": True},
        {"unique_key": "x", "debounce": float("nan")},
        {"unique_key": "x", "debounce": [3, 2]},
        {"unique_key": "x", "debounce": 10**400},
        {"debounce": 3},
        {"unique_key": "x", "debounce": 3, "unique_conflict": "raise"},
        {"unique_key": "x", "debounce": [1]},
        {"unique_until": "done"},
        {"unique_conflict": "raise"},
        {"flow_key": "a\0b"},
        {"flow_key": "\udcff"},
        {"flow_key": 7},
        {"flow_key": "*"},
    ],
)
def test_wrong_headers_are_one_error_and_nothing_is_published(
    app: Celery, module_database: Any, queue: str, headers: Any
) -> None:
    with pytest.raises(FlowError):
        app.send_task("a.task", queue=queue, headers=headers)
    assert rows_of(module_database.url, queue) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"until": "later", "unique": "x"},
        {"on_conflict": "ignore", "unique": "x"},
        {"unique": 7},
        {"key": 7},
        {"unique": "x" * 201},
        {"until": "done"},
        {"debounce": 3},
        {"debounce": 3, "unique": "x", "until": "done"},
        {"debounce": "3", "unique": "x"},
        {"debounce": (1,), "unique": "x"},
        {"key": "*"},
        {"key": "a\0b"},
    ],
)
def test_a_wrong_flow_is_refused_where_it_is_written(arguments: Any) -> None:
    with pytest.raises(FlowError):
        Flow(**arguments)

"""Groups and chords that a program sends: as much of them as is stored is one canvas."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from celery import Celery, chain, chord, group, states

from celery_postgres.readmodel import Canvas, ReadModel
from environment.testkit.tables import run


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    return make_app()


def step(app: Celery, name: str, *args: int) -> Any:
    return app.signature(name, args=args, queue="sent")


def canvas(url: str, task_id: str) -> Canvas | None:
    with closing(ReadModel(url)) as model:
        found = model.task(task_id)
        assert found is not None
        return model.canvas(found)


def shown(url: str, task_id: str) -> list[tuple[str | None, str | None, int]]:
    found = canvas(url, task_id)
    assert found is not None
    return sorted(
        (("group" if one.is_group else one.name), None if one.state is None else str(one.state), one.depth)
        for one in found.members
    )


def test_a_group_is_found_by_the_messages_near_a_task_and_by_the_parts_of_its_chord(
    app: Celery, module_database: Any
) -> None:
    url = str(module_database.url)
    others = group(step(app, "mine.other") for _ in range(2)).apply_async()
    last = chain(step(app, "mine.two"), step(app, "mine.three"))
    sent = group(step(app, "mine.one"), step(app, "mine.four"), last).apply_async()
    step(app, "mine.alone").apply_async()
    first, second, third = sent.children
    # The first task of a chain in a group does not name the group, but its last one will.
    whole = [("group", None, 0), ("mine.four", "waiting", 1), ("mine.one", "waiting", 1)]
    assert shown(url, first.id) == shown(url, second.id) == whole
    assert shown(url, third.parent.id) == [("mine.three", None, 1), ("mine.two", "waiting", 0)]
    assert shown(url, others.children[0].id) == [("group", None, 0), *[("mine.other", "waiting", 1)] * 2]
    assert canvas(url, step(app, "mine.alone").apply_async().id) is None
    found = canvas(url, first.id)
    assert found is not None
    assert found.is_group
    # It has ended: nothing names its group any more, and the other one has lost its company.
    run(url, f"DELETE FROM kombu_message WHERE task_id = '{others.children[0].id}'")  # noqa: S608
    assert canvas(url, others.children[1].id) is None

    # The parts of a chord that have ended are known until its body is sent.
    sent = chord([step(app, "mine.part", n) for n in range(3)], step(app, "mine.body")).apply_async()
    ended, waits, also = (one.id for one in sent.parent.children)
    app.backend.store_result(ended, 1, states.SUCCESS)
    app.backend.flush()
    run(
        url,
        f"UPDATE celery_taskmeta SET name = 'mine.part' WHERE task_id = '{ended}'",  # noqa: S608
        f"DELETE FROM kombu_message WHERE task_id = '{ended}'",  # noqa: S608
        "INSERT INTO celery_chord_part (chord_id, task_id, position, status)"  # noqa: S608
        f" VALUES ('{sent.parent.id}', '{ended}', 0, 'SUCCESS')",
    )
    expected = [
        ("group", None, 0),
        ("mine.body", None, 2),
        ("mine.part", "succeeded", 1),
        *[("mine.part", "waiting", 1)] * 2,
    ]
    assert shown(url, waits) == shown(url, also) == expected

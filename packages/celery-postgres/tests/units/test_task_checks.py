"""The fast paths of the checks of a task accept nothing that its rules refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import celery
import celery.app.task  # the checks read the names of its context
import celery.canvas
import pytest

from celery_postgres.consumer import task_checks
from celery_postgres.consumer.field_rules import FlawError, check_fields

VALUES: dict[str, Any] = {
    "none": None,
    "text": "x",
    "empty": "",
    "number": 1,
    "true": True,
    "negative": -1,
    "too high": 2**31,
    "fraction": 0.5,
    "list": ["x"],
    "no list": [],
    "pair": [None, None],
    "pair of texts": ["x", "y"],
    "object": {"x": 1},
}
RULES = {**task_checks._BY_TYPE, **task_checks._BY_VALUE}


def message(headers: dict[str, Any], body: Any = None) -> Any:
    app = celery.Celery(broker="memory://", set_as_current=False)
    task = app.amqp.as_task_v2("id", "task", args=(1,), kwargs={"x": 1})
    decoded = list(task.body) if body is None else body
    return SimpleNamespace(
        headers={**task.headers, **headers},
        properties=task.properties,
        delivery_info={"exchange": "", "routing_key": "celery"},
        decode=lambda: decoded,
    )


def refused(headers: dict[str, Any], body: Any = None) -> bool:
    try:
        task_checks.check_task(message(headers, body))
    except FlawError:
        return True
    return False


@pytest.mark.parametrize("name", RULES)
def test_a_header_is_refused_by_its_rule_also_after_others_have_passed(name: str) -> None:
    assert not refused({})
    for value in (*VALUES.values(), *VALUES.values()):
        try:
            check_fields({name: value}, RULES, "its")
            expected = False
        except FlawError:
            expected = True
        assert refused({name: value}) == expected, value


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
@pytest.mark.parametrize("where", ["headers", "body"])
def test_what_follows_a_task_is_checked_wherever_it_stands(name: str, where: str) -> None:
    nothing = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    for value in (7, "x", [7], {"task": 7}):
        if where == "headers":
            assert refused({name: value}, [[], {}, {}]), value
            assert refused({name: value}, [[], {}, None]), value
            assert not refused({name: value}, [[], {}, nothing]), "the body takes precedence"
        else:
            assert refused({}, [[], {}, {**nothing, name: value}]), value
    assert not refused({}, [[], {}, nothing])
    assert not refused({}, [[], {}, None])
    assert refused({}, [[], {}, 7])
    assert refused({}, [[], {}, {**nothing, "apply": None}]) == hasattr(celery.app.task.Context, "apply")


def test_only_combinations_of_text_objects_and_null_are_remembered() -> None:
    for name in task_checks._BY_TYPE:
        for value in VALUES.values():
            refused({name: value})
    assert {kind for types in task_checks._fitting for kind in types} <= {str, dict, type(None)}

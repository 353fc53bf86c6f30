"""Payloads of all tasks: an accepted payload survives a message; an error names the field and quotes no value."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from app.tasks import llm
from app.tasks.context import PayloadError, validate_payload
from fuzz.values import value_of

MARK = "s3cretW0rd"
MODELS: tuple[type[BaseModel], ...] = tuple(
    task.run.__payload_model__ for task in (llm.routing, llm.explanation, llm.investigation, llm.budget)
)
_WORDS = (
    MARK, "request", "routes", "subject", "facts", "question", "evidence", "total_cents", "channels", "name",
    "spend_cents", "revenue_cents",
)  # fmt: skip
SEEDS = [
    b'{"request": "x", "routes": ["a", "b"]}',
    b'{"subject": "x", "facts": {"a": 1, "b": 1.5, "c": null, "d": true, "e": "s3cretW0rd"}}',
    b'{"question": "x", "evidence": ["s3cretW0rd"]}',
    b'{"total_cents": 100, "channels": [{"name": "a", "spend_cents": 0, "revenue_cents": 1000000000000}]}',
    b'{"s3cretW0rd": {"s3cretW0rd": ["s3cretW0rd", "\\ud800", 1e999]}, "request": 5}',
]


def check(data: bytes) -> None:
    """Take the bytes as JSON from a client or producer, and as the recipe of a value from a Python caller."""
    try:
        values = [json.loads(data)]
    except (ValueError, RecursionError):
        values = []
    for value in (*values, value_of(data, _WORDS)):
        _check_value(value)


def _check_value(value: Any) -> None:
    for model in MODELS:
        check_payload(model, value)
        check_payload(model, dict.fromkeys(model.model_fields, value))


def check_payload(model: type[BaseModel], value: Any) -> None:
    """Validate `value` with `model`."""
    try:
        payload = validate_payload(model, value)
    except PayloadError as error:
        text = str(error)
        assert text.startswith("payload")
        assert MARK not in text
        assert len(text) < 5_000
        assert error.__suppress_context__
        return
    assert isinstance(value, dict)
    assert set(value) <= set(model.model_fields)
    plain = payload.model_dump(mode="json")
    assert validate_payload(model, json.loads(json.dumps(plain))) == payload
    if isinstance(payload, llm.BudgetPayload):
        shares = llm.divide(payload.total_cents, llm._weights(payload.channels))
        assert sum(shares) == payload.total_cents
        assert min(shares) >= 0

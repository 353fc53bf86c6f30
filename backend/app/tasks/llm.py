"""LLM tasks of one tenant: routing, explanation, investigation, budget.

Each takes `payload` (a model below), `tenant_id`, an optional `correlation_id` and `max_cost_cents`. They are validated
in the caller and in the worker. Each returns its result model as a mapping. A task that cannot succeed (no tenant,
wrong payload, too expensive) fails once; a task that may succeed later (`ProviderUnavailable`) is retried with
back-off.
"""

from __future__ import annotations

import json
import logging
from typing import Annotated, Any

from celery import shared_task
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from app.tasks.context import PayloadError, checked, tenant_task, typed_payload
from app.tasks.llm_provider import Completion, ProviderUnavailable, get_provider

logger = logging.getLogger(__name__)

#: The most cents that one call may cost, whatever the caller allows.
COST_CEILING_CENTS = 10_000
DEFAULT_MAX_COST_CENTS = 50

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Fact = Annotated[str, StringConstraints(max_length=2_000)]
Cents = Annotated[int, Field(ge=0, le=10**12)]

RETRY_POLICY: dict[str, Any] = {
    "autoretry_for": (ProviderUnavailable,),
    "max_retries": 5,
    "retry_backoff": 2,
    "retry_backoff_max": 300,
    "retry_jitter": True,
}


class Payload(BaseModel):
    """What all payloads share: no unknown fields, no conversion between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RoutingPayload(Payload):
    """Which of `routes` should handle `request`?"""

    request: Text
    routes: list[Name] = Field(min_length=1, max_length=50)


class ExplanationPayload(Payload):
    """Explain `subject` from `facts`."""

    subject: Name
    facts: dict[Name, Fact | int | FiniteFloat | bool | None] = Field(min_length=1, max_length=200)


class InvestigationPayload(Payload):
    """Answer `question` from `evidence`, piece by piece."""

    question: Text
    evidence: list[Text] = Field(min_length=1, max_length=50)


class Channel(Payload):
    """The cost and revenue of one channel."""

    name: Name
    spend_cents: Cents
    revenue_cents: Cents


class BudgetPayload(Payload):
    """Divide `total_cents` among `channels`."""

    total_cents: Cents
    channels: list[Channel] = Field(min_length=1, max_length=200)

    @field_validator("channels")
    @classmethod
    def _names_differ(cls, channels: list[Channel]) -> list[Channel]:
        if len({channel.name for channel in channels}) != len(channels):
            raise PydanticCustomError("names_must_differ", "names must differ")
        return channels


class Result(BaseModel):
    """What all results share: the provider and the cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    cost_cents: int


class RoutingResult(Result):
    """The chosen route, one of the payload's."""

    route: str
    reason: str


class ExplanationResult(Result):
    """The explanation, and the facts that support it."""

    explanation: str
    facts_used: list[str]


class InvestigationResult(Result):
    """One finding per piece of evidence, in its order, and the conclusion."""

    findings: list[str]
    conclusion: str


class BudgetResult(Result):
    """Cents per channel, in the payload's order of names; they add up to the payload's total."""

    allocation_cents: dict[str, int]
    rationale: str


def check_max_cost(value: object) -> None:
    """Raise `PayloadError` for a value that is not a cost limit."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COST_CEILING_CENTS:
        raise PayloadError(f"max_cost_cents must be a whole number from 0 to {COST_CEILING_CENTS}")


def _ask(instruction: str, material: object, max_cost_cents: int, *, options: int = 1) -> Completion:
    text = json.dumps(material, ensure_ascii=False, sort_keys=True)
    completion = get_provider().complete(instruction, text, options=options, max_cost_cents=max_cost_cents)
    logger.info("llm answered", extra={"llm_model": completion.model, "cost_cents": completion.cost_cents})
    return completion


@shared_task(bind=True, name="app.tasks.llm.routing", **RETRY_POLICY)
@tenant_task
@checked("max_cost_cents", check_max_cost)
@typed_payload(RoutingPayload)
def routing(
    self: Any,
    payload: RoutingPayload,
    tenant_id: str,
    correlation_id: str | None = None,
    max_cost_cents: int = DEFAULT_MAX_COST_CENTS,
) -> dict[str, Any]:
    """Choose a route. Returns `RoutingResult` as a mapping."""
    answer = _ask("Choose the route", payload.model_dump(), max_cost_cents, options=len(payload.routes))
    return RoutingResult(
        route=payload.routes[answer.choice],
        reason=answer.text,
        model=answer.model,
        cost_cents=answer.cost_cents,
    ).model_dump()


@shared_task(bind=True, name="app.tasks.llm.explanation", **RETRY_POLICY)
@tenant_task
@checked("max_cost_cents", check_max_cost)
@typed_payload(ExplanationPayload)
def explanation(
    self: Any,
    payload: ExplanationPayload,
    tenant_id: str,
    correlation_id: str | None = None,
    max_cost_cents: int = DEFAULT_MAX_COST_CENTS,
) -> dict[str, Any]:
    """Explain a subject from facts. Returns `ExplanationResult` as a mapping."""
    answer = _ask(f"Explain {payload.subject}", payload.facts, max_cost_cents)
    return ExplanationResult(
        explanation=answer.text,
        facts_used=sorted(payload.facts),
        model=answer.model,
        cost_cents=answer.cost_cents,
    ).model_dump()


@shared_task(bind=True, name="app.tasks.llm.investigation", **RETRY_POLICY)
@tenant_task
@checked("max_cost_cents", check_max_cost)
@typed_payload(InvestigationPayload)
def investigation(
    self: Any,
    payload: InvestigationPayload,
    tenant_id: str,
    correlation_id: str | None = None,
    max_cost_cents: int = DEFAULT_MAX_COST_CENTS,
) -> dict[str, Any]:
    """Work through the evidence, then conclude; `max_cost_cents` limits all calls together.

    Returns `InvestigationResult` as a mapping.
    """
    spent = 0
    findings: list[str] = []
    for piece in payload.evidence:
        answer = _ask("What does this show?", [payload.question, piece], max_cost_cents - spent)
        spent += answer.cost_cents
        findings.append(answer.text)
    answer = _ask("Conclude", [payload.question, findings], max_cost_cents - spent)
    return InvestigationResult(
        findings=findings, conclusion=answer.text, model=answer.model, cost_cents=spent + answer.cost_cents
    ).model_dump()


@shared_task(bind=True, name="app.tasks.llm.budget", **RETRY_POLICY)
@tenant_task
@checked("max_cost_cents", check_max_cost)
@typed_payload(BudgetPayload)
def budget(
    self: Any,
    payload: BudgetPayload,
    tenant_id: str,
    correlation_id: str | None = None,
    max_cost_cents: int = DEFAULT_MAX_COST_CENTS,
) -> dict[str, Any]:
    """Divide a budget by return on spend and let the provider explain it. Returns `BudgetResult` as a mapping."""
    names = [channel.name for channel in payload.channels]
    allocation = dict(zip(names, divide(payload.total_cents, _weights(payload.channels)), strict=True))
    answer = _ask("Explain this allocation", [payload.model_dump(), allocation], max_cost_cents)
    return BudgetResult(
        allocation_cents=allocation, rationale=answer.text, model=answer.model, cost_cents=answer.cost_cents
    ).model_dump()


def _weights(channels: list[Channel]) -> list[int]:
    """Revenue per 1,000 of spend, whole numbers so that every machine rounds alike; all equal where none earned."""
    weights = [channel.revenue_cents * 1_000 // max(channel.spend_cents, 1) for channel in channels]
    return weights if any(weights) else [1] * len(channels)


def divide(total: int, weights: list[int]) -> list[int]:
    """Split `total` in proportion to `weights`, to the cent: largest remainders, then the earlier entry."""
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares

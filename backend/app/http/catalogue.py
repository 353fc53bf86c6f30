"""Which tasks may be submitted over HTTP, and the form of their submissions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.celery_app import celery_app
from app.tasks import llm
from app.tasks.llm import COST_CEILING_CENTS, DEFAULT_MAX_COST_CENTS

_REFERENCE = "#/components/schemas/{model}"


class Submission(BaseModel):
    """The fields that all submissions share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant_id: UUID | None = Field(
        None, description="Optional: the API key determines the tenant, and another one is refused (403)."
    )

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, body: Any) -> Any:
        """JSON has one kind of number: for its schema 2.0 is an integer. The payloads are strict and require an int."""
        return _whole(body)

    def arguments(self) -> dict[str, Any]:
        """The task's arguments, without tenant and correlation id."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "tenant_id"}


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list) else value


class PingSubmission(Submission):
    """For `app.tasks.housekeeping.ping`, which takes no arguments."""


class _LlmSubmission(Submission):
    max_cost_cents: StrictInt = Field(
        DEFAULT_MAX_COST_CENTS, ge=0, le=COST_CEILING_CENTS, description="The most that the answer may cost."
    )


class RoutingSubmission(_LlmSubmission):
    """For `app.tasks.llm.routing`."""

    payload: llm.RoutingPayload


class ExplanationSubmission(_LlmSubmission):
    """For `app.tasks.llm.explanation`."""

    payload: llm.ExplanationPayload


class InvestigationSubmission(_LlmSubmission):
    """For `app.tasks.llm.investigation`."""

    payload: llm.InvestigationPayload


class BudgetSubmission(_LlmSubmission):
    """For `app.tasks.llm.budget`."""

    payload: llm.BudgetPayload


class MaintenanceSubmission(Submission):
    """For the maintenance tasks of one tenant."""

    dry_run: StrictBool = Field(True, description="Only count, and change nothing.")


@dataclass(frozen=True, slots=True)
class Kind:
    """A task that may be submitted."""

    name: str
    submission: type[Submission]

    @property
    def task(self) -> Any:
        """Celery's task. Not the object that `shared_task` returned: in a thread of ours that would be a task of
        another application.
        """
        return celery_app.tasks[self.name]

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return str(self.task.__doc__ or self.name).strip().splitlines()[0]

    @property
    def described(self) -> dict[str, Any]:
        """The request body for the OpenAPI document, which also contains `schemas()`."""
        schema = {"$ref": _REFERENCE.format(model=self.submission.__name__)}
        return {"required": True, "content": {"application/json": {"schema": schema}}}


def schemas() -> dict[str, Any]:
    """The schemas of all submissions and of the models in them, by name."""
    pairs: list[tuple[type[BaseModel], JsonSchemaMode]] = [(kind.submission, "validation") for kind in KINDS]
    found: dict[str, Any] = models_json_schema(pairs, ref_template=_REFERENCE)[1]["$defs"]
    return found


#: Only these tasks can be submitted. No tenant may request the refresh of materialized views.
KINDS = (
    Kind("app.tasks.housekeeping.ping", PingSubmission),
    Kind("app.tasks.llm.routing", RoutingSubmission),
    Kind("app.tasks.llm.explanation", ExplanationSubmission),
    Kind("app.tasks.llm.investigation", InvestigationSubmission),
    Kind("app.tasks.llm.budget", BudgetSubmission),
    Kind("app.tasks.maintenance.scrub_pii", MaintenanceSubmission),
    Kind("app.tasks.maintenance.apply_retention", MaintenanceSubmission),
)

"""`/v1/limits`: what a tenant may run, and what of it runs and waits."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.celery_app import celery_app
from app.http.credentials import PresentedKey, tenant_transaction
from celery_postgres import operations

#: Counting stops here: this many means as many or more.
CAP = 10_001


class Limit(BaseModel):
    """A fair queue, as the tenant sees it."""

    queue: str
    concurrency: int | None = Field(description="How many of the tenant's tasks may run at once; null for any number.")
    per_second: float | None = Field(description="How many of them may start in a second; null for any number.")
    burst: int | None = Field(description="How many of them may start at once after a pause.")
    refuses: bool = Field(description="Whether a submission beyond that rate is refused; otherwise its task waits.")
    waiting: int = Field(description=f"Tasks that could run; {CAP} means as many or more.")
    running: int = Field(description=f"Tasks that workers have claimed; {CAP} means as many or more.")
    opens_in_s: float | None = Field(description="Seconds until the rate allows another task; null if it does now.")


class Limits(BaseModel):
    """The limits of a tenant."""

    items: list[Limit]


def router() -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["limits"])

    @routes.get("/v1/limits", response_model=Limits, operation_id="list_limits")
    def list_limits(key: PresentedKey) -> Response:
        """The tenant's limits, and how many of its tasks wait and run, by fair queue."""
        with tenant_transaction(key) as (connection, tenant_id):
            found = operations.key_status(connection, sorted(celery_app.amqp.queues), str(tenant_id), cap=CAP)
        items = [
            Limit(
                queue=one.queue,
                concurrency=one.concurrency,
                per_second=one.per_second,
                burst=one.burst if one.per_second is not None else None,
                refuses=bool(one.refuse) and one.per_second is not None,
                waiting=one.waiting,
                running=one.running,
                opens_in_s=one.opens_in_s,
            )
            for one in found
        ]
        return Response(Limits(items=items).model_dump_json(), media_type="application/json")

    return routes

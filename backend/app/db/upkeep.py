"""Carry out one tenant's policies in batches: scrub personal data, delete old rows.

Each batch is a transaction with its own row in maintenance_audit, and it changes only rows that still need it. So
however a run ends, its committed batches are done and audited, and the next run does the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Delete,
    Engine,
    Row,
    Text,
    Update,
    cast,
    column,
    delete,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.errors import LoggableError
from app.db.advisory import session_lock
from app.db.targets import TARGETS, Scrub, Target, scrub
from app.db.unlogged import unlogged

Kind = Literal["scrub_pii", "apply_retention"]

#: How long a second run for the same tenant waits for the first. Longer than a batch: after a kill -9 the dead
#: process's last batch may still be running, and the run that takes over must not assume that another run does its
#: work.
WAIT_FOR_OTHER_RUN_MS = 5_000

_RETENTION = text("""
    SELECT table_name, NULL AS column_name, 'delete' AS action, now() - keep_for AS cutoff
    FROM public.retention_policy
    WHERE tenant_id = :tenant_id AND enabled
    ORDER BY table_name
""")
_PII = text("""
    SELECT table_name, column_name, action, now() - scrub_after AS cutoff
    FROM public.pii_policy
    WHERE tenant_id = :tenant_id AND enabled
    ORDER BY table_name, column_name
""")
#: now() is the time at which the batch's transaction began.
_AUDIT = text("""
    INSERT INTO public.maintenance_audit (
        tenant_id, task_id, correlation_id, kind, table_name, column_name, action, cutoff, dry_run,
        rows_matched, rows_changed, started_at, finished_at
    ) VALUES (
        :tenant_id, :task_id, :correlation_id, :kind, :table_name, :column_name, :action, :cutoff, :dry_run,
        :rows_matched, :rows_changed, now(), clock_timestamp()
    )
""")


class UnknownTargetError(LoggableError, ValueError):
    """A policy names a table, column or action that this version may not change. Permanent; nothing was changed."""


class PolicyOutcome(BaseModel):
    """What one policy did, or would do. `rows_matched` minus `rows_changed` rows were locked by others, or it was a dry
    run.
    """

    table: str
    column: str | None
    action: str
    rows_matched: int
    rows_changed: int
    batches: int


class Outcome(BaseModel):
    """What a run did. `skipped`: another run of the same kind for the same tenant was at work, and continues."""

    dry_run: bool
    skipped: bool = False
    policies: list[PolicyOutcome] = []


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one kind for one tenant.

    Attributes:
        batch_size: rows that one transaction changes at most.
        hash_key: the tenant's key for the action `hash`.
    """

    kind: Kind
    tenant_id: UUID
    dry_run: bool
    batch_size: int
    task_id: str | None = None
    correlation_id: str | None = None
    hash_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One policy, resolved: which rows are due (those of `target` before `cutoff`) and what happens to them."""

    target: Target
    action: str
    cutoff: datetime
    column: Column[Any] | None
    scrub: Scrub | None

    def due(self, tenant_id: UUID) -> ColumnElement[bool]:
        """Select the due rows. The condition names the tenant although row-level security does too: that does not bind
        a superuser.
        """
        condition = (self.target.table.c.tenant_id == tenant_id) & (self.target.aged_by < self.cutoff)
        return condition & self.scrub.needed if self.scrub else condition


def perform(engine: Engine, run: Run) -> Outcome:
    """Carry out the tenant's policies; its transactions must carry the tenant (`app.db.engine`).

    Rows that the application has locked are left for the next run (SKIP LOCKED): maintenance neither waits for the
    application nor deadlocks with it.

    Raises:
        UnknownTargetError, HashKeyMissingError: a policy cannot be carried out; none was.
        sqlalchemy.exc.DBAPIError: the run ended in the middle; the next one continues.
    """
    with (
        engine.connect() as connection,
        session_lock(connection, f"app.maintenance:{run.kind}:{run.tenant_id}", wait_ms=WAIT_FOR_OTHER_RUN_MS) as alone,
    ):
        if not alone:
            return Outcome(dry_run=run.dry_run, skipped=True)
        with connection.begin():
            jobs = _jobs(connection, run)
        work = _rehearse if run.dry_run else _carry_out
        return Outcome(dry_run=run.dry_run, policies=[work(connection, run, job) for job in jobs])


def _jobs(connection: Connection, run: Run) -> list[Job]:
    policies = connection.execute(_RETENTION if run.kind == "apply_retention" else _PII, {"tenant_id": run.tenant_id})
    return [_resolve(policy, run) for policy in policies]


def _resolve(policy: Row[Any], run: Run) -> Job:
    target = TARGETS.get(policy.table_name)
    if target is None:
        raise UnknownTargetError(f"a policy for {run.kind} names a table that maintenance may not touch")
    if policy.column_name is None:
        return Job(target, policy.action, policy.cutoff, None, None)
    if policy.action not in target.actions.get(policy.column_name, ()):
        raise UnknownTargetError(
            f"a policy for {run.kind} names a column of {target.table.name}, or an action on it, "
            "that maintenance may not touch"
        )
    column = target.table.c[policy.column_name]
    return Job(target, policy.action, policy.cutoff, column, scrub(column, policy.action, run.hash_key))


def _rehearse(connection: Connection, run: Run, job: Job) -> PolicyOutcome:
    with connection.begin():
        matched = _count(connection, run, job)
        _audit(connection, run, job, matched=matched, changed=0)
    return _outcome(job, matched=matched, changed=0, batches=0)


def _carry_out(connection: Connection, run: Run, job: Job) -> PolicyOutcome:
    changed = batches = 0
    for rows in _batches(connection, run, job):
        changed += rows
        batches += 1
    with connection.begin():
        left = _count(connection, run, job)
    return _outcome(job, matched=changed + left, changed=changed, batches=batches)


def _batches(connection: Connection, run: Run, job: Job) -> Iterator[int]:
    """Change a batch, commit, yield its size; repeat until only locked rows are left."""
    after = None
    rows = run.batch_size
    while rows == run.batch_size:
        with connection.begin():
            done = _change(connection, run, job, after)
            rows = len(done)
            if rows:
                _audit(connection, run, job, matched=rows, changed=rows)
                after = max((row.at, row.id) for row in done)
        if rows:
            yield rows


def _change(connection: Connection, run: Run, job: Job, after: tuple[datetime, int] | None) -> Sequence[Row[Any]]:
    """Change one batch, the oldest due rows after `after`; return its rows, with `at` and `id`.

    The position saves each batch from reading the rows that earlier batches scrubbed or deleted. The next run handles
    rows that become due before the position in the meantime.
    """
    table, at = job.target.table, job.target.aged_by
    due = select(table.c.id).where(job.due(run.tenant_id)).order_by(at, table.c.id).limit(run.batch_size)
    due = due.with_for_update(skip_locked=True)
    if after is not None:
        due = due.where(tuple_(at, table.c.id) > after)
    if job.column is not None and job.scrub is not None and callable(job.scrub.replacement):
        rows = connection.execute(due.add_columns(at.label("at"), job.column.label("value"))).all()
        _replace(connection, run, job.column, {row.id: job.scrub.replacement(row.value) for row in rows})
        return rows
    batch = due.cte("batch")
    mine = (table.c.id == batch.c.id) & (table.c.tenant_id == run.tenant_id)
    statement: Update | Delete = delete(table)
    if job.column is not None and job.scrub is not None:
        statement = update(table).values({job.column: job.scrub.replacement})
    return connection.execute(statement.where(mine).returning(at.label("at"), table.c.id)).all()


def _replace(connection: Connection, run: Run, target: Column[Any], values: Mapping[int, str]) -> None:
    """Give each row, by its id, its own value; no statement contains the values."""
    pairs = json.dumps([{"id": number, "value": value} for number, value in values.items()])
    with unlogged(connection, pairs.encode()) as oid:
        sent = cast(func.convert_from(func.lo_get(oid), "UTF8"), JSONB)
        new = func.jsonb_to_recordset(sent).table_valued(column("id", BigInteger), column("value", Text))
        new = new.render_derived(name="new", with_types=True)
        mine = (target.table.c.id == new.c.id) & (target.table.c.tenant_id == run.tenant_id)
        connection.execute(update(target.table).where(mine).values({target: new.c.value}))


def _count(connection: Connection, run: Run, job: Job) -> int:
    statement = select(func.count()).select_from(job.target.table).where(job.due(run.tenant_id))
    return connection.execute(statement).scalar_one()


def _audit(connection: Connection, run: Run, job: Job, *, matched: int, changed: int) -> None:
    connection.execute(
        _AUDIT,
        {
            "tenant_id": run.tenant_id,
            "task_id": run.task_id,
            "correlation_id": run.correlation_id,
            "kind": run.kind,
            "table_name": job.target.table.name,
            "column_name": None if job.column is None else job.column.name,
            "action": job.action,
            "cutoff": job.cutoff,
            "dry_run": run.dry_run,
            "rows_matched": matched,
            "rows_changed": changed,
        },
    )


def _outcome(job: Job, *, matched: int, changed: int, batches: int) -> PolicyOutcome:
    return PolicyOutcome(
        table=job.target.table.name,
        column=None if job.column is None else job.column.name,
        action=job.action,
        rows_matched=matched,
        rows_changed=changed,
        batches=batches,
    )

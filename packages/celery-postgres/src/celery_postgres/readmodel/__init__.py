"""The read model: what the console, the terminal tool and the metrics show of a broker and its results.

`ReadModel(dsn)` (or `operations.read_model(app)`) reads through two connections of its own, in read-only transactions
that end after 2 s, and reads only when it is asked. No view counts or reads more than about 10,000 rows of a table,
however many there are.

=========================  ===========================================================================================
`overview()`               `Overview`: queues, workers, dead letters, schedules and problems; read once a second
                           however many ask
`problems()`               `tuple[Problem]`: what needs attention, by severity, then age (from the same reading)
`queue(name)`              `QueueDetail`: its messages, who fills it by tenant, what runs next, its consumers; None
`past(span, name)`         `Past`: what workers counted of it in the last `HOUR`, `DAY` or `WEEK`; or of all queues
`tasks(filter, cursor)`    `Page` of `TaskRow`: tasks by state, name, queue, tenant and time
`find(text)`               ids of tasks that begin with a text of at least 8 characters
`task(task_id)`            `Task`: one task with its attempts, error and origin; None if nothing is stored of it
`canvas(task)`             `Canvas`: the chain, group or chord that a task is in, as a tree; None if it is alone
`failures()`               `Failures` of the last hour, by task and error
`payload(task_id)`         what its publisher wrote, for those who may see arguments
`dead_letters(...)`        `DeadLetters`: `groups` by reason and task; the letters of one group are
                           `tasks(TaskFilter(state=State.DEAD, reason=…, whole_task=…))`
`actions()`                what people did by hand; `overview().changes` has what changed in the last hour
`limits(queue, cursor)`    `Limits`: limits of queues and keys, with what runs and waits; `limit(queue, key)` is one
`standing(key, tenant)`    `Standing` of a key in each fair queue: its limits, what waits, for how long, and why
`workers()`                `tuple[Worker]`, the lost ones first, with what each runs; `worker(id)` adds what it claimed
`schedules()`              `tuple[Schedule]`: the entries that a beat has seen: last run, next run, how late; `beats()`
=========================  ===========================================================================================

All texts in rows come from producers: show them as text. `Count` prints `10,000+` where counting stopped. Times are in
UTC and aware. Every method raises `celery_postgres.SchemaError` where tables or rights are missing, and
`celery_postgres.readmodel.Unavailable` where the database does not answer in time.
"""

from __future__ import annotations

from celery_postgres.database.action_store import Action
from celery_postgres.database.counting import CAP, Count
from celery_postgres.database.driver import Error as Unavailable
from celery_postgres.database.fleet_view_store import Beat, LastRun, Running, Schedule, Worker
from celery_postgres.database.history_store import Failures
from celery_postgres.database.limit_store import Limit
from celery_postgres.database.limit_view_store import BusyKey, LimitRow, Waits
from celery_postgres.database.minute_view_store import Depth, Minute
from celery_postgres.database.queue_view_store import DeadTotal, Queue
from celery_postgres.database.task_rows import ENDED, LOST_FOR_GOOD, DeadLetterGroup, State, TaskRow
from celery_postgres.database.task_view_store import TaskFilter
from celery_postgres.readmodel.canvas import Canvas, Member
from celery_postgres.readmodel.changes import Change
from celery_postgres.readmodel.details import DeadLetters, QueueDetail, TenantShare, WorkerDetail
from celery_postgres.readmodel.limits import Limits, Standing
from celery_postgres.readmodel.model import ReadModel
from celery_postgres.readmodel.observing import Overview
from celery_postgres.readmodel.pages import CursorError, Page
from celery_postgres.readmodel.past import DAY, HOUR, SPANS, WEEK, Past, Span
from celery_postgres.readmodel.problem import Problem, Severity
from celery_postgres.readmodel.task import Attempt, Origin, Task

__all__ = [
    "CAP",
    "DAY",
    "ENDED",
    "HOUR",
    "LOST_FOR_GOOD",
    "SPANS",
    "WEEK",
    "Action",
    "Attempt",
    "Beat",
    "BusyKey",
    "Canvas",
    "Change",
    "Count",
    "CursorError",
    "DeadLetterGroup",
    "DeadLetters",
    "DeadTotal",
    "Depth",
    "Failures",
    "LastRun",
    "Limit",
    "LimitRow",
    "Limits",
    "Member",
    "Minute",
    "Origin",
    "Overview",
    "Page",
    "Past",
    "Problem",
    "Queue",
    "QueueDetail",
    "ReadModel",
    "Running",
    "Schedule",
    "Severity",
    "Span",
    "Standing",
    "State",
    "Task",
    "TaskFilter",
    "TaskRow",
    "TenantShare",
    "Unavailable",
    "Waits",
    "Worker",
    "WorkerDetail",
]

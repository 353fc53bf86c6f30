"""What a long queue costs: claims, publishes, a scrape, the operator's overview, with 1,000 and 10,000,000 waiting.

The server copies one message that Celery has published, and builds the indexes afterwards. Each figure is the median of
many calls, one after the other on one connection; its processor time is that of the connection's server process, which
other programs on the machine change little.

Until waiting and claimed messages had an index by task each, a claim of 50 with 10,000,000 waiting cost the server
1.78 ms and not 1.13 (docs/decisions/0072).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from app.observability.queue_depth import CAP, NAMED, WALKED
from benchmarks.cells import Cell, Column
from benchmarks.figures import middle, shown
from benchmarks.run import Run
from benchmarks.samples import Results
from benchmarks.systems import System
from benchmarks.systems.clusters import connect
from celery_postgres.consumer.claim_policy import ClaimPolicy
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.database.envelope import Envelope, parameters
from celery_postgres.database.message_store import Claim, MessageStore
from celery_postgres.database.monitor_store import MonitorStore
from celery_postgres.database.operator_store import OperatorStore
from celery_postgres.database.session import Session

_SHORT, _LONG = 1_000, 10_000_000
#: The long one of a quick run.
_LONGER = 100_000
#: Messages of one claim.
_BATCH = 50
#: Messages that one statement copies.
_COPIED = 500_000
#: How often each is called; the last counts everything.
_CALLS = {"claim": 300, "publish": 1_000, "scrape": 50, "capped overview": 50, "overview": 5}


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Milliseconds of each, and of its server process."""
    with system.fresh() as broker, closing(connect(broker.url)) as connection, connection.cursor() as cursor:
        broker.fill(1, 1)
        _copy(cursor, int(how) - 1)
        session = Session(broker.url)
        try:
            return _asked(session, cursor)
        finally:
            session.close()


def _copy(cursor: Any, count: int) -> None:
    cursor.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'kombu_message' AND indexname ~ '^ix_'"
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    cursor.execute("SET synchronous_commit = off")
    while count > 0:
        cursor.execute(
            "INSERT INTO kombu_message (queue_id, payload, priority, task_id)"
            " SELECT queue_id, payload, priority, gen_random_uuid()::text"
            " FROM (SELECT * FROM kombu_message LIMIT 1) AS one, generate_series(1, %s)",
            [min(count, _COPIED)],
        )
        count -= _COPIED
    for _, definition in indexes:
        cursor.execute(definition)
    cursor.execute("VACUUM (ANALYZE) kombu_message")
    cursor.execute("RESET synchronous_commit")


def _asked(session: Session, cursor: Any) -> dict[str, Any]:
    cursor.execute("SELECT id, name FROM kombu_queue ORDER BY id LIMIT 1")
    queue, name = cursor.fetchone()
    policy, messages, acks = ClaimPolicy(), MessageStore(session), list[Claim]()
    subscription: Any = Subscription(name, None, auto_ack=False, queue_id=queue)  # type: ignore[arg-type]
    policy.add_queue(queue)

    def claim() -> None:
        plan = policy.plan([subscription], _BATCH, [], polls=True)
        result = messages.claim(1, plan.lowest_ids, limit=_BATCH, acks=acks, may_sleep=plan.may_sleep)
        policy.succeeded(plan, result)
        acks[:] = [one.claim for one in result.messages]
        cursor.execute(
            "INSERT INTO kombu_message (queue_id, payload, task_id)"
            " SELECT %s, %s, gen_random_uuid()::text FROM generate_series(1, %s)",
            [queue, result.messages[0].payload, len(acks)],
        )

    cursor.execute("SELECT payload FROM kombu_message LIMIT 1")
    (payload,) = cursor.fetchone()

    def publish() -> None:
        envelope = Envelope(payload, 0, str(uuid.uuid4()), None, None, None, "yes")
        session.run("publish", queue=name, **parameters(envelope))

    def scrape() -> None:
        monitor = MonitorStore(session)
        with session.transaction():
            monitor.begin()
            monitor.queue_depths(named=NAMED, walked=WALKED, cap=CAP)
            monitor.dead_letter_counts([name], cap=CAP)

    calls: dict[str, Callable[[], object]] = {
        "claim": claim,
        "publish": publish,
        "scrape": scrape,
        "capped overview": lambda: OperatorStore(session).queues(cap=_SHORT),
        "overview": OperatorStore(session).queues,
    }
    return {key: figure for label, call in calls.items() for key, figure in _timed(session, label, call).items()}


def _timed(session: Session, label: str, call: Callable[[], object]) -> dict[str, float]:
    with session.transaction() as connection:
        pid = connection.info.backend_pid
    for _ in range(3):
        call()
    took, before = [], _spent_ms(pid)
    for _ in range(_CALLS[label]):
        begin = time.perf_counter()
        call()
        took.append((time.perf_counter() - begin) * 1000)
    return {f"{label}_ms": median(took), f"{label}_server_ms": (_spent_ms(pid) - before) / len(took)}


def _spent_ms(pid: int) -> float:
    """Processor time of a process."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e6


def _compared(label: str) -> Column:
    """The server's milliseconds with a short and a long queue, and their ratio."""

    def column(results: Results, name: str) -> str:
        short, quick, long = (
            middle(results, f"{name} {length}", f"{label}_server_ms") for length in (_SHORT, _LONGER, _LONG)
        )
        long = quick if long is None else long
        ratio = None if not short or long is None else long / short
        return f"{shown(short)} / {shown(long)} (ratio {shown(ratio)})"

    return column


CELL = Cell(
    "deep",
    lambda run: [f"ours {length}" for length in (_SHORT, _LONGER if run.quick else _LONG) if run.present("ours")],
    measure,
    repetitions=3,
    printed={
        f"{_SHORT:,} and {_LONG:,} waiting: ms of the server": [
            ("claim of 50", _compared("claim")),
            ("publish", _compared("publish")),
            ("scrape", _compared("scrape")),
            (f"overview that counts to {_SHORT:,}", _compared("capped overview")),
            ("overview", _compared("overview")),
        ]
    },
)

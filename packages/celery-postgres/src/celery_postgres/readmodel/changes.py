"""What changed lately: what people did, which workers were lost, and which began."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_postgres.database.action_store import Action, LostConsumer
from celery_postgres.database.fleet_view_store import Worker

#: How far back it goes, and how many of each kind it has.
WITHIN = timedelta(hours=1)
MOST = 20

#: What somebody did, as a verb in the past, and as one that follows "to"; the subject follows.
_DID = {
    "pause": ("paused", "pause"),
    "resume": ("resumed", "resume"),
    "purge": ("purged", "purge"),
    "move": ("moved", "move"),
    "revoke": ("revoked", "revoke"),
    "block": ("blocked", "block"),
    "unblock": ("unblocked", "unblock"),
    "release": ("released the claims of consumer", "release the claims of consumer"),
    "requeue": ("requeued dead letters of", "requeue dead letters of"),
    "discard": ("discarded dead letters of", "discard dead letters of"),
    "delete taken": ("deleted what stock consumers had taken of", "delete what stock consumers had taken of"),
    "limit": ("set limits of", "set limits of"),
    "set limits": ("set limits of", "set limits of"),
    "unlimit": ("removed limits of", "remove limits of"),
    "remove limits": ("removed limits of", "remove limits of"),
    "set fair": ("changed the fairness of", "change the fairness of"),
    "drain": ("drained a key of", "drain a key of"),
    "read": ("saw the values of", "see the values of"),
    "drain-worker": ("drained worker", "drain worker"),
    "forget-worker": ("forgot the lost worker", "forget the lost worker"),
    "run-now": ("sent the entry of the schedule", "send the entry of the schedule"),
    "disable": ("disabled the entry of the schedule", "disable the entry of the schedule"),
    "enable": ("enabled the entry of the schedule", "enable the entry of the schedule"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """Something that changed.

    Attributes:
        at: when.
        kind: `action`, `lost` or `started`.
        text: what, in a sentence. It contains names that people and producers chose.
        detail: what became of it; may be empty.
        unfinished: whether it is an action without an end: it goes on, or was cut off.
    """

    at: datetime
    kind: str
    text: str
    detail: str = ""
    unfinished: bool = False


def did(action: Action) -> str:
    """Who did what, or tried to, in a sentence."""
    past, to = _DID.get(action.action, (f"did `{action.action}`:", f"do `{action.action}`:"))
    verb = f"tried to {to}" if _changed_nothing(action) else past
    return f"{action.actor} {verb} {action.subject or 'several'}"


def _changed_nothing(action: Action) -> bool:
    """Whether it failed, or found nothing to do. One that was cut off may have done anything."""
    if action.ended_at is None or action.done:
        return False
    return action.outcome.startswith("failed: ") or bool(action.planned)


def detail(action: Action) -> str:
    """What became of an action."""
    if action.ended_at is not None:
        return action.outcome
    return f"Not ended: {action.done:,} of {action.planned:,}" if action.planned else "Not ended"


def changes(
    actions: Iterable[Action], lost: Iterable[LostConsumer], workers: Sequence[Worker], now: datetime
) -> tuple[Change, ...]:
    """What changed in the last hour, the last first. Workers that began in the same minute are one change.

    Args:
        actions: those of `ActionStore.changes`.
        lost: workers that others found dead.
        workers: those that live.
        now: the end of the hour.
    """
    since = now - WITHIN
    found = [
        Change(one.began_at, "action", did(one), detail(one), one.ended_at is None)
        for one in actions
        if one.began_at >= since
    ]
    found += [
        Change(
            one.lost_at,
            "lost",
            f"Worker {one.name or one.hostname or one.id}, process {one.pid}, was lost",
            f"{one.claimed:,} claimed messages run again" if one.claimed else "It had claimed nothing",
        )
        for one in lost
        if one.lost_at >= since
    ]
    began: dict[datetime, list[tuple[datetime, Worker]]] = defaultdict(list)
    for worker in workers:
        at = worker.started_at
        if at is not None and at >= since:
            began[at.replace(second=0, microsecond=0)].append((at, worker))
    found += [
        Change(max(at for at, _ in some), "started", _started([worker for _, worker in some]))
        for some in began.values()
    ]
    return tuple(sorted(found, key=lambda one: one.at, reverse=True)[:MOST])


def _started(workers: Sequence[Worker]) -> str:
    versions = sorted({one.app_version for one in workers if one.app_version})
    release = f" with version {' and '.join(versions[:2])}" if versions else ""
    if len(workers) == 1:
        return f"Worker {workers[0].name or workers[0].hostname}, process {workers[0].pid}, started{release}"
    names = sorted({str(one.hostname) for one in workers})
    where = names[0] if len(names) == 1 else f"{len(names)} machines"
    return f"{len(workers)} worker processes started on {where}{release}"

"""Overview: what is wrong first, then the queues."""

from __future__ import annotations

from typing import Any

from celery_postgres.console.formatting import duration, plural
from celery_postgres.console.looking import Look, Page
from celery_postgres.console.views.past import asked, described, overview_charts
from celery_postgres.console.views.rows import queue_rows
from celery_postgres.readmodel import HOUR, LOST_FOR_GOOD, Change, Failures, Overview, Problem, Severity
from celery_postgres.readmodel.observing import FAILURES

MOST_PROBLEMS = 7
MOST_QUEUES = 8
MOST_CHANGES = 8
MOST_HALTED = 20
_TONES = {"action": "acc", "lost": "bad", "started": ""}
_ICONS = {"queue": "late", "dead": "dead", "worker": "lost", "schedule": "late", "failed": "failed"}


def overview(look: Look) -> Page:
    """The first page of readers and operators."""
    now, span = look.source.model.overview(), asked(look)
    past = now.hour if span is HOUR else look.source.model.past(span)
    own = queue_rows([queue for queue in now.queues if not queue.internal], now.problems)
    events = [(one.at, one.text) for one in now.changes]
    alive = sum(not worker.lost for worker in now.workers)
    return Page(
        "overview.html",
        {
            "summary": f"{plural(alive, 'worker process', 'worker processes')} of {plural(len(own), 'queue')}.",
            "problems": [_shown(look, problem) for problem in now.problems[:MOST_PROBLEMS]],
            "more_problems": max(len(now.problems) - MOST_PROBLEMS, 0),
            "queues": sorted(own, key=lambda row: (not row["late"], -row["waiting"].number))[:MOST_QUEUES],
            "all_queues": len(own),
            "charts": [] if past is None else overview_charts(past, events),
            "past": described(look, "", span),
            "halted": _halted(look, now),
            "changes": [_changed(one) for one in now.changes[:MOST_CHANGES]],
            "failures": [_failed(look, one) for one in now.failures[:FAILURES]],
            "more_failures": len(now.failures) > FAILURES,
        },
    )


def _halted(look: Look, now: Overview) -> list[dict[str, Any]]:
    """What an operator has stopped, and has to let go on."""
    blocked = sorted(now.blocked.items())
    paused = [queue.name for queue in now.queues if queue.paused]
    queues = [_stopped(look, "Queue", name, look.link("queue", name=name), "resume", queue=name) for name in paused]
    tasks = [_stopped(look, "Task", name, look.link("tasks", q=name), "unblock", name=name) for name, _ in blocked]
    since = dict(blocked)
    return [one | {"since": since.get(one["name"])} for one in tasks + queues][:MOST_HALTED]


def _stopped(look: Look, kind: str, name: str, link: str, do: str, /, **about: str) -> dict[str, Any]:
    says = "is paused" if do == "resume" else "is blocked"
    act = look.link("act", do=do, **about) if look.acts else ""
    return {"text": kind, "name": name, "link": link, "do": do, "says": says, "act": act}


def _changed(one: Change) -> dict[str, Any]:
    tone = "warn" if one.unfinished else _TONES.get(one.kind, "")
    return {"at": one.at, "tone": tone, "text": one.text, "more": one.detail}


def _failed(look: Look, one: Failures) -> dict[str, Any]:
    ended = [(one.failed, "failed"), (one.retried, "retried"), (one.lost, "lost")]
    return {
        "task": one.task,
        "error": LOST_FOR_GOOD if one.for_good else one.error or ("worker lost" if one.lost else "No exception"),
        "counts": ", ".join(f"{number:,} {word}" for number, word in ended if number),
        "last": one.last_at,
        "tenants": one.tenants or "",
        "link": look.link("tasks", state=_state_of(one), q=one.task) if one.task else "",
    }


def _state_of(one: Failures) -> str | None:
    """The state in which the tasks of these attempts are listed; none for what runs again, or was set aside, since."""
    if one.failed:
        return None if one.error == "NotRegistered" else "failed"
    if one.retried:
        return "retrying"
    return "lost" if one.for_good else None


def _shown(look: Look, problem: Problem) -> dict[str, Any]:
    text = problem.sentence
    more = problem.detail
    if problem.age_s is not None and not more:
        more = f"For {duration(problem.age_s)}."
    link, action = _where(look, problem)
    return {
        "tone": "bad" if problem.severity is Severity.CRITICAL else "warn",
        "icon": _ICONS.get(problem.view, "warn"),
        "text": text,
        "more": more,
        "link": link,
        "action": action,
    }


def _where(look: Look, problem: Problem) -> tuple[str, str]:
    match problem.view:
        case "queue":
            return look.link("queue" if problem.subject else "queues", name=problem.subject), "Open queue"
        case "dead":
            return look.link("dead"), "Open dead letters"
        case "worker":
            return look.link("workers"), "Open workers"
        case "schedule":
            return look.link("schedules"), "Open schedules"
        case "running":
            return look.link("tasks", state="running", q=problem.subject), "See what runs"
        case "limit":
            return look.link("limits", queue=problem.subject), "Open limits"
        case "failed":
            return look.link("tasks", state="failed", q=problem.subject), "See failures"
    return "", ""

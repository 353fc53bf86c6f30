"""Acting: an action first says what it would do, then does exactly that, and each is on record."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from celery_postgres.console.access import Viewer
from celery_postgres.console.action import Action, Done, Plan, Step
from celery_postgres.console.actions import ACTIONS
from celery_postgres.console.actions.limits import FIELDS as OF_LIMITS
from celery_postgres.console.looking import LONGEST, Look, NotThereError
from celery_postgres.console.rights import ONLY_LOOKS
from celery_postgres.errors import FlowError
from celery_postgres.operations import Operations

logger = logging.getLogger(__name__)

#: The fields that say what an action is about, kept from its plan to its end.
FIELDS = ("do", "queue", "reason", "task", "id", "name", "key", *OF_LIMITS)
_GONE = "This action has ended, or somebody else began it."


@dataclass(frozen=True, slots=True)
class Part:
    """An action that has not come to its end yet.

    Attributes:
        run: its number, by which it goes on.
        after: where it goes on.
        done: how much it has done.
        planned: how much there was to do.
    """

    run: int
    after: str
    done: int
    planned: int


def action_of(look: Look) -> tuple[Action, Operations]:
    """The action that a request names, if it exists for this viewer and this console may act."""
    action, broker = ACTIONS.get(look.asked("do")), look.source.broker
    if broker is None and look.viewer.acts:
        raise NotThereError(ONLY_LOOKS)
    if action is None or broker is None or look.viewer.role not in action.roles or not action.allowed(look.viewer):
        raise NotThereError("There is no such action here, or this key does not have it.")
    return action, broker


def act(look: Look, plan: Plan, at: datetime) -> Done | Part:
    """Do what a plan said, or its first part. What somebody did is written down before it begins."""
    action, broker = action_of(look)
    conditions = {name: look.asked(name) for name in FIELDS if name in look.query}
    with broker.actions.recorded(
        source="console",
        actor=_actor(look.viewer),
        action=look.asked("do"),
        subject=_subject(look, action),
        conditions=conditions | {"key": look.viewer.key, "at": at.isoformat()},
        planned=plan.number,
    ) as record:
        try:
            done = action.act(look, broker, Step(at))
        except FlowError as error:
            done = Done(f"Nothing was changed: {error}.", look.link("limits"), 0)
        record.done = done.count
        if done.after:
            record.open = True
            broker.actions.go_on(record.id, _actor(look.viewer), done.count)
            return Part(record.id, done.after, done.count, plan.number)
        done = _ended(action, done, done.count, plan.number)
        record.outcome = done.text
    return _logged(look, done)


def _subject(look: Look, action: Action) -> str:
    subject, key = look.asked(action.about) or look.asked("reason"), look.asked("key")
    return f"{subject}, key {key}" if key else subject


def resume(look: Look, number: str, after: str, *, stop: bool) -> tuple[Look, Done | Part]:
    """Go on with an action that has not ended, or end it here.

    Args:
        look: who goes on.
        number: `Part.run`, as the form has it.
        after: `Part.after`.
        stop: end it.

    Returns:
        What the action is about, as it was begun, and how far it is.

    Raises:
        NotThereError: this viewer has no such action that has not ended.
    """
    broker = look.source.broker
    if not re.fullmatch(r"[0-9]{1,18}", number) or len(after) > LONGEST:
        raise NotThereError(_GONE)
    run = int(number)
    found = None if broker is None else broker.actions.unfinished(run, _actor(look.viewer))
    if broker is None or found is None or found.conditions.get("key") != look.viewer.key:
        raise NotThereError(_GONE)
    about = {name: found.conditions[name] for name in FIELDS if name in found.conditions}
    look = Look(look.viewer, look.source, about, look.base)
    action, _ = action_of(look)
    planned = found.planned or 0
    if stop:
        done = Done(f"Stopped after {found.done:,} of {planned:,}.", look.link("dead"), 0)
        broker.actions.end(run, 0, done.text)
        return look, _logged(look, done)
    done = action.act(look, broker, Step(at_of(found.conditions.get("at", "")), after))
    if done.after:
        total = broker.actions.go_on(run, _actor(look.viewer), done.count)
        if total is None:
            raise NotThereError(_GONE)
        return look, Part(run, done.after, total, planned)
    done = _ended(action, done, found.done + done.count, planned)
    broker.actions.end(run, done.count, done.text)
    return look, _logged(look, done)


def _ended(action: Action, done: Done, total: int, planned: int) -> Done:
    if action.whole is None:
        return done
    return Done(action.whole(total, planned), done.back, done.count, shown=done.shown)


def _actor(viewer: Viewer) -> str:
    return viewer.name if viewer.tenant is None else f"{viewer.name} of tenant {viewer.tenant}"


def _logged(look: Look, done: Done) -> Done:
    logger.info("console: %s by %s: %s", look.asked("do"), look.viewer.name, done.text)
    return done


def at_of(text: str) -> datetime:
    """The time of a plan, from its form; a time that is none, or in the future, is now."""
    now = datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return now
    return min(at, now) if at.tzinfo is not None else now

"""When a restart would help, and when not."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from app.observability.worker_state import LONGEST_TURN_S, WorkerState

LONG_AGO = LONGEST_TURN_S + 10


def worker(last_tick_ago: float) -> WorkerState:
    now = time.monotonic()
    consumer = SimpleNamespace(last_tick=now - last_tick_ago)
    return WorkerState(SimpleNamespace(consumer=consumer), ready=True, born=now - 1000)


@pytest.fixture
def well_since() -> float:
    return time.monotonic() - LONG_AGO


def test_a_loop_that_hangs_although_the_database_answers_needs_a_restart(well_since: float) -> None:
    why = worker(LONG_AGO).stuck(well_since)
    assert why is not None
    assert "has not turned for 70 s" in why


def test_a_loop_that_turns_needs_none(well_since: float) -> None:
    assert worker(1).stuck(well_since) is None


def test_a_database_that_is_away_or_just_back_is_no_reason() -> None:
    assert worker(LONG_AGO).stuck(None) is None
    assert worker(LONG_AGO).stuck(time.monotonic() - 1) is None


def test_a_running_task_is_life(well_since: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "active_requests", {object()})
    assert worker(LONG_AGO).stuck(well_since) is None


def test_a_pool_that_takes_no_task_needs_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an idle child of prefork was killed with the lock of the pipe that all of them read."""
    seen = worker(1)
    monkeypatch.setattr(state, "reserved_requests", {object()})
    seen.look()
    assert seen.untaken_since is not None
    assert seen.stuck(None) is None
    seen.untaken_since -= LONG_AGO
    seen.look()
    why = seen.stuck(None)
    assert why is not None
    assert re.match(r"the pool has taken no task for 7\d s", why)
    monkeypatch.setattr(state, "active_requests", {object()})
    seen.look()
    assert seen.stuck(None) is None


@pytest.mark.parametrize(("flag", "draining"), [(None, False), (False, False), (0, True), (1, True)])
def test_celerys_flags_hold_an_exit_status(flag: Any, draining: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", flag)
    assert worker(1).draining is draining


def test_a_worker_that_does_not_come_up_needs_a_restart_too(well_since: float) -> None:
    young = WorkerState(SimpleNamespace(consumer=None), born=time.monotonic() - 1)
    old = WorkerState(SimpleNamespace(consumer=None), born=time.monotonic() - LONG_AGO)
    assert young.stuck(well_since) is None
    assert old.stuck(well_since) is not None

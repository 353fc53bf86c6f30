"""What needs attention: each rule on what it finds, just below its threshold and beyond it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery_postgres.database.counting import Count
from celery_postgres.database.fleet_view_store import Beat, Running, Worker
from celery_postgres.database.histogram import CLASSES, class_of
from celery_postgres.database.limit_view_store import KeyAtLimit
from celery_postgres.database.queue_view_store import DeadTotal, Health, Outcomes, Queue
from celery_postgres.database.task_view_store import DeadLetterGroup
from celery_postgres.readmodel import thresholds
from celery_postgres.readmodel.problem import Severity
from celery_postgres.readmodel.problems import RULES, Late, Observed, problems
from celery_postgres.readmodel.trend import Trend
from celery_postgres.readmodel.words import counted, duration, listed

AT = datetime(2026, 11, 30, 2, 12, tzinfo=UTC)
QUEUE = Queue("llm", False, False, Count(8412), 848.0, Count(0), Count(24), 2, 0)
WORKER = Worker(7, "node-d", 11, AT, 3, ("llm",), Count(8), AT - timedelta(seconds=90), lost=True)
GROUP = DeadLetterGroup("failed 3 times", "llm.run", 41, AT, AT - timedelta(minutes=3), 1, 41, 41, ("llm",), 9)
HELD = KeyAtLimit("llm", "acme", "00ff", 5, None, Count(5), Count(101), 301.0)
BEAT = Beat("node-a", 12, "UTC", AT, None, 31.0, 7)
QUIET = Observed(at=AT)


def found(rule: str, **observed: Any) -> list[Any]:
    return [one for one in problems(replace(QUIET, **observed)) if one.rule == rule]


def queue(**changed: Any) -> list[Queue]:
    return [replace(QUEUE, **changed)]


def test_nothing_needs_attention_where_all_is_quiet() -> None:
    assert problems(QUIET) == ()
    healthy = Observed(
        queue(oldest_s=60.0), [replace(WORKER, lost=False)], DeadTotal(Count(214), 0), [replace(GROUP, last_15_min=0)],
        [Late("nightly", 60.0)], [Outcomes("a", 1000, 9, AT)], [], Health(600.0, 500_000, 9, 1.0), AT,
    )  # fmt: skip
    assert problems(healthy) == ()


@pytest.mark.parametrize(
    ("rule", "severity", "sentence", "observed"),
    [
        ("late", Severity.WARNING, "Queue llm falls behind: the oldest task has waited 1 min 1 s",
         {"queues": queue(oldest_s=61.0)}),
        ("late", Severity.CRITICAL, "Queue llm falls behind: the oldest task has waited 14 min 8 s",
         {"queues": queue()}),
        ("unconsumed", Severity.WARNING, "Queue llm has no worker: 1 is waiting, the oldest for 16 s",
         {"queues": queue(consumers=0, oldest_s=16.0, waiting=Count(1))}),
        ("unconsumed", Severity.CRITICAL, "Queue llm has no worker: 8,412 are waiting, the oldest for 14 min 8 s",
         {"queues": queue(consumers=0)}),
        ("paused", Severity.WARNING, "Queue llm is paused: 8,412 are waiting, the oldest for 15 min 1 s",
         {"queues": queue(paused=True, oldest_s=901.0)}),
        ("paused", Severity.WARNING,
         "Queue llm has been paused for 20 min: 8,412 are waiting, the oldest for 2.0 s",
         {"queues": queue(paused=True, oldest_s=2.0, paused_since=AT - timedelta(minutes=20), paused_by="ann")}),
        ("limit", Severity.WARNING,
         "Key acme has been at its limit in queue llm: 101 wait, the next for 5 min 1 s", {"held": [HELD]}),
        ("limit", Severity.WARNING,
         "Key 00ff has been at its limit in queue llm: 1 waits, the next for 5 min 1 s",
         {"held": [replace(HELD, key=None, waiting=Count(1))]}),
        ("dead", Severity.WARNING, "41 new dead letters in 15 minutes, 41 of them llm.run: failed 3 times",
         {"dead": DeadTotal(Count(214), 41), "groups": [GROUP]}),
        ("dead", Severity.WARNING, "1 new dead letter in 15 minutes", {"dead": DeadTotal(Count(214), 1)}),
        ("lost", Severity.WARNING, "Worker node-d is lost and had claimed 8 tasks", {"workers": [WORKER]}),
        ("lost", Severity.WARNING, "Worker number 7 is lost and had claimed 1 task",
         {"workers": [replace(WORKER, hostname=None, claimed=Count(1))]}),
        ("lost", Severity.WARNING, "Worker llm-4@node-d was lost 13 min ago",
         {"workers": [replace(WORKER, name="llm-4@node-d", claimed=Count(0), lost_at=AT - timedelta(minutes=13))]}),
        ("beatless", Severity.WARNING, "No beat has run for 31 s: nothing of the schedule is sent",
         {"beats": [BEAT, replace(BEAT, seen_s=4000.0)]}),
        ("beatless", Severity.CRITICAL, "No beat has run for 5 min 1 s: nothing of the schedule is sent",
         {"beats": [replace(BEAT, seen_s=301.0)]}),
        ("overdue", Severity.WARNING, "Schedule nightly is 1 min 1 s late", {"late": [Late("nightly", 61.0)]}),
        ("overdue", Severity.CRITICAL, "Schedule nightly is 12 min late", {"late": [Late("nightly", 720.0)]}),
        ("failing", Severity.WARNING, "a fails: 10 of the last 100 runs in 15 minutes",
         {"recent": [Outcomes("a", 100, 10, AT)], "before": [Outcomes("a", 100, 3, AT)]}),
        ("failing", Severity.WARNING, "a fails: 18 of the last 18 runs in 15 minutes",
         {"recent": [Outcomes("a", 18, 18, AT)], "before": [Outcomes("a", 90, 90, AT)]}),
        ("unconsumed", Severity.CRITICAL, "Queue llm has no worker: 8,412 are waiting, the oldest for 14 min 8 s",
         {"queues": queue(consumers=0, paused=True)}),
        ("paused", Severity.WARNING, "Queue llm is paused: 8,412 are waiting, the oldest for 5 min 1 s",
         {"queues": queue(paused=True, oldest_s=301.0)}),
        ("transaction", Severity.WARNING, "A transaction has been open in this database for 10 min 1 s",
         {"health": Health(601.0, 0, 0, None)}),
        ("transaction", Severity.CRITICAL, "A transaction has been open in this database for 2 h",
         {"health": Health(7200.0, 0, 0, None)}),
        ("vacuum", Severity.WARNING, "Vacuum is behind: 600,000 deleted messages are still in the table",
         {"health": Health(None, 600_000, 500_000, 60.0)}),
    ],
)  # fmt: skip
def test_a_rule_says_one_sentence(rule: str, severity: Severity, sentence: str, observed: dict[str, Any]) -> None:
    (problem,) = found(rule, **observed)
    assert (problem.severity, problem.sentence) == (severity, sentence)


@pytest.mark.parametrize(
    ("rule", "observed"),
    [
        ("late", {"queues": queue(internal=True)}),
        ("late", {"queues": queue(paused=True)}),
        ("unconsumed", {"queues": queue(consumers=0, oldest_s=15.0)}),
        ("paused", {"queues": queue(paused=True, oldest_s=300.0)}),
        ("paused", {"queues": queue(paused=True, waiting=Count(0), oldest_s=None)}),
        ("paused", {"queues": queue(paused=True, oldest_s=300.0, paused_since=AT - timedelta(minutes=15))}),
        ("limit", {"held": [replace(HELD, waited_s=300.0)]}),
        ("lost", {"workers": [replace(WORKER, claimed=Count(0))]}),
        ("lost", {"workers": [replace(WORKER, claimed=Count(0), lost_at=AT - timedelta(hours=1))]}),
        ("beatless", {"beats": [BEAT, replace(BEAT, seen_s=30.0)]}),
        ("beatless", {"beats": [replace(BEAT, entries=0)]}),
        ("failing", {"recent": [Outcomes("a", 20, 9, AT)]}),
        ("failing", {"recent": [Outcomes("a", 1000, 50, AT)]}),
        ("failing", {"recent": [Outcomes("a", 100, 10, AT)], "before": [Outcomes("a", 100, 4, AT)]}),
        ("failing", {"recent": [Outcomes("", 100, 90, AT)]}),
        ("vacuum", {"health": Health(None, 600_000, 700_000, 60.0)}),
    ],
)
def test_a_rule_keeps_quiet(rule: str, observed: dict[str, Any]) -> None:
    assert found(rule, **observed) == []


def test_what_failed_before_is_told_as_it_was() -> None:
    recent = [Outcomes("a", 18, 18, AT)]
    for before, detail in (
        ([], "It did not run in the 2 h before."),
        ([Outcomes("a", 200, 9, AT)], "In the 2 h before, it was 4.5%."),
    ):
        (problem,) = found("failing", recent=recent, before=before)
        assert problem.detail == detail


def test_the_most_urgent_comes_first_and_then_the_oldest() -> None:
    observed = replace(
        QUIET,
        queues=[QUEUE, *queue(name="slow", oldest_s=200.0, consumers=0)],
        workers=[WORKER],
        late=[Late("nightly", 100.0)],
    )
    assert [one.rule for one in problems(observed)] == ["late", "unconsumed", "overdue", "lost"]
    (late,) = found("late", queues=[QUEUE, *queue(name="slow", oldest_s=200.0), *queue(name="quick", oldest_s=2.0)])
    assert (late.subject, late.detail) == ("llm", "The target is 1 min; also slow.")


@pytest.mark.parametrize(
    ("growth", "told"),
    [
        (None, "The target is 1 min."),
        (214.2, "The target is 1 min, and it grows by 214 a minute."),
        (0.0, "The target is 1 min, and it neither grows nor drains."),
        (-400.0, "The target is 1 min, and it drains: at this rate nothing waits in 21 min 2 s."),
    ],
)
def test_a_late_queue_grows_or_drains(growth: float | None, told: str) -> None:
    (problem,) = found("late", queues=queue(growth_per_min=growth))
    assert problem.detail == told


def test_a_limit_and_a_pause_say_why_and_whom_else_they_hold_back() -> None:
    rated = replace(HELD, concurrency=None, per_second=0.5, running=Count(0))
    (problem,) = found("limit", held=[rated, HELD])
    assert (
        problem.detail
        == "Its rate is 30 a minute. Others go on. Raise its limit, or let it wait. 1 other key waits as well."
    )
    (problem,) = found("limit", held=[HELD])
    assert problem.detail == "5 of 5 run. Others go on. Raise its limit, or let it wait."
    since = AT - timedelta(minutes=20)
    both = [*queue(name="old", paused=True, oldest_s=4000.0), *queue(paused=True, paused_since=since, paused_by="ann")]
    (problem,) = found("paused", queues=both)
    assert (problem.subject, problem.age_s) == ("old", 4000.0)
    assert problem.detail == "Resume it, or purge what is not wanted any more; also llm."
    (problem,) = found("paused", queues=both[1:])
    assert problem.detail == "Resume it, or purge what is not wanted any more. ann paused it."


def test_a_trend_compares_whole_counts_of_up_to_a_minute() -> None:
    trend = Trend()

    def grown(at: float, number: int, *, or_more: bool = False) -> float | None:
        (one,) = trend.of(queue(waiting=Count(number, or_more)), at)
        return one.growth_per_min

    assert [grown(0, 100), grown(9, 190)] == [None, None]
    assert [grown(10, 200), grown(30, 150)] == [600.0, 100.0]
    assert grown(31, 10_000, or_more=True) is None
    for at in range(40, 100, 10):
        grown(at, 100)
    assert grown(100, 160) == 60.0  # beside what it was at 40
    assert grown(400, 0) is None
    (other,) = trend.of(queue(name="new"), 415)
    assert other.growth_per_min is None


def test_every_rule_says_what_it_is_for() -> None:
    assert all(rule.__doc__ for rule in RULES)
    assert len({rule.__name__ for rule in RULES}) == len(RULES)


def test_a_warning_comes_before_it_is_critical() -> None:
    table = [one for one in vars(thresholds).values() if isinstance(one, thresholds.Threshold)]
    assert len(table) > 5
    assert all(one.critical is None or one.critical > one.warning for one in table)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (0.84, "0.8 s"), (9.96, "10.0 s"), (59.7, "1 min"), (848, "14 min 8 s"), (3600, "1 h"),
     (75_840, "21 h 4 min"), (86_400 * 3 + 60, "3 d"), (-5, "0.0 s")],
)  # fmt: skip
def test_durations_are_read_by_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_counts_and_lists_are_read_by_people() -> None:
    assert (counted(1, "task"), counted(1200, "task")) == ("1 task", "1,200 tasks")
    assert (listed(["a"]), listed(list("abcde"))) == ("a", "a, b, c and 2 more")


def ran(seconds: float, times: int) -> tuple[int, ...]:
    return tuple(times if number == class_of(seconds) else 0 for number in range(CLASSES))


@pytest.mark.parametrize(
    ("for_s", "usual_s", "times", "is_slow"),
    [
        (290, 29.9, 200, False),
        (301, 29.9, 200, True),
        (61, 0.02, 200, True),
        (59, 0.02, 200, False),
        (9e9, 1, 19, False),
    ],
)
def test_a_task_that_runs_for_long_is_compared_with_its_name(
    for_s: float, usual_s: float, times: int, is_slow: bool
) -> None:
    running = Running("an-id", "llm.run", AT - timedelta(seconds=min(for_s, 1e6)))
    worker = replace(WORKER, lost=False, name="llm@node", running=(running, replace(running, task="unknown")))
    before = [Outcomes("llm.run", times // 2, 0, None, ran(usual_s, times // 2))]
    recent = [Outcomes("llm.run", times - times // 2, 0, None, ran(usual_s, times - times // 2))]
    problem = found("slow", workers=[worker], before=before, recent=recent)
    assert bool(problem) == is_slow
    if for_s == 301:
        (one,) = problem
        assert one.sentence == "llm.run has run for 5 min 1 s in worker llm@node"
        assert one.detail == "Of its runs 95 % ended within 29 s."
        assert (one.view, one.subject) == ("running", "llm.run")

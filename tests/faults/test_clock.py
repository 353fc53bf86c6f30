"""The wall clocks of workers are wrong, by libfaketime: their own, and not the database's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import processes
from environment.waiting import wait_until
from tests.faults.field import RECOVERY_S, Field, Outcome, busy

Judge = Callable[[Outcome], Outcome]

HOUR_S = 3600.0
COUNTDOWN_S = 3.0


def test_workers_whose_clocks_are_an_hour_off(
    field: Field, judge: Judge, program: Callable[[str], str], quick: bool
) -> None:
    """One ahead, one behind.  No task with a countdown runs early or an hour late, and when the one ahead is killed,
    the one behind takes over in time.
    """
    library = faketime(program)
    workers = {}
    for name, shift in (("ahead", HOUR_S), ("behind", -HOUR_S)):
        clock = {
            "LD_PRELOAD": library,
            "FAKETIME": f"{shift:+.0f}",
            # Only the wall clock is wrong: nobody can set the other.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        workers[name] = field.worker("threads", variables=clock, arguments=["-Q", f"celery,{name}"])
        told = processes.call("tests.faults.publisher", "clock", name, variables=field.variables)
        assert abs(told - shift) < 60
        field.noted[f"clock {name}"] = f"{told:+.0f} s"
    field.publish(countdown=COUNTDOWN_S)
    field.progress(100 if quick else 1000)
    wait_until(lambda: busy(workers["ahead"]), RECOVERY_S, "the worker to run a task")
    with field.fault():
        workers["ahead"].kill()
    outcome = judge(field.finish("clocks an hour off, one worker killed"))
    assert outcome.finished_again <= 8
    published, begins = field.published(), field.begins()
    waited = [(begins[n][0] - published[n].at_ns) / 1e9 for n in published if n % 5 == 0]
    # An ETA is the publisher's clock plus the countdown, taken before the publish that is timed here.
    assert min(waited) > COUNTDOWN_S - 1
    assert max(waited) < COUNTDOWN_S + 30


def faketime(program: Callable[[str], str]) -> str:
    """The library that Debian's package has beside others."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        program("libfaketime")  # says what is missing
    return str(found[0])

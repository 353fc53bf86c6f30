"""Workers whose wall clocks are wrong (by libfaketime), while the database's is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from environment.testkit import children
from environment.waiting import wait_until
from tests.faults.load import RECOVERY_S, Load, Outcome, find_busy

Verify = Callable[[Outcome], Outcome]

HOUR_S = 3600.0
COUNTDOWN_S = 3.0


def test_workers_whose_clocks_are_an_hour_off(
    load: Load, verify: Verify, program: Callable[[str], str], quick: bool
) -> None:
    """One clock is ahead and one behind.  No task with a countdown runs early or an hour late; when the worker whose
    clock is ahead is killed, the other takes over in time.
    """
    library = faketime(program)
    workers = {}
    for name, shift in (("ahead", HOUR_S), ("behind", -HOUR_S)):
        clock = {
            "LD_PRELOAD": library,
            "FAKETIME": f"{shift:+.0f}",
            # Only the wall clock: no process can set the monotonic one.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        workers[name] = load.worker("threads", variables=clock, arguments=["-Q", f"celery,{name}"])
        ahead_s = children.call("tests.faults.publisher", "clock", name, variables=load.variables)
        assert abs(ahead_s - shift) < 60
        load.notes[f"clock {name}"] = f"{ahead_s:+.0f} s"
    load.publish(countdown=COUNTDOWN_S)
    load.wait_for_tasks(100 if quick else 1000)
    victim = wait_until(lambda: find_busy(workers), RECOVERY_S, "a worker to run a task")
    with load.fault():
        workers[victim].kill()
    outcome = verify(load.finish("clocks an hour off, one worker killed"))
    assert outcome.finished_again <= 8
    published, begins = load.published(), load.begins()
    waited = [(begins[n][0] - published[n].at_ns) / 1e9 for n in published if n % 5 == 0]
    # An ETA is the publisher's clock plus the countdown, taken before the publish that is timed here.
    assert min(waited) > COUNTDOWN_S - 1
    assert max(waited) < COUNTDOWN_S + 30


def faketime(program: Callable[[str], str]) -> str:
    """Return the path of Debian's libfaketime."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        program("libfaketime")  # skips, and names what is missing
    return str(found[0])

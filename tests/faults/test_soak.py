"""25 minutes under load, and every 40 seconds something is killed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from environment.temporary import TemporaryCluster
from tests.faults.field import RECOVERY_S, Field, Outcome

LASTS_S, EVERY_S = 25 * 60, 40


def test_a_soak(
    field: Field, cluster: TemporaryCluster, judge: Callable[[Outcome], Outcome], pytestconfig: pytest.Config
) -> None:
    """In turn: a worker of one pool, a worker of the other, the server; each is replaced at once."""
    if not pytestconfig.getoption("--soak"):
        pytest.skip("25 minutes: with --soak only")
    workers = {"threads": field.worker("threads"), "prefork": field.worker("prefork", 2)}
    field.publish(rate=20, seconds=0.1)
    end = time.monotonic() + LASTS_S
    kills = 0
    for victim in itertools.cycle(["threads", "prefork", "server"]):
        again = time.monotonic() + EVERY_S
        while time.monotonic() < again:
            field.progress(20)
        if time.monotonic() > end:
            break
        with field.fault():
            if victim == "server":
                cluster.kill()
                cluster.start()
            else:
                workers[victim].kill()
        if victim != "server":
            workers[victim] = field.worker(victim, 4 if victim == "threads" else 2)
        kills += 1
    field.noted["kills"] = kills
    judge(field.finish(f"soak of {LASTS_S // 60} minutes, a kill every {EVERY_S} s", deadline_s=RECOVERY_S))

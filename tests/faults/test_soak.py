"""25 minutes under load, with a kill every 40 seconds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from environment.temporary import TemporaryCluster
from tests.faults.load import RECOVERY_S, Load, Outcome

LASTS_S, EVERY_S = 25 * 60, 40


def test_a_soak(
    load: Load, cluster: TemporaryCluster, verify: Callable[[Outcome], Outcome], pytestconfig: pytest.Config
) -> None:
    """Kills in turn a threads worker, a prefork worker and the server; each is replaced at once."""
    if not pytestconfig.getoption("--soak"):
        pytest.skip("25 minutes: with --soak only")
    workers = {"threads": load.worker("threads"), "prefork": load.worker("prefork", 2)}
    load.publish(rate=20, seconds=0.1)
    end = time.monotonic() + LASTS_S
    kills = 0
    for victim in itertools.cycle(["threads", "prefork", "server"]):
        again = time.monotonic() + EVERY_S
        while time.monotonic() < again:
            load.wait_for_tasks(20)
        if time.monotonic() > end:
            break
        with load.fault():
            if victim == "server":
                cluster.kill()
                cluster.start()
            else:
                workers[victim].kill()
        if victim != "server":
            workers[victim] = load.worker(victim, 4 if victim == "threads" else 2)
        kills += 1
    load.notes["kills"] = kills
    verify(load.finish(f"soak of {LASTS_S // 60} minutes, a kill every {EVERY_S} s", deadline_s=RECOVERY_S))

"""A run: what is left of it, round by round; what fails or hangs costs no more than itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.cells import Cell
from benchmarks.pace import LateError, deadline, expected, minutes
from benchmarks.run import Run, measure, missing
from benchmarks.samples import Samples
from environment.sources import CHECKOUT
from environment.testkit.children import environment


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is busy with other tests, which these do not measure."""
    monkeypatch.setattr("benchmarks.run.measuring.wait_calm", lambda limit_s: 0.0)


def run_of(folder: Path, **systems: dict[str, str]) -> Run:
    made: Any = {name: SimpleNamespace(name=name, skips=skips) for name, skips in systems.items()}
    return Run(False, made, Samples(folder))


def asking(name: str, measured: Callable[..., Any], **options: Any) -> Cell:
    return Cell(name, lambda run: [f"{one} {how}" for how in ("a", "b") for one in run.systems], measured, **options)


def nothing(run: Run, system: Any, how: str) -> dict[str, float]:
    return {"rate": 1.0}


def test_a_run_goes_round_by_round_and_continues_where_it_ended(tmp_path: Path) -> None:
    run = run_of(tmp_path, ours={}, other={})
    cells = [asking("one", nothing, repetitions=2), asking("two", nothing, repetitions=1)]
    asked = [(cell.name, variant, repetition) for cell, variant, repetition in missing(cells, run)]
    assert asked[:4] == [("one", "ours a", 0), ("one", "other a", 0), ("one", "ours b", 0), ("one", "other b", 0)]
    assert [(name, repetition) for name, _, repetition in asked] == [("one", 0)] * 4 + [("two", 0)] * 4 + [
        ("one", 1)
    ] * 4

    run.samples.add("one", "ours a", {"rate": 1.0})
    assert [(cell.name, variant, number) for cell, variant, number in missing(cells, run)] == asked[1:]
    assert measure(cells, run).left == []
    assert missing(cells, run) == []
    assert {variant: len(found) for variant, found in run.samples.of("one").items()} == dict.fromkeys(
        ["ours a", "other a", "ours b", "other b"], 2
    )


def test_a_run_leaves_out_what_a_system_skips_and_on_the_page_what_it_does_not_show(tmp_path: Path) -> None:
    run = run_of(tmp_path, ours={}, other={"one": "it cannot"}, third={"one b": "it cannot do b", "two": "nor that"})
    cell = asking("one", nothing, page=lambda run: [f"{name} b" for name in run.systems])
    assert cell.asked(run) == ["ours a", "third a", "ours b"]
    assert cell.asked(run, page=True) == ["ours b"]
    assert cell.reason(run, "third b") == "it cannot do b"


def test_a_run_ends_in_time_and_names_what_is_left(tmp_path: Path) -> None:
    run = replace(run_of(tmp_path, ours={}), until=time.monotonic() + 20)
    cell = asking("one", nothing, repetitions=2)
    run.samples.add("one", "ours a", {"rate": 1.0}, took_s=50.0)
    outcome = measure([cell], run)
    assert outcome.left == [("one", "ours b"), ("one", "ours a"), ("one", "ours b")]


def test_a_sample_is_expected_to_take_what_the_last_one_took_else_the_median_of_its_cell() -> None:
    took_s = {("one", "a"): 10.0, ("one", "b"): 20.0, ("one", "c"): 90.0, ("two", "a"): 1.0}
    assert expected(("one", "a"), took_s) == pytest.approx(10.5)
    assert expected(("one", "d"), took_s) == pytest.approx(20.5)
    assert minutes([("one", "a"), ("one", "d")], took_s) == pytest.approx(31 / 60)


def test_what_fails_is_tried_once_more_at_the_end_and_then_left_out(tmp_path: Path) -> None:
    tries: list[str] = []

    def measured(run: Run, system: Any, how: str) -> dict[str, float]:
        tries.append(f"{system.name} {how}")
        if system.name == "broken" or (how == "a" and len(tries) == 1):
            raise RuntimeError("the worker ended with 1\nand this is its log")
        return {"rate": 1.0}

    run = run_of(tmp_path, ours={}, broken={})
    outcome = measure([asking("one", measured, repetitions=1)], run)
    assert tries == ["ours a", "broken a", "ours b", "broken b", "ours a", "broken a", "broken b"]
    assert outcome.failed == 2
    assert run.samples.failures() == {
        "one broken a": {"times": 2, "reason": "the worker ended with 1"},
        "one broken b": {"times": 2, "reason": "the worker ended with 1"},
    }
    assert missing([asking("one", measured, repetitions=1)], run) == []


def test_a_sample_that_never_returns_ends_at_its_deadline(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(LateError, match="not done after 0 s"), deadline(0.2, lambda: None):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=False)
    assert time.monotonic() - begun < 30


#: A sample that does not see its deadline, and has started a process; the second time it is left out.
_HANGS = """
import os, subprocess, sys
from pathlib import Path
from benchmarks import pace

folder = Path(sys.argv[1])
with (folder / "begun").open("a") as file:
    file.write("x")
if (folder / "begun").read_text() == "x":
    child = subprocess.Popen(["sleep", "60"])
    (folder / "child").write_text(str(child.pid))
    pace._ENDING_S = 0.1
    pace.os.execv = lambda python, words: os._exit(17 if pace.begun_again() and pace.until(1) == 123.0 else 1)
    from environment.testkit import measuring
    signal = __import__("signal")
    with pace.deadline(0.1, lambda: pace.begin_again([], 123.0, lambda: measuring.tree([os.getpid()]))):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        signal.sigwait([signal.SIGUSR1])
"""


def test_a_sample_that_hangs_in_c_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HANGS, str(tmp_path)], cwd=CHECKOUT, env=environment({}), check=False, timeout=60
    )
    assert done.returncode == 17
    child = int((tmp_path / "child").read_text())
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or stat.read_text().rpartition(") ")[2][0] == "Z"

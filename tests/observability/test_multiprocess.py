"""The folder of memory-mapped metrics: merging, and what killed workers left."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from app.observability.multiprocess import ARCHIVE, PREFIX, MetricsFolder, remove_abandoned


@pytest.fixture
def dead() -> list[int]:
    """Numbers of processes that are gone."""
    pids = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        pids.append(process.pid)
    return pids


def write(folder: MetricsFolder, kind: str, owner: object, value: float, timestamp: float = 0.0) -> None:
    entries = MmapedDict(str(folder.path / f"{kind}_{owner}.db"))
    entries.write_value(mmap_key("m", "m_total", ["l"], ["v"], "help"), value, timestamp)
    entries.close()


def value(folder: MetricsFolder) -> float:
    (metric,) = folder.collect()
    (sample,) = metric.samples
    return float(sample.value)


def test_the_dead_are_added_up_and_the_living_left_alone(tmp_path: Path, dead: list[int]) -> None:
    folder = MetricsFolder(tmp_path)
    write(folder, "counter", os.getpid(), 1)
    for number, pid in enumerate(dead):
        write(folder, "counter", pid, 10**number)
    assert value(folder) == 112
    write(folder, "counter", dead[0], 1000)  # a number that is used again
    assert value(folder) == 1112
    names = {file.name for file in folder.path.glob("*.db")}
    assert names == {f"counter_{os.getpid()}.db", f"counter_{ARCHIVE}.db"}
    folder.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mode", "expected"), [("min", 2.0), ("max", 7.0), ("sum", 14.0), ("mostrecent", 5.0)])
def test_gauges_that_outlive_their_process_are_merged_as_they_say(
    tmp_path: Path, dead: list[int], mode: str, expected: float
) -> None:
    folder = MetricsFolder(tmp_path)
    for pid, number, when in zip(dead, (7, 5, 2), (1.0, 3.0, 2.0), strict=True):
        write(folder, f"gauge_{mode}", pid, number, when)
    assert value(folder) == expected
    folder.close()


def test_gauges_of_living_processes_go_with_them(tmp_path: Path, dead: list[int]) -> None:
    folder = MetricsFolder(tmp_path)
    write(folder, "gauge_livesum", dead[0], 3)
    write(folder, "gauge_all", dead[1], 3)
    folder.sweep()
    assert list(folder.path.glob("*.db")) == []
    folder.close()


def test_a_file_that_its_owner_never_finished_is_dropped(tmp_path: Path, dead: list[int]) -> None:
    folder = MetricsFolder(tmp_path)
    (folder.path / f"counter_{dead[0]}.db").touch()
    write(folder, "counter", dead[1], 5)
    assert value(folder) == 5
    folder.close()


def test_folders_of_killed_workers_are_removed_and_others_are_not(tmp_path: Path) -> None:
    abandoned, fresh, foreign = tmp_path / f"{PREFIX}old", tmp_path / f"{PREFIX}new", tmp_path / "other"
    for folder in (abandoned, fresh, foreign):
        folder.mkdir()
    (abandoned / "lock").touch()
    alive = MetricsFolder(tmp_path)
    with (alive.path / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    remove_abandoned(tmp_path)
    assert {folder.name for folder in tmp_path.iterdir()} == {alive.path.name, f"{PREFIX}new", "other"}
    alive.close()

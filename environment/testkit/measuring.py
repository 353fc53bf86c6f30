"""The machine of a measurement: hardware, versions, processor time of processes, memory."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_TICK = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("celery", "kombu", "psycopg2-binary", "psycopg2", "sqlalchemy", "redis", "billiard")


def describe() -> dict[str, Any]:
    """Hardware and versions, for the record."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "revision": _revision(),
    }


class Meter:
    """Processor seconds from its creation until ``stop``: of process trees, and of all other processes.

    Args:
        roots: name → process ids; they and their descendants count under the name, each process under the first name
            that has it.
    """

    def __init__(self, roots: dict[str, list[int]]) -> None:
        self._roots = roots
        self._at = time.monotonic()
        self._before = self._read()

    def stop(self) -> dict[str, float]:
        """Return the seconds of each name, ``total`` of the machine, ``others`` and ``wall``."""
        after = self._read()
        spent = {name: round(max(0.0, after[name] - self._before[name]), 4) for name in after}
        own = sum(seconds for name, seconds in spent.items() if name not in ("total", "stolen"))
        spent["others"] = round(max(0.0, spent["total"] - own), 3)
        spent["wall"] = round(time.monotonic() - self._at, 3)
        return spent

    def _read(self) -> dict[str, float]:
        parents, ticks = _processes()
        seen, counted = {}, set[int]()
        for name, pids in self._roots.items():
            mine = _tree(pids, parents) - counted
            counted |= mine
            seen[name] = sum(_seconds(pid, *ticks[pid]) for pid in mine)
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(word) / _TICK for word in words[:8])
        return {**seen, "total": user + nice + system + irq + softirq, "stolen": steal}


def wait_calm(limit_s: float, share: float = 0.25) -> float:
    """Wait until the machine uses less than this share of its processors for 0.3 s; return the share it uses.

    Gives up after ``limit_s`` seconds: the share is kept with each sample.
    """
    end = time.monotonic() + limit_s
    while True:
        meter = Meter({})
        time.sleep(0.3)
        spent = meter.stop()
        used = spent["total"] / spent["wall"] / (os.cpu_count() or 1)
        if used < share or time.monotonic() >= end:
            return round(used, 2)


def memory(pid: int) -> dict[str, float]:
    """Return the RSS and USS of a process in megabytes."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        sizes[name.rstrip(":")] = int(size)
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"rss_mb": round(sizes["Rss"] / 1024, 1), "uss_mb": round(private / 1024, 1)}


def tree(roots: list[int]) -> set[int]:
    """Return these processes and all their descendants that live."""
    return _tree(roots, _processes()[0])


def _processes() -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    parents, ticks = {}, {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                words = Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(words[1])
            ticks[int(entry.name)] = int(words[11]) + int(words[12]), int(words[13]) + int(words[14])
    return parents, ticks


def _seconds(pid: int, own: int, ended: int) -> float:
    """The processor time of a process and of those that ended below it: its own by its clock, which is exact.

    A tick is 10 ms, which an idle worker uses in ten seconds.
    """
    try:
        clock = time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) makes it
    except OSError:
        clock = own / _TICK
    return clock + ended / _TICK


def _tree(roots: list[int], parents: dict[int, int]) -> set[int]:
    found = {pid for pid in roots if pid in parents}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str:
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip() or "unknown"

"""prometheus_client's multiprocess mode for the prefork pool: what task bodies count in the children.

The worker's own metrics are counted in the main process (`app.observability.requests`). A task that defines a
Counter of its own counts in a child, into a memory-mapped file that outlives it. When a child is gone, replaced
or killed, its files are added to one archive per kind, so the folder stays as small as the number of living
children, and no count is lost.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from celery import concurrency
from celery.concurrency.prefork import TaskPool
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, REGISTRY, Metric, values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.core.settings import get_settings

logger = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "skeldir-metrics-"
ARCHIVE = "archive"
#: Modes of gauges that keep the value of a process that is gone; for the others only living processes count.
LASTING_GAUGES = frozenset({"min", "max", "sum", "mostrecent"})
#: The errors of reading a file that a process is just creating, or died creating.
UNREADABLE = (struct.error, RuntimeError, ValueError)

_folder: MetricsFolder | None = None
#: The variable's value before it named that folder.
_given: str | None = None

# prometheus_client's locks are plain ones. A pool that replaces a child forks while another thread counts; the child
# would inherit a locked lock that nothing releases. So counting and forking exclude each other.
counting = threading.Lock()
os.register_at_fork(before=counting.acquire, after_in_parent=counting.release, after_in_child=counting.release)


class MetricsFolder:
    """The folder of one worker: created at start, removed by `close`.

    It is never shared between workers: each would serve the other's counts as its own.

    Args:
        parent: where to create it; None means the system's temporary folder.
    """

    def __init__(self, parent: Path | None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._owner = os.getpid()
        self._own_files: set[Path] = set()
        self._exclusive = threading.Lock()
        self._lock()

    def _lock(self) -> None:
        self._lock_file = (self.path / "lock").open("w")
        # Children inherit the lock and die with their parent: the lock is free when the worker is gone, however it
        # ended.
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)

    def collect(self) -> list[Metric]:
        """The sums over all processes, living and gone."""
        with self._exclusive:
            self._sweep()
            for _ in range(3):
                try:
                    return list(MultiProcessCollector(None, str(self.path)).collect())  # type: ignore[no-untyped-call]
                except UNREADABLE:
                    continue  # a child is creating its file
            return []

    def sweep(self) -> None:
        """Add the files of processes that are gone to the archives."""
        with self._exclusive:
            self._sweep()

    def close(self) -> None:
        """Remove the folder; harmless in a child and when done twice."""
        if os.getpid() == self._owner:
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock_file.close()

    def _begin_again_if_removed(self) -> None:
        """Create the folder again if it was removed. A cleaner of temporary folders may remove it, or its files after a
        quiet week: counts in a deleted file reach no scrape, and a new child could not count at all.
        """
        if os.getpid() != self._owner:
            return
        if self.path.is_dir() and all(file.exists() for file in self._own_files):
            self._own_files.update(self.path.glob(f"*_{self._owner}.db"))
            return
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._lock_file.close()
        self._lock()
        with counting:
            _renew_metrics()
        self._own_files = set(self.path.glob(f"*_{self._owner}.db"))
        # No argument: the application's log hides text arguments.
        logger.error(
            f"files of metrics below {self.path} were removed: all counts begin again at 0, and those of tasks in "
            "running children are missing until these are replaced. PROMETHEUS_MULTIPROC_DIR names another place"
        )

    def _sweep(self) -> None:
        self._begin_again_if_removed()
        for file in self.path.glob("*.db"):
            kind, _, owner = file.stem.rpartition("_")
            if owner == ARCHIVE or not owner.isdigit() or _lives(int(owner)):
                continue
            mode = kind.removeprefix("gauge_") if kind.startswith("gauge_") else None
            if mode is None or mode in LASTING_GAUGES:
                _add(file, self.path / f"{kind}_{ARCHIVE}.db", mode)
            file.unlink()


class MultiprocessCollector(Collector):
    """What /metrics of a prefork worker shows: the sums over its processes, and its own process."""

    def __init__(self, folder: MetricsFolder) -> None:
        self._folder = folder

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._folder.collect()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            yield from collector.collect()


def on_worker_init(sender: Any, **_: Any) -> None:
    """Before a worker has children, select memory-mapped metrics in its own folder for prefork, and plain ones for
    other pools.

    prometheus_client decides that at its import, by the variable that is also our setting. At that time the pool was
    not yet known, and the metrics of task modules were created accordingly. So it is decided again here.
    """
    global _folder, _given
    pool = concurrency.get_implementation(sender.pool_cls)
    given = os.environ.pop(VARIABLE, None)
    if isinstance(pool, type) and issubclass(pool, TaskPool):
        if _folder is None:
            _folder, _given = MetricsFolder(get_settings().prometheus_multiproc_dir), given
        os.environ[VARIABLE] = str(_folder.path)
    elif given is None:
        return
    _renew_metrics()
    if given is not None:
        for file in Path(given).glob(f"*_{os.getpid()}.db"):
            file.unlink()


def current_folder() -> MetricsFolder | None:
    """The folder of this worker; None in other pools, which need none."""
    return _folder


def close() -> None:
    """Remove the folder, if this process made one."""
    global _folder
    if _folder is not None:
        _folder.close()
        _folder = None
        # HUP executes the command line again in this environment.
        if _given is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = _given


def remove_abandoned(parent: Path) -> None:
    """Remove the folders below `parent` whose workers were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid != os.geteuid():
                continue
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # alive, or being made


def _renew_metrics() -> None:
    """Give every metric values of the current kind and in the current files."""
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
    for metric in _metrics_of_default_registry():
        _start_anew(metric)


def _metrics_of_default_registry() -> list[MetricWrapperBase]:
    return [c for c in list(REGISTRY._collector_to_names) if isinstance(c, MetricWrapperBase)]


def _start_anew(metric: MetricWrapperBase) -> None:
    if metric._is_observable():  # type: ignore[no-untyped-call]
        metric._metric_init()  # type: ignore[no-untyped-call]
    for child in list(getattr(metric, "_metrics", {}).values()):
        _start_anew(child)


def _add(file: Path, archive: Path, gauge_mode: str | None) -> None:
    try:
        entries = list(MmapedDict.read_all_values_from_file(str(file)))  # type: ignore[no-untyped-call]
    except UNREADABLE:
        return  # it died before it had counted anything
    known = set()
    if archive.exists():
        known = {entry[0] for entry in MmapedDict.read_all_values_from_file(str(archive))}  # type: ignore[no-untyped-call]
    total = MmapedDict(str(archive))  # type: ignore[no-untyped-call]
    try:
        for key, value, timestamp, _ in entries:
            before, when = total.read_value(key)  # type: ignore[no-untyped-call]
            if key in known:
                value, timestamp = _merged(gauge_mode, (before, when), (value, timestamp))
            total.write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
    finally:
        total.close()  # type: ignore[no-untyped-call]


def _merged(gauge_mode: str | None, old: tuple[float, float], new: tuple[float, float]) -> tuple[float, float]:
    if gauge_mode == "min":
        return min(old, new)
    if gauge_mode == "max":
        return max(old, new)
    if gauge_mode == "mostrecent":
        return max(old, new, key=lambda entry: entry[1])
    return old[0] + new[0], 0.0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

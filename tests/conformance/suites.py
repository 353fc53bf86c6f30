"""Which tests of Celery's and Kombu's are run, and on what."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import celery_postgres
from environment.cluster import free_port
from environment.sources import python_path
from environment.temporary import TemporaryCluster
from environment.testkit import servers
from environment.testkit.children import dies_with_us
from tests.conformance.known import OURS, ended

_HERE = Path(__file__).parent
#: Seconds for a whole suite; Celery's takes a quarter of an hour, most of which it waits.
_LONGEST_S = 3600


@dataclass(frozen=True)
class Suite:
    """Tests of one package.

    Attributes:
        arguments: pytest's.
        quick: what is run instead with ``--quick``.
    """

    package: str
    arguments: Sequence[str]
    quick: Sequence[str]

    def arguments_of(self, quick: bool) -> Sequence[str]:
        """Those of one of the two forms."""
        return self.quick if quick else self.arguments


CELERY = Suite(
    "celery",
    (
        *("-p", "celery.contrib.pytest", "t/integration"),
        # Those of single stores of results, and two that watch the memory of Celery itself, without a broker.
        "--ignore=t/integration/test_backend.py",
        "--ignore=t/integration/test_cache_backend.py",
        "--ignore=t/integration/test_redis_backend.py",
        "--ignore=t/integration/test_mem_leak_in_exception_handling.py",
        "--ignore=t/integration/test_events_state_memory_leak.py",
    ),
    ("-p", "celery.contrib.pytest", "t/integration/test_group_chains.py", "t/integration/test_inspect.py"),
)
#: Where ``over_kombu`` lies in Kombu's sdist.
OVER_KOMBU = "t/integration/test_over_kombu.py"
KOMBU = Suite("kombu", (OVER_KOMBU,), (OVER_KOMBU,))
SUITES = {suite.package: suite for suite in (CELERY, KOMBU)}


@contextmanager
def system(name: str) -> Iterator[dict[str, str]]:
    """What a suite needs in its environment to run on a system, with its servers."""
    with ExitStack() as stack:
        # Celery's tasks take notes there, whatever the broker is.
        notes = stack.enter_context(servers.Redis())
        variables = {
            "REDIS_PORT": str(notes.port),
            "TEST_BROKER": notes.url,
            "TEST_BACKEND": f"redis://127.0.0.1:{notes.port}/1",
            "TEST_NOBODY": f"redis://127.0.0.1:{free_port()}/0",
        }
        if name == OURS:
            cluster = stack.enter_context(TemporaryCluster(tcp=True))
            celery_postgres.create_schema(cluster.url())
            variables |= {
                "CONFORMANCE_INSTALL": "1",
                "TEST_BROKER": cluster.tcp_url(),
                "TEST_BACKEND": f"redisless+{cluster.tcp_url()}",
                "TEST_NOBODY": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
            }
        yield variables


class Run:
    """A suite on a system, in a process of its own.

    Args:
        tests: the unpacked sdist.
        kept: where its log is left, and what each test said.
    """

    def __init__(
        self, suite: Suite, name: str, python: str, tests: Path, kept: Path, variables: Mapping[str, str], quick: bool
    ) -> None:
        if suite is KOMBU:
            shutil.copy(_HERE / "over_kombu.py", tests / OVER_KOMBU)
        self.name = name
        self.log = kept / f"{suite.package}-{name}.log"
        self._outcomes = kept / f"{suite.package}-{name}.jsonl"
        self._outcomes.unlink(missing_ok=True)
        self._begun = time.monotonic()
        self.seconds = 0.0
        path = (_HERE / "inside", tests, python_path())
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    python,
                    "-m",
                    "pytest",
                    "-p",
                    "outcomes",
                    "-p",
                    "no:cacheprovider",
                    "-rfE",
                    *suite.arguments_of(quick),
                ],
                env={
                    **os.environ,
                    **variables,
                    # Celery's tests start the program `celery`.
                    "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", os.defpath)]),
                    "PYTHONPATH": os.pathsep.join(map(str, path)),
                    "CONFORMANCE_OUTCOMES": str(self._outcomes),
                },
                cwd=tests,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dies_with_us(),
            )

    def wait(self) -> dict[str, str]:
        """How each test ended.

        Raises:
            RuntimeError: when pytest did not come to its end.
        """
        try:
            status = self._process.wait(_LONGEST_S)
        finally:
            self.end()
        self.seconds = time.monotonic() - self._begun
        if status not in (0, 1) or not self._outcomes.exists():
            raise RuntimeError(f"pytest ended with {status}; its log is {self.log}")
        return ended(json.loads(line) for line in self._outcomes.read_text().splitlines())

    def end(self) -> None:
        """With its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

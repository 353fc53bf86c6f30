"""``./dev up``: PostgreSQL, and every process of the Procfile."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from environment.checkout import make_state
from environment.database import describe, served_database, setting
from environment.errors import UserError
from environment.migration import upgrade
from environment.naming import program, say
from environment.signals import ENDING, shell_status
from environment.sources import CHECKOUT, python_path
from environment.supervisor import await_database, is_free, kept_running, metrics_port, the_only_one
from environment.worker import WorkerError, WorkerProcess, drain_when_parent_dies

_DEFAULT_PORT = 8000

#: Seconds for the web process to end its requests, with a margin: uvicorn allows five at most.
_WEB_ENDS_S = 15


def procfile(folder: Path = CHECKOUT) -> dict[str, str]:
    """The commands of the Procfile, by process name."""
    lines = (folder / "Procfile").read_text().splitlines()
    return dict(re.split(r":\s*", line, maxsplit=1) for line in lines if line)


def up(arguments: Sequence[str]) -> int:
    """Run everything until told to end, or until one of the processes ends; then the other is stopped too.

    TERM, HUP and the first Ctrl-C drain the worker; QUIT and a second Ctrl-C also cancel the running task.

    Returns:
        0 when told to end; otherwise the status of the process that ended by itself, and never 0.
    """
    if arguments:
        raise UserError(f"{program()} up takes no arguments: the Procfile lists what it runs")
    begun = time.monotonic()
    # A script's shell starts its background processes with INT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    state = make_state()
    # The Procfile's commands must come from the Python that runs this.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with the_only_one(state):
        metrics, port = metrics_port(), _web_port()
        with served_database(state) as (url, cluster):
            await_database(url, cluster)
            upgrade(url)
            say(f"migrated {describe(url)}, starting the processes of the Procfile")
            commands = procfile()
            before, _, after = commands["worker"].partition(" worker ")
            worker = WorkerProcess(
                url,
                state=state,
                command=shlex.split(before),
                arguments=shlex.split(after),
                environment={"CELERY_METRICS_PORT": str(metrics)},
                folder=CHECKOUT,
            )
            web = _Web(commands["web"], {"DATABASE_URL": url, "WEB_HOST": _web_host(), "PORT": str(port)})
            with kept_running(cluster):
                return _run(worker, web, _address(_web_host(), port), begun)


class _Web:
    """The web process, in its own session."""

    def __init__(self, command: str, environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {self._command}"],
            env={**os.environ, "PYTHONPATH": python_path(), **self._environment},
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=drain_when_parent_dies(),
        )
        return self.process

    def stop(self) -> None:
        """Send TERM, and KILL if that takes too long. Safe when the process is gone or never began."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_WEB_ENDS_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _run(worker: WorkerProcess, web: _Web, address: str, begun: float) -> int:
    told: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # As in ./dev worker: INT itself would make Celery fail.
        again = number == signal.SIGQUIT or (number == signal.SIGINT and signal.SIGINT in told)
        told.append(number)
        if again and worker.has_started:
            worker.process.send_signal(signal.SIGQUIT)

    for number in ENDING:
        signal.signal(number, on_signal)
    first: tuple[str, int] | None = None
    try:
        worker.start()
        processes = {"web": web.start(), "worker": worker.process}
        said = False
        while not told and first is None:
            for name, process in processes.items():
                with suppress(subprocess.TimeoutExpired):
                    first = name, process.wait(0.1)
                    break
            if not said and first is None and worker.is_ready():
                said = True
                with suppress(WorkerError):
                    say(f"ready after {time.monotonic() - begun:.1f} s: {address}, {worker.metrics_url}/health")
                    say("Ctrl-C drains and stops it")
    finally:
        if signal.SIGINT in told:
            say("draining; Ctrl-C again cancels the running task")
        web.stop()
        if worker.has_started and worker.process.poll() is None:
            worker.process.terminate()
            while worker.process.poll() is None:  # a wait without a limit would not see a second Ctrl-C
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(0.2)
        # Only PostgreSQL remains to be stopped, and that must not be interrupted.
        for number in ENDING:
            signal.signal(number, lambda *_: None)
        worker.file.unlink(missing_ok=True)
    if first is not None:
        name, status = first[0], shell_status(first[1])
        say(f"the {name} process ended by itself, with {status}")
        return status or 1
    return shell_status(worker.process.returncode)


def _web_host() -> str:
    return setting("WEB_HOST") or "127.0.0.1"


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _web_port() -> int:
    """The configured port (PORT); otherwise 8000 if it is free, otherwise any free one.

    Raises:
        UserError: the configured port is taken or is not a port.
    """
    configured = setting("PORT")
    if configured is None:
        if is_free(_web_host(), _DEFAULT_PORT):
            return _DEFAULT_PORT
        with socket.create_server((_web_host(), 0)) as anyone:
            return int(anyone.getsockname()[1])
    if not (configured.isascii() and configured.isdigit() and 0 < int(configured) < 65536):
        raise UserError("PORT must be a number from 1 to 65535")
    if not is_free(_web_host(), int(configured)):
        raise UserError(f"PORT {configured} on {_web_host()} is in use; choose another")
    return int(configured)

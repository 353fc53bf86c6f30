"""``./dev run``: start a database and perhaps a worker, run a command, stop everything."""

import os
import shutil
import sys
import tempfile
from argparse import REMAINDER, ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from environment.checkout import make_state
from environment.database import check_settings, database
from environment.errors import UserError
from environment.naming import is_installed, program, say
from environment.signals import run_in_foreground, shell_status
from environment.temporary import TemporaryCluster
from environment.worker import WorkerError, WorkerProcess


def run(arguments: Sequence[str]) -> int:
    """Run a command with DATABASE_URL set; return its exit status, or the worker's where that alone failed.

    With ``--worker`` SKELDIR_STATE_DIR names the folder of the worker file, so that the command (the foundation's
    tests, ``./dev ping``) finds this worker and no other.
    """
    parser = ArgumentParser(prog=f"{program()} run")
    parser.add_argument("--temporary", action="store_true", help="a temporary PostgreSQL, removed afterwards")
    parser.add_argument("--worker", action="store_true", help="migrate, and run a worker on it meanwhile")
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="a file for the worker's output, instead of the terminal"
    )
    parser.add_argument("command", nargs=REMAINDER, metavar="-- COMMAND ...")
    chosen = parser.parse_args(arguments)
    command: list[str] = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    if not command:
        raise UserError(f"which command? {program()} run -- COMMAND ...")
    # celery, alembic and pytest must come from the Python that runs this. The installed program serves other projects,
    # whose own come first.
    if not is_installed():
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        os.environ["PATH"] = path
    with _temporary_database() if chosen.temporary else database(make_state()) as url:
        if not chosen.worker:
            return run_in_foreground(command, os.environ)
        return _run_beside_worker(command, url, chosen.log)


@contextmanager
def _temporary_database() -> Iterator[str]:
    with TemporaryCluster() as cluster:
        os.environ["DATABASE_URL"] = cluster.url()
        check_settings()
        yield cluster.url()


def _run_beside_worker(command: Sequence[str], url: str, log: Path | None) -> int:
    from environment.migration import upgrade

    upgrade(url)
    with ExitStack() as stack:
        state = Path(tempfile.mkdtemp(prefix="skeldir-run-"))
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        # Root's PostgreSQL runs as another account, which must be able to enter a state folder.
        state.chmod(0o755)
        os.environ["SKELDIR_STATE_DIR"] = str(state)
        worker = WorkerProcess(url, state=state, log=log)
        try:
            with worker:
                status = run_in_foreground(command, os.environ)
                died = worker.process.poll()
        except WorkerError as error:
            raise UserError(str(error)) from None
        ended = worker.process.returncode
    if status != 0 and log is not None:
        say(f"the worker's log ends with\n{chr(10).join(worker.log_text().splitlines()[-50:])}")
    if status == 0 and (died is not None or ended != 0):
        raise UserError(f"the worker ended with {shell_status(ended)}{' before the command did' * (died is not None)}")
    return status

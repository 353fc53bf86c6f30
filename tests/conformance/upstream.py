"""The sdists of Celery and Kombu, which contain their tests."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from environment.errors import UserError

#: What is unpacked: not the package itself, or it would be tested instead of what is installed.
_TESTS, _SETTINGS = "t", ("pyproject.toml", "setup.cfg")


def unpacked(python: str, package: str, folder: Path) -> Path:
    """The tests of the version of a package that a Python has, from its sdist; downloaded unless they are there.

    Args:
        folder: where they are kept, in a folder ``PACKAGE-VERSION``.

    Raises:
        UserError: when pip cannot download the sdist.
    """
    release = f"{package}-{version(python, package)}"
    target = folder / release
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            sdist = _download(python, release.replace("-", "=="), Path(scratch))
            # Made under another name and renamed: what was cut short is never taken for the whole.
            unpack(sdist, Path(scratch) / "half")
            shutil.move(Path(scratch) / "half", target)
    return target


def version(python: str, package: str) -> str:
    """The version of a package that a Python has."""
    words = [python, "-c", f"from importlib.metadata import version; print(version({package!r}))"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def unpack(sdist: Path, target: Path) -> None:
    """Write the tests and pytest's settings of an sdist into a folder; plain files only, and nothing outside of it."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            # Below the folder PACKAGE-VERSION.
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            wanted = path.parts[:1] == (_TESTS,) or str(path) in _SETTINGS
            if (
                not (wanted and member.isfile())
                or ".." in path.parts
                or (content := archive.extractfile(member)) is None
            ):
                continue
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content.read())
    if not (target / _TESTS).is_dir():
        raise UserError(f"{sdist.name} contains no tests")


def _download(python: str, requirement: str, folder: Path) -> Path:
    words = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--disable-pip-version-check"]
    done = subprocess.run(
        [python, "-P", "-m", "pip", *words, "--dest", str(folder), requirement],
        check=False,
        capture_output=True,
        text=True,
    )
    found = list(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        raise UserError(f"pip could not download the sdist of {requirement}: {done.stderr.strip()[-300:]}")
    return found[0]

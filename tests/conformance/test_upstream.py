"""What is taken from an sdist."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from environment.errors import UserError
from tests.conformance.upstream import unpack


def sdist(path: Path, *names: str, links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


def found(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_only_the_tests_and_their_settings_are_unpacked(tmp_path: Path) -> None:
    """Not the package: it would be imported instead of the one that is installed."""
    names = ["p-1/t/unit/test_a.py", "p-1/t/__init__.py", "p-1/pyproject.toml", "p-1/p/__init__.py", "p-1/setup.py"]
    unpack(sdist(tmp_path / "p-1.tar.gz", *names), tmp_path / "out")
    assert found(tmp_path / "out") == {"t/unit/test_a.py", "t/__init__.py", "pyproject.toml"}
    assert (tmp_path / "out/t/__init__.py").read_text() == "p-1/t/__init__.py"


def test_nothing_is_written_outside_and_no_link_is_made(tmp_path: Path) -> None:
    names = ["p-1/t/a.py", "p-1/t/../../../outside.py", "../t/up.py"]
    unpack(sdist(tmp_path / "p-1.tar.gz", *names, links={"p-1/t/link.py": "/etc/passwd"}), tmp_path / "in" / "out")
    assert found(tmp_path / "in") <= {"out/t/a.py", "out/t/up.py"}
    assert not (tmp_path / "outside.py").exists()


def test_an_sdist_without_tests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no tests"):
        unpack(sdist(tmp_path / "p-1.tar.gz", "p-1/setup.py"), tmp_path / "out")

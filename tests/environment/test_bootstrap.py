"""How .venv comes to hold what a lock says; pip is replaced, the virtual environment is real."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from environment import bootstrap
from environment.errors import UserError

pytestmark = pytest.mark.root


class Checkout:
    """A checkout with two packages to install, and what pip was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.asked: list[str] = []
        self.fault: Exception | None = None
        (root / "requirements").mkdir()
        for lock in bootstrap.LOCKS:
            self.write_lock(lock, "one==1 \\\n    --hash=sha256:00\ntwo==2 \\\n    --hash=sha256:00\n")

    def write_lock(self, lock: str, text: str) -> None:
        (self.root / "requirements" / f"{lock}.txt").write_text(text)

    def install(self, folder: Path, arguments: Sequence[str], packages: int = 1) -> None:
        """Stands in for pip."""
        assert folder == self.venv
        assert packages == 2
        assert arguments[:3] == ["--require-hashes", "--no-deps", "--requirement"]
        self.asked.append(Path(arguments[3]).stem)
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    made = Checkout(tmp_path)
    monkeypatch.setattr(bootstrap, "CHECKOUT", made.root)
    monkeypatch.setattr(bootstrap, "VENV", made.venv)
    monkeypatch.setattr(bootstrap, "install", made.install)
    # Without ensurepip a virtual environment takes 0.1 s instead of 3 s.
    monkeypatch.setattr(bootstrap, "_has", lambda module: module == "pip")
    return made


def test_the_first_start_installs_and_the_second_does_nothing(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap.ensure_installed("worker")
    said = capsys.readouterr().err
    assert "1/2 making .venv with Python" in said
    assert "2/2 installing 2 packages from requirements/worker.txt" in said
    bootstrap.ensure_installed("worker")
    assert checkout.asked == ["worker"]
    assert capsys.readouterr().err == ""


def test_the_applications_modules_are_found_from_anywhere(checkout: Checkout, tmp_path: Path) -> None:
    for folder, module in ((checkout.root / "backend", "app"), (checkout.root, "environment")):
        folder.mkdir(exist_ok=True)
        (folder / f"{module}.py").touch()
    bootstrap.ensure_installed("worker")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [checkout.venv / "bin" / "python", "-c", "import app, environment"]
    assert subprocess.run(command, cwd="/", env=environ, check=False).returncode == 0


def test_a_larger_lock_is_added_and_a_smaller_one_is_already_there(checkout: Checkout) -> None:
    for lock in ("worker", "lint", "test", "worker"):
        bootstrap.ensure_installed(lock)
    assert checkout.asked == ["worker", "lint"]


def test_a_changed_lock_means_a_new_environment(checkout: Checkout) -> None:
    bootstrap.ensure_installed("worker")
    (checkout.venv / "leftover").touch()
    checkout.write_lock("worker", "one==1.1 --hash=sha256:11\ntwo==2 --hash=sha256:00\n")
    bootstrap.ensure_installed("worker")
    assert checkout.asked == ["worker", "worker"]
    assert not (checkout.venv / "leftover").exists()


@pytest.mark.parametrize("fault", [UserError("no network"), KeyboardInterrupt()])
def test_one_that_was_cut_short_is_made_anew(checkout: Checkout, fault: Exception) -> None:
    bootstrap.ensure_installed("worker")
    checkout.fault = fault
    with pytest.raises(type(fault)):
        bootstrap.ensure_installed("test")
    checkout.fault = None
    (checkout.venv / "half").mkdir()
    bootstrap.ensure_installed("worker")
    assert checkout.asked == ["worker", "test", "worker"]
    assert not (checkout.venv / "half").exists()


def test_one_from_another_checkout_or_another_python_is_made_anew(checkout: Checkout) -> None:
    for field in ("checkout", "python"):
        bootstrap.ensure_installed("worker")
        stamp = checkout.venv / "installed.json"
        stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {field: "/elsewhere"}))
    (checkout.venv / "installed.json").write_text("garbage")
    bootstrap.ensure_installed("worker")
    assert len(checkout.asked) == 3


def test_a_checkout_that_cannot_be_written_is_one_clear_line(checkout: Checkout) -> None:
    checkout.venv.touch()  # root may write everywhere, but not make a folder where a file is
    with pytest.raises(UserError, match=r"cannot write .*\.venv: .*; \./dev needs a checkout that it can write to"):
        bootstrap.ensure_installed("worker")


def test_a_python_without_pip_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_has", lambda module: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="apt-get install python3-venv"):
        bootstrap.make_venv(tmp_path / "venv")


def test_pips_own_words_are_shown_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        '#!/bin/sh\necho "Collecting one"\necho "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"\nexit 1\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(bootstrap, "_has", lambda module: True)
    with pytest.raises(
        UserError, match="could not install the packages: ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"
    ):
        bootstrap.install(tmp_path, ["one"])
    assert "Collecting one" in capfd.readouterr().err

"""What Nix evaluates to, where there is a Nix."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from environment.locking import FileLock
from environment.testkit.nix_tree import Tree
from environment.waiting import wait_until


@pytest.fixture(scope="session")
def _nix(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where there is no Nix, unless SKELDIR_REQUIRE_NIX says that there must be."""
    reason = None
    if shutil.which("nix") is None:
        reason = "this machine has no nix (.ci/nix installs it and runs these)"
    else:
        # Two that make a new store at once collide (Nix 2.8: "creating symlink …: File exists"): one after the other.
        with FileLock(tmp_path_factory.getbasetemp().parent / "nix.lock") as lock:
            wait_until(lock.try_exclusive, 60, "the other test workers to look at Nix's store")
            probe = subprocess.run(
                ["nix-instantiate", "--eval", "-E", 'builtins.toFile "probe" ""'], capture_output=True
            )
        if probe.returncode != 0:
            reason = f"nix cannot use its store: {probe.stderr.decode().strip().splitlines()[-1]}"
    if reason is not None:
        (pytest.fail if os.environ.get("SKELDIR_REQUIRE_NIX") else pytest.skip)(reason)


@pytest.fixture
def tree(tmp_path: Path, _nix: None) -> Tree:
    return Tree(tmp_path / "tree")

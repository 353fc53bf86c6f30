"""The scripts of .ci: what cannot be done is a failure, never a success that did nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from environment.sources import CHECKOUT


@pytest.mark.parametrize("script", ["nix", "programs"])
def test_what_cannot_be_installed_is_a_failure(script: str, tmp_path: Path) -> None:
    """On a machine that has next to nothing, and no apt-get to change that."""
    for name in ("bash", "dirname", "env", "id"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    done = subprocess.run(
        [CHECKOUT / ".ci" / script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    assert "not mine to install" in line
    assert done.stdout == ""

"""A copy of what Nix reads of the checkout, to evaluate with the stand-in in nixpkgs' place."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from environment.sources import CHECKOUT

SYSTEM = "x86_64-linux"
PARTS = (
    "alembic",
    "alembic.ini",
    "backend",
    "benchmarks/__main__.py",
    "conftest.py",
    "default.nix",
    "environment",
    "examples",
    "flake.lock",
    "flake.nix",
    "nix",
    "ops",
    "packages",
    "pyproject.toml",
    "replit.nix",
    "shell.nix",
    "tests",
)
#: Names and versions are all that evaluation looks at.
MACHINE = {
    "bash": "/bin/bash",
    "path": "/bin",
    "python": {"folder": "/python", "version": "3", "packages": {}},
    **{name: {"folder": f"/{name}", "version": "1"} for name in ("postgresql", "ruff", "nixfmt")},
}


class Tree:
    """A copy of what Nix reads of the checkout, whose stand-in has the packages that pyproject.toml requires."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for part in PARTS:
            source = CHECKOUT / part
            if source.is_dir():
                shutil.copytree(source, root / part, ignore=shutil.ignore_patterns("__pycache__", ".*", "machine.json"))
            else:
                (root / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, root / part)
        listed = (CHECKOUT / "nix/packages.txt").read_text().split()
        python = {name.removeprefix("python313Packages."): "1" for name in listed if "python313Packages." in name}
        machine = {**MACHINE, "python": {**MACHINE["python"], "packages": python}}  # type: ignore[dict-item]
        (root / "nix/stand-in/machine.json").write_text(json.dumps(machine))

    def evaluate(self, *words: str) -> Any:
        """nix eval."""
        done = self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """nix eval, successful or not."""
        features = ["--extra-experimental-features", "nix-command flakes"]
        return subprocess.run(
            ["nix", *features, "eval", "--json", *words], cwd=self.root, capture_output=True, text=True, check=False
        )

    def flake(self, output: str, function: str) -> Any:
        """A function of an output of the flake."""
        stand_in = ["--override-input", "nixpkgs", f"path:{self.root}/nix/stand-in", "--no-write-lock-file"]
        return self.evaluate(f"path:{self.root}#{output}", *stand_in, "--apply", function)

    def imported(self, expression: str) -> Any:
        """An expression in which `project` is `import ./nix { }`, with the stand-in for the pin."""
        return self.evaluate("--impure", "--expr", self.let(expression))

    def let(self, expression: str) -> str:
        """The expression with its `project`."""
        return f"let project = import {self.root}/nix {{ nixpkgs = {self.root}/nix/stand-in; }}; in {expression}"

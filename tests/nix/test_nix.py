"""What nix/ evaluates to, with the stand-in in nixpkgs' place.  Nothing is built here; `.ci/nix` builds and runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from environment.locking import FileLock
from environment.sources import CHECKOUT
from environment.waiting import wait_until

SYSTEM = "x86_64-linux"
PARTS = (
    "alembic",
    "alembic.ini",
    "backend",
    "conftest.py",
    "environment",
    "flake.lock",
    "flake.nix",
    "nix",
    "packages",
    "pyproject.toml",
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


@pytest.fixture(scope="session", autouse=True)
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
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


def test_the_flake_and_the_import_give_the_same_derivations(tree: Tree, tmp_path: Path) -> None:
    """Also when the tree of the import holds what git ignores."""
    paths = "builtins.mapAttrs (_: each: each.drvPath)"
    from_flake = {
        "packages": tree.flake(f"packages.{SYSTEM}", paths),
        "checks": tree.flake(f"checks.{SYSTEM}", paths),
        "shell": tree.flake(f"devShells.{SYSTEM}", paths),
        "formatter": tree.flake(f"formatter.{SYSTEM}", "each: each.drvPath"),
    }
    for ignored in ("backend/app/__pycache__/x.pyc", "tests/.hypothesis/x", ".venv/x", ".env", "backend/.mypy_cache/x"):
        (tree.root / ignored).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / ignored).write_text("")
    imported = tree.imported(
        "builtins.toJSON { packages = builtins.mapAttrs (_: each: each.drvPath) "
        "{ default = project.worker; inherit (project) worker; }; "
        "checks = builtins.mapAttrs (_: each: each.drvPath) project.checks; "
        "shell.default = project.shell.drvPath; formatter = project.formatter.drvPath; }"
    )
    assert from_flake == json.loads(imported)


def test_a_document_changes_no_derivation_and_the_code_does(tree: Tree) -> None:
    before = tree.imported("project.worker.drvPath")
    (tree.root / "README.md").write_text("changed")
    (tree.root / "tests" / "conftest.py").write_text("changed")
    assert tree.imported("project.worker.drvPath") == before
    (tree.root / "backend" / "app" / "celery_app.py").write_text("changed")
    assert tree.imported("project.worker.drvPath") != before


def test_the_outputs_are_those_that_the_readme_names(tree: Tree) -> None:
    systems = {"aarch64-darwin", "aarch64-linux", "x86_64-linux"}
    outputs = {
        "apps": {"default", "migrate", "with-postgres", "worker"},
        "checks": {"celery-foundation", "format"},
        "devShells": {"default"},
        "packages": {"default", "worker"},
    }
    for output, names in outputs.items():
        found = tree.flake(output, "builtins.mapAttrs (_: builtins.attrNames)")
        assert {system: set(each) for system, each in found.items()} == dict.fromkeys(systems, names)
    apps = tree.flake(f"apps.{SYSTEM}", "builtins.mapAttrs (_: each: each.meta.description)")
    assert all(apps.values())


def test_without_flakes_it_is_the_nixpkgs_of_the_lock(tree: Tree) -> None:
    locked = json.loads((CHECKOUT / "flake.lock").read_text())["nodes"]["nixpkgs"]["locked"]
    asked = tree.evaluate(
        "--impure",
        "--expr",
        f"builtins.scopedImport {{ builtins = builtins // {{ fetchTarball = each: each; }}; }} {tree.root}/nix/pin.nix",
    )
    url = f"https://github.com/{locked['owner']}/{locked['repo']}/archive/{locked['rev']}.tar.gz"
    assert asked == {"url": url, "sha256": locked["narHash"]}


def test_a_package_that_nixpkgs_lacks_is_named(tree: Tree) -> None:
    project = tree.root / "pyproject.toml"
    project.write_text(project.read_text().replace('"alembic>=', '"no-such.Package>=1", "alembic>='))
    failed = tree.attempt("--impure", "--expr", tree.let("project.worker.drvPath"))
    assert failed.returncode != 0
    assert "nixpkgs has no Python package no-such-package, which pyproject.toml requires as" in failed.stderr


def test_requirements_become_attribute_names(tree: Tree) -> None:
    project = tree.root / "small.toml"
    project.write_text(
        "[project]\n"
        "dependencies = ['Foo.Bar__baz[extra,other]>=1 ; python_version < \"4\"', 'psycopg2-binary', 'a==1']\n"
        "[project.optional-dependencies]\ntest = ['PyTest ~= 8']\nembedded = ['never-read']\n"
    )
    names = tree.evaluate(
        "--impure",
        "--expr",
        f"import {tree.root}/nix/python-packages.nix "
        f"{{ lib = import {tree.root}/nix/stand-in/lib.nix; pyproject = {project}; }} "
        "(builtins.listToAttrs (map (name: { inherit name; value = name; }) "
        '[ "foo-bar-baz" "psycopg2" "a" "pytest" ]))',
    )
    assert names == ["foo-bar-baz", "psycopg2", "a", "pytest"]


def test_the_stand_in_offers_what_is_listed_and_no_more(tree: Tree) -> None:
    listed = {name for name in (CHECKOUT / "nix/packages.txt").read_text().split() if "." not in name}
    offered = tree.evaluate(
        "--impure", "--expr", f'builtins.attrNames (import {tree.root}/nix/stand-in {{ system = "{SYSTEM}"; }})'
    )
    assert set(offered) - {"lib"} == listed


def test_a_stand_in_that_was_not_prepared_says_so(tree: Tree) -> None:
    (tree.root / "nix/stand-in/machine.json").unlink()
    failed = tree.attempt("--impure", "--expr", tree.let("project.worker.drvPath"))
    assert "machine.json is missing; nix/stand-in/prepare.py makes it" in failed.stderr

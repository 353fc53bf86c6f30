"""What nix/ evaluates to, with the stand-in in nixpkgs' place.  Nothing is built here; `.ci/nix` builds and runs."""

from __future__ import annotations

import json
from pathlib import Path

from environment.sources import CHECKOUT
from environment.testkit.nix_tree import SYSTEM, Tree


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

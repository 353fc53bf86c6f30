"""What nix/ evaluates to, with the stand-in in nixpkgs' place.  Nothing is built here; `.ci/nix` builds and runs."""

from __future__ import annotations

import json
from pathlib import Path

import celery_postgres
from environment.sources import CHECKOUT
from environment.testkit.nix_tree import SYSTEM, Tree

WORDS = {"migrate", "with-postgres", "worker"}
PACKAGES = {"celery-postgres", "skeldir", *WORDS}


def test_the_flake_and_the_import_give_the_same_derivations(tree: Tree, tmp_path: Path) -> None:
    """Also when the tree of the import holds what git ignores."""
    paths = "builtins.mapAttrs (_: each: each.drvPath)"
    from_flake = {
        "packages": tree.flake(f"packages.{SYSTEM}", paths),
        "checks": tree.flake(f"checks.{SYSTEM}", paths),
        "shell": tree.flake(f"devShells.{SYSTEM}", paths),
        "formatter": tree.flake(f"formatter.{SYSTEM}", "each: each.drvPath"),
    }
    for ignored in (
        "backend/app/gone/__pycache__/x.pyc",
        "backend/app/__pycache__/x.pyc",
        "tests/.hypothesis/x",
        ".venv/x",
        ".env",
        "backend/.mypy_cache/x",
    ):
        (tree.root / ignored).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / ignored).write_text("")
    imported = tree.imported(
        "builtins.toJSON { packages = builtins.mapAttrs (_: each: each.drvPath) project.packages; "
        "checks = builtins.mapAttrs (_: each: each.drvPath) project.checks; "
        "shell.default = project.shell.drvPath; formatter = project.formatter.drvPath; }"
    )
    assert from_flake == json.loads(imported)
    # nix-shell gives every file that it calls inNixShell.
    words = f"{{ nixpkgs = {tree.root}/nix/stand-in; inNixShell = true; }}"
    shell = tree.evaluate("--impure", "--expr", f"(import {tree.root}/shell.nix {words}).drvPath")
    assert shell == from_flake["shell"]["default"]


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
        "apps": {"default", *WORDS, "skeldir"},
        "checks": {"celery-foundation", "format", "mk-worker", "program", "shell", *PACKAGES},
        "devShells": {"default"},
        "packages": {"default", *PACKAGES},
    }
    for output, names in outputs.items():
        found = tree.flake(output, "builtins.mapAttrs (_: builtins.attrNames)")
        assert {system: set(each) for system, each in found.items()} == dict.fromkeys(systems, names)
    apps = tree.flake(f"apps.{SYSTEM}", "builtins.mapAttrs (_: each: each.meta.description)")
    assert all(apps.values())


def test_every_word_is_the_one_program(tree: Tree) -> None:
    program = tree.imported('"${project.skeldir}/bin/skeldir"')
    apps = tree.flake(f"apps.{SYSTEM}", "builtins.mapAttrs (_: each: each.program)")
    assert apps["default"] == apps["skeldir"] == program
    for word in WORDS:
        script = tree.imported(f"project.{word}.program")
        assert f'exec {program} {"run --temporary" if word == "with-postgres" else word} "$@"' in script.splitlines()


def test_without_flakes_there_are_the_same_packages_and_checks(tree: Tree) -> None:
    """nix-build, nix-build -A worker, nix-build -A checks."""
    root = f"import {tree.root} {{ nixpkgs = {tree.root}/nix/stand-in; }}"
    expression = f"let made = {root}; in [ made.drvPath made.worker.drvPath made.checks.format.drvPath ]"
    made = tree.evaluate("--impure", "--expr", expression)
    assert made == tree.imported("[ project.skeldir.drvPath project.worker.drvPath project.checks.format.drvPath ]")


def test_the_formatting_of_every_nix_and_python_file_is_checked(tree: Tree) -> None:
    listed = "folder: below: builtins.concatLists (builtins.attrValues (builtins.mapAttrs (name: type: "
    listed += 'if type == "directory" then walk "${folder}/${name}" "${below}${name}/" else [ "${below}${name}" ]) '
    listed += "(builtins.readDir folder)))"
    ignored = ("result-1/x.py", "benchmarks/node/node_modules/gyp/x.py", ".venv/x.py", "docs/_build/conf.py")
    for name in ignored:
        (tree.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / name).write_text("")
    found = set(tree.imported(f'let walk = {listed}; in walk "${{project.checks.format.files}}" ""'))
    endings = (".py", ".pyi", ".nix", "pyproject.toml", "ruff.toml")
    everything = {str(path.relative_to(tree.root)) for path in tree.root.rglob("*") if path.name.endswith(endings)}
    assert found == everything - set(ignored)
    assert {"replit.nix", "benchmarks/__main__.py", "examples/nix/flake.nix", "examples/nix/shop.py"} <= found


def test_a_build_may_listen_on_loopback_on_macos(tree: Tree) -> None:
    for check in ("celery-foundation", "mk-worker", "program"):
        assert tree.imported(f"project.checks.{check}.__darwinAllowLocalNetworking") is True


def test_replit_gets_the_python_and_the_postgresql_of_the_definition(tree: Tree) -> None:
    pinned = f"path: _: import path {{ nixpkgs = {tree.root}/nix/stand-in; }}"
    scoped = f"builtins.scopedImport {{ import = {pinned}; }} {tree.root}/replit.nix"
    deps = tree.evaluate("--impure", "--expr", f"map toString ({scoped} {{ pkgs = {{ }}; }}).deps")
    assert deps == tree.imported("map toString [ project.pythonEnv project.postgresql ]")


def test_other_flakes_get_the_package_by_the_overlay(tree: Tree) -> None:
    """The overlay's own part: real nixpkgs adds `pythonPackagesExtensions` to every Python."""
    expression = f"""
      let
        final = import {tree.root}/nix/stand-in {{ system = "{SYSTEM}"; }};
        made = import {tree.root}/nix/overlay.nix final {{ pythonPackagesExtensions = [ "before" ]; }};
        extension = builtins.elemAt made.pythonPackagesExtensions 1;
        package = (extension final.python313.pkgs {{ }}).celery-postgres;
      in
      [ (builtins.attrNames made) (builtins.head made.pythonPackagesExtensions) package.pname package.version
        package.drvPath ]
    """
    names, before, name, version, path = tree.evaluate("--impure", "--expr", expression)
    assert (names, before) == (["pythonPackagesExtensions", "skeldir"], "before")
    assert (name, version) == ("celery-postgres", celery_postgres.__version__)
    assert path == tree.imported("project.celery-postgres.drvPath")


def test_another_project_makes_its_worker(tree: Tree) -> None:
    """`.ci/nix` runs it; this is what its program types."""
    arguments = '{ python = project.python; app = "it\'s:app"; source = ./nix; queues = [ "a" "b" ]; '
    arguments += 'concurrency = 3; arguments = [ "--loglevel=WARNING" ]; }'
    script = tree.imported(f"(project.mkWorker {arguments}).program")
    assert "python -P -m celery_postgres migrate >&2" in script.splitlines()
    assert "exec python -P -m celery_postgres run -- celery -A 'it'\\''s:app' worker \\" in script.splitlines()
    assert "--pool prefork --concurrency 3 --queues a,b '--loglevel=WARNING' \"$@\"" in script
    bare = tree.imported('(project.mkWorker { python = project.python; app = "shop"; migrate = false; }).program')
    assert "migrate" not in bare
    assert 'PYTHONPATH=""' in bare


def test_the_example_of_another_project_evaluates(tree: Tree) -> None:
    flake = f"path:{tree.root}/examples/nix"
    overridden = ["--override-input", "celery-postgres", f"path:{tree.root}"]
    overridden += ["--override-input", "celery-postgres/nixpkgs", f"path:{tree.root}/nix/stand-in"]
    for output in (f"packages.{SYSTEM}.default", f"devShells.{SYSTEM}.default"):
        assert tree.evaluate(f"{flake}#{output}.drvPath", *overridden, "--no-write-lock-file").endswith(".drv")


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
        "[project.optional-dependencies]\ntest = ['PyTest ~= 8']\notel = ['otel']\nembedded = ['never-read']\n"
    )
    names = tree.evaluate(
        "--impure",
        "--expr",
        f"import {tree.root}/nix/python-packages.nix "
        f"{{ lib = import {tree.root}/nix/stand-in/lib.nix; pyproject = {project}; "
        'extras = [ "test" "otel" ]; } '
        "(builtins.listToAttrs (map (name: { inherit name; value = name; }) "
        '[ "foo-bar-baz" "psycopg2" "a" "pytest" "otel" ]))',
    )
    assert names == ["foo-bar-baz", "psycopg2", "a", "pytest", "otel"]


def test_the_stand_in_offers_what_is_listed_and_no_more(tree: Tree) -> None:
    listed = {name for name in (CHECKOUT / "nix/packages.txt").read_text().split() if "." not in name}
    offered = tree.evaluate(
        "--impure", "--expr", f'builtins.attrNames (import {tree.root}/nix/stand-in {{ system = "{SYSTEM}"; }})'
    )
    inner = {"lib", "buildPythonPackage", "pythonWith"}
    assert set(offered) - inner == listed


def test_a_stand_in_that_was_not_prepared_says_so(tree: Tree) -> None:
    (tree.root / "nix/stand-in/machine.json").unlink()
    failed = tree.attempt("--impure", "--expr", tree.let("project.worker.drvPath"))
    assert "machine.json is missing; nix/stand-in/prepare.py makes it" in failed.stderr

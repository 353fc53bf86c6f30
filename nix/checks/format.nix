# The formatting of all Nix and Python files.
{ pkgs, source }:
let
  files = source [
    "alembic"
    "backend"
    "conftest.py"
    "environment"
    "flake.nix"
    "nix"
    "packages"
    "pyproject.toml"
    "shell.nix"
    "tests"
  ];
in
pkgs.runCommand "format"
  {
    nativeBuildInputs = [
      pkgs.nixfmt
      pkgs.ruff
    ];
    meta.description = "nixfmt and ruff leave every file as it is";
  }
  ''
    cd ${files}
    find . -name '*.nix' -print0 | xargs -0 nixfmt --check
    ruff format --no-cache --check .
    touch "$out"
  ''

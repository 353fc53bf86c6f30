# The formatting of all Nix and Python files.
{ pkgs, filesEnding }:
let
  files = filesEnding [
    "\\.nix"
    "\\.pyi?"
    "pyproject\\.toml"
    "ruff\\.toml"
  ];
in
pkgs.runCommand "format"
  {
    nativeBuildInputs = [
      pkgs.nixfmt
      pkgs.ruff
    ];
    passthru = { inherit files; };
    meta.description = "nixfmt and ruff leave every file as it is";
  }
  ''
    cd ${files}
    find . -name '*.nix' -print0 | xargs -0 nixfmt --check
    ruff format --no-cache --check .
    touch "$out"
  ''

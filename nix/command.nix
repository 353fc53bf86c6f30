# A command of `environment/` as a program that runs from the store, wherever it is started.
{
  pkgs,
  source,
  tools,
}:
{
  name,
  words,
  description,
}:
let
  code = source [
    "alembic"
    "alembic.ini"
    "backend"
    "environment"
    "packages"
  ];
in
pkgs.writeShellApplication {
  inherit name;
  runtimeInputs = tools;
  # Its state and .env are those of the checkout that it is started in, as with ./dev. A single-user Nix lets
  # root write to the store, and byte code must not end up there.
  text = ''
    export SKELDIR_PROJECT="''${SKELDIR_PROJECT:-$PWD}"
    export PYTHONPATH="${code}/packages/celery-postgres/src:${code}/backend:${code}" PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
    exec python -P -m environment.cli ${words} "$@"
  '';
  meta = {
    inherit description;
    mainProgram = name;
  };
}

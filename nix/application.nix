# The application of this repository, for the NixOS module and for the image: the attributes are the module's options.
# Another project writes its own, with the three that have no default (see docs/guides/nixos.md).
{
  python,
  source,
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
{
  inherit python;
  pythonPath = [
    "${code}/packages/celery-postgres/src"
    "${code}/backend"
  ];
  app = "app.celery_app.celery_app";
  migrate = [
    "alembic"
    "--config"
    "${code}/alembic.ini"
    "upgrade"
    "head"
  ];
  roles = ../ops/postgres/roles.sql;
  front.command = [
    "uvicorn"
    "app.main:app"
    "--no-access-log"
    "--timeout-graceful-shutdown"
    "5"
  ];
}

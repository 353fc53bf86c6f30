# The worker of another project, as a program: `mkWorker { python = pkgs.python3; app = "shop"; source = ./.; }`.
#
# DATABASE_URL, or whatever else the application reads, comes from the environment in which the program runs, and never
# from here: every account can read the store.
{
  # An interpreter of nixpkgs, from 3.11 on.
  python,
  # What `celery -A` takes: a module, or `module:attribute`.
  app,
  name ? "celery-worker",
  # A folder whose modules the application consists of; null if it is among the packages.
  source ? null,
  # Which Python packages it needs, besides Celery and celery-postgres: `packages: [ packages.requests ]`.
  packages ? _: [ ],
  # Options of `celery worker`; a list of queues, and any further words.
  pool ? "prefork",
  concurrency ? null,
  queues ? [ ],
  arguments ? [ ],
  # Whether it creates or updates the package's tables, whose address is then CELERY_BROKER_URL or DATABASE_URL.
  migrate ? true,
}:
let
  celery-postgres =
    python.pkgs.celery-postgres or (python.pkgs.callPackage ./celery-postgres.nix { });

  environment = python.withPackages (all: [ celery-postgres ] ++ packages all);

  optional = condition: words: if condition then words else [ ];

  words =
    optional (concurrency != null) [
      "--concurrency"
      (toString concurrency)
    ]
    ++ optional (queues != [ ]) [
      "--queues"
      (builtins.concatStringsSep "," queues)
    ]
    ++ arguments;
in
python.pkgs.callPackage (
  { lib, writeShellApplication }:
  writeShellApplication {
    inherit name;
    runtimeInputs = [ environment ];
    # exec: a TERM reaches Celery itself, which drains.
    text = ''
      export PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="${
        if source == null then "" else source
      }"
    ''
    # Without an address, migrate would take libpq's default database.
    + lib.optionalString migrate ''
      if [ -z "''${CELERY_BROKER_URL:-}''${DATABASE_URL:-}" ]; then
        echo "${name}: set DATABASE_URL or CELERY_BROKER_URL to the database whose tables it migrates" >&2
        exit 1
      fi
      python -P -m celery_postgres migrate >&2
    ''
    + ''
      exec python -P -m celery_postgres run -- celery -A ${lib.escapeShellArg app} worker \
        --pool ${lib.escapeShellArg pool} ${lib.escapeShellArgs words} "$@"
    '';
    passthru = { inherit environment; };
    meta = {
      description = "The Celery worker of ${app}, with PostgreSQL as its broker";
      mainProgram = name;
    };
  }
) { }

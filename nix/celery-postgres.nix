# The broker and the result backend as a Python package: `python3Packages.callPackage` calls this, in any nixpkgs that
# has Celery 5.4 or newer. The driver is the one that nixpkgs has.
{
  lib,
  buildPythonPackage,
  celery,
  django,
  hatchling,
  kombu,
  psycopg,
  psycopg2,
  rich,
  sqlalchemy,
}:
let
  root = ../packages/celery-postgres;

  # As hatchling reads it.
  lines = builtins.split "\n" (builtins.readFile (root + "/src/celery_postgres/__init__.py"));
  matches = map (builtins.match "__version__ = \"(.*)\"") (builtins.filter builtins.isString lines);
in
buildPythonPackage {
  pname = "celery-postgres";
  version = builtins.head (builtins.head (builtins.filter (match: match != null) matches));
  pyproject = true;

  src =
    (import ./source.nix {
      inherit root;
      name = "celery-postgres-source";
    }).source
      [
        "CHANGELOG.md"
        "LICENSE"
        "README.md"
        "pyproject.toml"
        "src"
      ];

  build-system = [ hatchling ];

  dependencies = [
    celery
    kombu
    psycopg2
  ];

  optional-dependencies = {
    django = [ django ];
    psycopg = [ psycopg ];
    sqlalchemy = [ sqlalchemy ];
    tool = [ rich ];
  };

  # Its tests need a server: the repository runs them on every supported version of all that is named here.
  doCheck = false;

  pythonImportsCheck = [
    "celery_postgres"
    "celery_postgres.beat"
    "celery_postgres.tool"
  ];

  meta = {
    description = "Celery on PostgreSQL alone: a Kombu transport and a result backend";
    license = lib.licenses.bsd3;
  };
}

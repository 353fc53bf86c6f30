# Boots a temporary PostgreSQL, applies the migrations, launches a solo worker, and runs the tests of the
# foundation against it. The log of the run, the worker's own and junit.xml are the result.
{
  pkgs,
  source,
  tools,
}:
let
  checkout = source [
    "alembic"
    "alembic.ini"
    "backend"
    "conftest.py"
    "environment"
    "packages"
    "pyproject.toml"
    "tests"
  ];
  tests = [
    "tests/test_b051_celery_foundation.py"
    "tests/nix/test_versions.py"
  ];
in
pkgs.runCommand "celery-foundation"
  {
    nativeBuildInputs = tools;
    # On macOS a sandboxed build reaches no 127.0.0.1 without this: the worker serves its pages there.
    __darwinAllowLocalNetworking = true;
    meta.description = "The foundation's tests against a launched worker on a temporary PostgreSQL";
  }
  ''
    set -o pipefail
    cp -r ${checkout} checkout
    chmod -R u+w checkout
    cd checkout
    mkdir home "$out"
    export HOME=$PWD/home PYTHONPATH=$PWD/packages/celery-postgres/src:$PWD/backend:$PWD
    python -m environment.cli run --temporary --worker --log "$out/worker.log" -- \
      python -m environment.cli test --junitxml "$out/junit.xml" ${toString tests} 2>&1 | tee "$out/log"
  ''

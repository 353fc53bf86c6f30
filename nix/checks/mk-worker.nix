# The worker of another project (examples/nix), on a PostgreSQL of its own: it creates its tables, runs a task, drains.
{
  mkWorker,
  pkgs,
  python,
  skeldir,
  source,
}:
let
  folder = "${source [ "examples" ]}/examples/nix";

  worker = mkWorker {
    inherit python;
    name = "shop-worker";
    app = "shop";
    source = folder;
    pool = "threads";
    concurrency = 2;
    queues = [ "celery" ];
  };
in
pkgs.runCommand "mk-worker"
  {
    nativeBuildInputs = [
      skeldir
      worker
      worker.environment
    ];
    __darwinAllowLocalNetworking = true;
    meta.description = "mkWorker: the worker of another project creates its tables, runs a task and drains";
  }
  ''
    set -o pipefail
    mkdir home "$out"
    export HOME=$PWD/home log="$out/worker.log" PYTHONPATH=${folder}
    ! env -u DATABASE_URL -u CELERY_BROKER_URL shop-worker 2> "$out/refused"
    [ "$(cat "$out/refused")" = \
      "shop-worker: set DATABASE_URL or CELERY_BROKER_URL to the database whose tables it migrates" ]
    # By name: a sandbox has no /usr/bin/env.
    skeldir run --temporary -- bash ${folder}/try.sh shop-worker ${worker.environment}/bin/python | tee "$out/log"
    grep --quiet 'sold 3 of hammer' "$out/log"
  ''

#!/usr/bin/env bash
# try.sh WORKER PYTHON: run the worker on DATABASE_URL, give it a task, and let it drain. $log is the worker's.
set -euo pipefail
: "${log:=worker.log}"

"$1" >"$log" 2>&1 &
worker=$!
trap 'kill "$worker" 2>/dev/null || true; cat "$log"' EXIT
"$2" -m celery_postgres migrate # as the worker does; whichever comes first
"$2" -c 'from shop import sell; print(sell.delay("hammer", 3).get(timeout=60))'
kill -TERM "$worker"
wait "$worker"
trap - EXIT

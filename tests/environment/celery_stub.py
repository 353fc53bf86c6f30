"""Stands in for a Celery worker: writes the worker file, answers /readyz, drains on TERM.

``celery_stub.py MODE worker ...`` where MODE is ``good``, ``stubborn`` (ignores TERM), ``unready`` (answers 503)
or ``broken`` (ends at once).
"""

# ruff: noqa: T201  its output is the log that the tests read

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

mode = sys.argv[1]
print("DATABASE_URL is", os.environ["DATABASE_URL"], "and the words are", *sys.argv[2:], flush=True)
if mode == "broken":
    print("no tables: run ./dev migrate", flush=True)
    sys.exit(3)


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(503 if mode == "unready" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


def drain(number: int, frame: object) -> None:
    print("got", signal.Signals(number).name, flush=True)
    if mode != "stubborn":
        file.unlink()
        os._exit(0)


signal.signal(signal.SIGTERM, drain)
server = HTTPServer(("127.0.0.1", int(os.environ["CELERY_METRICS_PORT"])), Pages)
file = Path(os.environ["CELERY_WORKER_FILE"])
half = file.with_suffix(".half")
half.write_text(json.dumps({"pid": os.getpid(), "metrics_host": "127.0.0.1", "metrics_port": server.server_port}))
half.replace(file)
server.serve_forever()

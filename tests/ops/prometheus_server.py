"""A Prometheus for tests, from the configuration that ships, with its scrapes quickened."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from environment.cluster import free_port
from environment.lifetime import Lifetime
from environment.sources import CHECKOUT
from environment.testkit.children import end, serve
from environment.waiting import wait_until

SHIPPED = CHECKOUT / "ops/prometheus"


class PrometheusServer(Lifetime):
    """A context manager: it listens on a free port of 127.0.0.1 and scrapes `targets` every second.

    Args:
        program: the path of Prometheus.
        folder: an empty folder for its data.
        targets: host:port of each worker.
    """

    def __init__(self, program: str, folder: Path, targets: Sequence[str]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        configuration = (SHIPPED / "prometheus.yml").read_text()
        for shipped, ours in (
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            ("scrape_timeout: 10s", "scrape_timeout: 1s"),
            ('targets: ["127.0.0.1:9540"]', f"targets: {json.dumps(list(targets))}"),
        ):
            assert configuration.count(shipped) == 1, shipped
            configuration = configuration.replace(shipped, ours)
        (folder / "prometheus.yml").write_text(configuration)
        (folder / "celery.rules.yml").write_text((SHIPPED / "celery.rules.yml").read_text())
        self._log = folder / "log"
        self._command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        self._command += [f"--web.listen-address={self.address}", "--log.level=warn"]

    def get(self, path: str, **parameters: str) -> Any:
        """What its HTTP interface answers, of which an error fails the test."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}?{query}: {error.read().decode()}") from None

    def values(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """An expression's values now, by their sorted labels."""
        found = self.get("query", query=expression)["result"]
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in found}

    def open(self) -> None:
        """Start it; return when it is ready."""
        with self._log.open("wb") as log:
            self._process = serve(self._command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self._is_ready, 30, "Prometheus to be ready")

    def close(self) -> None:
        """Stop it."""
        if self._process is not None:
            end(self._process, 30)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

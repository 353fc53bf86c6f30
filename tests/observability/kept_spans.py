"""OpenTelemetry's in-memory exporter, which also writes to a file what other processes are to see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class KeptSpans(InMemorySpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        # A line each, in one write: the children of a pool share the file.
        lines = "".join(span.to_json(indent=None) + "\n" for span in self.get_finished_spans())
        self.clear()
        with Path(os.environ["KEPT_SPANS"]).open("a") as file:
            file.write(lines)
        return result


class Unmakeable:
    def __init__(self) -> None:
        raise ValueError("https://user:hunter2@collector")

"""Traces through OpenTelemetry: from the sender of a task, through the message's headers, to the worker that runs it.

Imported only where TRACING_EXPORTER is set; needs the packages of the extra `otel`.
opentelemetry-instrumentation-celery creates the spans: `apply_async/…` at the sender, `run/…` in the worker. A task
body can add its own with `opentelemetry.trace.get_tracer(__name__)`. OpenTelemetry's own variables set everything else
(sampling, endpoint, batches): OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_BSP_SCHEDULE_DELAY and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from celery import signals
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status

from app.core.settings import ConfigurationError, Settings

#: For a prefork child that ends, whose spans would be lost: it runs no exit handlers.
LAST_FLUSH_MS = 5_000
#: Attributes that contain the text of an exception.
_QUOTING = frozenset({"exception.message", "exception.stacktrace", "celery.retry.reason"})

_provider: TracerProvider | None = None


class DiscreetExporter(SpanExporter):
    """Passes spans on without the texts of exceptions, which may quote a task's data (as `app.observability.faults`
    does for logs). The type of an exception stays, and its text is in the task's result.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([_discreet(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def install(settings: Settings) -> None:
    """Trace the tasks that this process sends and runs. Only the first call in a process has an effect.

    A provider that the program has set up before stays the global one, and does not get these spans.

    Raises:
        ConfigurationError: TRACING_EXPORTER names nothing that can be created.
    """
    global _provider
    if _provider is not None or settings.tracing_exporter is None:
        return
    exporter = DiscreetExporter(_exporter(settings.tracing_exporter))
    _provider = TracerProvider(resource=Resource.create({"service.name": settings.service_name}))
    # It survives prefork's forks: each child gets its own thread and an empty queue.
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(_provider)
    CeleryInstrumentor().instrument(tracer_provider=_provider)  # type: ignore[no-untyped-call]
    signals.worker_process_shutdown.connect(_flush, weak=False)


def _exporter(path: str) -> SpanExporter:
    module, _, name = path.partition(":")
    try:
        exporter: SpanExporter = getattr(import_module(module), name)()
    except Exception as error:
        # The text of the error may quote an endpoint with its credentials.
        raise ConfigurationError(f"TRACING_EXPORTER cannot be used: {type(error).__name__} when making it") from error
    return exporter


def _flush(**_: Any) -> None:
    if _provider is not None:
        _provider.force_flush(LAST_FLUSH_MS)


def _discreet(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=_without_quotes(span.attributes),
        events=[Event(event.name, _without_quotes(event.attributes), event.timestamp) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _without_quotes(attributes: Any) -> dict[str, Any]:
    return {name: value for name, value in (attributes or {}).items() if name not in _QUOTING}

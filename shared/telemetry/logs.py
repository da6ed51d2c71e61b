"""Logs as JSON lines with an allow-list of fields, so that nothing personal can slip in with an `extra`."""

import logging
import sys
from datetime import UTC, datetime
from typing import ClassVar

import orjson

from shared.telemetry.tracing import trace_id


class JsonLines(logging.Formatter):
    ALLOWED: ClassVar[frozenset[str]] = frozenset(
        {
            "attempts",
            "code",
            "count",
            "error",
            "event_id",
            "event_type",
            "hash",
            "incarnation",
            "lag",
            "offset",
            "partition",
            "partitions",
            "role",
            "route",
            "seal",
            "seconds",
            "status",
            "ticket_id",
            "topic",
        }
    )

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: record.__dict__[name] for name in self.ALLOWED if name in record.__dict__}
        if (trace := trace_id()) is not None:
            line["trace_id"] = trace
        if record.exc_info and record.exc_info[0] is not None:
            # The kind and place of a failure, never its text: a driver's message may quote a row.
            line["error"] = record.exc_info[0].__name__
            line["stack"] = _places(record)
        return orjson.dumps(line, default=str).decode()


def _places(record: logging.LogRecord) -> list[str]:
    places: list[str] = []
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    return places[-8:]


def configure_logging(service: str, level: str = "INFO") -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for noisy in ("aiokafka", "uvicorn.error", "httpx", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

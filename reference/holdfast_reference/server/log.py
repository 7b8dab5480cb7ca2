"""Logging: one line per event on stderr, as `key=value` pairs (logfmt)."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["configure", "event"]

_logger = logging.getLogger("holdfast")


def event(level: int, name: str, error: BaseException | None = None, /, **fields: object) -> None:
    """Log one event; an `error` is logged with its traceback."""
    if _logger.isEnabledFor(level):
        _logger.log(level, name, extra={"fields": fields}, exc_info=error)


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields: dict[str, object] = {"event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        pairs = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
        return f"time={stamp} level={record.levelname.lower()} {pairs}"


def _value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else json.dumps(text)


def configure(level: str) -> None:
    """Send the events of this package to stderr, from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Logfmt())
    _logger.handlers[:] = [handler]
    _logger.propagate = False
    _logger.setLevel(level.upper())

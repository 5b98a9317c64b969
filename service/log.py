"""Structured logs on standard error: one line an event that matters, never a body, a secret or an error's DETAIL."""

import logging
import sys
from typing import Literal

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from service.text import printable


def configure(log_format: Literal["text", "json"]) -> None:
    """Send our events, and what libraries log as warnings and worse, to standard error as text or as JSON lines.

    Text is key=value (logfmt), in which a hostile value is quoted and cannot begin a line of its own.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if log_format == "text":
        shared.append(_printable)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_without_bytes)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=renderer))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _printable(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A stranger's text, an event's id perhaps, commands no terminal."""
    return {name: printable(value, keep="\n") if isinstance(value, str) else value for name, value in event.items()}


def _without_bytes(record: logging.LogRecord) -> bool:
    """Aiohttp's parser quotes what it cannot read, a part of a body perhaps."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.exc_info = None
    return True

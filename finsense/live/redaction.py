"""Cuts known secrets out of everything that leaves the process as text: log lines, records of libraries, tracebacks."""

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, quote_plus

REDACTED = "<secret>"
# Shorter values would cut words out of honest lines; no token, secret or passphrase that we accept is so short.
_SHORTEST = 6


class _Known:
    """The secrets of this process and the pattern that finds them, in every spelling that a log may give them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spellings: set[str] = set()
        self.pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        """Know one more."""
        spellings = {
            value,
            repr(value)[1:-1],
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            quote(value, safe=""),
            quote(value),
            quote_plus(value),
        }
        with self._lock:
            if spellings <= self._spellings:
                return
            self._spellings |= spellings
            # The longest first: a secret may begin as another one does.
            ordered = sorted(self._spellings, key=lambda one: (-len(one), one))
            self.pattern = re.compile("|".join(map(re.escape, ordered)))


_known = _Known()


def register_secret(value: str) -> None:
    """From now on this value leaves the process in no log line and no traceback.

    The secret store registers all that it gives and takes. Values of fewer than six characters are not registered.
    """
    if len(value) >= _SHORTEST:
        _known.add(value)


def scrub(text: str) -> str:
    """The text without the known secrets."""
    pattern = _known.pattern
    return text if pattern is None else pattern.sub(REDACTED, text)


def scrubbed(value: Any) -> Any:
    """The value without the known secrets: texts, and texts in lists and mappings; others by what they print as.

    A value that prints no secret is returned as it is.
    """
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrubbed(key): scrubbed(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrubbed(one) for one in value]
    printed = repr(value)
    return value if scrub(printed) == printed else scrub(printed)


def redact(_logger: Any, _method: str, event: Any) -> Any:
    """The last processor of structlog: the line as it is to be written, without the known secrets.

    It may also stand earlier and take the line's fields, but only the finished line holds the text of exceptions.
    """
    if isinstance(event, bytes):
        return scrub(event.decode(errors="replace")).encode()
    if isinstance(event, MutableMapping):
        return scrubbed(event)
    return scrub(event) if isinstance(event, str) else event


@contextmanager
def shielded() -> Iterator[None]:
    """While it lasts, no known secret leaves through the standard library's logging or the traceback of a failure.

    A failure that nobody caught is told on stderr as Python would, without the secrets, and ends the process with 1.
    """
    records, threads = logging.getLogRecordFactory(), threading.excepthook

    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        made = records(*arguments, **options)
        # The clients of brokers write requests with their tokens at the level DEBUG.
        made.msg, made.args = scrub(made.getMessage()), None
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = scrub("".join(traceback.format_exception(*made.exc_info)).rstrip("\n"))
        return made

    def thread_failed(failure: threading.ExceptHookArgs) -> None:
        name = failure.thread.name if failure.thread is not None else "a thread"
        text = "".join(traceback.format_exception(failure.exc_type, failure.exc_value, failure.exc_traceback))
        sys.stderr.write(scrub(f"Exception in thread {name}:\n{text}"))

    logging.setLogRecordFactory(record)
    threading.excepthook = thread_failed
    try:
        yield
    except Exception:
        sys.stderr.write(scrub(traceback.format_exc()))
        raise SystemExit(1) from None
    finally:
        logging.setLogRecordFactory(records)
        threading.excepthook = threads

"""The event log: to the terminal for whoever watches, to a rotating file for whoever asks later.

Lines are handed to a thread through a bounded queue, because neither a full disk nor a stopped terminal may hold
the control loop up; what the queue cannot take is dropped. The telemetry has the same events, so nothing is known
from the log alone. Times are UTC.
"""

import contextlib
import logging
import queue
import sys
import time
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Final, TextIO

QUEUE_LINES_MAX: Final = 2048
FILE_NAME: Final = "flightd.log"
LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_COLOURS: Final = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
_RESET: Final = "\x1b[0m"


class _Formatter(logging.Formatter):
    """``2026-11-22T15:04:05.678Z WARNING  radio: text``; without the date and with colours on a terminal."""

    converter = staticmethod(time.gmtime)

    def __init__(self, *, dated: bool, coloured: bool) -> None:
        date = "%Y-%m-%dT%H:%M:%S" if dated else "%H:%M:%S"
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-8s %(source)s%(message)s", date)
        self._coloured = coloured

    def formatMessage(self, record: logging.LogRecord) -> str:  # The name is the library's.
        source = record.name.removeprefix("flightd").lstrip(".")
        record.source = f"{source}: " if source and source != "event" else ""
        text = super().formatMessage(record)
        colour = _COLOURS.get(record.levelno) if self._coloured else None
        return f"{colour}{text}{_RESET}" if colour else text


class EventLog:
    """Logger ``flightd`` and its two ends; ``close`` writes what waits."""

    def __init__(self, directory: Path, *, level: str, max_bytes: int, backups: int, terminal: TextIO) -> None:
        # A log that cannot be written must never become an error of the flight.
        logging.raiseExceptions = False
        screen = logging.StreamHandler(terminal)
        screen.setFormatter(_Formatter(dated=False, coloured=terminal.isatty()))
        ends: list[logging.Handler] = [screen]
        fault = ""
        try:
            file = RotatingFileHandler(
                directory / FILE_NAME, maxBytes=max_bytes, backupCount=backups, encoding="utf-8"
            )
            file.setFormatter(_Formatter(dated=True, coloured=False))
            ends.append(file)
        except OSError as error:
            fault = f"{directory / FILE_NAME}: {error.strerror}; the log goes to the terminal only"
        lines: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_LINES_MAX)
        self._handler = QueueHandler(lines)
        self._listener = QueueListener(lines, *ends)
        self._ends = ends
        self._logger = logging.getLogger("flightd")
        self._logger.setLevel(LEVELS[level])
        self._logger.propagate = False
        self._logger.addHandler(self._handler)
        self._listener.start()
        if fault:
            self._logger.error("%s", fault)

    def close(self) -> None:
        """Write what waits and let go of the file."""
        self._logger.removeHandler(self._handler)
        with contextlib.suppress(queue.Full):
            self._listener.stop()
        for end in self._ends:
            end.flush()
            if end is not self._ends[0]:
                end.close()
        sys.stderr.flush()

"""The child's end of the pipe to the daemon.

Standard output carries protocol and nothing else, so the channel takes private copies of both descriptors at once:
what a library prints to standard output from then on goes to standard error, and what it reads from
standard input is empty. One thread reads; every message goes to the handler given to ``start``. Any thread may
send; a lock keeps messages whole.

End of file, a reader that is gone, or a length that no message of ours can have, mean that the daemon is lost:
``on_end`` runs, then the process has ``grace_s`` to leave by itself before ``os._exit`` ends it. A child that
outlives its daemon would go on drawing power that nobody governs.
"""

import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Generic, Self, TypeVar

import msgspec

from flightsw.gpu import protocol

ORPHAN_GRACE_S: Final = 3.0
"""Time a child has to end itself once its daemon is gone."""
ORPHAN_STATUS: Final = 75
"""Exit status of a child that had to be ended that way (EX_TEMPFAIL)."""
READ_BYTES: Final = 65536


Heard = TypeVar("Heard")
"""What a daemon says to this kind of child."""


class Pipe(ABC, Generic[Heard]):
    """Whole messages over two descriptors. ``malformed`` counts messages that were dropped."""

    def __init__(self, read_fd: int, write_fd: int, *, grace_s: float = ORPHAN_GRACE_S) -> None:
        self.malformed = 0
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._on_end: Callable[[], None] = lambda: None
        self._pending = bytearray()

    @classmethod
    def on_standard_streams(cls, *, grace_s: float = ORPHAN_GRACE_S) -> Self:
        """Take over descriptors 0 and 1 of this process."""
        sys.stdout.flush()
        read_fd, write_fd = os.dup(0), os.dup(1)
        null_fd = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null_fd, 0)
        os.close(null_fd)
        os.dup2(2, 1)
        return cls(read_fd, write_fd, grace_s=grace_s)

    @abstractmethod
    def decode(self, body: bytes) -> Heard:
        """A message from the daemon; ``msgspec.MsgspecError`` when it is none."""

    def send(self, message: msgspec.Struct) -> None:
        """Write one message; blocks while the pipe is full. A lost reader ends the process, it raises nothing."""
        frame = memoryview(protocol.encode(message))
        with self._lock:
            try:
                while frame:
                    frame = frame[os.write(self._write_fd, frame) :]
            except OSError:
                self._end()

    def receive(self) -> Heard | None:
        """The next message, None at the end of the stream. Malformed ones are counted and skipped.

        For the first message, before ``start``; afterwards only the reader thread calls this.
        """
        while True:
            header = self._read(protocol.LENGTH_PREFIX.size)
            if header is None:
                return None
            (length,) = protocol.LENGTH_PREFIX.unpack(header)
            if length > protocol.MESSAGE_BYTES_MAX:
                # The stream cannot be resynchronised behind a wrong length.
                print(f"pipe: length {length} is over {protocol.MESSAGE_BYTES_MAX}; leaving", file=sys.stderr)
                return None
            body = self._read(length)
            if body is None:
                return None
            try:
                return self.decode(body)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self.malformed += 1
                print(f"pipe: dropped a malformed message ({error})", file=sys.stderr)

    def start(self, handler: Callable[[Heard], None], on_end: Callable[[], None]) -> None:
        """Read in a thread of its own from now on. Both calls come from other threads and must not block."""
        self._on_end = on_end
        threading.Thread(target=self._serve, args=(handler,), name="channel", daemon=True).start()

    def _serve(self, handler: Callable[[Heard], None]) -> None:
        while (message := self.receive()) is not None:
            handler(message)
        self._end()

    def _read(self, count: int) -> bytes | None:
        while len(self._pending) < count:
            try:
                chunk = os.read(self._read_fd, READ_BYTES)
            except OSError:
                return None
            if not chunk:
                return None
            self._pending += chunk
        found = bytes(self._pending[:count])
        del self._pending[:count]
        return found

    def _end(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        timer = threading.Timer(self._grace_s, os._exit, args=(ORPHAN_STATUS,))
        timer.daemon = True
        timer.start()
        self._on_end()


class Channel(Pipe[protocol.ToChild]):
    """The end of a worker or of the probe."""

    def decode(self, body: bytes) -> protocol.ToChild:
        """A message from the daemon; ``msgspec.MsgspecError`` when it is none."""
        return protocol.decode_to_child(body)

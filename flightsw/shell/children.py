"""A child process: started by exec, spoken to over pipes, killed when the core says so.

A child may do anything: hang, flood, talk nonsense, leave grandchildren. So every direction has a bound.

- Its messages wait in a queue of ``MESSAGES_QUEUED_MAX``; while that is full its pipe is not read, and a flooding
  child blocks itself. A message over ``protocol.MESSAGE_BYTES_MAX``, or one that is none, ends it.
- What we say to it is dropped when ``INPUT_BYTES_MAX`` wait in its pipe: it does not read, and will be killed for
  that.
- Its standard error goes to the log at ``LOG_LINES_PER_S``; the rest is dropped and counted.
- It leads a session of its own, so a kill takes its children too, and Ctrl-C on the terminal reaches the daemon
  alone.

The exit is the last message of a child, told once, after the process is reaped and its pipe is read to the end.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar, cast

import msgspec

from flightsw.gpu import protocol

from .clock import now_s

MESSAGES_QUEUED_MAX: Final = 64
INPUT_BYTES_MAX: Final = 1 << 18
LOG_LINES_PER_S: Final = 20.0
LOG_LINES_BURST: Final = 50
LOG_CHARACTERS_MAX: Final = 500
LINE_BYTES_MAX: Final = 16_384
LOG_PAUSE_S: Final = 0.1
DRAIN_S: Final = 1.0
STATUS_CANNOT_EXECUTE: Final = 126

_LEASH: Final = str(Path(__file__).with_name("leash.py"))
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Exit(msgspec.Struct, frozen=True):
    """The process is gone. ``returncode`` is negative for a signal; ``reason`` is for people."""

    returncode: int
    reason: str


Said = TypeVar("Said")
"""What this kind of child says."""


class Process(asyncio.SubprocessProtocol, Generic[Said]):
    """One process. ``run`` starts it and waits for its end; what it says is taken with ``take``."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        spec: msgspec.Struct | None = None,
        niceness: int = 0,
        *,
        leashed: bool = True,
    ) -> None:
        """A child that is not ``leashed`` outlives a daemon that dies, to clean up after itself at end of file."""
        self._leashed = leashed
        self._command = tuple(command)
        self._spec = spec
        self._niceness = niceness
        self._errors = _ErrorLog(logging.getLogger(f"flightd.{name}"))
        self._transport: asyncio.SubprocessTransport | None = None
        self._buffer = bytearray()
        self._messages: deque[Said | Exit] = deque()
        self._open_pipes = {_STDOUT, _STDERR}
        self._exited = asyncio.Event()
        self._drained = asyncio.Event()
        self._killed = ""
        self.received = 0

    @abstractmethod
    def decode(self, body: bytes) -> Said:
        """A message of the child; ``msgspec.MsgspecError`` when it is none."""

    async def run(self) -> Exit:
        """Start the process, hand it its spec if any, wait for its end; the result is also the last message."""
        returncode = await self._live()
        end = Exit(returncode, self._reason(returncode))
        self._messages.append(end)
        return end

    def send(self, message: msgspec.Struct) -> bool:
        """Write a message; False when the child is not there or does not read."""
        pipe = self._pipe(_STDIN)
        if pipe is None or pipe.is_closing():
            return False
        stdin = cast(asyncio.WriteTransport, pipe)
        if stdin.get_write_buffer_size() > INPUT_BYTES_MAX:
            return False
        stdin.write(protocol.encode(message))
        return True

    def kill(self, reason: str) -> None:
        """SIGKILL to the child and all it started; one that is not started yet will not be."""
        self._killed = self._killed or reason
        self._kill_group()

    def take(self, limit: int) -> list[Said | Exit]:
        """At most ``limit`` messages, oldest first; makes room for more."""
        taken = [self._messages.popleft() for _ in range(min(limit, len(self._messages)))]
        if taken:
            self._parse()
        return taken

    @property
    def pid(self) -> int | None:
        """Process id while the process is there."""
        return self._transport.get_pid() if self._transport and not self._exited.is_set() else None

    async def _live(self) -> int:
        leash = (sys.executable, "-I", "-S", _LEASH, str(os.getpid()), str(self._niceness)) if self._leashed else ()
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.subprocess_exec(lambda: self, *leash, *self._command, start_new_session=True)
        except OSError as error:
            self._errors.last = f"cannot be started: {error.strerror or error}"
            return STATUS_CANNOT_EXECUTE
        try:
            if self._killed:
                self._kill_group()
            if self._spec is not None:
                self.send(self._spec)
            await self._exited.wait()
            # A grandchild may hold the pipes open; it gets a moment, then it is not listened to.
            self._kill_group()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), DRAIN_S)
            returncode = transport.get_returncode()
            return -signal.SIGKILL if returncode is None else returncode
        finally:
            # Also the way out of a cancelled ``run``: nobody is left behind, not even as a zombie.
            self._kill_group()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), DRAIN_S)
            transport.close()
            self._errors.close()

    def _kill_group(self) -> None:
        if self._transport is not None and (pid := self._transport.get_pid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _pipe(self, fd: int) -> asyncio.BaseTransport | None:
        return self._transport.get_pipe_transport(fd) if self._transport else None

    def _parse(self) -> None:
        """Cut the buffer into messages while there is room for them; read on when there is."""
        prefix = protocol.LENGTH_PREFIX
        start = 0
        while len(self._messages) < MESSAGES_QUEUED_MAX and len(self._buffer) - start >= prefix.size:
            (size,) = prefix.unpack_from(self._buffer, start)
            end = start + prefix.size + size
            if size > protocol.MESSAGE_BYTES_MAX:
                return self._refuse(f"announced {size} bytes, at most {protocol.MESSAGE_BYTES_MAX} are allowed")
            if len(self._buffer) < end:
                break
            try:
                self._messages.append(self.decode(bytes(self._buffer[start + prefix.size : end])))
            except (msgspec.MsgspecError, ValueError) as error:
                return self._refuse(f"sent something that is no message: {error}")
            self.received += 1
            start = end
        del self._buffer[:start]
        if (pipe := self._pipe(_STDOUT)) is not None and not pipe.is_closing():
            stdout = cast(asyncio.ReadTransport, pipe)
            if len(self._messages) < MESSAGES_QUEUED_MAX:
                stdout.resume_reading()
            else:
                stdout.pause_reading()
        return None

    def _refuse(self, reason: str) -> None:
        self._buffer.clear()
        self.kill(reason)

    def _reason(self, returncode: int) -> str:
        if self._killed:
            return f"killed: {self._killed}"
        if returncode < 0:
            try:
                return f"ended by {signal.Signals(-returncode).name}"
            except ValueError:
                return f"ended by signal {-returncode}"
        if returncode == 0:
            return "ended in an orderly way"
        return f"ended with status {returncode}" + (f": {self._errors.last}" if self._errors.last else "")

    # What follows is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDOUT:
            if not self._killed:
                self._buffer += data
                self._parse()
        elif wait_s := self._errors.write(data):
            stderr = cast(asyncio.ReadTransport, self._pipe(_STDERR))
            stderr.pause_reading()
            asyncio.get_running_loop().call_later(wait_s, _resume, stderr)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if not self._open_pipes:
            self._drained.set()

    def process_exited(self) -> None:
        self._exited.set()


class Child(Process[protocol.FromChild]):
    """A worker or the probe."""

    def decode(self, body: bytes) -> protocol.FromChild:
        """A message of the child; ``msgspec.MsgspecError`` when it is none."""
        return protocol.decode_from_child(body)


def _resume(pipe: asyncio.ReadTransport) -> None:
    if not pipe.is_closing():
        pipe.resume_reading()


class _ErrorLog:
    """Standard error of a child to the log, bounded in lines and in length; ``last`` is the last line."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._tokens, self._filled_s = float(LOG_LINES_BURST), now_s()
        self._dropped = 0
        self._rest = b""
        self.last = ""

    def write(self, data: bytes) -> float:
        """Take what came; returns for how long nothing more should be read, 0 for not at all."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            lines, self._rest = [*lines, self._rest], b""
        at_s = now_s()
        self._tokens = min(float(LOG_LINES_BURST), self._tokens + (at_s - self._filled_s) * LOG_LINES_PER_S)
        self._filled_s = at_s
        for line in lines:
            self._line(line)
        return LOG_PAUSE_S if self._tokens < 1.0 else 0.0

    def close(self) -> None:
        """The pipe is at its end."""
        self._line(self._rest)
        if self._dropped:
            self._log.warning("%d lines were dropped", self._dropped)
        self._rest, self._dropped = b"", 0

    def _line(self, line: bytes) -> None:
        text = "".join(
            c if c.isprintable() else " " for c in line[:LOG_CHARACTERS_MAX].decode(errors="replace")
        ).strip()
        if not text:
            return
        self.last = text
        if self._tokens < 1.0:
            self._dropped += 1
            return
        self._tokens -= 1.0
        if self._dropped:
            self._log.warning("%d lines were dropped", self._dropped)
            self._dropped = 0
        self._log.info("%s", text)

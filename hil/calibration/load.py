"""The load process as the bench holds it: orders down its pipe, answers up, finished work in its activity meter.

The bench never loads torch; the load is ``python -m flightsw.gpu.bench_load`` in a session of its own. Whatever
happens to the bench, the load ends: with the pipe, with the parent's death, or by ``close``.
"""

import contextlib
import ctypes
import mmap
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from flightsw.link import load
from flightsw.link.load import Answer, Order
from flightsw.link.meter import METER_LAYOUT

PR_SET_PDEATHSIG: Final = 1
START_MAX_S: Final = 180.0
ANSWER_MAX_S: Final = 120.0
"""A load builds a model, and may have to compile kernels."""
CLOSE_S: Final = 5.0
TAIL_BYTES: Final = 4096

_libc: Final = ctypes.CDLL(None, use_errno=True)


class LoadError(RuntimeError):
    """The load is gone or does not answer; the text is one line for the operator."""


class Done(msgspec.Struct, frozen=True):
    """What the meter shows: busy seconds and finished units since the load began."""

    busy_s: float
    units: int


class Load:
    """Context manager: a running load that has greeted; leaving it ends the process."""

    def __init__(self, folder: Path, device: str, command: tuple[str, ...] = (), preset: str = "") -> None:
        """``command`` is another program than the real load's, for tests of the bench."""
        self._log = folder / "load.log"
        self._meter_path = folder / "meter"
        own = command or (sys.executable, "-m", "flightsw.gpu.bench_load")
        chosen = ("--preset", preset) if preset else ()
        self._command = [*own, "--meter", str(self._meter_path), "--device", device, *chosen]
        self._pending = b""
        self._id = 0
        self.greeting = Answer(id=-1)

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        try:
            self.greeting = self._answer(START_MAX_S)
            with self._meter_path.open("rb") as file:
                self._meter = mmap.mmap(file.fileno(), METER_LAYOUT.size, access=mmap.ACCESS_READ)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._meter.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def meter_path(self) -> Path:
        """File of the activity meter."""
        return self._meter_path

    def order(self, order: Order) -> Answer:
        """Give an order and wait until the load is at it; its ``id`` is set here."""
        self.tell(order)
        while (answer := self._answer(ANSWER_MAX_S)).id != self._id:
            pass
        return answer

    def tell(self, order: Order) -> None:
        """Give an order without waiting."""
        self._id += 1
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(load.encode(msgspec.structs.replace(order, id=self._id)))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise LoadError(self._obituary()) from None

    def done(self) -> Done:
        """The meter now."""
        return Done(*METER_LAYOUT.unpack(self._meter))

    def _answer(self, timeout_s: float) -> Answer:
        deadline_s = time.monotonic() + timeout_s
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline_s - time.monotonic())):
                    raise LoadError(f"the load does not answer within {timeout_s:g} s (log: {self._log})")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk or len(self._pending) > load.LINE_BYTES_MAX:
                    raise LoadError(self._obituary())
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            return load.decode_answer(line)
        except msgspec.MsgspecError as error:
            raise LoadError(f"the load talks nonsense: {error}") from None

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(CLOSE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        words = self._log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(words) if line.strip()), "")
        return f"the load ended with status {self._process.returncode}{': ' + last if last else ''}"

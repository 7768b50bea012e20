"""A real worker process on a real pipe, as the daemon would hold it. Waiting is done on its messages."""

import contextlib
import os
import queue
import subprocess
import sys
from pathlib import Path

from flightsw.gpu import protocol
from tests.background import LOOK_MAX_S, Background, Patience

DEADLINE_S = 120.0


def tiny_corpus(folder: Path) -> str:
    """A text file of a few kilobytes that is the same in every run."""
    path = folder / "corpus.txt"
    path.write_text("".join(f"{n} times {n + 7} is {n * (n + 7)}.\n" for n in range(2000)))
    return str(path)


class WorkerProcess:
    """``python -m flightsw.gpu.worker`` with its messages in a queue."""

    def __init__(self, spec: protocol.ToChild | None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flightsw.gpu.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self.seen: list[protocol.FromChild] = []
        self.stderr = b""
        self._queue: queue.Queue[protocol.FromChild | None] = queue.Queue()
        self._readers = [Background(target).start() for target in (self._read, self._drain)]
        if spec is not None:
            self.send(spec)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        try:
            self._end_readers()
        finally:
            # A pipe that somebody still reads stays open: its number could be another file's next.
            if not any(reader.running for reader in self._readers):
                for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def _end_readers(self) -> None:
        with contextlib.ExitStack() as both:
            for reader in self._readers:
                both.callback(reader.join, DEADLINE_S)

    def send(self, message: protocol.ToChild) -> None:
        self.write(protocol.encode(message))

    def write(self, data: bytes) -> None:
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def expect(self, kind, where=lambda message: True):
        """The next message of this kind for which ``where`` holds; others are kept in ``seen``."""
        patience = Patience(DEADLINE_S)
        while True:
            assert not patience.over(), f"no {kind.__name__} in {DEADLINE_S} s; seen {self.seen[-5:]}"
            try:
                message = self._queue.get(timeout=LOOK_MAX_S)
            except queue.Empty:
                continue
            if message is None:
                said = f"{self.seen[-5:]} {self.stderr.decode()}"
                raise AssertionError(f"worker ended before {kind.__name__}: {said}")
            self.seen.append(message)
            if isinstance(message, kind) and where(message):
                return message

    def wait(self) -> int:
        """Exit status; everything it sent is in ``seen`` afterwards."""
        status = self.process.wait(DEADLINE_S)
        self._end_readers()
        while (message := self._queue.get(timeout=DEADLINE_S)) is not None:
            self.seen.append(message)
        return status

    def all(self, kind):
        return [message for message in self.seen if isinstance(message, kind)]

    def _read(self) -> None:
        stream = self.process.stdout
        try:
            while len(head := stream.read(4)) == 4:
                (length,) = protocol.LENGTH_PREFIX.unpack(head)
                self._queue.put(protocol.decode_from_child(stream.read(length)))
        finally:
            self._queue.put(None)

    def _drain(self) -> None:
        self.stderr = self.process.stderr.read()

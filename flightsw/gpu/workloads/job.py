"""What a workload gets from the worker that hosts it, and what it owes.

A workload is one function ``run(spec, job)``. It calls ``job.ready`` once its state is there, then loops:

    while not job.stopping:
        for message in job.messages(): ...        # Checkpoint, Generate: whatever concerns it
        if job.pacer.wait_turn():                 # rests as the set-point demands; False: there is a message
            with job.micro_batch():               # timed, counted, metered, paid to the pacer
                ...one bounded piece of work, finished on the device before the block ends...

It returns when it is done or was told to stop, and raises ``JobFault`` for what it cannot mend. Set-points go past
it straight to the pacer, and heartbeats are sent by the worker's timer thread from ``job.progress``.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch

from flightsw.gpu import protocol
from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer

INBOX_MAX: Final = 4096
"""Messages waiting for the workload; a further one is dropped and counted. A stop is never dropped."""


class JobFault(Exception):
    """Something a workload cannot mend: a code for the daemon's tables and one line for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass
class Progress:
    """Counters behind the heartbeat; plain numbers, written by the workload and read by the timer thread."""

    progress: int = 0
    step: int = 0
    loss: float = float("nan")
    tokens: int = 0
    busy_s: float = 0.0
    micro_batch_s: float = 0.0
    pending: int = 0

    def beat(self) -> protocol.Heartbeat:
        """A heartbeat of this moment; the longest micro-batch starts anew."""
        longest_s, self.micro_batch_s = self.micro_batch_s, 0.0
        return protocol.Heartbeat(
            progress=self.progress,
            step=self.step,
            loss=self.loss,
            tokens=self.tokens,
            busy_s=self.busy_s,
            micro_batch_s=longest_s,
            pending=self.pending,
        )


class Job:
    """One workload's link to its worker. ``post`` and ``stop`` are for other threads, the rest for the workload."""

    def __init__(self, send: Callable[[protocol.FromChild], None], pacer: Pacer, meter: Meter) -> None:
        self.send = send
        """Sends a message to the daemon; any thread may."""
        self.pacer = pacer
        self.meter = meter
        self.progress = Progress()
        self.dropped = 0
        self.micro_batch_last_s = 0.0
        self.micro_batch_bound_s = 0.0
        """Longest micro-batch that is wanted; 0 is no bound. A workload comes as near as it can."""
        self.is_ready = threading.Event()
        self._stopping = threading.Event()
        self._inbox: deque[protocol.ToChild] = deque()
        self._arrived = threading.Condition()

    @property
    def stopping(self) -> bool:
        """Told to stop: finish what must be finished and return."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Make the workload stop at its next micro-batch boundary."""
        self._stopping.set()
        self._wake()

    def post(self, message: protocol.ToChild) -> None:
        """Hand over a message from the daemon."""
        if isinstance(message, protocol.Pace):
            self.micro_batch_bound_s = message.micro_batch_s
            self.pacer.set_duty(message.duty)
        elif isinstance(message, protocol.Stop):
            self.stop()
        elif len(self._inbox) >= INBOX_MAX:
            self.dropped += 1
        else:
            self._inbox.append(message)
            self._wake()

    def messages(self) -> Iterator[protocol.ToChild]:
        """What has arrived so far, in order."""
        while self._inbox:
            yield self._inbox.popleft()

    def wait(self, timeout_s: float) -> None:
        """Sleep while there is nothing to work on: until a message, a stop or the timeout."""
        with self._arrived:
            self._arrived.wait_for(lambda: bool(self._inbox) or self.stopping, timeout_s)

    def ready(self, *, pid: int, device: torch.device, step: int, generation: int) -> None:
        """Tell the daemon that work can start; heartbeats begin."""
        self.send(protocol.Ready(pid=pid, device=str(device), step=step, generation=generation))
        self.is_ready.set()

    @contextmanager
    def micro_batch(self) -> Iterator[None]:
        """Time one micro-batch. Whatever the device was given must be finished when the block ends."""
        started_s = time.monotonic()
        yield
        busy_s = time.monotonic() - started_s
        self.micro_batch_last_s = busy_s
        self.progress.busy_s += busy_s
        self.progress.micro_batch_s = max(self.progress.micro_batch_s, busy_s)
        self.progress.progress += 1
        self.meter.add(busy_s)
        self.pacer.spent(busy_s)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time a bounded piece of work that is no micro-batch and waits for no turn: verifying what is to be saved.
        It counts as busy, for the meter and for the pacer."""
        started_s = time.monotonic()
        yield
        busy_s = time.monotonic() - started_s
        self.progress.busy_s += busy_s
        self.meter.add(busy_s, micro_batches=0)
        self.pacer.spent(busy_s)

    def _wake(self) -> None:
        self.pacer.wake()
        with self._arrived:
            self._arrived.notify_all()


def pick_device(wanted: protocol.Device) -> torch.device:
    """The device a specification asks for; ``JobFault`` when there is none such."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise JobFault("device", 'no CUDA device is usable here; set device to "cpu" or "auto"')
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")

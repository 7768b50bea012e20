"""Checkpoints beside the training thread: copy fast, write slowly, never in its way.

The training thread copies the live tensors into host buffers that were allocated once (on CUDA: pinned, by the
copy engine on a stream of its own, awaited by the GPU before the next update and not by the processor). A
writer thread does the rest: non-finite check, digests, file, read-back, ``latest``. One checkpoint is in flight at
most; a request that comes meanwhile is remembered and taken at the next step boundary after it, and any number of
such requests make one checkpoint.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.checkpoint.format import Facts
from flightsw.gpu.checkpoint.ring import Commit, Ring, SaveError


class Saved(msgspec.Struct, frozen=True):
    """A commit and what it cost: the training thread's standstill and the time until it was durable."""

    commit: Commit
    stall_s: float
    total_s: float


class _Snapshot(msgspec.Struct, frozen=True):
    """Work for the writer thread."""

    step: int
    facts: Facts
    tensors: dict[str, Tensor]
    started_s: float
    stall_s: float


class Saver:
    """Saves the ``live`` tensors into ``ring``; they must be the same objects for the saver's whole life.

    ``report`` gets a ``Saved`` or a ``SaveError`` for every snapshot, then ``on_idle`` says that the next one may
    be taken; both in the writer thread. ``request``, ``idle`` and ``drain`` may be called by any thread, the rest
    by the training thread.
    """

    def __init__(
        self,
        ring: Ring,
        live: Mapping[str, Tensor],
        report: Callable[[Saved | SaveError], None],
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._ring = ring
        self._live = dict(live)
        self._report = report
        self._on_idle = on_idle
        pinned = any(tensor.is_cuda for tensor in self._live.values())
        self._buffers = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned and tensor.is_cuda)
            for name, tensor in self._live.items()
        }
        self._stream = torch.cuda.Stream() if pinned else None  # type: ignore[no-untyped-call]
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        self._fenced = True
        self._requested = False
        self._job: _Snapshot | None = None
        self._closed = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """No snapshot is being written."""
        return self._job is None

    def request(self) -> None:
        """Ask for a checkpoint at the next opportunity."""
        self._requested = True

    def withdraw(self) -> None:
        """Forget the request: it was answered otherwise."""
        self._requested = False

    @property
    def due(self) -> bool:
        """A checkpoint was asked for and the buffers are free."""
        return self._requested and self.idle

    def snapshot(self, step: int, facts: Facts, states: Mapping[str, Tensor]) -> None:
        """Copy everything as it stands; ``states`` are small host tensors (random states) beside the live ones."""
        assert self.idle, "one checkpoint is in flight at most"
        started_s = time.monotonic()
        self._requested = False
        if self._stream is None:
            for name, tensor in self._live.items():
                self._buffers[name].copy_(tensor.detach())
        else:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for name, tensor in self._live.items():
                    self._buffers[name].copy_(tensor.detach(), non_blocking=True)
                assert self._copied is not None
                self._copied.record(self._stream)
            self._fenced = False
        tensors = {**self._buffers, **{name: tensor.clone() for name, tensor in states.items()}}
        with self._condition:
            self._job = _Snapshot(step, facts, tensors, started_s, time.monotonic() - started_s)
            self._condition.notify_all()

    def fence(self) -> None:
        """Call before the optimiser changes the live tensors: the GPU lets a running copy finish first."""
        if not self._fenced:
            assert self._copied is not None
            torch.cuda.current_stream().wait_event(self._copied)
            self._fenced = True

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False when that took too long."""
        with self._condition:
            return self._condition.wait_for(lambda: self._job is None, timeout_s)

    def close(self) -> None:
        """End the writer thread once it is idle."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._job is not None or self._closed)
                job = self._job
            if job is None:
                return
            self._report(self._save(job))  # Before it counts as done: who drains must find the report sent.
            with self._condition:
                self._job = None
                self._condition.notify_all()
            self._on_idle()

    def _save(self, job: _Snapshot) -> Saved | SaveError:
        try:
            if self._copied is not None:
                self._copied.synchronize()
            for name, tensor in job.tensors.items():
                if not finite(tensor):
                    raise SaveError(f"step {job.step}: {name} holds values that are not finite; not saved")
            commit = self._ring.commit(job.step, job.facts, job.tensors)
        except SaveError as error:
            return error
        except Exception as error:  # The writer thread must outlive whatever one snapshot did to it.
            return SaveError(f"step {job.step}: {type(error).__name__}: {error}")
        return Saved(commit, job.stall_s, time.monotonic() - job.started_s)


def finite(tensor: Tensor) -> bool:
    """No NaN and no infinity in a host tensor; one pass, no temporary of its size."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())

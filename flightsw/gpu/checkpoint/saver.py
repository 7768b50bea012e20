"""Checkpoints beside the training thread: copy fast, write slowly, never in its way.

The training thread copies the live tensors into host buffers that were allocated once (on CUDA: pinned, by the
copy engine on a stream of its own, awaited by the GPU before the next update and not by the processor). A writer
thread does the rest: non-finite check, digests, file, read-back, ``latest``. One checkpoint is in flight at most;
a request that comes meanwhile is remembered and taken at the next step boundary after it, and any number of such
requests make one checkpoint.

Buffers mirror storages, not tensors: what shares memory is copied once, and its copy can be held against the
digests of that memory (``integrity.digest``). Given those, the writer refuses a copy that is not what was
verified: damage of the live state between its verification and the copy, or of the copy on its way to the host.
Damage after that is what the file's own digests find.
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
from flightsw.gpu.integrity.damage import compare
from flightsw.gpu.integrity.digest import digest


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
    sums: dict[int, Tensor]
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
        self._storages: dict[int, tuple[Tensor, Tensor]] = {}
        """Bytes of each storage of the live tensors, and of its buffer on the host, by address."""
        self._buffers = {name: self._buffer(tensor) for name, tensor in self._live.items()}
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

    def snapshot(
        self,
        step: int,
        facts: Facts,
        states: Mapping[str, Tensor],
        sums: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Copy everything as it stands; ``states`` are small host tensors (random states) beside the live ones.

        ``sums`` are the digests, host int64 (blocks, 3), that the copies of storages must have, by the address of
        the live storage; those without are not held against anything.
        """
        assert self.idle, "one checkpoint is in flight at most"
        started_s = time.monotonic()
        self._requested = False
        if self._stream is None:
            for live, buffer in self._storages.values():
                buffer.copy_(live)
        else:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for live, buffer in self._storages.values():
                    buffer.copy_(live, non_blocking=True)
                assert self._copied is not None
                self._copied.record(self._stream)
            self._fenced = False
        tensors = {**self._buffers, **{name: tensor.clone() for name, tensor in states.items()}}
        with self._condition:
            self._job = _Snapshot(step, facts, tensors, dict(sums or {}), started_s, time.monotonic() - started_s)
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

    def _buffer(self, tensor: Tensor) -> Tensor:
        """The host's tensor of the same shape, in the buffer of its storage."""
        storage = tensor.untyped_storage()
        if _address(tensor) not in self._storages:
            live = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self._storages[_address(tensor)] = (
                live,
                torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=tensor.is_cuda),
            )
        buffer = self._storages[_address(tensor)][1].untyped_storage()
        place = tensor.storage_offset(), tensor.shape, tensor.stride()
        return torch.empty(0, dtype=tensor.dtype).set_(buffer, *place)

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
            for address, expected in job.sums.items():
                blocks = [damage.block for damage in compare(expected, digest(self._storages[address][1]))]
                if blocks:
                    names = [name for name, tensor in self._live.items() if _address(tensor) == address]
                    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
                    where = f"block {blocks[0]} of {names[0]}{others}"
                    raise SaveError(f"step {job.step}: {where}: the copy is not what was verified; not saved")
            for name, tensor in job.tensors.items():
                if not finite(tensor):
                    raise SaveError(f"step {job.step}: {name} holds values that are not finite; not saved")
            commit = self._ring.commit(job.step, job.facts, job.tensors)
        except SaveError as error:
            return error
        except Exception as error:  # The writer thread must outlive whatever one snapshot did to it.
            return SaveError(f"step {job.step}: {type(error).__name__}: {error}")
        return Saved(commit, job.stall_s, time.monotonic() - job.started_s)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def finite(tensor: Tensor) -> bool:
    """No NaN and no infinity in a host tensor; one pass, no temporary of its size."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())

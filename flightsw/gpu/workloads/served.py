"""The newest verified checkpoint of a training job, as a model that can be served.

``RingSource`` watches the ring: whenever ``latest`` or the newest file name changes, a thread of its own reads
the ring as any recovery does: newest first, every byte against its digest, the next older one when that fails.
What fails is reported once as ``Rejected``, and the model at hand stays. Only a generation newer than the one at
hand is ever handed over, so damage on disk cannot turn the served model back. Weights are copied out of the file,
never mapped: a flip on disk after verification changes nothing.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from flightsw.gpu.checkpoint.format import Manifest, tensor_digest
from flightsw.gpu.checkpoint.ring import Pointer, Rejection, Ring
from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.kv import Rows
from flightsw.gpu.integrity.kv_caches import gpt_rows
from flightsw.gpu.workloads.gpt import GPT, PADDING, Cache, GPTConfig
from flightsw.gpu.workloads.model_watch import WatchedEngine

WEIGHTS: Final = "model."
RETRY_S: Final = 10.0
"""While nothing can be served, an unchanged ring is read again after this time: an input/output error may pass."""


def no_flaw() -> str:
    """Nothing to compare with."""
    return ""


class Model(msgspec.Struct, frozen=True):
    """An engine and what it was loaded from; generation −1 is a model without checkpoints."""

    engine: WatchedEngine
    generation: int
    step: int
    flaw: Callable[[], str] = no_flaw
    """Holds the weights in memory against their source once more; empty when they agree."""


class Misfit(Exception):
    """A whole, verified checkpoint that is no GPT of ours."""


class GptEngine:
    """``generation.Engine`` over bytes, with the row-wise cache of ``gpt``."""

    stop_tokens: frozenset[int] = frozenset()

    def __init__(self, model: GPT, rows: int, device: torch.device) -> None:
        self.context = model.config.context
        self.fill_rows_max = rows
        self._gpt = model.to(device).eval()
        self.module: nn.Module = self._gpt
        self.cache = Cache(model.config, rows, device)
        self.row_memory = (*self.cache.keys, *self.cache.values)
        self._rows = list(range(rows))
        self._device = device

    def watch_rows(self, report: Report) -> Rows:
        """Digests of the cache, from now on."""
        return gpt_rows(self.cache, report)

    def encode(self, text: str) -> list[int]:
        """UTF-8 bytes."""
        return list(text.encode("utf-8", errors="replace")) or [ord("\n")]

    def text(self, tokens: Sequence[int]) -> str:
        """The bytes read as UTF-8."""
        return bytes(tokens).decode("utf-8", errors="replace")

    @torch.inference_mode()
    def fill(self, rows: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Chunks of different lengths in one pass; shorter ones are padded behind their end."""
        longest = max(map(len, chunks))
        ends = [len(chunk) for chunk in chunks]
        idx = [[*chunk, *[0] * (longest - len(chunk))] for chunk in chunks]
        positions = [
            [*range(start, start + end), *[PADDING] * (longest - end)]
            for start, end in zip(starts, ends, strict=True)
        ]
        # All rows in order need no gathering of the cache.
        chosen = None if list(rows) == self._rows else rows
        logits = self._gpt.forward_cached(idx, self.cache, positions, chosen)
        if longest == 1:
            last = logits[:, 0]
        else:
            last = logits[torch.from_numpy(np.arange(len(ends))), torch.from_numpy(np.array(ends) - 1)]
        on_host = last.dtype is torch.float32 and last.device.type == "cpu"
        return last if on_host else last.float().cpu()

    def step(self, rows: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """One token per row."""
        return self.fill(rows, positions, [[token] for token in tokens])

    def undo(self) -> None:
        """Nothing to take back: the same call writes the same values into the same slots."""

    def release(self, row: int) -> None:
        """Forget the row: a mask makes zero of old values, but not of NaN, which would reach the next owner."""
        for store in (*self.cache.keys, *self.cache.values):
            store[row].zero_()


class RingSource:
    """The models of one ring, newest verified first. ``first`` waits; ``newer`` never does."""

    def __init__(self, folder: Path, rows: int, device: torch.device, report: Callable[[Rejection], None]) -> None:
        self._ring = Ring(folder)
        self._rows = rows
        self._device = device
        self._report = report
        self._told: frozenset[Rejection] = frozenset()
        self._generation = -1
        self._seen: tuple[Pointer | None, list[int]] | None = None
        self._read_at_s = float("-inf")
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-reader")
        self._reading: Future[Model | None] | None = None

    def first(self) -> Model | None:
        """The newest model now; None when the ring has none yet."""
        self._seen = self._look()
        self._read_at_s = time.monotonic()
        return self._read()

    def newer(self) -> Model | None:
        """A newer model, once it is ready; None in all other cases."""
        if self._reading is not None:
            if not self._reading.done():
                return None
            reading, self._reading = self._reading, None
            return reading.result()
        seen = self._look()
        retry = self._generation < 0 and bool(seen[1]) and time.monotonic() - self._read_at_s >= RETRY_S
        if seen != self._seen or retry:
            self._seen = seen
            self._read_at_s = time.monotonic()
            self._reading = self._pool.submit(self._read)
        return None

    def again(self) -> Model | None:
        """The newest model that verifies, also when it is not newer: what a restart of the job would serve."""
        if self._reading is not None:
            self._reading.result()
            self._reading = None
        self._generation = -1
        return self.first()

    def close(self) -> None:
        """Wait for a reading in progress and end its thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _look(self) -> tuple[Pointer | None, list[int]]:
        return self._ring.latest(), self._ring.generations()[:1]

    def _read(self) -> Model | None:
        restored = self._ring.newest(lambda name: name.startswith(WEIGHTS))
        rejected = set(restored.rejected)
        found = None
        manifest = restored.manifest
        if manifest is not None and manifest.generation > self._generation:
            try:
                gpt = rebuild(manifest, restored.tensors)
                engine = GptEngine(gpt, self._rows, self._device)
                flaw = partial(_flaw, gpt, manifest)
                found = Model(engine, manifest.generation, manifest.step, flaw)
                self._generation = manifest.generation
            except (Misfit, torch.OutOfMemoryError) as error:
                rejected.add(Rejection(manifest.generation, str(error).splitlines()[0]))
        for rejection in sorted(rejected - self._told, key=lambda one: one.generation):
            self._report(rejection)
        self._told = frozenset(rejected)
        return found


def _flaw(model: GPT, manifest: Manifest) -> str:
    """Which weight in memory is not as the manifest has it; empty when all are."""
    held = model.state_dict()
    for entry in manifest.tensors:
        name = entry.name.removeprefix(WEIGHTS)
        if entry.name.startswith(WEIGHTS) and tensor_digest(held[name]) != entry.digest:
            return f"{name} in memory is not what generation {manifest.generation} has"
    return ""


def rebuild(manifest: Manifest, tensors: dict[str, Tensor]) -> GPT:
    """The GPT of a verified checkpoint, on the host. Raises ``Misfit``."""
    try:
        config = msgspec.json.decode(str(manifest.facts.get("gpt", "")), type=GPTConfig)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Misfit(f"does not say which GPT it holds: {error}") from None
    model = GPT(config)
    weights = {name.removeprefix(WEIGHTS): tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS)}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise Misfit(f"weights do not fit its own description: {' '.join(str(error).split())[:200]}") from None
    return model

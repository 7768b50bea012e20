"""Training a GPT, one micro-batch at a time, so that it can be cut anywhere and go on bit-identically.

Everything that decides the next step is state: weights, AdamW moments, the data order's generator, torch's
generators, the step count. The random states are captured at each step boundary, and weights change only there,
so a snapshot taken in the middle of an accumulated step is one of the last boundary; a resumed run repeats the
begun step from its first micro-batch. The learning rate depends on the step alone (linear warm-up, then
1/√step): a longer or shorter ``max_steps`` does not change the path.

*Split.* What stops between two micro-batches stops sooner when they are short. ``split`` cuts each micro-batch into
equal parts of rows, one call of ``micro_batch`` each; their gradients add up to the whole's, but not in the same
order of rounding (and dropout is drawn part by part), so a split belongs to a run like its seed. It is chosen once,
by the time that parts take on the machine at hand, and stands in every checkpoint.

A step whose loss or gradient is not finite is never applied: ``NonFinite`` leaves the trainer at its boundary.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.checkpoint import format
from flightsw.gpu.checkpoint.format import Facts, Manifest
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import GPT, PRESETS, GPTConfig
from flightsw.gpu.workloads.job import JobFault
from flightsw.gpu.workloads.optimiser import AdamW

WARMUP_STEPS: Final = 30
DECAY_STEPS: Final = 1000
"""Step from which the learning rate falls with 1/√step."""
GRADIENT_NORM_MAX: Final = 1.0
CORPUS_ON_DEVICE_MAX: Final = 256 << 20
SPLIT_TRIALS: Final = 4
"""Passes that are timed for each split that is tried; the first one warms up."""
SPLIT_MARGIN: Final = 0.7
"""A part has to fit into this much of the target: the last part of a step also changes the weights."""


class NonFinite(Exception):
    """Loss or gradient of a step is NaN or infinite."""


class Unfit(Exception):
    """A whole, verified checkpoint that belongs to another job: other model, other corpus."""


def make_deterministic(*, compiled: bool) -> None:
    """Choose bit-reproducible kernels. Call before anything has touched CUDA: cuBLAS reads its variable once."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if compiled:
        torch.use_deterministic_algorithms(True)
    else:
        # The same switch for eager kernels. The call above loads the compiler: seconds at every start.
        torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    # The memory-efficient attention kernel adds gradients in no fixed order; flash and math can do better.
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def model_config(preset: str) -> GPTConfig:
    """Model of a preset; ``JobFault`` names the presets when there is none such."""
    if preset not in PRESETS:
        raise JobFault("spec", f'preset "{preset}" is unknown; there are {", ".join(PRESETS)}')
    return PRESETS[preset].model


class Trainer:
    """One model in training. ``step``, ``loss`` (of the last step, NaN before) and ``tokens`` are job totals."""

    def __init__(self, spec: TrainSpec, corpus: Corpus, device: torch.device) -> None:
        self.config = model_config(spec.preset)
        self.device = device
        self.step = 0
        self.tokens = 0
        self.loss = math.nan
        self.gradient_norm = math.nan
        """Of the last step, before clipping."""
        self._spec = spec
        self._corpus = corpus
        self._batch_size = spec.batch_size or PRESETS[spec.preset].batch_size
        self.split = spec.micro_batch_split or 1
        """Equal parts of a micro-batch, each one call of ``micro_batch``."""
        if self._batch_size % self.split:
            raise JobFault("spec", f"micro_batch_split {self.split} does not divide batch_size {self._batch_size}")
        torch.manual_seed(spec.seed)  # Seeds CUDA too. Weights are drawn on the host: the same on every device.
        self.model = GPT(self.config).to(device).train()
        self._order = torch.Generator().manual_seed(spec.seed)
        self._optimiser = AdamW(self.model)
        self._forward = torch.compile(self.model) if spec.compile else self.model
        on_device = corpus.tokens.numel() <= CORPUS_ON_DEVICE_MAX
        tokens = corpus.tokens.to(device) if on_device else corpus.tokens
        self._windows = tokens.unfold(0, self.config.context + 1, 1)  # A view: (positions, context + 1).
        self._whole: tuple[Tensor, Tensor] | None = None
        self._pieces: list[tuple[Tensor, Tensor]] = []
        self.cut = 1
        """Pieces of the part at hand."""
        self._accumulated = 0
        self._loss_sum = 0.0
        self.random_states = self._capture()

    def micro_batch(self, before_update: Callable[[], None] = lambda: None, pieces: int = 1) -> bool:
        """One pass over a part of a micro-batch, finished on the device; True when it completed an optimiser step.

        With ``pieces`` the pass is over the next piece of a part that is cut into so many; a part that is begun is
        finished as it was cut. Their gradients add up to the same mean, in another order of summation.
        ``before_update`` runs before weights change. Raises ``NonFinite``; the begun step is then discarded.
        """
        parts, rows = self._spec.micro_batches * self.split, self.rows
        if not self._pieces:
            part = self._accumulated % self.split
            if part == 0 or self._whole is None:
                self._whole = self._batch()
            at_hand = (tensor[part * rows : (part + 1) * rows].chunk(pieces) for tensor in self._whole)
            self._pieces = list(zip(*at_hand, strict=True))
            self.cut = len(self._pieces)
        idx, targets = self._pieces.pop(0)
        self._loss_sum += self._pass(idx, targets, len(idx) / rows, parts)
        if self._pieces and math.isfinite(self._loss_sum):
            return False
        self._accumulated += 1
        if self._accumulated < parts and math.isfinite(self._loss_sum):
            return False
        self._update(before_update, self._loss_sum / self._accumulated)
        return True

    @property
    def rows(self) -> int:
        """Sequences of a part."""
        return self._batch_size // self.split

    def fitting_split(self, target_s: float) -> int:
        """Fewest equal parts that take at most ``SPLIT_MARGIN`` · ``target_s`` s here and now, or single rows.

        For a trainer at a step boundary, which it leaves as it was.
        """
        before = self._capture()
        split = next(
            (
                split
                for split in range(1, self._batch_size)
                if self._batch_size % split == 0
                and self._pass_s(self._batch_size // split) <= SPLIT_MARGIN * target_s
            ),
            self._batch_size,
        )
        self._set_random(before)
        self._discard()
        return split

    def live(self) -> dict[str, Tensor]:
        """The tensors that training changes in place, by name: always the same objects."""
        return {
            **{f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()},
            **{f"optimiser.{name}": tensor for name, tensor in self._optimiser.state()},
        }

    def facts(self) -> Facts:
        """What a checkpoint says about its training besides tensors."""
        facts: Facts = {
            "job": self._spec.id,
            "preset": self._spec.preset,
            "gpt": msgspec.json.encode(self.config).decode(),
            "corpus_digest": self._corpus.digest,
            "tokens": self.tokens,
            "torch": str(torch.__version__),
        }
        if self.split > 1:
            facts["split"] = self.split
        return facts if math.isnan(self.loss) else {**facts, "loss": self.loss}

    def digest(self) -> str:
        """State digest of this moment, as a checkpoint of this step would carry it."""
        host = {name: tensor.detach().cpu().contiguous() for name, tensor in self.live().items()}
        return format.state_digest(format.describe(host))

    def restore(self, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        """Become what a checkpoint holds. Raises ``Unfit``; then nothing has changed."""
        self._check(manifest, tensors)
        with torch.no_grad():
            for name, tensor in self.live().items():
                tensor.copy_(tensors[name])
        self._set_random(tensors)
        if not self._spec.micro_batch_split:
            split = int(manifest.facts.get("split", 1))
            # A configuration with another batch size has no use for the old parts.
            self.split = split if split > 0 and self._batch_size % split == 0 else 1
        self.step = manifest.step
        self.tokens = int(manifest.facts.get("tokens", 0))
        self.loss = float(manifest.facts.get("loss", math.nan))
        self._discard()
        self.random_states = self._capture()

    def _check(self, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        facts = manifest.facts
        if facts.get("corpus_digest") != self._corpus.digest:
            raise Unfit(
                f"generation {manifest.generation} was trained on another corpus than {self._corpus.source}; "
                "bring the old corpus back or give the job another checkpoint_dir"
            )
        wanted = {**self.live(), **self.random_states}
        wanted.pop("random.cuda", None)  # A host's checkpoint may go on on a device, and the other way round.
        if any(name not in tensors or not _alike(tensors[name], tensor) for name, tensor in wanted.items()):
            raise Unfit(
                f'generation {manifest.generation} holds another model (preset "{facts.get("preset")}", not '
                f'"{self._spec.preset}"); set that preset or give the job another checkpoint_dir'
            )

    def _pass(self, idx: Tensor, targets: Tensor, share: float, parts: int) -> float:
        """Forward and backward over a share (0 to 1) of one of ``parts``; the mean loss times that share."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self._forward(idx, targets)[1]
        (loss * share / parts).backward()
        return float(loss.item()) * share  # Waits for the device.

    def _pass_s(self, rows: int) -> float:
        """Longest of a few passes over so many rows, s."""
        windows = self._windows[:1].expand(rows, -1).to(self.device).long()
        times_s = []
        for _ in range(SPLIT_TRIALS):
            start_s = time.monotonic()
            self._pass(windows[:, :-1], windows[:, 1:], 1.0, 1)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times_s.append(time.monotonic() - start_s)
        return max(times_s[1:])

    def _batch(self) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(self._windows), (self._batch_size,), generator=self._order)
        window = self._windows[starts.to(self._windows.device)].to(self.device).long()
        return window[:, :-1], window[:, 1:]

    def _update(self, before_update: Callable[[], None], loss: float) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM_MAX).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._discard()
            raise NonFinite(f"step {self.step + 1}: loss {loss:g}, gradient norm {norm:g}")
        before_update()
        self._optimiser.step(self._spec.learning_rate * learning_rate_factor(self.step))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.step += 1
        self.tokens += self._batch_size * self.config.context * self._spec.micro_batches
        self.loss = loss
        self.gradient_norm = norm
        self._discard()
        self.random_states = self._capture()

    def _discard(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self._whole = None
        self._pieces = []
        self._accumulated = 0
        self._loss_sum = 0.0

    def _capture(self) -> dict[str, Tensor]:
        return dict(self._generators())

    def _set_random(self, states: dict[str, Tensor]) -> None:
        self._order.set_state(states["random.order"])
        torch.set_rng_state(states["random.host"])
        if self.device.type == "cuda" and "random.cuda" in states:
            torch.cuda.set_rng_state(states["random.cuda"])

    def _generators(self) -> Iterator[tuple[str, Tensor]]:
        yield "random.order", self._order.get_state()
        yield "random.host", torch.get_rng_state()
        if self.device.type == "cuda":
            yield "random.cuda", torch.cuda.get_rng_state()


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def learning_rate_factor(step: int) -> float:
    """Share of the peak learning rate for the update after ``step`` finished steps: 0 to 1."""
    return min((step + 1) / WARMUP_STEPS, math.sqrt(DECAY_STEPS / max(step, DECAY_STEPS)))

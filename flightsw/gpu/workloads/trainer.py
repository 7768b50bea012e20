"""Training a GPT, one micro-batch at a time, so that it can be cut anywhere and go on bit-identically.

Everything that decides the next step is state: weights, AdamW moments, the data order's generator, torch's
generators, the step count. The random states are captured at each step boundary, and weights change only there,
so a snapshot taken in the middle of an accumulated step is one of the last boundary; a resumed run repeats the
begun step from its first micro-batch.

*Split.* What stops between two micro-batches stops sooner when they are short. ``split`` cuts each micro-batch into
equal parts of rows, one call of ``micro_batch`` each; their gradients add up to the whole's, but not in the same
order of rounding (and dropout is drawn part by part), so a split belongs to a run like its seed. It is chosen once
(``splitting``) and stands in every checkpoint.

A step whose loss or gradient is not finite is never applied: ``NonFinite`` leaves the trainer at its boundary.
"""

import math
from collections.abc import Callable, Iterator

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.checkpoint import format
from flightsw.gpu.checkpoint.format import Facts, Manifest
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads.batches import Batch, Batches
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import GPT, PRESETS
from flightsw.gpu.workloads.job import JobFault
from flightsw.gpu.workloads.optimiser import AdamW
from flightsw.gpu.workloads.recipe import clipping, learning_rate_factor, model_config


class NonFinite(Exception):
    """Loss or gradient of a step is NaN or infinite."""


class Unfit(Exception):
    """A whole, verified checkpoint that belongs to another job: other model, other corpus."""


class Trainer:
    """One model in training. ``step``, ``loss`` (of the last step, NaN before) and ``tokens`` are job totals.

    ``micro_batch`` is all of it. Whoever looks between the parts of a step calls ``run_part`` until it says that
    the gradients are there, then ``gradient_norm``, changes the weights, and ends the step with ``stepped``; until
    then ``go_back`` returns to the boundary.
    """

    def __init__(self, spec: TrainSpec, corpus: Corpus, device: torch.device) -> None:
        self.config = model_config(spec.preset)
        self.device = device
        self.step = 0
        self.tokens = 0
        self.loss = math.nan
        self.gradient_norm_last = math.nan
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
        self.batches = Batches(corpus, device, self.config.context, self._batch_size, spec.seed)
        self.draw: Callable[[], Batch] = self.batches.draw
        """Where the next batch comes from."""
        self.optimiser = AdamW(self.model)
        self._forward = torch.compile(self.model) if spec.compile else self.model
        self.at_hand: Batch | None = None
        """The batch whose parts are being worked on; None between batches."""
        self._pieces: list[Batch] = []
        self.cut = 1
        """Pieces of the part at hand."""
        self._accumulated = 0
        self._loss_sum = 0.0
        self.random_states = self.capture()

    def micro_batch(self, before_update: Callable[[], None] = lambda: None, pieces: int = 1) -> bool:
        """One pass over a part of a micro-batch, finished on the device; True when it completed an optimiser step.

        With ``pieces`` the pass is over the next piece of a part that is cut into so many; a part that is begun is
        finished as it was cut. Their gradients add up to the same mean, in another order of summation.
        ``before_update`` runs before weights change. Raises ``NonFinite``; the begun step is then discarded.
        """
        if not self.run_part(pieces):
            return False
        norm = self.gradient_norm()
        self.refuse_non_finite(norm.item())
        before_update()
        self.optimiser.step(self.learning_rate, clipping(norm))
        self.stepped(norm.item())
        return True

    def run_part(self, pieces: int = 1) -> bool:
        """One pass; True when it was the last one of a step, whose gradients are there now.

        So it is, too, when the loss is not finite: the rest of such a step is not worth its time.
        """
        parts, rows = self.parts, self.rows
        if self.untouched:
            # Here and not at the last boundary: what changed in that memory since then is of no account.
            self.optimiser.zero_gradients()
        if not self._pieces:
            part = self._accumulated % self.split
            if part == 0 or self.at_hand is None:
                self.at_hand = self.draw()
            at_hand = (tensor[part * rows : (part + 1) * rows].chunk(pieces) for tensor in self.at_hand)
            self._pieces = list(zip(*at_hand, strict=True))
            self.cut = len(self._pieces)
        idx, targets = self._pieces.pop(0)
        self._loss_sum += self.run_pass(idx, targets, len(idx) / rows, parts)
        if self._pieces and math.isfinite(self._loss_sum):
            return False
        self._accumulated += 1
        return self._accumulated >= parts or not math.isfinite(self._loss_sum)

    @property
    def untouched(self) -> bool:
        """Whether the present step has not been begun."""
        return self._accumulated == 0 and not self._pieces

    @property
    def step_loss(self) -> float:
        """Mean loss of the parts of the present step so far."""
        return self._loss_sum / max(self._accumulated, 1)

    @property
    def parts(self) -> int:
        """Parts of a step, over all its micro-batches."""
        return self._spec.micro_batches * self.split

    @property
    def learning_rate(self) -> float:
        """Of the update that comes next."""
        return self._spec.learning_rate * learning_rate_factor(self.step)

    def gradient_norm(self) -> Tensor:
        """Norm of the gradients at hand, 0-d."""
        self.optimiser.gather()
        return self.optimiser.gradient_norm()

    def refuse_non_finite(self, norm: float) -> None:
        """Raise ``NonFinite`` and discard the step when its loss or the norm of its gradient is none."""
        loss = self.step_loss
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.go_back()
            raise NonFinite(f"step {self.step + 1}: loss {loss:g}, gradient norm {norm:g}")

    def stepped(self, norm: float) -> None:
        """The weights have changed: the step is done, and here is the next boundary."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.step += 1
        self.tokens += self._batch_size * self.config.context * self._spec.micro_batches
        self.loss = self.step_loss
        self.gradient_norm_last = norm
        self._discard()
        self.random_states = self.capture()

    def go_back(self) -> None:
        """Be at the last boundary again: random states as they were, nothing accumulated."""
        self._set_random(self.random_states)
        self._discard()

    @property
    def rows(self) -> int:
        """Sequences of a part."""
        return self._batch_size // self.split

    def live(self) -> dict[str, Tensor]:
        """The tensors that training changes in place, by name: always the same objects."""
        return {
            **{f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()},
            **{f"optimiser.{name}": tensor for name, tensor in self.optimiser.state()},
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
        self.random_states = self.capture()

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

    def run_pass(self, idx: Tensor, targets: Tensor, share: float, parts: int) -> float:
        """Forward and backward over a share (0 to 1) of one of ``parts``; the mean loss times that share."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self._forward(idx, targets)[1]
        (loss * share / parts).backward()
        return float(loss.item()) * share  # Waits for the device.

    def _discard(self) -> None:
        self.at_hand = None
        self._pieces = []
        self._accumulated = 0
        self._loss_sum = 0.0

    def capture(self) -> dict[str, Tensor]:
        """States of all generators now, host tensors by name."""
        return dict(self._generators())

    def _set_random(self, states: dict[str, Tensor]) -> None:
        self.batches.order.set_state(states["random.order"])
        torch.set_rng_state(states["random.host"])
        if self.device.type == "cuda" and "random.cuda" in states:
            torch.cuda.set_rng_state(states["random.cuda"])

    def _generators(self) -> Iterator[tuple[str, Tensor]]:
        yield "random.order", self.batches.order.get_state()
        yield "random.host", torch.get_rng_state()
        if self.device.type == "cuda":
            yield "random.cuda", torch.cuda.get_rng_state()


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype

"""AdamW over a model's named parameters, in flat memory, by torch's own fused kernel.

``torch.optim.AdamW`` does the same arithmetic, but its class loads torch's compiler at first use: 2.4 s of
processor time on every start of a worker, which is every recovery. Here moments exist from the start under the
names of their parameters, as a checkpoint wants them, and are only ever changed in place.

*Flat.* There are two groups: matrices, which decay, and the rest, which does not. Weights, gradients and both
moments of a group lie in one row of memory each, in the same order; the model's parameters and their gradients
are views of them. So a digest reads eight regions where there would be four for every parameter, a snapshot is as
many copies, and an update goes through all of it chunk by chunk, four short pieces at a time that stay in the
cache. A parameter begins at a multiple of ``ALIGNMENT_WORDS``; the padding is zero and stays so.

The update is elementwise, so where a chunk ends changes no bit as long as it is a multiple of a vector.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import torch
from torch import Tensor, nn

from flightsw.gpu.integrity.digest import BLOCK_WORDS

BETAS: Final = (0.9, 0.99)
EPSILON: Final = 1e-8
WEIGHT_DECAY: Final = 0.1
"""Decay of matrices; biases and norms are not decayed."""
ALIGNMENT_WORDS: Final = 128
"""512 bytes: what CUDA's allocator gives a tensor of its own, and more than any processor's vector."""
CHUNK_BLOCKS: Final = {"cpu": 8, "cuda": 256}
"""Digest blocks that are updated at once: on a processor to stay in its cache, on a card to fill it."""


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """Weights, gradients and moments of the same parameters: float32 (words,) each."""

    weights: Tensor
    gradients: Tensor
    averages: Tensor
    squares: Tensor

    @property
    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """What an update changes."""
        return self.weights, self.averages, self.squares

    def cut(self, start: int, stop: int) -> "Rows":
        """Views of some words."""
        return Rows(
            weights=self.weights[start:stop],
            gradients=self.gradients[start:stop],
            averages=self.averages[start:stop],
            squares=self.squares[start:stop],
        )


class Chunk(msgspec.Struct, frozen=True):
    """Words of a group that are updated at once: its digest blocks ``first`` to ``last`` (not included)."""

    group: int
    first: int
    last: int
    rows: Rows


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters with the same decay. ``count``, float32 0-d, is the number of their steps."""

    name: str
    decay: float
    rows: Rows
    count: Tensor


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101). Takes over the memory of the parameters."""

    def __init__(self, model: nn.Module) -> None:
        named = list(model.named_parameters())
        assert all(parameter.dtype is torch.float32 for _, parameter in named), "master weights are float32"
        matrices = [(name, parameter) for name, parameter in named if parameter.dim() >= 2]
        vectors = [(name, parameter) for name, parameter in named if parameter.dim() < 2]
        self._own: list[tuple[nn.Parameter, Tensor]] = []
        self._state: dict[str, Tensor] = {}
        self._scaled = torch.empty(0, device=named[0][1].device)
        self.groups = tuple(
            self._group(name, decay, members)
            for name, decay, members in (("matrices", WEIGHT_DECAY, matrices), ("vectors", 0.0, vectors))
            if members
        )
        self.chunks = tuple(_chunks(self.groups, CHUNK_BLOCKS.get(named[0][1].device.type, 1)))
        self.zero_gradients()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors beside the weights, named ``<parameter>.<moment>``: always the same objects."""
        yield from self._state.items()

    def flat(self) -> Iterator[tuple[str, Tensor]]:
        """All memory that is training state, by name."""
        for group in self.groups:
            yield f"weights of {group.name}", group.rows.weights
            yield f"exp_avg of {group.name}", group.rows.averages
            yield f"exp_avg_sq of {group.name}", group.rows.squares
            yield f"step count of {group.name}", group.count

    def gradients(self) -> tuple[Tensor, ...]:
        """Memory of the gradients, float32 (words,) a group."""
        return tuple(group.rows.gradients for group in self.groups)

    def zero_gradients(self) -> None:
        """Before the first backward pass of a step."""
        for gradients in self.gradients():
            gradients.zero_()
        for parameter, view in self._own:
            parameter.grad = view

    def gather(self) -> None:
        """Bring gradients that a backward pass left elsewhere into their row."""
        for parameter, view in self._own:
            if parameter.grad is not view:
                assert parameter.grad is not None, "a step needs a backward pass"
                view.copy_(parameter.grad)
                parameter.grad = view

    def gradient_norm(self) -> Tensor:
        """Norm of all gradients as the norm of the parameters' norms, 0-d."""
        return torch.nn.utils.get_total_norm([view for _, view in self._own])

    @torch.no_grad()
    def step(self, learning_rate: float, scale: Tensor | None = None) -> None:
        """Apply the gradients, times ``scale`` (0-d), to every parameter."""
        self.gather()
        counts = self.next_counts()
        for chunk in self.chunks:
            self.update(chunk, chunk.rows, counts, learning_rate, scale)
        self.count_on()

    def next_counts(self) -> tuple[Tensor, ...]:
        """Number of the step that comes, 0-d for each group."""
        return tuple(group.count + 1.0 for group in self.groups)

    def count_on(self) -> None:
        """The step is done."""
        for group in self.groups:
            group.count.add_(1.0)

    @torch.no_grad()
    def update(
        self, chunk: Chunk, target: Rows, counts: Sequence[Tensor], learning_rate: float, scale: Tensor | None
    ) -> None:
        """Change weights and moments of ``target`` in place, by the gradients of ``chunk``, which are only read."""
        gradients = chunk.rows.gradients
        if scale is not None:
            if len(self._scaled) < len(gradients):
                self._scaled = torch.empty_like(gradients)
            gradients = torch.mul(gradients, scale, out=self._scaled[: len(gradients)])
        torch._fused_adamw_(
            [target.weights], [gradients], [target.averages], [target.squares], [], [counts[chunk.group]],
            lr=learning_rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=self.groups[chunk.group].decay,
            eps=EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip

    def _group(self, name: str, decay: float, members: list[tuple[str, nn.Parameter]]) -> Group:
        lengths = [-(-parameter.numel() // ALIGNMENT_WORDS) * ALIGNMENT_WORDS for _, parameter in members]
        device = members[0][1].device
        weights, gradients, averages, squares = (
            torch.zeros(sum(lengths), dtype=torch.float32, device=device) for _ in range(4)
        )
        rows = Rows(weights=weights, gradients=gradients, averages=averages, squares=squares)
        count = torch.zeros((), dtype=torch.float32, device=device)
        place = 0
        for (member, parameter), length in zip(members, lengths, strict=True):
            own = rows.cut(place, place + parameter.numel())
            shape = parameter.shape
            own.weights.view(shape).copy_(parameter.detach())
            parameter.data = own.weights.view(shape)
            self._own.append((parameter, own.gradients.view(shape)))
            self._state[f"{member}.exp_avg"] = own.averages.view(shape)
            self._state[f"{member}.exp_avg_sq"] = own.squares.view(shape)
            self._state[f"{member}.step"] = count
            place += length
        return Group(name=name, decay=decay, rows=rows, count=count)


def _chunks(groups: Sequence[Group], blocks: int) -> Iterator[Chunk]:
    for number, group in enumerate(groups):
        words = len(group.rows.weights)
        for first in range(0, -(-words // BLOCK_WORDS), blocks):
            stop = min((first + blocks) * BLOCK_WORDS, words)
            yield Chunk(number, first, -(-stop // BLOCK_WORDS), group.rows.cut(first * BLOCK_WORDS, stop))

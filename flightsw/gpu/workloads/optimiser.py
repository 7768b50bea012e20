"""AdamW over a model's named parameters, in flat memory, by torch's own fused kernel.

``torch.optim.AdamW`` does the same arithmetic, but its class loads torch's compiler at first use: 2.4 s of
processor time on every start of a worker, which is every recovery. Here moments exist from the start under the
names of their parameters, as a checkpoint wants them, and are only ever changed in place.

*Flat.* Weights, gradients and both moments lie in one row of memory each, in the same order, matrices first. The
model's parameters and their gradients are views of them. So a digest reads four regions where there would be four
for every parameter, a snapshot is four copies, and an update goes through all of it chunk by chunk, four short
pieces at a time that stay in the cache. A parameter begins at a multiple of ``ALIGNMENT_WORDS``, the padding is
zero and stays so.

The update is elementwise, so where a chunk ends changes no bit as long as it is a multiple of a vector.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import torch
from torch import Tensor, nn

BETAS: Final = (0.9, 0.99)
EPSILON: Final = 1e-8
WEIGHT_DECAY: Final = 0.1
"""Decay of matrices; biases and norms are not decayed."""
ALIGNMENT_WORDS: Final = 128
"""512 bytes: what CUDA's allocator gives a tensor of its own, and more than any processor's vector."""
CHUNK_BLOCKS: Final = {"cpu": 8, "cuda": 256}
"""Blocks of 2¹⁶ words that are updated at once: on a processor to stay in its cache, on a card to fill it."""
BLOCK_WORDS: Final = 1 << 16


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Views of some words of weights, gradients and moments that are updated by one call; ``decay`` is theirs."""

    weights: Tensor
    gradients: Tensor
    averages: Tensor
    squares: Tensor
    decay: float


class Chunk(msgspec.Struct, frozen=True):
    """Whole blocks, ``first`` to ``last`` (not included), in one part or two: with decay, without."""

    first: int
    last: int
    parts: tuple[Part, ...]


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101). Takes over the memory of the parameters.

    ``weights``, ``gradients``, ``averages`` and ``squares`` are float32 (words,); ``counts`` float32 (parameters,).
    """

    def __init__(self, model: nn.Module) -> None:
        named = sorted(model.named_parameters(), key=lambda item: item[1].dim() < 2)  # Stable: matrices first.
        device = named[0][1].device
        assert all(parameter.dtype is torch.float32 for _, parameter in named), "master weights are float32"
        places: list[int] = []
        words = matrix_words = 0
        for _, parameter in named:
            places.append(words)
            words += -(-parameter.numel() // ALIGNMENT_WORDS) * ALIGNMENT_WORDS
            matrix_words = words if parameter.dim() >= 2 else matrix_words
        self.weights, self.gradients, self.averages, self.squares = (
            torch.zeros(words, dtype=torch.float32, device=device) for _ in range(4)
        )
        self.counts = torch.zeros(len(named), dtype=torch.float32, device=device)
        """Steps of each parameter; they are the same for all."""
        self._scaled = torch.empty(0, device=device)
        self._own: list[tuple[nn.Parameter, Tensor]] = []
        self._state: dict[str, Tensor] = {}
        for number, ((name, parameter), place) in enumerate(zip(named, places, strict=True)):
            view = self.weights[place : place + parameter.numel()].view(parameter.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            self._own.append((parameter, self._view(self.gradients, place, parameter)))
            self._state[f"{name}.exp_avg"] = self._view(self.averages, place, parameter)
            self._state[f"{name}.exp_avg_sq"] = self._view(self.squares, place, parameter)
            self._state[f"{name}.step"] = self.counts[number]
        self.chunks = tuple(self._chunks(matrix_words, CHUNK_BLOCKS.get(device.type, 1)))
        self.zero_gradients()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors beside the weights, named ``<parameter>.<moment>``: always the same objects."""
        yield from self._state.items()

    def flat(self) -> tuple[tuple[str, Tensor], ...]:
        """The rows of memory that are training state, by name."""
        return (
            ("weights", self.weights), ("exp_avg", self.averages), ("exp_avg_sq", self.squares),
            ("step counts", self.counts),
        )  # fmt: skip

    def zero_gradients(self) -> None:
        """Before the first backward pass of a step."""
        self.gradients.zero_()
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
        count = self.next_count()
        for chunk in self.chunks:
            for part in chunk.parts:
                self.update(part, part, count, learning_rate, scale)
        self.counts.add_(1.0)

    def next_count(self) -> Tensor:
        """Number of the step that comes, 0-d."""
        return self.counts[0] + 1.0

    @torch.no_grad()
    def update(
        self, target: Part, source: Part, count: Tensor, learning_rate: float, scale: Tensor | None = None
    ) -> None:
        """Change weights and moments of ``target`` in place by the gradients of ``source``, which are only read."""
        gradients = source.gradients
        if scale is not None:
            if len(self._scaled) < len(gradients):
                self._scaled = torch.empty_like(gradients)
            gradients = torch.mul(gradients, scale, out=self._scaled[: len(gradients)])
        torch._fused_adamw_(
            [target.weights], [gradients], [target.averages], [target.squares], [], [count],
            lr=learning_rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=source.decay, eps=EPSILON,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    @staticmethod
    def _view(flat: Tensor, place: int, parameter: Tensor) -> Tensor:
        return flat[place : place + parameter.numel()].view(parameter.shape)

    def _chunks(self, matrix_words: int, blocks: int) -> Iterator[Chunk]:
        words = len(self.weights)
        for first in range(0, -(-words // BLOCK_WORDS), blocks):
            start, stop = first * BLOCK_WORDS, min((first + blocks) * BLOCK_WORDS, words)
            middle = min(max(start, matrix_words), stop)
            parts = tuple(
                Part(
                    weights=self.weights[begin:end],
                    gradients=self.gradients[begin:end],
                    averages=self.averages[begin:end],
                    squares=self.squares[begin:end],
                    decay=decay,
                )
                for begin, end, decay in ((start, middle, WEIGHT_DECAY), (middle, stop, 0.0))
                if begin < end
            )
            yield Chunk(first, -(-stop // BLOCK_WORDS), parts)

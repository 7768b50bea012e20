"""What can be hit in a running subject, and how each target is reached without its help.

A subject is described once: its module, and where its other tensors are found. Memory is looked up at the moment
of the hit, because a cache grows and an optimiser makes its state late. Operations are reached by a dispatch mode,
gradients by torch's own hook on a parameter, random state through the generator: nothing of that is in flight code.

A target that a subject does not have is an error that lists what there is, never a fault that quietly hits nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec
import torch
from torch import Tensor, nn

from .injection import TARGET_NAMES, NoSuchTarget, TargetName

Reach = Literal["memory", "gradient", "generator", "below", "above"]
"""memory: a live tensor · gradient: a parameter's, as soon as it is there · generator: state that is taken out and
put back · below: a result as the arithmetic made it · above: a result on its way to the next operation."""
Named = Iterable[tuple[str, Tensor]]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    reach: Reach
    text: str
    products: bool | None = None
    """Of operations: matrix products only, all but these, or all."""


TARGETS: Final[dict[TargetName, Target]] = {
    "weights": Target(reach="memory", text="parameters and buffers"),
    "optimiser": Target(reach="memory", text="moments and step counts of the optimiser"),
    "gradients": Target(reach="gradient", text="gradient of a parameter, between backward pass and update"),
    "kv_cache": Target(reach="memory", text="keys and values of earlier tokens"),
    "random_state": Target(reach="generator", text="state of a random generator"),
    "input_data": Target(reach="memory", text="tokens or other tensors the subject computes on"),
    "activations": Target(reach="above", text="result of any operation, on its way to the next"),
    "arithmetic": Target(reach="below", products=False, text="result of any other operation, as computed"),
    "output_before_rounding": Target(reach="below", products=True, text="sum of a matrix product, unrounded"),
    "output_after_rounding": Target(reach="above", products=True, text="rounded result of a matrix product"),
}  # fmt: skip

NAMES_SHOWN: Final = 8
MERSENNE_FIRST_BYTE: Final = 24
MERSENNE_BYTES: Final = 624 * 8
"""torch keeps the 624 words of its host generator in 64 bits each, behind seed and counters."""


def nothing() -> Named:
    """Tensors of a subject that has none of a kind."""
    return ()


def no_generators() -> Mapping[str, torch.Generator]:
    """Generators of a subject that draws nothing."""
    return {}


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A program under fire. The functions are asked at the moment of the hit."""

    name: str
    module: nn.Module | None = None
    """Names layers and has the parameters; not needed for anything else."""
    weights: Callable[[], Named] = nothing
    """Weights, where they are not the module's own parameters and buffers."""
    optimiser: Callable[[], Named] = nothing
    cache: Callable[[], Named] = nothing
    inputs: Callable[[], Named] = nothing
    generators: Callable[[], Mapping[str, torch.Generator]] = no_generators
    told: bool = False
    """Its passes hand their operations over, and a guard is told of them instead of seeing them."""

    def memory(self, target: TargetName) -> dict[str, Tensor]:
        """Live tensors of a memory target by name, those with elements. Raises ``NoSuchTarget``."""
        found = {name: tensor.detach() for name, tensor in self._named(target) if tensor.numel()}
        if not found:
            raise self.lacks(target)
        return found

    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that get a gradient, each under one name. Raises ``NoSuchTarget``."""
        named = self.module.named_parameters() if self.module is not None else iter(())
        found = {name: parameter for name, parameter in named if parameter.requires_grad and parameter.numel()}
        if not found:
            raise self.lacks("gradients")
        return found

    def lacks(self, what: str) -> NoSuchTarget:
        """The complaint about something that does not exist here."""
        if what not in TARGET_NAMES:
            return NoSuchTarget(f'target "{what}" is unknown; there are {", ".join(TARGET_NAMES)}')
        return NoSuchTarget(f'subject {self.name} has no "{what}"; it has {", ".join(self.targets()) or "nothing"}')

    def lacks_tensor(self, target: str, layer: str, there_are: Iterable[str]) -> NoSuchTarget:
        """The complaint about a tensor, or generator, that a target does not have."""
        names = list(there_are)
        shown = ", ".join(names[:NAMES_SHOWN]) + (
            f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        )
        return NoSuchTarget(f'subject {self.name} has no "{layer}" in its {target}; it has {shown}')

    def targets(self) -> Iterator[TargetName]:
        """Targets that exist here now; results of operations exist wherever something is computed."""
        return (name for name in TARGETS if self._has(name))

    def _has(self, target: TargetName) -> bool:
        reach = TARGETS[target].reach
        if reach == "memory":
            return any(tensor.numel() for _, tensor in self._named(target))
        if reach == "generator":
            return bool(self.generators())
        if reach == "gradient":
            return self.module is not None and any(weight.requires_grad for weight in self.module.parameters())
        return True

    def _named(self, target: TargetName) -> Named:
        sources: dict[str, Callable[[], Named]] = {
            "weights": self._weights,
            "optimiser": self.optimiser,
            "kv_cache": self.cache,
            "input_data": self.inputs,
        }
        if target not in sources:
            raise self.lacks(target)
        return sources[target]()

    def _weights(self) -> Named:
        given = list(self.weights())
        if given or self.module is None:
            return given
        return [*self.module.named_parameters(), *self.module.named_buffers()]


def torch_optimiser(optimiser: torch.optim.Optimizer, module: nn.Module) -> Callable[[], Named]:
    """State tensors of a torch optimiser, named ``<parameter>.<moment>``."""

    def named() -> Named:
        for name, parameter in module.named_parameters():
            for moment, value in optimiser.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"{name}.{moment}", value

    return named


def key_value_cache(cache: Any, used: Callable[[], int] | None = None) -> Named:
    """Keys and values of a cache, layer by layer: of ``gpt.Cache``, or of a transformers ``DynamicCache``.

    ``used`` tells how many slots of a row are in use; without it all the memory of the cache is a target.
    """
    if hasattr(cache, "layers"):
        pairs = [(layer.keys, layer.values) for layer in cache.layers if layer.keys is not None]
    else:
        pairs = list(zip(cache.keys, cache.values, strict=True))
    for layer, pair in enumerate(pairs):
        for what, tensor in zip(("keys", "values"), pair, strict=True):
            yield f"layer {layer} {what}", tensor if used is None else tensor[:, :, : used()]


def random_words(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A copy of a generator's state (uint8), and the view of it (int32) that can be hit.

    Of the host's Mersenne Twister these are the words; its counters are left out, because a state in which they
    are damaged is refused by torch, which is no silent fault. Of a device's counter generator it is the seed.
    """
    state = generator.get_state()
    if generator.device.type == "cpu":
        words = state[MERSENNE_FIRST_BYTE : MERSENNE_FIRST_BYTE + MERSENNE_BYTES].view(torch.int32)[::2]
    else:
        words = state[:8].view(torch.int32)
    return state, words

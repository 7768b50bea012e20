"""Second injectors: faults that others' packages choose, so that coverage does not rest on our own draws.

``pytorchfi`` (hooks and a copied module) and ``mrfi`` (selectors and error models) decide which weight is hit and
what it becomes; the trial of resident state then judges that fault as any other, and the row in the ledger names
the package. What they inject is written into live memory by our hand, for both work on copies or inside their own
wrapper of a model, where no digest could be looked at; the bits are checked to be theirs.

    pytorchfi  ``random_weight_inj``: a random weight of an ``nn.Linear`` takes a random value         stack-float32
    mrfi       ``RandomPositionByNumber`` and ``FloatRandomBitFlip``: a random bit of a random weight   gpt-float32

They are an optional extra (``injectors``). One that cannot be imported is named with the reason, never passed over.
"""

import importlib
import importlib.metadata
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

from . import state_part
from .injection import Injection
from .ledger import Ledger
from .measurements import Injector
from .shapes import BYTE_BITS, ShapeName
from .streams import Origin
from .tally import count as count_of
from .tally import rows
from .testees import Roster

VALUE_MAX: Final = 100.0
"""Size of the values that pytorchfi sets."""


class Choice(msgspec.Struct, frozen=True):
    """A weight that a package chose, and the bits (of 32) that it makes of it."""

    layer: str
    element: int
    elements: int
    old: int
    new: int


Chooser = Callable[[nn.Module, int], Iterator[Choice]]


def carry_out(folder: Path, roster: Roster, count: int) -> tuple[Injector, ...]:
    """``count`` faults of each package into the folder's ledger; what ran, and what did not."""
    return tuple(_ran(folder, roster, count, *row) for row in PACKAGES)


def _ran(
    folder: Path, roster: Roster, count: int, name: str, distribution: str, subject: str, chooser: Chooser
) -> Injector:
    try:
        importlib.import_module(name)
        version = importlib.metadata.version(distribution)
    except ImportError as error:
        return Injector(
            name=name, version="", ran=False, text=f"not importable here ({error}); pip install 'gpusat[injectors]'"
        )
    trial = state_part.Trial(roster, subject)
    module = roster.named(subject).testee.subject.module
    assert module is not None, "every testee has one"
    with Ledger(folder) as ledger:
        for index, choice in zip(range(count), chooser(module, roster.seed), strict=False):
            injection = _injection(choice, roster.seed, index, name, subject)
            if injection.id in ledger.ended_ids:
                continue
            ledger.begin(injection)
            fired, end = trial.one(injection)
            assert (fired.old, fired.new) == ((choice.old,), (choice.new,)), "the package's own bits"
            ledger.end(injection, fired, end, injector=name)
    # What an interrupted campaign had done counts, too.
    found = count_of(row for row in rows(folder) if row.injector == name)
    share = found.coverage
    return Injector(
        name=name,
        version=version,
        ran=True,
        text=f"{found.total:,} weights of {subject}: {share.hits:,} of {share.total:,} harmful caught, {share}",
    )


def pytorchfi_choices(module: nn.Module, seed: int) -> Iterator[Choice]:
    """Weights that pytorchfi corrupts in copies of the module. It draws from Python's global generator."""
    core: Any = importlib.import_module("pytorchfi.core")
    models: Any = importlib.import_module("pytorchfi.weight_error_models")
    first = next(layer for layer in module.modules() if isinstance(layer, nn.Linear))
    injector = core.fault_injection(
        module, 1, input_shape=[first.in_features], layer_types=[nn.Linear], use_cuda=False
    )
    own = dict(module.named_parameters())
    random.seed(seed)
    while True:
        corrupted = models.random_weight_inj(injector, min_val=-VALUE_MAX, max_val=VALUE_MAX)
        for name, parameter in corrupted.named_parameters():
            before, after = _bits(own[name]), _bits(parameter)
            yield from (
                Choice(name, element, len(before), int(before[element]) & _WORD, int(after[element]) & _WORD)
                for element in torch.nonzero(before != after).flatten().tolist()
            )


def mrfi_choices(module: nn.Module, seed: int) -> Iterator[Choice]:
    """Places that mrfi selects over all weights, and what its error model makes of them. It draws from torch's."""
    selector: Any = importlib.import_module("mrfi.selector")
    errors: Any = importlib.import_module("mrfi.error_mode")
    own = [(name, parameter.detach().flatten()) for name, parameter in module.named_parameters()]
    total = sum(len(values) for _, values in own)
    torch.manual_seed(seed)
    while True:
        place = int(selector.RandomPositionByNumber(torch.Size([total]), 1))
        for name, values in own:
            if place < len(values):
                value = values[place : place + 1].clone()
                old = int(_bits(value)[0]) & _WORD
                new = int(_bits(errors.FloatRandomBitFlip(value))[0]) & _WORD
                yield Choice(name, place, len(values), old, new)
                break
            place -= len(values)


PACKAGES: Final[tuple[tuple[str, str, str, Chooser], ...]] = (
    ("pytorchfi", "pytorchfi", "stack-float32", pytorchfi_choices),
    ("mrfi", "MRFI", "gpt-float32", mrfi_choices),
)
"""Module, distribution, subject, and how it is asked."""
_WORD: Final = 0xFFFF_FFFF


def _bits(values: Tensor) -> Tensor:
    return values.detach().contiguous().view(torch.int32).flatten()


def _injection(choice: Choice, seed: int, index: int, package: str, subject: str) -> Injection:
    """The choice as an injection: its flipped bits are those in which the two values differ."""
    bits = tuple(bit for bit in range(32) if (choice.old ^ choice.new) >> bit & 1)
    shape: ShapeName = "multi_bit"
    if len(bits) == 1:
        shape = "single_bit"
    elif bits and bits[0] // BYTE_BITS == bits[-1] // BYTE_BITS:
        shape = "byte_contiguous"
    origin = Origin(seed=seed, index=index, prior=package, subject=f"{subject}:target=weights:between")
    return Injection(
        id=origin.id,
        subject=origin.subject,
        prior=package,
        seed=seed,
        index=index,
        target="weights",
        layer=choice.layer,
        operation="",
        call=0,
        occasion=0,
        dtype="float32",
        shape=shape,
        bits=bits,
        stride=0,
        words=1,
        place=(choice.element + 0.5) / choice.elements,
    )

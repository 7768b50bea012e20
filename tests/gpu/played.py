"""Plays a program as its user would write it, unprotected or under guards, and keeps the bits of all it makes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.protect import Guard, NotUsable, protect
from flightsw.gpu.integrity.transit import dense
from flightsw.link.integrity import Level
from tests.gpu.struck_mode import LARGEST, flip, strike

STEPS = 3
TOP_EXPONENT_BIT = {torch.float32: 30, torch.float64: 62, torch.bfloat16: 14, torch.float16: 14}

Step = Callable[[int], Any]
"""A step of a program, by number; what it returns is compared with the rest."""
Program = Callable[["Player"], tuple[nn.Module, list[torch.optim.Optimizer], Step]]


class Player:
    """What a program asks for: protection of a module, a pass, an update. Without a level it plays unprotected."""

    def __init__(self, level: Level | None, *, given: bool, hit: "Hit | None" = None) -> None:
        self.findings: list[Finding] = []
        self.refused: list[str] = []
        """What a guard did not let the program have."""
        self.guards: list[Guard] = []
        self._level = level
        self._given = given
        self._hit = hit
        self._owners: dict[torch.optim.Optimizer, Guard] = {}

    def protect(self, module: nn.Module, optimiser: torch.optim.Optimizer | None = None, **options: Any) -> None:
        if self._level is None:
            return
        given = optimiser if self._given else None
        guard = protect(module, given, level=self._level, report=self.findings.append, **options)
        self.guards.append(guard)
        if optimiser is not None:
            self._owners[optimiser] = guard

    @contextmanager
    def running(self) -> Iterator[None]:
        """One pass of all guards."""
        with ExitStack() as stack:
            if self._hit is not None and not self._hit.above:
                stack.enter_context(self._hit)
            for guard in self.guards:
                stack.enter_context(guard.running())
            if self._hit is not None and self._hit.above:
                stack.enter_context(self._hit)
            yield

    def settle(self) -> None:
        self.refused += ["settle" for guard in self.guards if not guard.settle()]

    def update(self, optimiser: torch.optim.Optimizer, *args: Any) -> Any:
        """A step; where the guard does not know the optimiser, with the calls that the user makes around it."""
        guard = self._owners.get(optimiser)
        if guard is None or self._given:
            return optimiser.step(*args)
        if not guard.settle():
            self.refused.append("settle")
        if guard.level is not Level.OFF and not guard.before_update():
            self.refused.append("before_update")
        result = optimiser.step(*args)
        if guard.level is not Level.OFF:
            guard.after_update()
        return result


def play(
    program: Program, level: Level | None, *, given: bool = True, hit: "Hit | None" = None
) -> tuple[list[torch.Tensor], Player]:
    """Bits of results, gradients, weights, buffers, optimiser and random state of all steps, up to one that was
    refused; and who played."""
    torch.manual_seed(0)
    player, kept = Player(level, given=given, hit=hit), list[torch.Tensor]()
    module, optimisers, step = program(player)
    try:
        for number in range(STEPS):
            kept += map(bits, tensors(step(number)))
            kept += [bits(one.grad) for one in module.parameters() if one.grad is not None]
            kept += map(bits, tensors(module.state_dict()))
            kept += [bits(one) for optimiser in optimisers for one in tensors(dict(optimiser.state))]
    except NotUsable as error:
        player.refused.append(str(error))
    kept.append(torch.get_rng_state())
    for guard in player.guards:
        player.refused += [] if guard.settle() else ["settle in the end"]
        player.refused += [] if guard.level is Level.OFF or guard.before_update() else ["memory in the end"]
        guard.close()
    return kept, player


def alike(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of its elements as bytes."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        return torch.cat((bits(tensor.indices()), bits(tensor.values())))
    return tensor.resolve_conj().reshape(-1).clone().view(torch.uint8)


class Hit(TorchDispatchMode):
    """Flips the top bit of the exponent of the largest element of one fresh result, the ``nth``: below a guard, as
    it is computed, or ``above``, on its way to whoever reads it."""

    def __init__(self, nth: int, *, above: bool = False) -> None:
        super().__init__()
        self.above = above
        self._nth = nth
        self.seen = 0
        self.where = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func._schema.is_mutable or "empty" in str(func):
            return result
        for one in tensors(result):
            bit = TOP_EXPONENT_BIT.get(one.dtype)
            if bit is None or type(one) is not torch.Tensor:
                continue
            if dense(one):
                self.seen += 1
                if self.seen == self._nth + 1:
                    strike(flip(bit, LARGEST if one.is_contiguous() else 0), one)
                    self.where = str(func)
        return result

"""The dispatch mode that sees a pass operation by operation, and checks each as its policy says.

Whoever computes under it, a module, a functional call, the backward pass, gets the results of torch's own
operators on the same operands: a check never changes a bit of a sound result. What is found wrong is done again
from its operands; if the second result passes, it is handed on in place of the first (finding "recomputed"), else
the pass is tainted: nothing that came of it may be used.

*Order of one operation.* Verify its arguments against the digests of their producers (``watch``), compute, check
the arithmetic (``product_check``, ``repetition``, ``done_once``, ``changes``), digest the result. In a pass without
gradients it is only noted, and looked at somewhat later (``tape``); a model that hands its operations over has them
noted without this mode (``told``). What is looked at in a pass, and what was found, is in ``verdicts``.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.integrity import late_looks, operations
from flightsw.gpu.integrity.attention_log import AttentionLog
from flightsw.gpu.integrity.changes import Changes
from flightsw.gpu.integrity.debts import Debts
from flightsw.gpu.integrity.done_once import DoneOnce
from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.operations import Cover
from flightsw.gpu.integrity.plans import Handler, Plan
from flightsw.gpu.integrity.product_check import ProductCheck
from flightsw.gpu.integrity.products import folds
from flightsw.gpu.integrity.repetition import Repetition
from flightsw.gpu.integrity.results import tensors_in
from flightsw.gpu.integrity.tape import Tape
from flightsw.gpu.integrity.told import Told
from flightsw.gpu.integrity.verdicts import Look, Tally, Verdicts
from flightsw.gpu.integrity.watch import Watch
from flightsw.gpu.integrity.weights import Weights

_COMPOSITE: Final = torch._C.DispatchKey.CompositeImplicitAutograd
_LINEAR: Final = torch.ops.aten.linear.default
_PLAIN: Final = frozenset({Tensor, nn.Parameter, nn.Buffer})
"""Tensor types that are what they seem."""


class Checked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Enter it for a pass, between ``begin`` and ``finish``; ``settle`` says whether its results may be used."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper would load torch's compiler at the first operation, seconds at every start of a worker.
        What is compiled is not run under this mode."""
        return False

    def __init__(self, report: Report, *, device: str = "cpu", deferred: bool = False, wide: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._plans: dict[Any, Plan] = {}
        self._verdicts = Verdicts(report, deferred=deferred)
        self._weights = Weights()
        self._watch = Watch(self._verdicts, self._weights.known)
        self._repetition = repetition = Repetition(self._verdicts, self._watch)
        self._debts = Debts(self._watch, repetition)
        self._changes = changes = Changes(self._verdicts, self._watch, self._debts)
        once = DoneOnce(self._verdicts, self._watch, repetition, self._debts)
        products = ProductCheck(self._verdicts, self._watch, repetition, self._weights, wide=wide)
        self._tape = Tape(self._verdicts, self._watch, repetition, products, self._weights)
        self._handlers: dict[Cover, Handler] = {
            Cover.CHECKSUM: products.product,
            Cover.IDENTITY: once.identity,
            Cover.LATER: once.later,
            Cover.COPY: repetition.copy,
            Cover.REPEAT: repetition.repeat,
            Cover.RANDOM: repetition.repeat,
            Cover.CHANGE: self._after_a_look(changes.change),
            Cover.STORE: self._after_a_look(changes.store),
            Cover.READ: self._read,
            Cover.COMPOSITE: self._composite,
            Cover.STATE: self._after_a_look(changes.state),
            Cover.UNSTABLE: once.once,
            Cover.GIVEN: once.given,
            Cover.REMADE: self._after_a_look(changes.remade),
        }
        """How an operation of each cover is carried out; every other only makes memory, or a view of it."""
        self._left: frozenset[int] = frozenset()
        self._told: Told | None = None

    @property
    def seen(self) -> Counter[tuple[Any, Cover, str]]:
        """Operations by operator, cover and layer, since the guard began."""
        found: Counter[tuple[Any, Cover, str]] = Counter()
        for func, plan in self._plans.items():
            for layer, count in plan.seen.items():
                found[func, plan.cover, layer] += count
            for layer, count in plan.unseen.items():
                found[func, Cover.UNSEEN, layer] += count
        return found

    @property
    def tally(self) -> Tally:
        """Totals since the guard began."""
        return self._verdicts.tally

    @property
    def sums_kept(self) -> int:
        """Gradients that the next pass will look at before it adds to them."""
        return self._changes.sums_kept

    @property
    def layer(self) -> str:
        """Layer that is running, where somebody follows that; for people."""
        return self._verdicts.layer

    @layer.setter
    def layer(self, name: str) -> None:
        self._verdicts.layer = name

    # A pass.

    def begin(self, look: Look) -> None:
        """A pass begins: what to look at in it."""
        self._verdicts.begin(look)
        self._watch.clear()
        self._debts.owed.clear()
        self._changes.begin()
        self._tape.begin()

    def finish(self, *, adds: bool = False) -> None:
        """The pass has ended: last look at what still lives. Verdicts may still be on the device.

        ``adds``: the next pass will add to the same gradients, and will look at them as it does.
        """
        with torch.no_grad():
            self._tape.finish()
            self._debts.pay()
            self._watch.finish(self._changes.sums_unseen() if adds else ())
            if not adds:
                self._changes.look_at_sums()
        self._watch.clear()
        self._tape.forget()

    def settle(self) -> bool:
        """Read what is still on the device; whether no pass since the last call is tainted."""
        return self._verdicts.settle()

    def look_at_sums(self) -> None:
        """After a pass that was said to be followed by another which adds, and is not."""
        self._changes.look_at_sums()

    # Resident weights.

    def know(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Resident weights by name: memory that is guarded, and whose sums are worth keeping."""
        self._weights.know(weights)

    def renew(self, *, now: bool) -> None:
        """Weights have changed by an announced update, or were just verified: old sums are void.

        With ``now`` those in use are taken at once, while the weights are known to be good; else at their next use.
        """
        self._weights.renew(now=now)

    def leave(self, memory: Iterable[Tensor]) -> None:
        """Memory that somebody else holds against what is written there: a cache whose rows have digests."""
        held = list(memory)
        self._left = frozenset(tensor.untyped_storage()._cdata for tensor in held)
        self._changes.leave(held)

    def hand_over(self, log: AttentionLog) -> None:
        """Attention of decode steps: whoever releases what came of them asks this log."""
        self._tape.log = log

    def hands(self, weight: Tensor) -> Told | None:
        """Who carries out operations of a pass that uses this weight, for a model that hands them over instead of
        having them seen. None where they have to be seen: what is told is only noted, and nothing else is."""
        if not self._tape.running or type(weight) not in _PLAIN or _has_any_global_hook():  # type: ignore[no-untyped-call]
            return None
        if weight.dtype is not torch.float32 or not weight.is_cpu or weight.layout is not torch.strided:
            return None
        if torch.is_autocast_enabled("cpu"):
            # It gives operations other operands than they are told with.
            return None
        if self._told is None:
            self._told = Told(self, self._tape, self._watch, self._plan_of, self._is_left)
        self._told.foreign = bool(self._tape.noted)
        return self._told

    # Operations.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plan = self._plans.get(func) or self._plan_of(func)
        if types and not _PLAIN.issuperset(types):
            plan.unseen[self._verdicts.layer] += 1
            return func(*args, **(kwargs or {}))
        plan.seen[self._verdicts.layer] += 1
        if plan.handler is None:
            return func(*args, **kwargs) if kwargs else func(*args)
        if func is _LINEAR and folds(*args[:2]):
            return self._folded(*args, **(kwargs or {}))
        kind = plan.noted
        if kind is not None and self._tape.running:
            if torch.is_grad_enabled():
                if any(isinstance(one, Tensor) and one.requires_grad for one in args):
                    self._tape.stop()
            elif late_looks.takes(kind, args, kwargs):
                return self._tape.compute(kind, func, args, kwargs or {})
        return plan.handler(func, args, kwargs or {})

    def _plan_of(self, func: Any) -> Plan:
        plan = self._plans.get(func)
        if plan is None:
            cover = operations.cover_of(
                func, self._device, deterministic=torch.are_deterministic_algorithms_enabled()
            )
            plan = self._plans[func] = Plan(cover, self._handlers.get(cover), late_looks.kind_of(func))
        return plan

    def _is_left(self, memory: Tensor) -> bool:
        return memory.untyped_storage()._cdata in self._left

    def _after_a_look(self, handler: Handler) -> Handler:
        """A handler of operations that write: what is noted of that memory is looked at before."""

        def look_and_write(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._tape.before_write(tensors_in(operations.targets(func, args, kwargs)))
            return handler(func, args, kwargs)

        return look_and_write

    def _read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._tape.catch_up()
        return self._repetition.read(func, args, kwargs)

    def _composite(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Torch's own kernel. ``decompose`` takes one in Python where there is one (matmul, recurrent layers), which
        # may round in another way.
        with self:
            return func._op_dk(_COMPOSITE, *args, **kwargs)

    def _folded(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        # Torch makes one product of such rows, and a batch of products when it is called from a mode, where it does
        # not see that the weight wants gradients. On some processors those two round otherwise.
        with self:
            y = torch.mm(x.reshape(-1, x.shape[-1]), weight.t()).view(*x.shape[:-1], weight.shape[0])
            return y if bias is None else y.add_(bias)

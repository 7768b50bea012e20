"""What is owed in a pass, by whom, and its payment before it is too late.

A check that a forward operation owes (``owed``) is paid by the identities of its backward one (``done_once``). What
is still owed when the pass ends, or when somebody is about to write into what it needs, is paid here, by doing the
operation again.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from flightsw.gpu.integrity.owed import Key, Owed
from flightsw.gpu.integrity.repetition import Repetition
from flightsw.gpu.integrity.results import tensors_in
from flightsw.gpu.integrity.watch import Watch


class Debts:
    """What is owed in the pass at hand, and its payment by ``repetition``."""

    def __init__(self, watch: Watch, repetition: Repetition) -> None:
        self.owed: dict[Key, Owed] = {}
        """By what the backward operation will read; always the same dictionary."""
        self._watch = watch
        self._repetition = repetition

    def before_write(self, targets: Iterable[Tensor]) -> None:
        """What was left to a later look, or is owed, is looked at before it is gone."""
        targets = list(targets)
        self._watch.before_write(targets)
        if self.owed:
            self.pay(frozenset(one.untyped_storage()._cdata for one in targets if one.layout is torch.strided))

    def pay(self, storages: frozenset[int] | None = None) -> None:
        """Do again what is still owed; of ``storages`` only, when somebody is about to write there."""
        for key, one in list(self.owed.items()):
            held = {tensor.untyped_storage()._cdata for tensor in tensors_in((one.args, one.result))}
            if storages is None or not storages.isdisjoint(held):
                del self.owed[key]
                self.redo(one)

    def redo(self, one: Owed) -> bool:
        """Whether one of them, done again, gives what is out; if not, the pass is tainted."""
        return self._repetition.done_again(one.func, one.args, one.kwargs, one.result)

"""What protection changes in a module: its ``forward`` becomes a pass, and nobody else may protect it meanwhile.

Nothing of this goes along with a copy of the module, or with one that is read from a file: those have the forward
method of their class.
"""

import functools
import types
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from torch import nn

Running = Callable[[], AbstractContextManager[None]]

_held: Final["weakref.WeakSet[nn.Module]"] = weakref.WeakSet()


def already_held(module: nn.Module) -> str:
    """Name of a part of ``module`` that is held; "the module" for itself, empty for none."""
    return next((name or "the module" for name, part in module.named_modules() if part in _held), "")


class HeldModule:
    """Holds a module and all of its parts until ``release``; with ``running`` each call of it is such a pass."""

    def __init__(self, module: nn.Module, running: Running | None) -> None:
        self._module = module
        self._replaced = running is not None
        self._own = module.__dict__.get("forward")
        """A forward that the module had in place of its class's."""
        for part in module.modules():
            _held.add(part)
        if running is not None:
            module.forward = _Call(running, module)

    def release(self) -> None:
        """The module is as it was."""
        if self._replaced:
            self._module.__dict__.pop("forward", None)
            if self._own is not None:
                self._module.forward = self._own
        for part in self._module.modules():
            _held.discard(part)


class _Call:
    """A module's ``forward`` as a pass of its guard. A copy of the module, or one read from a file, has its own."""

    def __init__(self, running: Running, module: nn.Module) -> None:
        self._running = running
        self._module = module
        self._inner = module.forward
        functools.update_wrapper(self, module.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._running():
            return self._inner(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _own_forward(memo[id(self._module)])

    def __reduce__(self) -> Any:
        return _own_forward, (self._module,)


def _own_forward(module: nn.Module) -> Any:
    return types.MethodType(type(module).forward, module)

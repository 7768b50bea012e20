"""One fault, injected into a running subject: once, and with proof.

Results of operations are reached by two dispatch modes, one on either side of whatever protects the program:

    above   sees the operations of the program itself, counts them, damages what the program gets back (transit)
    below   sees the arithmetic, with the checks and repetitions of a protection, damages raw results

The upper one counts, so an injection means the same operation with and without protection; when that operation runs
it arms the lower one, which hits the first fitting result inside. Every further one is left alone: a repeated
operation comes out right, as after a real upset. Unprotected, one ``with`` enters both:

    shot = inject(injection, subject)
    with shot: …one pass…                          # unprotected
    with shot.below(), guard.running(), shot.above(): …one pass…

A subject whose passes hand their operations over (``Subject.told``) is met between the model and the guard's hands
(``telling``) instead of by the upper mode.

``occasion`` counts entries of the upper mode, that is passes. Memory is hit before the chosen operation of the
chosen pass (at the latest at the pass's end), or at once by ``strike``. Gradients are hit by torch's own hook as
soon as backward has left them. A fault that never fired proves nothing: ``evidence`` raises ``NeverFired``.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .bits import hit, read, write
from .injection import Fired, Injection
from .operations import (
    ROUNDED,
    TOLD,
    Watch,
    accumulated,
    is_composite,
    is_product,
    name_of,
    new_results,
    result_elements,
    split_output,
)
from .shapes import dtype_named
from .targets import TARGETS, Subject, random_words
from .telling import Handed


class NeverFired(RuntimeError):
    """The fault was never seen to happen, so the run is invalid; the text is one line."""


def inject(injection: Injection, subject: Subject) -> "Shot":
    """The shot of an injection. Raises ``NoSuchTarget`` when the subject does not have its target or tensor."""
    return Shot(injection, subject)


class Shot:
    """One injection on its way; ``fired`` is its evidence once it has happened."""

    def __init__(self, injection: Injection, subject: Subject) -> None:
        if injection.target not in TARGETS:
            raise subject.lacks(injection.target)
        self.injection = injection
        self.fired: Fired | None = None
        self._missed = f"pass {injection.occasion} of the run was never begun"
        self._subject = subject
        self._reach = TARGETS[injection.target].reach
        self._operation, self._output = split_output(injection.operation)
        self._arithmetic = self._operation.removeprefix(TOLD)
        """Its name below."""
        self._guarded = False
        """Whether what was hit had been handed over to a guard."""
        self._passes = 0
        self._ran: Counter[str] = Counter()
        """Operations of the pass so far, by name."""
        self._armed_for = 0
        """Elements of the result that the lower mode waits for; −1 any, 0 when it is not armed."""
        self._parts = False
        """Whether the operation it waits for may come as the parts that torch makes it of."""
        self._both: ExitStack | None = None
        if self._reach not in ("above", "below"):
            self._look_up()

    @contextmanager
    def below(self) -> Iterator[None]:
        """Enter before whatever protects the program."""
        with Watch(self._seen_below):
            yield

    @contextmanager
    def above(self) -> Iterator[None]:
        """Enter after whatever protects the program; one entry is one pass."""
        occasion, self._passes = self._passes, self._passes + 1
        if occasion != self.injection.occasion or self.fired is not None:
            yield
            return
        self._ran.clear()
        with self._gradient_hook(), Watch(self._seen_above, self._told_above if self._subject.told else None):
            yield
        if (
            self.fired is None
            and self._reach in ("above", "below")
            and self._ran[self._operation] <= (self.injection.call)
        ):
            times, call = self._ran[self._operation], self.injection.call
            self._missed = f"the pass ran {self._operation} {times} times, number {call} is to be hit"
        if self._in_memory and self.fired is None:
            self.strike()  # The pass was shorter than the one that was surveyed.

    def __enter__(self) -> Self:
        self._both = ExitStack()
        self._both.enter_context(self.below())
        self._both.enter_context(self.above())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._both is not None, "it was entered"
        self._both.__exit__(kind, error, trace)

    def strike(self) -> Fired:
        """Hit memory, a random generator or a gradient that is there, now.

        Raises ``NoSuchTarget`` when it is gone, ``NeverFired`` for a gradient that is not there or a target that
        only a running operation has.
        """
        if self._reach in ("above", "below"):
            raise NeverFired(f"injection {self.injection.id}: {self.injection.target} exists within a pass only")
        assert self.fired is None, "one shot"
        with _disable_current_modes():
            found = self._look_up()
            if isinstance(found, torch.Generator):
                state, words = random_words(found)
                fired = hit(words, self.injection, self._where())
                found.set_state(state)
            else:
                tensor = found.grad if self._reach == "gradient" else found
                if tensor is None:
                    raise NeverFired(f"injection {self.injection.id}: {self.injection.layer} has no gradient now")
                fired = hit(tensor, self.injection, self._where())
        self.fired = fired
        return fired

    def evidence(self, *, told: bool = False) -> Fired:
        """What was hit; with ``told`` it has to be an operation that was handed over to a guard.

        Raises ``NeverFired``: such a run says nothing and counts for nothing.
        """
        missed = "it was not handed over to the guard" if told and not self._guarded else ""
        if self.fired is None:
            missed = self._missed
        if self.fired is None or missed:
            raise NeverFired(
                f"injection {self.injection.id} never fired ({self._where()}): {missed}; the run is invalid"
            )
        return self.fired

    @property
    def _in_memory(self) -> bool:
        return self._reach in ("memory", "generator")

    def _where(self) -> str:
        injection = self.injection
        return " ".join(part for part in (injection.target, injection.layer, injection.operation) if part)

    def _look_up(self) -> Any:
        """The tensor, parameter or generator that is to be hit."""
        subject, target, layer = self._subject, self.injection.target, self.injection.layer
        named: dict[str, Any]
        if self._reach == "gradient":
            named = dict(subject.parameters())
        elif self._reach == "generator":
            named = dict(subject.generators())
        else:
            named = dict(subject.memory(target))
        if not named:
            raise subject.lacks(target)
        if layer not in named:
            raise subject.lacks_tensor(target, layer, named)
        return named[layer]

    @contextmanager
    def _gradient_hook(self) -> Iterator[None]:
        if self._reach != "gradient":
            yield
            return
        self._missed = "no backward pass left that gradient"

        def there(parameter: Tensor) -> None:
            if self.fired is None and parameter.grad is not None:
                self.strike()

        handle = self._look_up().register_post_accumulate_grad_hook(there)
        try:
            yield
        finally:
            handle.remove()

    def _seen_above(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation of the program that it had seen."""
        return self._above(name_of(func), func, args, kwargs, lambda: func(*args, **kwargs))

    def _told_above(self, handed: Handed) -> Any:
        """An operation of the program that it has handed over."""
        before = self.fired
        out = self._above(TOLD + handed.name, handed.func, handed.args, {}, handed.work)
        if self.fired is not before:
            self._guarded = handed.guarded
        return out

    def _above(self, name: str, func: Any, args: Any, kwargs: Any, work: Callable[[], Any]) -> Any:
        """Count an operation; hit memory before it, its result after, or arm the lower mode."""
        number = self._ran[name]
        self._ran[name] += 1
        if self.fired is None and self._in_memory and self._ran.total() > self.injection.call:
            self.strike()
        chosen = self.fired is None and name == self._operation and number == self.injection.call
        if chosen and self._reach == "below":
            with _disable_current_modes():
                self._armed_for = result_elements(func, args, kwargs, self._output)
                self._parts = is_composite(func)
        try:
            out = work()
        finally:
            self._armed_for = 0
        if not chosen:
            return out
        if self._reach == "above":
            result = dict(new_results(func, args, kwargs, out)).get(self._output)
            if result is not None:
                with _disable_current_modes():
                    self.fired = hit(result, self.injection, self._where())
        if self.fired is None:
            self._missed = f"{name} gave no new tensor number {self._output} of {self.injection.dtype} that fits"
        return out

    def _seen_below(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation of whatever is above: hit its raw result when it is the one that is waited for."""
        out = func(*args, **kwargs)
        if not self._armed_for or self.fired is not None:
            return out
        name = name_of(func)
        alike = name == self._arithmetic or (is_product(name) if is_product(self._arithmetic) else self._parts)
        result = dict(new_results(func, args, kwargs, out)).get(self._output) if alike else None
        if result is None or self._armed_for not in (-1, result.numel()):
            return out
        with _disable_current_modes():
            if result.dtype is dtype_named(self.injection.dtype):
                self.fired = hit(result, self.injection, self._where())
            elif result.dtype in ROUNDED and self.injection.dtype == "float32":
                # Hit the sum that this result was rounded from, and round again.
                product = accumulated(func, args, kwargs)
                self.fired = hit(product.sums, self.injection, self._where())
                rounded = product.rounded(result.dtype)
                for element in self.fired.elements:
                    write(result, element, read(rounded, element))
        return out

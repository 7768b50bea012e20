"""One call that protects a module, and its optimiser, as they are.

    guard = protect(model, optimiser, level=Level.STORM, report=print)
    with guard.running():            # one pass: forward, or forward and backward
        model(x).loss.backward()
    if guard.settle():               # may everything since the last settle be used?
        optimiser.step()             # verifies the state before, takes new digests after
    print(guard.coverage())

Calls of ``module(x)`` outside of ``running()`` are passes by themselves (their backward pass is not: it begins
after the call has ended), and ``step`` of a torch optimiser verifies and adopts by itself. What is looked at in
which pass follows the level (``levels``), which may be set at any time and changes no bit of any result. A pass
that is not looked at is not touched: the dispatch mode is not entered.

*Half precision.* A bf16 product that is checked before it is rounded is computed in float32 and then rounded, which
may differ in the last bit from what torch's bf16 kernel gives. So this form belongs to the job and not to the
level: with ``wide`` every pass, looked at or not, computes so. Without it bf16 results are checked after rounding.

*Compiled modules, captured graphs.* Their operations are not seen one by one. A module that is compiled, or has
compiled parts, is guarded in memory only, which ``coverage`` says; ``running`` refuses to begin while a CUDA graph
is being captured, as the capture would hold checks that nobody reads.
"""

import functools
import math
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.coverage import Coverage, coverage_of
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.levels import LEVELS, Vigilance
from flightsw.gpu.integrity.ranges import FACTOR, Ranges, leaves
from flightsw.gpu.integrity.regions import optimiser_state, regions_of, weights
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.integrity.scrub import Scrubber
from flightsw.gpu.integrity.verdicts import Look, Tally
from flightsw.link.integrity import Level

SURVEY_PASSES: Final = 1
"""Passes that are looked at by layer, so that the coverage can say what ran where. They cost more."""
EVERYTHING: Final = Look(checksum=True, repeat=True, transit=True)
HALF: Final = (torch.bfloat16, torch.float16)

_protected: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class NotUsable(RuntimeError):
    """Resident state is damaged, or a pass is tainted: the update was not made."""


def protect(
    module: nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    *,
    level: Level = Level.STANDARD,
    report: Report | None = None,
    wide: bool | None = None,
    compute: bool = True,
) -> "Guard":
    """Guard a module (a Hugging Face model is one) and a torch optimiser, from now on, which is when they are good.

    ``report`` is called with every ``Finding``. ``wide``: see above; None is yes when a parameter is of half
    precision. ``compute`` False guards memory only. Raises ``ValueError`` when ``module`` is no module, or it or a
    part of it is protected already.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"protect: {type(module).__name__} is no torch.nn.Module; give it the model itself")
    taken = next((name or "the module" for name, part in module.named_modules() if part in _protected), None)
    if taken is not None:
        raise ValueError(f"protect: {taken} is protected already; use its guard, or close() that first")
    return Guard(module, optimiser, level, report or _silent, wide=wide, compute=compute)


def _silent(finding: Finding) -> None:
    """Nobody wants to know."""


class Guard:
    """What ``protect`` gives. Not for several threads at once; the backward pass's own threads are fine."""

    def __init__(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer | None,
        level: Level,
        report: Report,
        *,
        wide: bool | None,
        compute: bool,
    ) -> None:
        self.module = module
        self._level = level
        self.passes = 0
        """Passes begun."""
        self.looked = 0
        """Passes of which something was looked at."""
        self._optimiser = optimiser
        self._compiled = tuple(compiled_parts(module))
        self.compute = compute and not self._compiled
        self._device = next((tensor.device.type for _, tensor in weights(module)), "cpu")
        self._wide = any(p.dtype in HALF for p in module.parameters()) if wide is None else wide
        self._wide = self._wide and self.compute
        self.mode = Checked(report, device=self._device, deferred=self._device == "cuda", wide=self._wide)
        self.resident = Resident(regions_of(self._state()), report)
        self.resident.adopt()
        self._statistics = self._written_by_passes()
        self.mode.know(weights(module))
        self.scrubber = Scrubber(self.resident)
        self.ranges = Ranges()
        self._report = report
        self._ranging = False
        self._learning = False
        self._thorough = True
        """Whether everything was looked at in each pass since the last settlement."""
        self._depth = 0
        self._unfinished = False
        self._steps = 0
        self._unwatched = False
        """State was changed at level off, where nobody takes digests."""
        self._hits = 0
        """Hits in memory up to the last look before an update."""
        self._summed_hits = 0
        """Those up to the last time that sums of weights were void."""
        self._surveyed = 0
        self._survey: tuple[Any, ...] = ()
        self._handles: list[Any] = []
        self._hook(module, optimiser)

    # A pass.

    @property
    def level(self) -> Level:
        """May be set at any time; counts for the next pass. What was trained at level off is taken to be good when
        the level rises: nobody can say otherwise."""
        return self._level

    @level.setter
    def level(self, level: Level) -> None:
        self._level = level
        if level is not Level.OFF and self._unwatched:
            self._unwatched = False
            self.adopt()

    @property
    def vigilance(self) -> Vigilance:
        """What the level at hand asks for."""
        return LEVELS[self.level]

    @property
    def tally(self) -> Tally:
        """Checks, doubts and findings of the compute path since the guard began."""
        return self.mode.tally

    @contextmanager
    def running(self, *, everything: bool = False, adds: bool = False) -> Iterator[None]:
        """One pass. A pass within a pass is part of it. An exception passes through; then nothing is settled.

        ``everything`` looks at all of it whatever the level says: for a pass that is done again. ``adds``: the next
        pass adds to the same gradients and looks at them as it does, so they are not looked at now; if there is no
        such pass, ``mode.look_at_sums`` is called before ``settle``.
        Raises ``ValueError`` while a CUDA graph is being captured.
        """
        if self._depth:
            yield
            return
        looks = self._enter(everything=everything)
        try:
            if looks:
                with self.mode:
                    yield
            else:
                yield
        except BaseException:
            self._unfinished = True
            raise
        finally:
            self._leave(adds=adds)

    @contextmanager
    def calibrate(self) -> Iterator[None]:
        """Passes within are known to be clean: bounds of the results of layers are learnt from them (``ranges``).

        From then on every pass above level off is held to these bounds, looked at otherwise or not.
        """
        if not self._ranging:
            self._ranging = True
            self._handles += [
                part.register_forward_hook(functools.partial(self._note, name))
                for name, part in leaves(self.module)
            ]
        self._learning = True
        try:
            yield
            self.ranges.learn()
        finally:
            self._learning = False
            self.ranges.forget()

    def settle(self) -> bool:
        """Whether what was computed since the last call may be used: no tainted pass, none that ended in an
        exception, none out of its calibrated ranges, no resident state known to be damaged. Costs one wait
        for the device."""
        clean = self.mode.settle() and not self._unfinished
        if not self._learning:
            clean = self._within_ranges(vouched=clean and self._thorough) and clean
        self._unfinished = False
        self._thorough = True
        return clean and not self.resident.damaged

    def before_update(self) -> bool:
        """Verify all resident state now, repair what can be; whether the update may be made.

        Not when anything was hit since the last look, although it may be put right by now: the gradients at hand
        may have been made with the wrong value. Run the step again; the next look passes.
        """
        good = self.resident.verify()
        before, self._hits = self._hits, self.resident.hits
        return good and self._hits == before

    def after_update(self) -> None:
        """The optimiser has changed the state, which was good before: new digests, new sums of the weights."""
        self.resident.adopt_update()
        self.mode.renew(now=self.compute and self.vigilance.checksum_every == 1)

    def adopt(self) -> None:
        """Everything is good as it is (just loaded, just restored): digests and sums anew, of all there is now."""
        self.resident.adopt(regions_of(self._state()))
        self._statistics = self._written_by_passes()
        self._hits = self.resident.hits
        self.mode.know(weights(self.module))

    def coverage(self) -> Coverage:
        """What covers each layer, each operation seen so far and each piece of memory, and what nothing covers."""
        return coverage_of(
            self.module,
            self.mode.seen,
            self.resident.left_out,
            level=self.level,
            compute=self.compute,
            compiled=self._compiled,
            wide=self._wide,
        )

    def close(self) -> None:
        """Take the hooks away; the module is as it was."""
        if self.compute:
            self.module.__dict__.pop("forward", None)
            if self._forward is not None:
                self.module.forward = self._forward
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for part in self.module.modules():
            _protected.discard(part)

    def _within_ranges(self, *, vouched: bool) -> bool:
        """Whether no layer was out of bounds; if all else was checked and is clean, the bound was too narrow."""
        out = self.ranges.verdicts()
        for name, magnitude in out:
            finite = math.isfinite(magnitude)
            if vouched and finite:
                self.ranges.largest[name] = max(self.ranges.largest[name], magnitude)
                continue
            bound = f", its bound {FACTOR * self.ranges.largest.get(name, math.inf):g}"
            self._report(
                Finding(
                    detector="range" if finite else "finite",
                    outcome="contained",
                    where=name,
                    detail=f"largest magnitude {magnitude:g}{bound if finite else ''}",
                )
            )
        return not any(not (vouched and math.isfinite(magnitude)) for _, magnitude in out)

    # Hooks.

    def _note(self, name: str, part: nn.Module, args: Any, result: Any) -> None:
        if self._depth and (self._learning or self.level is not Level.OFF):
            self.ranges.note(name, result)

    def _written_by_passes(self) -> tuple[int, ...]:
        """Regions of running statistics: a pass in training writes them, and torch moves no version for it. So they
        are verified before such a pass and taken anew after it."""
        buffers = (
            buffer
            for part in self.module.modules()
            if isinstance(part, nn.modules.batchnorm._NormBase)
            for buffer in part.buffers(recurse=False)
        )
        found = (self.resident.index_of(buffer) for buffer in buffers)
        return tuple(dict.fromkeys(index for index in found if index is not None))

    def _state(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from weights(self.module)
        if self._optimiser is not None:
            names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self.module.named_parameters()}
            yield from optimiser_state(self._optimiser, names)

    def _hook(self, module: nn.Module, optimiser: torch.optim.Optimizer | None) -> None:
        for part in module.modules():
            _protected.add(part)
        self._forward = module.__dict__.get("forward")
        if self.compute:
            module.forward = _Call(self, module)
        if optimiser is not None:
            self._handles += [
                optimiser.register_step_pre_hook(self._before_step),
                optimiser.register_step_post_hook(self._after_step),
            ]

    def _before_step(self, optimiser: Any, args: Any, kwargs: Any) -> None:
        if not self.settle():
            raise NotUsable(
                "optimiser step refused: a pass since the last one is tainted or unfinished, or state is damaged; "
                "run the step again, or restore and call adopt()"
            )
        # Every update at every level: its digests are new ones, and of unverified state they would seal damage in.
        if self.level is not Level.OFF and not self.before_update():
            raise NotUsable(
                f"optimiser step refused: damaged and not repairable: {', '.join(sorted(self.resident.damaged))}; "
                "restore the state and call adopt()"
                if self.resident.damaged
                else "optimiser step refused: state was hit and is put right, but the gradients may have been made "
                "with the wrong value; zero them and run the step again"
            )

    def _after_step(self, optimiser: Any, args: Any, kwargs: Any) -> None:
        self._steps += 1
        if self._steps == 1:
            # Torch optimisers make their state in the first step.
            self.adopt()
        elif self.level is Level.OFF:
            self._unwatched = True
        else:
            self.after_update()

    def _enter(self, *, everything: bool) -> bool:
        """Whether the mode takes part in the pass that begins."""
        count, at_hand = self.passes, self.vigilance
        self.passes += 1
        if self.module.training and self.level is not Level.OFF:
            for index in self._statistics:
                self.resident.verify(*self.resident.span(index))
        if not self.compute:
            self._thorough = False
            self._depth = 1
            return False
        if self._device == "cuda" and torch.cuda.is_current_stream_capturing():
            raise ValueError(
                "running: a CUDA graph is being captured, in which no check can be read; capture the unprotected "
                "module (close() its guard), or protect with compute=False"
            )
        self._depth = 1
        look = Look(
            checksum=everything or _due(count, at_hand.checksum_every),
            repeat=everything or _due(count, at_hand.repeat_every),
            transit=everything or _due(count, at_hand.transit_every),
        )
        self.looked += bool(look)
        self._thorough = self._thorough and look == EVERYTHING
        if not look and not self._wide:
            self.mode.look_at_sums()
            return False
        if self.resident.hits != self._summed_hits:
            # Sums may be from when a word was wrong that was put right since, and no version tells.
            self._summed_hits = self.resident.hits
            self.mode.renew(now=False)
        self.mode.begin(look)
        if look and self._surveyed < SURVEY_PASSES:
            self._surveyed += 1
            self._survey = self._follow()
        return True

    def _leave(self, *, adds: bool) -> None:
        self._depth = 0
        self.mode.finish(adds=adds)
        if self.module.training and self._statistics:
            if self.level is Level.OFF:
                self._unwatched = True
            else:
                self.resident.adopt_update(self._statistics)
        for handle in self._survey:
            handle.remove()
        self._survey = ()
        self.mode.layer = ""

    def _follow(self) -> tuple[Any, ...]:
        """Tell the mode which layer runs, for one pass; modules themselves are not touched."""
        names = {id(part): name for name, part in self.module.named_modules()}
        outer: list[str] = []

        def enter(part: nn.Module, args: Any) -> None:
            outer.append(self.mode.layer)
            self.mode.layer = names.get(id(part), self.mode.layer)

        def leave(part: nn.Module, args: Any, result: Any) -> None:
            if outer:
                self.mode.layer = outer.pop()

        return (
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave, always_call=True),
        )


class _Call:
    """A module's ``forward`` as a pass of its guard. A copy of the module, or one read from a file, has its own."""

    def __init__(self, guard: Guard, module: nn.Module) -> None:
        self._guard = guard
        self._module = module
        self._inner = module.forward
        functools.update_wrapper(self, module.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._guard.running():
            return self._inner(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _own_forward(memo[id(self._module)])

    def __reduce__(self) -> Any:
        return _own_forward, (self._module,)


def _own_forward(module: nn.Module) -> Any:
    return types.MethodType(type(module).forward, module)


def _due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


def compiled_parts(module: nn.Module) -> Iterator[str]:
    """Names of parts that torch.compile has replaced or marked; the module itself is "the module"."""
    for name, part in module.named_modules():
        if type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None:
            yield name or "the module"

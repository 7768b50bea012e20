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

from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import nn

from flightsw.gpu.integrity.calibration import Calibration
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.coverage import Coverage, compiled_parts, coverage_of
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.held_module import HeldModule, already_held
from flightsw.gpu.integrity.levels import LEVELS, Vigilance
from flightsw.gpu.integrity.pass_looks import PassLooks
from flightsw.gpu.integrity.protected_state import ProtectedState
from flightsw.gpu.integrity.regions import weights
from flightsw.gpu.integrity.scrub import Scrubber
from flightsw.gpu.integrity.step_hooks import NotUsable as NotUsable
from flightsw.gpu.integrity.step_hooks import guarded_steps
from flightsw.gpu.integrity.verdicts import Tally
from flightsw.link.integrity import Level

HALF: Final = (torch.bfloat16, torch.float16)


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
    precision. ``compute`` False guards memory only. Raises ``ValueError`` when ``module`` is no module, has lazy
    parameters, or it or a part of it is protected already.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"protect: {type(module).__name__} is no torch.nn.Module; give it the model itself")
    lazy = next((name for name, one in module.named_parameters() if nn.parameter.is_lazy(one)), None)
    if lazy is not None:
        raise ValueError(f"protect: {lazy} has no memory yet; call the module once, and then protect it")
    if taken := already_held(module):
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
        self._compiled = tuple(compiled_parts(module))
        self.compute = compute and not self._compiled
        half = any(parameter.dtype in HALF for parameter in module.parameters())
        self._wide = self.compute and (half if wide is None else wide)
        device = next((tensor.device.type for _, tensor in weights(module)), "cpu")
        card = device == "cuda"
        self.mode = Checked(report, device=device, deferred=card, wide=self._wide)
        self._state = ProtectedState(module, optimiser, self.mode, report)
        self.resident = self._state.resident
        self.scrubber = Scrubber(self.resident)
        self._looks = PassLooks(
            module, self.mode, self._state, level, compute=self.compute, wide=self._wide, card=card
        )
        self._calibration = Calibration(module, self._looks, report)
        self._held = HeldModule(module, None if self._compiled else self._looks.running)
        self._handles: tuple[Any, ...] = ()
        if optimiser is not None:
            self._handles = guarded_steps(optimiser, self, self._state, self._looks)

    # A pass.

    @property
    def level(self) -> Level:
        """May be set at any time; counts for the next pass. What was trained at level off is taken to be good when
        the level rises: nobody can say otherwise."""
        return self._looks.level

    @level.setter
    def level(self, level: Level) -> None:
        self._looks.level = level
        if level is not Level.OFF and self._state.unwatched:
            self._state.unwatched = False
            self.adopt()

    @property
    def vigilance(self) -> Vigilance:
        """What the level at hand asks for."""
        return LEVELS[self.level]

    @property
    def passes(self) -> int:
        """Passes begun; the level's counts are held against it. May be set, by who counts passes of two kinds."""
        return self._looks.passes

    @passes.setter
    def passes(self, passes: int) -> None:
        self._looks.passes = passes

    @property
    def looked(self) -> int:
        """Passes of which something was looked at."""
        return self._looks.looked

    @property
    def tally(self) -> Tally:
        """Checks, doubts and findings of the compute path since the guard began."""
        return self.mode.tally

    def running(self, *, everything: bool = False, adds: bool = False) -> AbstractContextManager[None]:
        """One pass. A pass within a pass is part of it. An exception passes through; then nothing is settled.

        ``everything`` looks at all of it whatever the level says: for a pass that is done again. ``adds``: the next
        pass adds to the same gradients and looks at them as it does, so they are not looked at now; if there is no
        such pass, ``mode.look_at_sums`` is called before ``settle``.
        Raises ``ValueError``, when it is entered, while a CUDA graph is being captured.
        """
        return self._looks.running(everything=everything, adds=adds)

    def calibrate(self) -> AbstractContextManager[None]:
        """Passes within are known to be clean: bounds of the results of layers are learnt from them (``ranges``).

        From then on every pass above level off is held to these bounds, looked at otherwise or not.
        """
        return self._calibration.learning()

    def settle(self) -> bool:
        """Whether what was computed since the last call may be used: no tainted pass, none that ended in an
        exception, none out of its calibrated ranges, no resident state known to be damaged. Costs one wait
        for the device. If not, buffers that these passes have written (running statistics) are put back."""
        clean, thorough = self._looks.settle()
        clean = self._calibration.within(vouched=clean and thorough) and clean
        usable = clean and not self.resident.damaged
        if not usable:
            self._state.put_back()
        self._state.settled()
        return usable

    # Memory.

    def before_update(self) -> bool:
        """Verify all resident state now, repair what can be; whether the update may be made.

        Not when anything was hit since the last look, although it may be put right by now: the gradients at hand
        may have been made with the wrong value. Run the step again; the next look passes.
        """
        good = self._state.verified()
        if not good:
            self._state.put_back()
        return good

    def after_update(self) -> None:
        """The optimiser has changed the state, which was good before: new digests, new sums of the weights."""
        self._state.updated(sums_now=self.compute and self.vigilance.checksum_every == 1)

    def adopt(self) -> None:
        """Everything is good as it is (just loaded, just restored): digests and sums anew, of all there is now."""
        self._state.adopt()

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
        self._held.release()
        self._calibration.close()
        for handle in self._handles:
            handle.remove()

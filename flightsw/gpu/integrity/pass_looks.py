"""One pass after the other: what is looked at in each, by the level's counts, and how it begins and ends.

A pass that is not looked at is not touched: the dispatch mode is not entered. There are two exceptions: with
``wide`` the mode computes half-precision products in every pass, looked at or not; and gradients that the last pass
left to the next one are looked at when that one is not.

*Survey.* In the first pass that is looked at the mode is told which layer runs, so that the coverage can say what
ran where. That costs more; modules themselves are not touched for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.levels import LEVELS, Vigilance, due
from flightsw.gpu.integrity.protected_state import ProtectedState
from flightsw.gpu.integrity.verdicts import EVERYTHING, Look
from flightsw.link.integrity import Level

SURVEY_PASSES: Final = 1
"""Passes that are looked at by layer. They cost more."""


class PassLooks:
    """Passes over ``module`` under ``mode``, which reads ``state``; with ``compute`` False none is looked at."""

    def __init__(
        self,
        module: nn.Module,
        mode: Checked,
        state: ProtectedState,
        level: Level,
        *,
        compute: bool,
        wide: bool,
        card: bool,
    ) -> None:
        self.level = level
        """Counts for the next pass."""
        self.passes = 0
        """Passes begun."""
        self.looked = 0
        """Passes of which something was looked at."""
        self.inside = False
        """A pass is running."""
        self._module = module
        self._mode = mode
        self._state = state
        self._resident = state.resident
        self._compute = compute
        self._wide = wide
        self._card = card
        self._thorough = True
        """Whether everything was looked at in each pass since the last settlement."""
        self._unfinished = False
        self._summed_hits = 0
        """Hits in memory up to the last time that sums of weights were void."""
        self._surveyed = 0
        self._survey: tuple[Any, ...] = ()

    @contextmanager
    def running(self, *, everything: bool = False, adds: bool = False) -> Iterator[None]:
        """One pass; see ``protect.Guard.running``."""
        if self.inside:
            yield
            return
        looks = self._enter(everything=everything)
        try:
            if looks:
                with self._mode:
                    yield
            else:
                yield
        except BaseException:
            self._unfinished = True
            raise
        finally:
            self._leave(adds=adds)

    def settle(self) -> tuple[bool, bool]:
        """Whether the passes since the last call ended and are not tainted, and whether everything in them was
        looked at."""
        clean, thorough = self._mode.settle() and not self._unfinished, self._thorough
        self._unfinished, self._thorough = False, True
        return clean, thorough

    def _enter(self, *, everything: bool) -> bool:
        """Whether the mode takes part in the pass that begins."""
        count = self.passes
        self.passes += 1
        if self._module.training and self.level is not Level.OFF:
            self._state.before_training_pass()
        if not self._compute:
            self._thorough = False
            self.inside = True
            return False
        if self._card and torch.cuda.is_current_stream_capturing():
            raise ValueError(
                "running: a CUDA graph is being captured, in which no check can be read; capture the unprotected "
                "module (close() its guard), or protect with compute=False"
            )
        self.inside = True
        look = EVERYTHING if everything else look_of(count, LEVELS[self.level])
        self.looked += bool(look)
        self._thorough = self._thorough and look == EVERYTHING
        if not look and not self._wide:
            self._mode.look_at_sums()
            return False
        if self._resident.hits != self._summed_hits:
            # Sums may be from when a word was wrong that was put right since, and no version tells.
            self._summed_hits = self._resident.hits
            self._mode.renew(now=False)
        self._mode.begin(look)
        if look and self._surveyed < SURVEY_PASSES:
            self._surveyed += 1
            self._survey = _survey(self._module, self._mode)
        return True

    def _leave(self, *, adds: bool) -> None:
        self.inside = False
        self._mode.finish(adds=adds)
        if self._module.training and self._state.statistics:
            if self.level is Level.OFF:
                self._state.unwatched = True
            else:
                self._state.after_training_pass()
        for handle in self._survey:
            handle.remove()
        self._survey = ()
        self._mode.layer = ""


def look_of(count: int, vigilance: Vigilance) -> Look:
    """What is looked at in pass ``count``, from 0."""
    return Look(
        checksum=due(count, vigilance.checksum_every),
        repeat=due(count, vigilance.repeat_every),
        transit=due(count, vigilance.transit_every),
    )


def _survey(module: nn.Module, mode: Checked) -> tuple[Any, ...]:
    """Tell the mode which layer runs, until the handles are removed."""
    names = {id(part): name for name, part in module.named_modules()}
    outer: list[str] = []

    def enter(part: nn.Module, args: Any) -> None:
        outer.append(mode.layer)
        mode.layer = names.get(id(part), mode.layer)

    def leave(part: nn.Module, args: Any, result: Any) -> None:
        if outer:
            mode.layer = outer.pop()

    return (
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    )

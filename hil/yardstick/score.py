"""The table of rivals: who flies, how a run is kept, and what is said about many of them.

Every rival flies the same scenarios with the same noise and is divided by what a clairvoyant could have delivered
in each. A governor that breaks a limit is not saved by its mean: violations are counted on the truth, by scenario,
and stand in the same row. Zero violations in n orbits bound their rate at 3/n with 95 % confidence (the rule of
three); that figure is given, not "never".
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from . import flight, rivals
from .certificates import Clairvoyant
from .plant import Maker, fly
from .records import YARDSTICK_VERSION, Line, Records, digest_of
from .scenarios import ORBITS, make
from .world import ZERO_CELSIUS_K

ECLIPSE_CLASSES_MIN: Final = ((0.0, 10.0), (10.0, 25.0), (25.0, 31.0), (31.0, 36.01))
"""Lengths of the dark arc that are looked at by themselves."""
RULE_OF_THREE: Final = 3.0


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table. ``sources`` are the files its result depends on; ``flight`` marks flight code."""

    name: str
    label: str
    maker: Maker
    sources: tuple[str, ...] = ("hil/yardstick/rivals.py",)
    flight: bool = False

    @property
    def version(self) -> str:
        """Results of another version are not mixed in."""
        return f"{YARDSTICK_VERSION}:{digest_of(*self.sources)}"


RIVALS: Final = {
    rival.name: rival
    for rival in (
        Rival(name="hysteresis", label="on/off hysteresis", maker=rivals.hysteresis),
        Rival(name="hysteresis_safe", label="hysteresis, safe", maker=rivals.hysteresis_safe),
        Rival(name="constant", label="best constant power", maker=rivals.constant),
        Rival(name="pi", label="PI, charge and heat", maker=rivals.pi),
        Rival(name="derate", label="proportional derate", maker=rivals.derate),
        Rival(name="two_level", label="best two levels", maker=rivals.two_level),
        Rival(name="energy_neutral", label="reference closed form", maker=rivals.energy_neutral),
        Rival(
            name="closed_form",
            label="flight closed form",
            maker=flight.closed_form,
            sources=flight.SOURCES,
            flight=True,
        ),
        Rival(
            name="planner",
            label="flight planner",
            maker=flight.planned,
            sources=flight.PLANNER_SOURCES,
            flight=True,
        ),
    )
}


class Run(Line, frozen=True, kw_only=True):
    """One rival in one scenario, as kept; fields as in ``plant.Outcome``."""

    mean_throughput: float
    soc_min: float
    gpu_max_k: float
    radiator_max_k: float
    soc_violation_s: float
    heat_violation_s: float
    tick_cpu_s: float


def run(name: str, version: str, number: int) -> Run:
    """Fly a rival through a scenario."""
    scenario = make(number)
    outcome, _ = fly(scenario, RIVALS[name].maker(scenario))
    return Run(version=version, **msgspec.structs.asdict(outcome))


def runner(rival: Rival) -> "partial[Run]":
    """The work of one rival, as a function of the scenario alone."""
    return partial(run, rival.name, rival.version)


def runs(folder: Path, set_name: str, rival: Rival) -> Records[Run]:
    """The runs of a rival that are known."""
    return Records(folder / f"runs-{set_name}-{rival.name}.jsonl", Run, rival.version)


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One row: shares of the clairvoyant's value in percent, violations as numbers of scenarios.

    ``of_reference`` is the mean against the reference's clairvoyant, for comparison with its figures.
    ``violation_rate_bound`` is per orbit, 95 %, and None where there was a violation.
    """

    rival: str
    label: str
    scenarios: int
    mean: float
    percentile_5: float
    worst: float
    worst_scenario: int
    of_reference: float
    soc_violations: int
    heat_violations: int
    soc_min: float
    gpu_max_degc: float
    radiator_max_degc: float
    tick_cpu_us: float
    by_eclipse: dict[str, float]
    violation_rate_bound: float | None

    @property
    def broken(self) -> bool:
        """Whether a limit was broken in any scenario."""
        return self.soc_violations + self.heat_violations > 0


def shares(flown: Sequence[Run], best: Mapping[int, Clairvoyant]) -> list[float]:
    """Score of each run in percent of the clairvoyant."""
    return [100.0 * run.mean_throughput / best[run.scenario].achievable for run in flown]


def score(rival: Rival, flown: Sequence[Run], best: Mapping[int, Clairvoyant]) -> Score:
    """The row of a rival over at least one run; ``best`` has every scenario of ``flown``."""
    share = np.array(shares(flown, best))
    dark_min = np.array([best[run.scenario].eclipse_min for run in flown])
    reference = np.array([100.0 * run.mean_throughput / best[run.scenario].reference for run in flown])
    by_eclipse = {
        f"{low:.0f}–{high:.0f} min": float(share[(dark_min >= low) & (dark_min < high)].mean())
        for low, high in ECLIPSE_CLASSES_MIN
        if ((dark_min >= low) & (dark_min < high)).any()
    }
    broken = any(run.soc_violation_s or run.heat_violation_s for run in flown)
    return Score(
        rival=rival.name,
        label=rival.label,
        scenarios=len(flown),
        mean=float(share.mean()),
        percentile_5=float(np.percentile(share, 5.0)),
        worst=float(share.min()),
        worst_scenario=flown[int(share.argmin())].scenario,
        of_reference=float(reference.mean()),
        soc_violations=sum(run.soc_violation_s > 0.0 for run in flown),
        heat_violations=sum(run.heat_violation_s > 0.0 for run in flown),
        soc_min=min(run.soc_min for run in flown),
        gpu_max_degc=max(run.gpu_max_k for run in flown) - ZERO_CELSIUS_K,
        radiator_max_degc=max(run.radiator_max_k for run in flown) - ZERO_CELSIUS_K,
        tick_cpu_us=1e6 * float(np.mean([run.tick_cpu_s for run in flown])),
        by_eclipse=by_eclipse,
        violation_rate_bound=None if broken else RULE_OF_THREE / (ORBITS * len(flown)),
    )

"""What must hold in every frame of the exploration: SAFE means payload off and power positive, and a bit more.

*Payload off.* Outside COMPUTE and DOWNLINK nothing starts, runs, is paced or is started; nothing starts without its
rail; a cause that sheds the rail has it off as soon as no worker is left; no job ever has two processes; a worker
that was asked to stop and goes is no casualty; a SAFE that waits for the operator does not end without him; no
pace exceeds the ceiling that the tables of limits order.

*Power positive.* In SAFE the load is the bus, the transmitter, and the idle card while its rail is on. Over an
orbit it has to fit what the worst array gives, losses of the battery included:

    L · (T − E + E / (η_c η_d)) ≤ a · P · (T − E),    and to recharge within the charge limit:
    L · E / (η_c η_d (T − E)) ≤ P_c,max

with period T, eclipse E, array P and its worst share a (``WORST_ARRAY``). The margin is reported as the least share
of the array at which it still holds.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from flightsw.core import executive
from flightsw.core.effects import Actuate, Effect, SetPace, StartWorker
from flightsw.core.lifecycle import WITH_PROCESS, Life
from flightsw.core.mode import PAYLOAD_MODES
from flightsw.link.schema import Mode

from .exploration_model import Moment, Node, said
from .exploration_walks import Choice

WORST_ARRAY: Final = 0.5
"""The array with one of its two wings lost."""
TRANSMITTER_W: Final = 10.0
SHEDDING: Final = frozenset(
    ("soc_low", "undervoltage", "gpu_hot", "radiator_hot", "shed", "limit_power", "limit_thermal")
)
"""Causes of SAFE that switch the rail off: power and heat. Stated here anew, not taken from the core."""
AUTOMATIC: Final = SHEDDING | {"blind"}
"""Causes of SAFE that end by themselves: power, heat, sensors."""
GONE: Final = ("killed", "done")
AT_WORK: Final = (Life.STARTING, Life.RUNNING)
PACE_SLACK: Final = 1e-9
PAYLOAD_ALLOWED: Final = frozenset(PAYLOAD_MODES)
"""Taken when this module is loaded: a later change of the table of modes is a bug to be found."""


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """Watts of SAFE with the rail off and on, and the least share of the array that carries each over an orbit."""

    shed_w: float
    idle_w: float
    shed_share: float
    idle_share: float
    worst_share: float = WORST_ARRAY

    @property
    def positive(self) -> dict[bool, bool]:
        """By rail on or off: whether the worst array carries it."""
        return {False: self.shed_share <= self.worst_share, True: self.idle_share <= self.worst_share}


def power_of(config: executive.Config) -> Power:
    """What SAFE draws, and what it needs."""
    shed_w = config.eps.bus_power_w + TRANSMITTER_W
    idle_w = shed_w + config.governor.gpu_idle_w
    return Power(
        shed_w=shed_w, idle_w=idle_w, shed_share=least_share(config, shed_w), idle_share=least_share(config, idle_w)
    )


def least_share(config: executive.Config, load_w: float) -> float:
    """Share of the configured array that carries a constant load over an orbit; infinity when no array can."""
    eps = config.eps
    lit_s, dark_s = eps.orbit_period_s - eps.eclipse_s, eps.eclipse_s
    from_array_j = load_w * dark_s / (eps.charge_efficiency * eps.discharge_efficiency)
    if lit_s <= 0.0 or eps.array_power_w <= 0.0 or from_array_j / lit_s > eps.charge_power_max_w:
        return float("inf")
    return (load_w * lit_s + from_array_j) / (eps.array_power_w * lit_s)


def broken(before: Node, choice: Choice, moment: Moment, power: Power) -> Iterator[str]:
    """What this frame breaks."""
    vehicle, old = moment.node.vehicle, before.vehicle
    job, was = vehicle.payload.jobs[0], old.payload.jobs[0]
    where, effects = vehicle.mode.mode, moment.effects
    booted = vehicle.boot_count != old.boot_count
    if where not in PAYLOAD_ALLOWED:
        yield from _forbidden(where, job.life, job.duty, effects)
    for effect in effects:
        if isinstance(effect, StartWorker):
            if not vehicle.eps.rail_on:
                yield "a worker is started without its rail"
            if was.life in WITH_PROCESS and not booted and choice.report not in GONE:
                yield f"a second worker is started while the first is {was.life.name}"
        if isinstance(effect, SetPace) and effect.duty > vehicle.fdir.orders.ceiling + PACE_SLACK:
            yield f"pace {effect.duty:g} over the ceiling {vehicle.fdir.orders.ceiling:g} of the tables"
    if booted:
        return
    asked = was.life is Life.STOPPING and not was.killed
    if asked and choice.report in GONE and "WORKER_DIED" in [name for name, _ in said(effects)]:
        yield "a worker that was asked to stop and went is reported as dead"
    if where is not Mode.SAFE:
        if old.mode.mode is Mode.SAFE and old.mode.cause not in AUTOMATIC and choice.order != "NOMINAL":
            yield f"SAFE by {old.mode.cause} ended without a telecommand"
        return
    shed = old.mode.mode is Mode.SAFE and old.payload.off and vehicle.mode.cause in SHEDDING
    if shed and any(isinstance(effect, Actuate) and effect.gpu_rail_on for effect in effects):
        yield f"SAFE by {vehicle.mode.cause} leaves the rail on"
    if vehicle.payload.off and not power.positive[vehicle.eps.rail_on]:
        load_w = power.idle_w if vehicle.eps.rail_on else power.shed_w
        yield f"SAFE draws {load_w:g} W, more than {power.worst_share:.0%} of the array carries over an orbit"


def _forbidden(where: Mode, life: Life, duty: float, effects: tuple[Effect, ...]) -> Iterator[str]:
    if life in AT_WORK:
        yield f"{where.name} with a job {life.name}"
    if duty > 0.0:
        yield f"{where.name} with duty {duty:g}"
    for effect in effects:
        if isinstance(effect, StartWorker):
            yield f"{where.name} starts a worker"
        if isinstance(effect, SetPace) and effect.duty > 0.0:
            yield f"{where.name} gives duty"

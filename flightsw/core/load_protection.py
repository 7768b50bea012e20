"""Load protection: what load shedding and latch-ups ask of the rest of the vehicle, once a frame.

Both stand between the limits of the tables and the mode. What they order takes the way that a telecommand and a
response take: a checkpoint is ordered, the rail is commanded. Their ceilings are joined with that of the tables,
the lowest wins. SAFE stays with ``mode``, which sees the ladder's wish as a fact like any other.
"""

import math
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from . import eps, governor, latchup, responses, shedding
from .lifecycle import WITH_PROCESS, Life
from .payload import State as PayloadState
from .responses import Done
from .vehicle import Config, Vehicle

CONFIGURATIONS_MAX: Final = 8
"""Configurations whose margins are kept; a vehicle has one, and a few after parameters were activated."""
FLOORS: Final = (
    ("soc_low", "charge under the floor"),
    ("undervoltage", "bus under the floor"),
    ("gpu_hot", "GPU node over its limit"),
    ("radiator_hot", "radiator over its limit"),
)
"""Watchpoints of the floor in code, and what is said of them."""


def step(vehicle: Vehicle, config: Config, news: bool, now_s: float, still: bool = False) -> Done:
    """The vehicle after its protections.

    ``news`` says that a sensor frame came with this frame, ``still`` that one came and stood still as a whole.
    """
    vehicle, out = _shed(vehicle, config, news, still, now_s)
    vehicle, said = _latched(vehicle, config, news, now_s)
    return vehicle, (*out, *said) if said else out


def ceiling(vehicle: Vehicle) -> float:
    """Highest duty, 0 to 1, that load shedding and latch-ups leave."""
    return min(vehicle.shedding.ceiling, vehicle.latchup.ceiling)


def _shed(vehicle: Vehicle, config: Config, news: bool, still: bool, now_s: float) -> Done:
    power, heat = vehicle.eps, vehicle.thermal
    floor = ""
    if power.soc_low.active or power.undervoltage.active or heat.gpu_hot.active or heat.radiator_hot.active:
        active = {"soc_low": power.soc_low, "undervoltage": power.undervoltage}
        active |= {"gpu_hot": heat.gpu_hot, "radiator_hot": heat.radiator_hot}
        floor = next(text for name, text in FLOORS if active[name].active)
    kept = _least_margins(config.governor, config.eps, config.thermal)
    scene = shedding.Scene(
        power.soc_lowest,
        heat.gpu_degc,
        heat.radiator_degc,
        config.eps.soc_floor + kept.soc,
        config.thermal.gpu_limit_degc - kept.gpu_k,
        power.eclipse_s,
        news,
        power.rail_on,
        floor,
        still,
    )
    state, found = shedding.step(
        vehicle.shedding, config.shedding, config.eps, config.thermal, config.governor, vehicle.sense, scene, now_s
    )
    if state is vehicle.shedding:
        return vehicle, ()
    vehicle = replace(vehicle, shedding=state)
    if not state.checkpoint_asked:
        return vehicle, found
    vehicle, saved = responses.checkpoint_all(vehicle, config, "load shedding", now_s)
    return vehicle, (*found, *saved)


_least_margins = lru_cache(maxsize=CONFIGURATIONS_MAX)(governor.least_margins)


def _latched(vehicle: Vehicle, config: Config, news: bool, now_s: float) -> Done:
    sample = _sample(vehicle) if news else None
    power, card = config.eps, config.governor
    model = latchup.Model(power.bus_power_w, power.transmitter_power_w, card.gpu_idle_w, card.gpu_max_w)
    state, found = latchup.step(vehicle.latchup, config.latchup, model, sample, now_s)
    if state is vehicle.latchup:
        return vehicle, ()
    rail, by = vehicle.eps, f"latch-up {state.trips}"
    if state.cycle_s == math.inf:
        rail = eps.command_rail(rail, False, by)
    elif state.cycle_s:
        held_s = max(rail.rail_held_s, now_s + state.cycle_s)
        rail = eps.command_rail(rail, rail.rail_commanded, by, held_s)
    vehicle = replace(vehicle, latchup=state, eps=rail)
    if not state.checkpoint_asked:
        return vehicle, found
    vehicle, saved = responses.checkpoint_all(vehicle, config, by, now_s)
    return vehicle, (*found, *saved)


def _sample(vehicle: Vehicle) -> latchup.Sample:
    """What the power board measured, and what had been commanded until then."""
    frame = vehicle.sense.frame
    assert frame is not None, "news without a frame"
    work: PayloadState = vehicle.payload
    duty, workers, changing, saving = 0.0, False, False, False
    for job, ring in zip(work.jobs, vehicle.checkpoint.rings, strict=True):
        if job.life is Life.RUNNING:
            duty += job.duty
            workers = True
            saving = saving or ring.asked_s is not None
        elif job.life in WITH_PROCESS:
            workers = changing = True
    return latchup.Sample(
        frame.bus_voltage_v * frame.bus_current_a,
        frame.gpu_rail_power_w,
        min(1.0, duty),
        vehicle.eps.rail_on,
        vehicle.sense.contact or not vehicle.sense.fresh,
        workers,
        changing,
        saving,
    )

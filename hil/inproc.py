"""The executive in the bench's own process, in virtual time: an orbit in seconds, the same bytes every time.

The executive is the one that flies; what is around it here is a model: the plant, the workers (``inproc_payload``)
and a recorder (``inproc_tally``) with a station that archives whatever it hears and acknowledges it at once. There
is no shell, no process, no clock: machine time and mission time are one, and both are counted in frames
(``inproc_flight``).

``Evidence.digest`` covers every effect of every frame and the truth behind it. For one commit, configuration,
plant seed and run seed it is the same on every machine with the same floating point.

The modules of this mode are the bench's only ones that may import the core; they take ``executive`` and the values
that cross its boundary, ``inputs`` and ``effects``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from flightsw.core import executive

from .inproc_evidence import Evidence, TimedCommand, TimedFault
from .inproc_flight import Flight
from .plant.plant import Plant

DURATION_MAX_S: Final = 30 * 86400.0
FRAME_MIN_S: Final = 0.02
FRAME_MAX_S: Final = 2.0
ORBIT_S: Final = 5700.0


def mission(plant: Plant, **sections: Mapping[str, Any]) -> executive.Config:
    """The core's configuration for this plant: two jobs, and what operators know of the satellite and its orbit.

    ``sections`` override keys by section (``checkpoint={"interval_world_s": 300.0}``).
    Raises ``ValueError`` for a key or a value that the core does not take.
    """
    eps, thermal = plant.config.eps, plant.config.thermal
    period_s = plant.geometry.orbit.period_s
    eclipses = plant.forecast(2.0 * period_s).eclipses
    made: dict[str, dict[str, Any]] = {
        "eps": {
            "capacity_wh": eps.capacity_wh,
            "charge_efficiency": eps.charge_efficiency,
            "discharge_efficiency": eps.discharge_efficiency,
            "charge_power_max_w": eps.charge_power_max_w,
            "bus_power_w": eps.bus_power_w,
            "orbit_period_s": period_s,
            # The longest one: the first and the last may be cut by the ends of the forecast.
            "eclipse_s": max((e.duration_s for e in eclipses), default=0.0),
            "eclipse_entry_s": eclipses[0].start_s if eclipses else None,
        },
        "thermal": {"conductance_w_k": thermal.conductance_w_k},
    }
    for name, keys in sections.items():
        made.setdefault(name, {}).update(keys)
    jobs = [{"id": "train", "kind": "train"}, {"id": "infer", "kind": "infer", "share": 0.5}]
    try:
        return msgspec.convert({**made, "jobs": jobs}, executive.Config)
    except msgspec.ValidationError as error:
        raise ValueError(f"mission configuration: {error}") from None


def run_inproc(
    config: executive.Config,
    plant: Plant,
    duration_s: float,
    frame_s: float,
    seed: int,
    commands: Sequence[TimedCommand] = (),
    faults: Sequence[TimedFault] = (),
) -> Evidence:
    """Fly ``plant`` with the executive for ``duration_s`` in frames of ``frame_s`` seconds.

    Raises ``ValueError`` in one line for a duration, frame, command or fault that is none.
    """
    if not 0.0 < duration_s <= DURATION_MAX_S:
        raise ValueError(f"duration of {duration_s:g} s: must be over 0 and at most {DURATION_MAX_S:.0f}")
    if not FRAME_MIN_S <= frame_s <= FRAME_MAX_S:
        raise ValueError(f"frame of {frame_s:g} s: must be {FRAME_MIN_S:g} to {FRAME_MAX_S:g}")
    flight = Flight(config, plant, frame_s, seed, commands, faults)
    for index in range(1, max(1, round(duration_s / frame_s)) + 1):
        flight.frame(index * frame_s)
    return flight.evidence()

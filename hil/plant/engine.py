"""The one interface of every engine, and what the satellite does to its world.

    embedded    ``plant.Plant``              the default: orbit, battery, bus and heat of this package
    basilisk    ``basilisk.basilisk_plant``  orbit, Sun and eclipse from Basilisk, the rest as embedded
    replay      ``replay.ReplayPlant``       a recording; what it cannot follow it refuses or names

``tests/hil/plant/test_engines.py`` holds all of them to the same contract.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from flightsw.link.avionics import SensorFrame

from .truth import Truth
from .windows import Forecast

STEP_CALL_MAX_S: Final = 3600.0
GPU_POWER_MAX_W: Final = 1e6


class Loads(msgspec.Struct, frozen=True, kw_only=True):
    """What the satellite's loads draw and how its switches are commanded during a step.

    ``gpu_power_w`` counts only while the rail is on. ``off`` names loads of the table whose switches are open.
    """

    gpu_power_w: float = 0.0
    gpu_rail_on: bool = True
    transmitter_on: bool = False
    off: frozenset[str] = frozenset()


class Engine(Protocol):
    """A satellite and its world, advanced step by step."""

    def step(self, dt_s: float, loads: Loads) -> Truth:
        """Advance the world by ``dt_s`` seconds of world time, 0 < dt_s ≤ ``STEP_CALL_MAX_S``, loads held.

        Raises ``ValueError`` for a step or a load that is no number in range, and at the end of what there is.
        """

    def truth(self) -> Truth:
        """State after the last step."""

    def sense(self, *, warp: float = 1.0, radio_lock: bool = False) -> SensorFrame | None:
        """One sample of every sensor, now; None while the sensors are silent."""

    def inject(self, fault_name: str, **parameters: float | str) -> None:
        """Switch a fault of ``disturbances.FAULTS`` on or change it; ``ValueError`` for what is not allowed."""

    def clear(self, fault_name: str) -> None:
        """Switch a fault off; ``ValueError`` for an unknown name."""

    @property
    def faults(self) -> Mapping[str, float]:
        """Active faults by key, with their number."""

    def forecast(self, horizon_s: float) -> Forecast:
        """Eclipses, passes and anomaly crossings of the next ``horizon_s`` seconds, in world time."""


def check_step(dt_s: float, loads: Loads) -> None:
    """``ValueError`` with one line for a step or a load that is no number in range."""
    if not 0.0 < dt_s <= STEP_CALL_MAX_S:
        raise ValueError(f"plant step of {dt_s} s: must be over 0 and at most {STEP_CALL_MAX_S:.0f}")
    if not 0.0 <= loads.gpu_power_w < GPU_POWER_MAX_W:
        raise ValueError(f"plant load gpu_power_w {loads.gpu_power_w}: must be 0 or more and under 1e6")

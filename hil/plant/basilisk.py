"""The Basilisk adapter: orbit, Sun and eclipse from Basilisk, battery, bus and heat from this package.

    plant = BasiliskPlant(PlantConfig(), seed=1)       # needs the extra `basilisk`

Basilisk integrates the satellite on a point mass with J2 (Runge-Kutta, fourth order, ``TICK_S``) and computes the
shadow with its own ``eclipse`` module. The Sun's place is written to it once per ``sky.SUN_REFRESH_S`` from the
almanac, so that nothing is fetched from a network: its ephemeris kernels are no part of its wheel. It starts from
the state behind the configured mean elements (``kepler.osculating``) or from the TLE's. What is between two ticks
is continued from the last: the position to second order, which is millimetres, the shadow held. Attitude is none:
the array points as its mount says.

``forecast`` is that of the configured orbit, as operators would make it from their own orbit determination; over a
day it is some kilometres from Basilisk's.

Basilisk is loaded when the first such plant is made: half a second to six seconds and 200 MB.
"""

import importlib
from math import sqrt
from typing import Any, Final

from .geometry import (
    AU_KM,
    DAY_S,
    EARTH_J2,
    EARTH_MU_KM3_S2,
    EARTH_RADIUS_KM,
    Vector,
    days_since_j2000,
    sun,
)
from .orbit import Orbit, state_of
from .plant import Plant
from .sky import SUN_REFRESH_S, Sky, View, plane_cos

TICK_S: Final = 1.0
NANO_S: Final = 1e9
M_PER_KM: Final = 1000.0
SMALL_S: Final = 1e-9


def load(name: str) -> Any:
    """A module of Basilisk; ``ValueError`` with one line when it is not installed."""
    try:
        return importlib.import_module(f"Basilisk.{name}")
    except ImportError as error:
        raise ValueError(f"engine basilisk: {error}; install the extra: pip install 'gpusat[basilisk]'") from None


class World:
    """A Basilisk simulation of one satellite around the Earth, without network."""

    def __init__(self, orbit: Orbit, start_s: float) -> None:
        """Starts ``start_s`` after the orbit's epoch."""
        base = load("utilities.SimulationBaseClass")
        factory = load("utilities.simIncludeGravBody").gravBodyFactory()
        gravity = load("simulation.gravityEffector")
        self._messaging = load("architecture.messaging")
        self.start_s = start_s
        self._epoch_days = days_since_j2000(orbit.epoch)
        self.simulation = base.SimBaseClass()
        process = self.simulation.CreateNewProcess("process")
        process.addTask(self.simulation.CreateNewTask("task", round(TICK_S * NANO_S)))

        self.spacecraft = load("simulation.spacecraft").Spacecraft()
        self.spacecraft.ModelTag = "satellite"
        earth = factory.createEarth()
        earth.isCentralBody = True
        earth.mu = EARTH_MU_KM3_S2 * M_PER_KM**3
        earth.gravityModel = self._field = _oblate(gravity, earth.mu)
        factory.addBodiesTo(self.spacecraft)
        position, velocity = state_of(orbit, start_s)
        self.spacecraft.hub.r_CN_NInit = [M_PER_KM * x for x in position]
        self.spacecraft.hub.v_CN_NInit = [M_PER_KM * x for x in velocity]

        self._earth = self._planet("earth", (0.0, 0.0, 0.0))
        earth.planetBodyInMsg.subscribeTo(self._earth)
        self._slot = -1
        self.sun = self._messaging.SpicePlanetStateMsg()
        self.eclipse = load("simulation.eclipse").Eclipse()
        self.eclipse.addSpacecraftToModel(self.spacecraft.scStateOutMsg)
        self.eclipse.addPlanetToModel(self._earth)
        self.eclipse.sunInMsg.subscribeTo(self.sun)
        for module in (self.spacecraft, self.eclipse):
            self.add(module)
        self.ticks = -1
        self._turn_sun(start_s)

    def add(self, module: Any) -> None:
        """One more module, before the first ``run_to``."""
        self.simulation.AddModelToTask("task", module)

    def run_to(self, elapsed_s: float) -> float:
        """Run up to the last tick before ``elapsed_s``; returns the time that is left, s.

        Raises ``ValueError`` for a time before the last one.
        """
        since_s = elapsed_s - self.start_s
        ticks = int(since_s / TICK_S + SMALL_S)
        if since_s < 0.0 or ticks < self.ticks:
            raise ValueError(f"engine basilisk: {elapsed_s:g} s is before its last time, it runs forward only")
        self._turn_sun(elapsed_s)
        if self.ticks < 0:
            self.simulation.InitializeSimulation()
        if ticks > self.ticks:
            self.simulation.ConfigureStopTime(round(ticks * TICK_S * NANO_S))
            self.simulation.ExecuteSimulation()
            self.ticks = ticks
        return since_s - ticks * TICK_S

    @property
    def sunlit(self) -> float:
        """Visible share of the Sun's disc at the last tick."""
        return float(self.eclipse.eclipseOutMsgs[0].read().shadowFactor)

    def _turn_sun(self, elapsed_s: float) -> None:
        slot = int(elapsed_s // SUN_REFRESH_S)
        if slot == self._slot:
            return
        self._slot = slot
        middle_s = (slot + 0.5) * SUN_REFRESH_S
        self.sun_unit, self.distance_au = sun(self._epoch_days + middle_s / DAY_S)
        away_km = self.distance_au * AU_KM
        x, y, z = self.sun_unit
        self.sun.write(self._state("sun", (x * away_km, y * away_km, z * away_km)))

    def _planet(self, name: str, position_km: Vector) -> Any:
        return self._messaging.SpicePlanetStateMsg().write(self._state(name, position_km))

    def _state(self, name: str, position_km: Vector) -> Any:
        state = self._messaging.SpicePlanetStateMsgPayload()
        state.PlanetName = name
        state.PositionVector = [M_PER_KM * x for x in position_km]
        state.J20002Pfix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        return state


def _oblate(gravity: Any, mu_m3_s2: float) -> Any:
    """Point mass and J2; the coefficients of Basilisk are normalised, C̄20 = −J2/√5."""
    field = gravity.SphericalHarmonicsGravityModel()
    field.muBody, field.radEquator, field.maxDeg = mu_m3_s2, EARTH_RADIUS_KM * M_PER_KM, 2
    field.cBar = gravity.MultiArray([[1.0], [0.0, 0.0], [-EARTH_J2 / sqrt(5.0), 0.0, 0.0]])
    field.sBar = gravity.MultiArray([[0.0], [0.0, 0.0], [0.0, 0.0, 0.0]])
    return field


class BasiliskSky:
    """Basilisk's orbit and eclipse as the plant asks for them; see ``sky.Sky``."""

    def __init__(self, orbit: Orbit, start_s: float) -> None:
        self.world = World(orbit, start_s)

    def look(self, elapsed_s: float) -> View:
        """What is seen at ``elapsed_s``, which must not be before the last."""
        position, _ = self._state(elapsed_s)
        x, y, z = position
        ux, uy, uz = self.world.sun_unit
        radius_km = sqrt(x * x + y * y + z * z)
        zenith_cos = (x * ux + y * uy + z * uz) / radius_km
        return position, radius_km, zenith_cos, self.world.sunlit, self.world.distance_au**2

    def across_cos(self, elapsed_s: float) -> float:
        """Cosine of the angle between the Sun and the orbit's plane."""
        return plane_cos(*self._state(elapsed_s), self.world.sun_unit)

    def _state(self, elapsed_s: float) -> tuple[Vector, Vector]:
        left_s = self.world.run_to(elapsed_s)
        state = self.world.spacecraft.scStateOutMsg.read()
        (x, y, z), (vx, vy, vz) = state.r_BN_N, state.v_BN_N
        # Kepler's acceleration carries it over the part of a tick.
        bend = -0.5 * left_s * left_s * EARTH_MU_KM3_S2 * M_PER_KM**3 / (x * x + y * y + z * z) ** 1.5
        position = (
            (x + vx * left_s + bend * x) / M_PER_KM,
            (y + vy * left_s + bend * y) / M_PER_KM,
            (z + vz * left_s + bend * z) / M_PER_KM,
        )
        return position, (vx / M_PER_KM, vy / M_PER_KM, vz / M_PER_KM)


class BasiliskPlant(Plant):
    """The plant under Basilisk's sky. Raises ``ValueError`` when Basilisk is not installed."""

    def _make_sky(self) -> Sky:
        return BasiliskSky(self.geometry.orbit, self.geometry.offset_s + self.config.start_s)

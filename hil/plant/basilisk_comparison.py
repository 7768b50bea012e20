"""Our models against Basilisk's over a day: two comparisons with the numbers they gave.

``same_models``: the same battery and heat under two skies, the embedded engine's and Basilisk's, stepped together.
It shows orbit, Sun and shadow: mean elements with secular J2 against an integrated orbit, our cone against its
``eclipse``.

``own_models``: battery and heat balance of ours under our sky against Basilisk's ``simpleSolarPanel``,
``simpleBattery`` and ``sensorThermal`` under its own, as far as they model the same thing: no efficiencies, no
charge limit, one node, sunlight on it and no Earth. Two constants of Basilisk are corrected through its parameters:
its emission implies a Stefan-Boltzmann constant of 5.76051e-8 (CODATA 5.670374e-8), and ``sensorThermal`` takes
1366 W/m² of sunlight.

    python -m hil.plant.basilisk_comparison
"""

from itertools import pairwise
from math import dist
from typing import Final

import msgspec

from .basilisk import BasiliskPlant, World, load
from .engine import Loads
from .eps import SOLAR_CONSTANT_W_M2, EpsConfig
from .plant import Plant, PlantConfig
from .thermal import STEFAN_BOLTZMANN, ThermalConfig
from .truth import Truth

DAY_SECONDS: Final = 86_400
BASILISK_SIGMA: Final = 5.76051e-8
BASILISK_SUN_W_M2: Final = 1366.0
SWITCH_S: Final = 1800
HIGH_W: Final = 520.0
LOW_W: Final = 220.0


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Greatest differences over the flight; edges are where half of the Sun is seen."""

    seconds: int
    edges: int
    edge_max_s: float
    position_max_km: float
    soc_max: float
    soc_spread: float
    temp_max_k: float
    temp_spread_k: float


def same_models(config: PlantConfig | None = None, seconds: int = DAY_SECONDS) -> Comparison:
    """The embedded engine against ``BasiliskPlant``, with loads that change."""
    ours, theirs, seen = Plant(config), BasiliskPlant(config), _Differences()
    seen.lit(ours.truth().sun_fraction, theirs.truth().sun_fraction)
    for second in range(1, seconds + 1):
        loads = Loads(gpu_power_w=_watts(second))
        one, other = ours.step(1.0, loads), theirs.step(1.0, loads)
        seen.lit(one.sun_fraction, other.sun_fraction)
        seen.position_km = max(seen.position_km, dist(one.position_km, other.position_km))
        seen.state(one, other.soc_fraction, other.radiator_temp_degc, other.gpu_temp_degc)
    return seen.comparison()


# What both sides can express: an ideal battery and one lit plate.
IDEAL: Final = PlantConfig(
    eps=EpsConfig(
        charge_efficiency=1.0,
        discharge_efficiency=1.0,
        charge_power_max_w=1e6,
        undervoltage_v=0.0,
        bus_power_w=0.0,
    ),
    thermal=ThermalConfig(
        environment="reference",
        reference_ir_w_m2=0.0,
        reference_sun_w_m2=200.0,
        # The GPU's node follows its plate: as light and as well bound as it may be.
        gpu_heat_capacity_j_k=100.0,
        radiator_heat_capacity_j_k=30_000.0,
        conductance_w_k=20.0,
        passive_conductance_w_k=0.0,
        initial_degc=20.0,
    ),
)


def own_models(corrected: bool = True, seconds: int = DAY_SECONDS) -> Comparison:
    """Our battery and heat under our sky against Basilisk's under its own; ``corrected`` says whether its σ is."""
    ours, seen = Plant(IDEAL), _Differences()
    theirs = _Chain(ours, corrected)
    seen.lit(ours.truth().sun_fraction, theirs.sunlit)
    for second in range(1, seconds + 1):
        watts = _watts(second)
        truth = ours.step(1.0, Loads(gpu_power_w=watts))
        theirs.step(float(second), watts)
        seen.lit(truth.sun_fraction, theirs.sunlit)
        # Its plate has no second node; ours carries the loads' heat to the plate with a lag of seconds.
        seen.state(truth, theirs.soc_fraction, theirs.temp_degc, truth.gpu_temp_degc)
    return seen.comparison()


def _watts(second: int) -> float:
    """Loads that change every half hour."""
    return HIGH_W if second // SWITCH_S % 2 else LOW_W


class _Chain:
    """Basilisk's panel, load, battery and plate under its own sky."""

    def __init__(self, ours: Plant, corrected: bool) -> None:
        eps, thermal, truth = ours.config.eps, ours.config.thermal, ours.truth()
        world = self._world = World(ours.geometry.orbit, 0.0)
        state, shadow = world.spacecraft.scStateOutMsg, world.eclipse.eclipseOutMsgs[0]
        facing = list(world.sun_unit)

        panel = self._panel = load("simulation.simpleSolarPanel").SimpleSolarPanel()
        # Its sunlight is another constant than ours; the efficiency takes the ratio.
        sunlight = load("architecture.astroConstants").SOLAR_FLUX_EARTH
        panel.setPanelParameters(facing, eps.array_area_m2, eps.array_efficiency * SOLAR_CONSTANT_W_M2 / sunlight)
        self._sink = load("simulation.simplePowerSink").SimplePowerSink()
        battery = self._battery = load("simulation.simpleBattery").SimpleBattery()
        battery.storageCapacity, battery.storedCharge_Init = truth.battery_capacity_j, truth.battery_energy_j
        for node in (panel, self._sink):
            battery.addPowerNodeToModel(node.nodePowerOutMsg)

        plate = self._plate = load("simulation.sensorThermal").SensorThermal()
        plate.T_0, plate.nHat_B, plate.sensorArea = thermal.initial_degc, facing, thermal.area_m2
        plate.sensorEmissivity = thermal.emissivity * (STEFAN_BOLTZMANN / BASILISK_SIGMA if corrected else 1.0)
        plate.sensorAbsorptivity = thermal.reference_sun_w_m2 / BASILISK_SUN_W_M2
        plate.sensorMass, plate.sensorSpecificHeat = 1.0, thermal.radiator_heat_capacity_j_k
        plate.sensorPowerStatus = 1
        for module in (panel, plate):
            module.stateInMsg.subscribeTo(state)
            module.sunEclipseInMsg.subscribeTo(shadow)
            module.sunInMsg.subscribeTo(world.sun)
        for module in (panel, self._sink, battery, plate):
            world.add(module)
        world.run_to(0.0)

    def step(self, elapsed_s: float, watts: float) -> None:
        """Draw a power up to ``elapsed_s``; all of it warms the plate."""
        self._sink.nodePowerOut = -watts
        self._plate.sensorPowerDraw = watts
        self._world.run_to(elapsed_s)

    @property
    def sunlit(self) -> float:
        """Visible share of the Sun's disc."""
        return self._world.sunlit

    @property
    def soc_fraction(self) -> float:
        """Charge of the battery over its capacity."""
        state = self._battery.batPowerOutMsg.read()
        return float(state.storageLevel / state.storageCapacity)

    @property
    def temp_degc(self) -> float:
        """Temperature of the plate."""
        return float(self._plate.temperatureOutMsg.read().temperature)


class _Differences:
    """Collects the greatest differences of two flights."""

    def __init__(self) -> None:
        self.position_km = self.soc = self.temp_k = 0.0
        self._lit: tuple[list[float], list[float]] = ([], [])
        self._socs: list[float] = []
        self._temps: list[float] = []

    def lit(self, one: float, other: float) -> None:
        """Sun seen by both, second by second."""
        self._lit[0].append(one)
        self._lit[1].append(other)

    def state(self, truth: Truth, soc_fraction: float, radiator_degc: float, gpu_degc: float) -> None:
        """Our truth against the other's."""
        self.soc = max(self.soc, abs(truth.soc_fraction - soc_fraction))
        for mine, other in ((truth.radiator_temp_degc, radiator_degc), (truth.gpu_temp_degc, gpu_degc)):
            self.temp_k = max(self.temp_k, abs(mine - other))
        self._socs.append(truth.soc_fraction)
        self._temps.append(truth.radiator_temp_degc)

    def comparison(self) -> Comparison:
        """What there was."""
        ours, theirs = (_edges(lit) for lit in self._lit)
        if len(ours) != len(theirs):
            raise ValueError(f"comparison: {len(ours)} eclipse edges against {len(theirs)}")
        return Comparison(
            seconds=len(self._socs),
            edges=len(ours),
            edge_max_s=max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0),
            position_max_km=self.position_km,
            soc_max=self.soc,
            soc_spread=max(self._socs) - min(self._socs),
            temp_max_k=self.temp_k,
            temp_spread_k=max(self._temps) - min(self._temps),
        )


def _edges(lit: list[float]) -> list[float]:
    """Seconds at which half of the Sun is seen, by interpolation between samples."""
    return [
        second + (0.5 - before) / (after - before)
        for second, (before, after) in enumerate(pairwise(lit))
        if (before < 0.5) != (after < 0.5)
    ]


if __name__ == "__main__":
    for name in ("leo_550", "mid_600"):
        print(f"same models, {name}: {same_models(PlantConfig(orbit=name))}")
    print(f"own models, its constant corrected: {own_models()}")
    print(f"own models, its constant as it is: {own_models(corrected=False)}")

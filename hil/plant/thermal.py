"""The heat balance of the plant: a GPU node, a pump loop, a radiator of n nodes, and what the Earth shines on it.

    C_g Ṫ_g   = P − G (T_g − T_1)
    C_i Ṫ_i   = [G (T_g − T_1) + P_bus]₁ + K (T_{i−1} − T_i) − K (T_i − T_{i+1}) + (A q − s ε σ A T_i⁴)/n

updated from the old values in explicit steps of at most ``SUBSTEP_MAX_S`` and a quarter of the fastest time
constant (the nominal satellite's is C_g/G = 214 s). s is the number of radiating faces; the default is one node and
one face.

Pump. G falls with the flow f, 0 to 1, as the effectiveness of an exchanger with N transfer units at full flow does
(Kays and London, ε = 1 − e^{−N/f}), down to the passive path; its power goes with f³:

    G(f) = G_0 + (G_1 − G_0) f (1 − e^{−N/f})/(1 − e^{−N})

Absorbed flux q, per m² of panel, in one of two forms:

- ``geometry``: Earth infrared ε · 237 W/m² · F and albedo α · 0.3 · S · F · max(0, cos ζ), ζ the Sun's zenith angle
  under the satellite. F is the exact view factor of a plate to a sphere, seen flat ((R/r)²: 0.848 at 550 km) or
  edge-on (0.258). The radiator is held edge-on to the Sun, so no direct sunlight falls on it.
- ``reference``: q_ir + q_sun · sunlit, the form the governor's published results were computed with.

Sources: lumped-node balance as in every spacecraft thermal text; 237 W/m² and 0.3 are the mean Earth; view factors:
Howell's catalogue, plane element to sphere.

Published radiators that this code reproduces (``tests/hil/plant/test_published_radiators.py``), both two-sided:
Starcloud's white paper, ε 0.92 at 20 °C: 770 W/m² of panel emitted, about 137 absorbed, 633 net; and the 110 m²
panel announced as AI1, 337 K at 120 kW and 353 K at 150 kW, which needs both faces with ε 0.91 and a sink of 220 K
(242 W/m² absorbed). One face could not: at ε 1 and without any sink it would be at 372 K.
"""

from math import asin, cos, exp, pi, sin, sqrt
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from .eps import SOLAR_CONSTANT_W_M2, ZERO_CELSIUS_K
from .geometry import EARTH_RADIUS_KM

STEFAN_BOLTZMANN: Final = 5.670374419e-8
EARTH_INFRARED_W_M2: Final = 237.0
EARTH_ALBEDO: Final = 0.3
SUBSTEP_MAX_S: Final = 5.0
SUBSTEP_MIN_S: Final = 0.02
NODES_MAX: Final = 32
HOTTEST_K: Final = 400.0


class ThermalConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Heat balance of GPU node and radiator; the defaults are the nominal satellite."""

    gpu_heat_capacity_j_k: Annotated[float, Meta(ge=100.0, le=1e7)] = 3000.0
    """GPU, its board and cold plate."""
    radiator_heat_capacity_j_k: Annotated[float, Meta(ge=500.0, le=1e8)] = 12000.0
    """Radiator and the structure that follows it."""
    conductance_w_k: Annotated[float, Meta(ge=0.1, le=1e5)] = 14.0
    """GPU node to radiator node, with the pump at full flow."""
    passive_conductance_w_k: Annotated[float, Meta(ge=0.0, le=1e5)] = 1.0
    """The same with the pump stopped."""
    pump_transfer_units: Annotated[float, Meta(gt=0.0, le=20.0)] = 2.0
    """Number of transfer units of the loop's exchangers at full flow."""
    pump_power_w: Annotated[float, Meta(ge=0.0, le=1e4)] = 0.0
    """Drawn by the pump at full flow, beside the bus load."""
    area_m2: Annotated[float, Meta(ge=0.01, le=1000.0)] = 1.4
    """Area of the radiator panel, counted once whatever ``sides`` is."""
    sides: Annotated[int, Meta(ge=1, le=2)] = 1
    """Faces of the panel that radiate. With two, a panel edge-on to the Earth sees it with both, one that lies flat
    with one; the fluxes of form ``reference`` are per m² of panel, both faces together."""
    radiator_nodes: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 1
    """Nodes of equal share along the panel; the first takes the heat."""
    node_conductance_w_k: Annotated[float, Meta(gt=0.0, le=1e5)] = 30.0
    """Between two neighbouring nodes."""
    emissivity: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.85
    """In the infrared, for emission and for the absorption of the Earth's."""
    absorptivity: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.15
    """In sunlight, for albedo."""
    environment: Literal["geometry", "reference"] = "geometry"
    """Where the absorbed flux comes from; see the head of ``hil/plant/thermal.py``."""
    attitude: Literal["edge_on", "nadir"] = "edge_on"
    """How the radiator sees the Earth."""
    reference_ir_w_m2: Annotated[float, Meta(ge=0.0, le=500.0)] = 65.0
    """Absorbed flux at all times, form ``reference``, per m² of panel."""
    reference_sun_w_m2: Annotated[float, Meta(ge=0.0, le=500.0)] = 20.0
    """Absorbed flux more in sunlight, form ``reference``."""
    initial_degc: Annotated[float, Meta(ge=-80.0, le=80.0)] = 20.0
    """Radiator at the start."""
    initial_rise_k: Annotated[float, Meta(ge=-100.0, le=200.0)] = 5.0
    """GPU node over the radiator at the start."""


def view_factor(radius_km: float, attitude: Literal["edge_on", "nadir"]) -> float:
    """Share of a small plate's half-space that the Earth fills, weighted by cosine."""
    ratio = EARTH_RADIUS_KM / radius_km
    if attitude == "nadir":
        return ratio * ratio
    half_angle = asin(ratio)
    return (half_angle - sin(half_angle) * cos(half_angle)) / pi


def substep_s(config: ThermalConfig) -> float:
    """Longest explicit step that is stable and accurate; ``ValueError`` for nodes too light for their links."""
    nodes, capacity = config.radiator_nodes, config.radiator_heat_capacity_j_k / config.radiator_nodes
    radiating = 4.0 * config.sides * config.emissivity * STEFAN_BOLTZMANN * config.area_m2 * HOTTEST_K**3 / nodes
    links = 2.0 * config.node_conductance_w_k if nodes > 1 else 0.0
    constants_s = (
        config.gpu_heat_capacity_j_k / config.conductance_w_k,
        capacity / (config.conductance_w_k + links + radiating),
    )
    step_s = min(SUBSTEP_MAX_S, 0.25 * min(constants_s))
    if step_s < SUBSTEP_MIN_S:
        raise ValueError(
            f"plant configuration: thermal: a node's time constant is {min(constants_s):.3g} s, at least "
            f"{4.0 * SUBSTEP_MIN_S:g} s are needed: raise its heat capacity or lower its conductance"
        )
    return step_s


class HeatBalance:
    """State of the nodes, °C outside and K inside."""

    def __init__(self, config: ThermalConfig) -> None:
        """Raises ``ValueError`` for a passive path better than the pumped one, or nodes too light."""
        if config.passive_conductance_w_k > config.conductance_w_k:
            raise ValueError(
                f"plant configuration: thermal.passive_conductance_w_k = {config.passive_conductance_w_k:g}: "
                f"at most conductance_w_k, {config.conductance_w_k:g}"
            )
        self._config = config
        self._substep_s = substep_s(config)
        count = config.radiator_nodes
        self._gpu_k = config.initial_degc + config.initial_rise_k + ZERO_CELSIUS_K
        self._nodes_k = [config.initial_degc + ZERO_CELSIUS_K] * count
        self.absorbed_w = self.emitted_w = 0.0
        self._emission_w_k4 = config.emissivity * STEFAN_BOLTZMANN * config.area_m2 * config.sides
        facing = config.sides if config.attitude == "edge_on" else 1
        self._infrared_w = config.area_m2 * facing * config.emissivity * EARTH_INFRARED_W_M2
        self._albedo_w = config.area_m2 * facing * config.absorptivity * EARTH_ALBEDO * SOLAR_CONSTANT_W_M2
        self._per_gpu_k_j = 1.0 / config.gpu_heat_capacity_j_k
        self._per_node_k_j = count / config.radiator_heat_capacity_j_k
        self._by_geometry = config.environment == "geometry"
        self._edge_on = config.attitude == "edge_on"
        self.flow_fraction = 1.0
        self.pump_w = config.pump_power_w
        self.conductance_w_k = config.conductance_w_k

    @property
    def gpu_degc(self) -> float:
        """Temperature of the GPU node."""
        return self._gpu_k - ZERO_CELSIUS_K

    @property
    def radiator_degc(self) -> float:
        """Temperature of the radiator node that takes the heat."""
        return self._nodes_k[0] - ZERO_CELSIUS_K

    @property
    def nodes_degc(self) -> tuple[float, ...]:
        """Temperatures of all radiator nodes."""
        return tuple([kelvin - ZERO_CELSIUS_K for kelvin in self._nodes_k])

    def pump(self, flow_fraction: float) -> None:
        """Set the flow of the loop, 0 to 1."""
        config = self._config
        self.flow_fraction = flow_fraction
        self.pump_w = config.pump_power_w * flow_fraction**3
        moved = 0.0
        if flow_fraction > 0.0:
            units = config.pump_transfer_units
            moved = flow_fraction * (1.0 - exp(-units / flow_fraction)) / (1.0 - exp(-units))
        passive = config.passive_conductance_w_k
        self.conductance_w_k = passive + (config.conductance_w_k - passive) * moved

    def environment_w(
        self, radius_km: float, sun_zenith_cos: float, sun_distance2: float, sunlit: float, health: float
    ) -> float:
        """Heat the radiator absorbs from outside, W; ``sun_distance2`` is the Sun's distance in au, squared.

        ``health`` is the remaining share of its emissivity, which takes the Earth's infrared down with it and
        leaves albedo, a matter of the other band, as it is.
        """
        config = self._config
        if not self._by_geometry:
            flux_w_m2 = config.reference_ir_w_m2 * health + config.reference_sun_w_m2 * sunlit
            return config.area_m2 * flux_w_m2
        ratio = EARTH_RADIUS_KM / radius_km
        factor = (asin(ratio) - ratio * sqrt(1.0 - ratio * ratio)) / pi if self._edge_on else ratio * ratio
        heat_w = self._infrared_w * factor * health
        if sun_zenith_cos > 0.0:
            heat_w += self._albedo_w * factor * sun_zenith_cos / sun_distance2
        return heat_w

    def step(self, dt_s: float, gpu_w: float, bus_w: float, absorbed_w: float, health: float) -> None:
        """Hold all powers for ``dt_s``; all nodes move from their old values in every sub-step."""
        count = max(1, int(dt_s / self._substep_s))
        h_s = dt_s / count
        conductance, emission = self.conductance_w_k, self._emission_w_k4 * health
        self.absorbed_w = absorbed_w
        if len(self._nodes_k) > 1:
            for _ in range(count):
                self._step_nodes(h_s, gpu_w, bus_w, absorbed_w, emission)
            return
        gpu_k, radiator_k = self._gpu_k, self._nodes_k[0]
        emitted_w = 0.0
        for _ in range(count):
            through_w = conductance * (gpu_k - radiator_k)
            squared = radiator_k * radiator_k
            emitted_w = emission * squared * squared
            gpu_k += h_s * (gpu_w - through_w) * self._per_gpu_k_j
            radiator_k += h_s * (through_w + bus_w + absorbed_w - emitted_w) * self._per_node_k_j
        self._gpu_k, self._nodes_k[0] = gpu_k, radiator_k
        self.emitted_w = emitted_w

    def _step_nodes(self, h_s: float, gpu_w: float, bus_w: float, absorbed_w: float, emission: float) -> None:
        """One sub-step of a panel of several nodes, a fin that takes its heat at the first."""
        nodes_k, link, share = self._nodes_k, self._config.node_conductance_w_k, 1.0 / len(self._nodes_k)
        emission, absorbed_w, per_k = share * emission, share * absorbed_w, h_s * self._per_node_k_j
        kelvin = nodes_k[0]
        through_w = self.conductance_w_k * (self._gpu_k - kelvin)
        inflow_w, radiated_w = through_w + bus_w + absorbed_w, 0.0
        for index, after in enumerate((*nodes_k[1:], None)):
            # No heat leaves the last node but by radiation.
            onward_w = 0.0 if after is None else link * (kelvin - after)
            squared = kelvin * kelvin
            emitted_w = emission * squared * squared
            nodes_k[index] = kelvin + per_k * (inflow_w - onward_w - emitted_w)
            radiated_w += emitted_w
            inflow_w = onward_w + absorbed_w
            kelvin = after or 0.0
        self.emitted_w = radiated_w
        self._gpu_k += h_s * (gpu_w - through_w) * self._per_gpu_k_j

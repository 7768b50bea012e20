"""The heat balance of the plant: a GPU node, a radiator node, and what the Earth shines on the radiator.

    C_g Ṫ_g = P − G (T_g − T_r)
    C_r Ṫ_r = G (T_g − T_r) + P_bus + A q − ε σ A T_r⁴

both updated from the old values in steps of at most ``SUBSTEP_MAX_S`` (explicit Euler; the fastest time constant of
the nominal satellite is C_g/G = 214 s).

Absorbed flux q, per m² of radiator, in one of two forms:

- ``geometry``: Earth infrared ε · 237 W/m² · F and albedo α · 0.3 · S · F · max(0, cos ζ), ζ the Sun's zenith angle
  under the satellite. F is the exact view factor of a plate to a sphere, seen flat ((R/r)²: 0.848 at 550 km) or
  edge-on (0.258). The radiator is held edge-on to the Sun, so no direct sunlight falls on it.
- ``reference``: q_ir + q_sun · sunlit, the form the governor's published results were computed with.

Sources: lumped-node balance as in every spacecraft thermal text; 237 W/m² and 0.3 are the mean Earth; view factors:
Howell's catalogue, plane element to sphere.
"""

from math import asin, cos, pi, sin, sqrt
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from .eps import SOLAR_CONSTANT_W_M2
from .geometry import EARTH_RADIUS_KM

STEFAN_BOLTZMANN: Final = 5.670374419e-8
EARTH_INFRARED_W_M2: Final = 237.0
EARTH_ALBEDO: Final = 0.3
ZERO_CELSIUS_K: Final = 273.15
SUBSTEP_MAX_S: Final = 5.0


class ThermalConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two-node heat balance; the defaults are the nominal satellite."""

    gpu_heat_capacity_j_k: Annotated[float, Meta(ge=100.0, le=1e7)] = 3000.0
    """GPU, its board and cold plate."""
    radiator_heat_capacity_j_k: Annotated[float, Meta(ge=500.0, le=1e8)] = 12000.0
    """Radiator and the structure that follows it."""
    conductance_w_k: Annotated[float, Meta(ge=0.1, le=20.0)] = 14.0
    """GPU node to radiator node."""
    area_m2: Annotated[float, Meta(ge=0.01, le=1000.0)] = 1.4
    """Radiating area."""
    emissivity: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.85
    """In the infrared, for emission and for the absorption of the Earth's."""
    absorptivity: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.15
    """In sunlight, for albedo."""
    environment: Literal["geometry", "reference"] = "geometry"
    """Where the absorbed flux comes from; see the head of ``hil/plant/thermal.py``."""
    attitude: Literal["edge_on", "nadir"] = "edge_on"
    """How the radiator sees the Earth."""
    reference_ir_w_m2: Annotated[float, Meta(ge=0.0, le=500.0)] = 65.0
    """Absorbed flux at all times, form ``reference``."""
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


class HeatBalance:
    """State of the two nodes, °C outside and K inside."""

    def __init__(self, config: ThermalConfig) -> None:
        self._config = config
        self._gpu_k = config.initial_degc + config.initial_rise_k + ZERO_CELSIUS_K
        self._radiator_k = config.initial_degc + ZERO_CELSIUS_K
        self.absorbed_w = self.emitted_w = 0.0
        self._emission_w_k4 = config.emissivity * STEFAN_BOLTZMANN * config.area_m2
        self._infrared_w = config.area_m2 * config.emissivity * EARTH_INFRARED_W_M2
        self._albedo_w = config.area_m2 * config.absorptivity * EARTH_ALBEDO * SOLAR_CONSTANT_W_M2
        self._per_gpu_k_j = 1.0 / config.gpu_heat_capacity_j_k
        self._per_radiator_k_j = 1.0 / config.radiator_heat_capacity_j_k
        self._by_geometry = config.environment == "geometry"
        self._edge_on = config.attitude == "edge_on"

    @property
    def gpu_degc(self) -> float:
        """Temperature of the GPU node."""
        return self._gpu_k - ZERO_CELSIUS_K

    @property
    def radiator_degc(self) -> float:
        """Temperature of the radiator node."""
        return self._radiator_k - ZERO_CELSIUS_K

    def environment_w(
        self, radius_km: float, sun_zenith_cos: float, sun_distance_au: float, sunlit: float, health: float
    ) -> float:
        """Heat the radiator absorbs from outside, W.

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
            heat_w += self._albedo_w * factor * sun_zenith_cos / (sun_distance_au * sun_distance_au)
        return heat_w

    def step(self, dt_s: float, gpu_w: float, bus_w: float, absorbed_w: float, health: float) -> None:
        """Hold all powers for ``dt_s``; both nodes move from their old values in every sub-step."""
        count = max(1, int(dt_s / SUBSTEP_MAX_S))
        h_s = dt_s / count
        conductance, emission = self._config.conductance_w_k, self._emission_w_k4 * health
        gpu_k, radiator_k = self._gpu_k, self._radiator_k
        emitted_w = 0.0
        for _ in range(count):
            through_w = conductance * (gpu_k - radiator_k)
            squared = radiator_k * radiator_k
            emitted_w = emission * squared * squared
            gpu_k += h_s * (gpu_w - through_w) * self._per_gpu_k_j
            radiator_k += h_s * (through_w + bus_w + absorbed_w - emitted_w) * self._per_radiator_k_j
        self._gpu_k, self._radiator_k = gpu_k, radiator_k
        self.absorbed_w, self.emitted_w = absorbed_w, emitted_w

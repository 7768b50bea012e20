"""The electrical side of the plant: solar array, battery, bus and the GPU's power rail.

Array     P = S/r² · A · η · cos θ · ν · health          S 1361 W/m² at 1 au, ν the visible share of the Sun
Battery   E ← min(E_cap, E + min(net, P_c,max) η_c Δt)   charging; what does not fit is spilled
          E ← E + net/η_d Δt                             discharging, net = P_array − P_load
Terminal  V = OCV(E) + I R,  V I = battery power         I positive when charging

η_c and η_d stand for every loss between bus and cell, so R shapes the terminal voltage and takes no energy
of its own. The bus is unregulated: its voltage is the battery's. The array is shunt-regulated: its sensor sees
the full output and the shunts burn the surplus outside the body, so ``array_power_w`` is what the Sun gives.

Capacity, efficiencies and limits are the nominal satellite's (700 Wh, 0.95 each way, charge at C/2). The voltage
curve, R and the battery's heat path are assumptions: eight lithium-ion cells in series, 40 mΩ.
"""

from math import cos, radians, sqrt
from typing import Annotated, Final

import msgspec
from msgspec import Meta

SOLAR_CONSTANT_W_M2: Final = 1361.0
JOULE_PER_WH: Final = 3600.0
CELLS_IN_SERIES: Final = 8
# Open-circuit voltage of one NMC cell at 0, 10 … 100 % charge.
CELL_OCV_V: Final = (3.00, 3.45, 3.55, 3.60, 3.65, 3.71, 3.79, 3.88, 3.97, 4.07, 4.18)
# The last point stands twice, so that a full battery needs no case of its own.
_PACK_OCV_V: Final = tuple(CELLS_IN_SERIES * v for v in (*CELL_OCV_V, CELL_OCV_V[-1]))


class EpsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Electrical power system; the defaults are the nominal satellite."""

    array_area_m2: Annotated[float, Meta(ge=0.01, le=1000.0)] = 3.0
    """Cell area of the solar array."""
    array_efficiency: Annotated[float, Meta(gt=0.0, le=0.6)] = 0.295
    """Light to bus power, end to end."""
    pointing_error_deg: Annotated[float, Meta(ge=0.0, lt=90.0)] = 0.0
    """Constant angle between the array's normal and the direction it should have."""
    capacity_wh: Annotated[float, Meta(ge=1.0, le=1e6)] = 700.0
    """Battery energy between empty and full."""
    initial_soc_fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.95
    """State of charge at the start."""
    charge_efficiency: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.95
    """Energy stored over energy taken from the bus."""
    discharge_efficiency: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.95
    """Energy given to the bus over energy drawn from store."""
    charge_power_max_w: Annotated[float, Meta(gt=0.0, le=1e6)] = 350.0
    """Charge limit on the bus side."""
    resistance_ohm: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.040
    """Internal resistance of the pack."""
    undervoltage_v: Annotated[float, Meta(ge=0.0, le=30.0)] = 25.0
    """Bus voltage under which the power board drops the GPU rail until it is commanded off and on."""
    bus_power_w: Annotated[float, Meta(ge=0.0, le=1e5)] = 60.0
    """Load of everything but the GPU and the transmitter."""
    transmitter_power_w: Annotated[float, Meta(ge=0.0, le=1e4)] = 10.0
    """Extra load while the transmitter is on."""
    battery_heat_capacity_j_k: Annotated[float, Meta(ge=10.0, le=1e7)] = 4000.0
    """Heat capacity of the pack."""
    battery_conductance_w_k: Annotated[float, Meta(gt=0.0, le=1e3)] = 2.0
    """From the pack to its panel."""
    battery_panel_degc: Annotated[float, Meta(ge=-40.0, le=60.0)] = 15.0
    """Temperature the bus holds the battery's panel at."""


def array_power_w(config: EpsConfig, sunlit: float, sun_distance_au: float, health: float) -> float:
    """Output of the sun-pointed array; ``sunlit`` and ``health`` are fractions."""
    flux_w_m2 = SOLAR_CONSTANT_W_M2 / (sun_distance_au * sun_distance_au)
    incidence = cos(radians(config.pointing_error_deg))
    return flux_w_m2 * config.array_area_m2 * config.array_efficiency * incidence * sunlit * health


def open_circuit_v(soc_fraction: float) -> float:
    """Open-circuit voltage of the pack, piecewise linear in the state of charge."""
    place = 10.0 * soc_fraction
    index = int(place)
    low = _PACK_OCV_V[index]
    return low + (_PACK_OCV_V[index + 1] - low) * (place - index)


class PowerSystem:
    """State of battery, bus and GPU rail. Powers in W at the bus, energy in J."""

    def __init__(self, config: EpsConfig) -> None:
        self.capacity_j = config.capacity_wh * JOULE_PER_WH
        self.energy_j = config.initial_soc_fraction * self.capacity_j
        self.battery_temp_degc = config.battery_panel_degc
        self.battery_current_a = 0.0
        self.bus_voltage_v = open_circuit_v(config.initial_soc_fraction)
        self.spilled_w = 0.0
        self.unserved_w = 0.0
        self.rail_tripped = False
        self._charge_efficiency = config.charge_efficiency
        self._discharge_efficiency = config.discharge_efficiency
        self._charge_max_w = config.charge_power_max_w
        self._resistance_ohm = config.resistance_ohm
        self._undervoltage_v = config.undervoltage_v
        self._heat_capacity_j_k = config.battery_heat_capacity_j_k
        self._conductance_w_k = config.battery_conductance_w_k
        self._panel_degc = config.battery_panel_degc

    @property
    def soc_fraction(self) -> float:
        """True state of charge."""
        return self.energy_j / self.capacity_j

    def rail(self, commanded_on: bool) -> bool:
        """Whether the GPU has power. A commanded off resets the under-voltage trip."""
        if not commanded_on:
            self.rail_tripped = False
        return commanded_on and not self.rail_tripped

    def step(self, dt_s: float, array_w: float, load_w: float) -> None:
        """Hold array and load for ``dt_s``, then set voltage and current to what they are at its end."""
        net_w = array_w - load_w
        self.spilled_w = self.unserved_w = 0.0
        if net_w >= 0.0:
            room_j = self.capacity_j - self.energy_j
            battery_w = min(net_w, self._charge_max_w, room_j / (self._charge_efficiency * dt_s))
            stored_j = battery_w * self._charge_efficiency * dt_s
            self.energy_j = min(self.capacity_j, self.energy_j + stored_j)
            self.spilled_w = net_w - battery_w
            loss_w = battery_w * (1.0 - self._charge_efficiency)
        else:
            battery_w = max(net_w, -self.energy_j * self._discharge_efficiency / dt_s)
            self.energy_j = max(0.0, self.energy_j + battery_w / self._discharge_efficiency * dt_s)
            self.unserved_w = battery_w - net_w
            loss_w = -battery_w * (1.0 / self._discharge_efficiency - 1.0)

        emf_v, resistance = open_circuit_v(self.energy_j / self.capacity_j), self._resistance_ohm
        # V I = P with V = emf + R I; the root that goes to P/emf for small P. Past emf²/4R the bus has collapsed.
        discriminant = emf_v * emf_v + 4.0 * resistance * battery_w
        self.bus_voltage_v = 0.5 * (emf_v + (sqrt(discriminant) if discriminant > 0.0 else 0.0))
        self.battery_current_a = battery_w / self.bus_voltage_v
        if self.unserved_w > 0.0 or self.bus_voltage_v < self._undervoltage_v:
            self.rail_tripped = True

        warming_w = loss_w - self._conductance_w_k * (self.battery_temp_degc - self._panel_degc)
        self.battery_temp_degc += dt_s * warming_w / self._heat_capacity_j_k

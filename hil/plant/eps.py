"""The electrical side of the plant: battery, bus and the GPU's power rail.

Battery   E ← min(E_cap, E + min(net, P_c,max) η_c Δt)   charging; what does not fit is spilled
          E ← E + net/η_d Δt                             discharging, net = P_array − P_load
Terminal  V = OCV(E) + I R,  V I = battery power         I positive when charging

That is the nominal form, in which η_c and η_d stand for every loss between bus and cell, R shapes the terminal
voltage and takes no energy of its own. With ``battery_losses = "resistance"`` the pack sees P = net η_c or net/η_d,
V and I solve V I = P from the state at the step's start, the cells store OCV · I and I²R is heat; past OCV²/4R the
bus has collapsed and the rest of the load is not served. Laws of R, fade and ageing: ``battery``. Switches:
``switches``.

The bus is unregulated: its voltage is the battery's. The array is shunt-regulated: its sensor sees the full output
and the shunts burn the surplus outside the body, so ``array_power_w`` is what the Sun gives.

Capacity, efficiencies and limits are the nominal satellite's (700 Wh, 0.95 each way, charge at C/2). The voltage
curve, R and the battery's heat path are assumptions: eight lithium-ion cells in series, 40 mΩ.
"""

from math import cos, radians, sqrt
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from .battery import JOULE_PER_WH, RESISTANCE_PER_LOSS, Ageing, open_circuit_v, resistance_factor
from .switches import LOADS_MAX, LoadSwitch, inrush

SOLAR_CONSTANT_W_M2: Final = 1361.0
ZERO_CELSIUS_K: Final = 273.15


class EpsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Electrical power system; the defaults are the nominal satellite."""

    array_area_m2: Annotated[float, Meta(ge=0.01, le=1000.0)] = 3.0
    """Cell area of the solar array."""
    array_efficiency: Annotated[float, Meta(gt=0.0, le=0.6)] = 0.295
    """Light to bus power, end to end."""
    pointing_error_deg: Annotated[float, Meta(ge=0.0, lt=90.0)] = 0.0
    """Constant angle between the array's normal and the direction it should have."""
    pointing_jitter_deg: Annotated[float, Meta(ge=0.0, le=20.0)] = 0.0
    """Standard deviation of the pointing about each of two axes; see ``array``."""
    array_mount: Literal["sun_pointed", "one_axis", "zenith"] = "sun_pointed"
    """How the array follows the Sun; see ``array``."""
    array_degradation_per_year: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0
    """Share of the output that a year takes."""
    array_age_years: Annotated[float, Meta(ge=0.0, le=50.0)] = 0.0
    """Age of the array at the orbit's epoch."""
    array_strings: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Strings of cells in parallel, for the fault that opens some."""
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
    resistance_law: Literal["constant", "temperature_soc"] = "constant"
    """Whether the resistance follows temperature and charge; see ``battery``."""
    battery_losses: Literal["efficiency", "resistance"] = "efficiency"
    """Where the pack's losses come from: the two efficiencies alone, or I²R behind them. With "resistance" the
    efficiencies are those of the converters between bus and pack."""
    ageing: bool = False
    """Whether cycles and time wear the battery."""
    initial_fade_fraction: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0
    """Share of ``capacity_wh`` that is worn away at the start; the resistance has grown with it."""
    battery_strings: Annotated[int, Meta(ge=1, le=64)] = 4
    """Strings of cells in parallel, for the fault that opens a cell."""
    loads: Annotated[tuple[LoadSwitch, ...], Meta(max_length=LOADS_MAX)] = ()
    """Loads with a switch of their own, beside ``bus_power_w``."""
    inrush_limit_ohm: Annotated[float, Meta(ge=0.01, le=100.0)] = 0.5
    """Limiter in series with a closing switch."""
    gpu_rail_capacitance_f: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Input capacitance of the GPU's rail."""
    undervoltage_filter_s: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.001
    """A dip that is shorter does not trip."""
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


class PowerSystem:
    """State of battery, bus and GPU rail. Powers in W at the bus, energy in J."""

    def __init__(self, config: EpsConfig) -> None:
        self._config = config
        self._charge_efficiency, self._discharge_efficiency = config.charge_efficiency, config.discharge_efficiency
        self._charge_max_w = config.charge_power_max_w
        self._undervoltage_v = config.undervoltage_v
        self._heat_capacity_j_k = config.battery_heat_capacity_j_k
        self._conductance_w_k = config.battery_conductance_w_k
        self._panel_degc = config.battery_panel_degc
        self._resistive = config.battery_losses == "resistance"
        self._follows = config.resistance_law == "temperature_soc"
        self._strings, self._growth = 1.0, 1.0
        self.ageing = Ageing(config.initial_soc_fraction, config.initial_fade_fraction)
        self._ages = config.ageing
        self.battery_temp_degc = config.battery_panel_degc
        self.capacity_j = self.energy_j = 0.0
        self._wear_down()
        self.energy_j = config.initial_soc_fraction * self.capacity_j
        self.resistance_ohm = self._resistance(config.initial_soc_fraction)
        self.battery_current_a = self.spilled_w = self.unserved_w = self.inrush_peak_a = 0.0
        self.bus_voltage_v = self.bus_voltage_min_v = open_circuit_v(config.initial_soc_fraction)
        self.rail_tripped = False

    @property
    def soc_fraction(self) -> float:
        """True state of charge."""
        return self.energy_j / self.capacity_j

    def rail(self, commanded_on: bool) -> bool:
        """Whether the GPU has power. A commanded off resets the under-voltage trip."""
        if not commanded_on:
            self.rail_tripped = False
        return commanded_on and not self.rail_tripped

    def hurt(self, strings_share: float, resistance_growth: float) -> None:
        """Set what faults leave of the parallel strings and grow the resistance; the state of charge stays."""
        if (strings_share, resistance_growth) == (self._strings, self._growth):
            return
        soc_fraction = self.soc_fraction
        self._strings, self._growth = strings_share, resistance_growth
        self._wear_down()
        self.energy_j = soc_fraction * self.capacity_j
        self.resistance_ohm = self._resistance(soc_fraction)

    def inrush(self, capacitance_f: float) -> None:
        """A switch has closed on a load with this input capacitance."""
        config = self._config
        rush = inrush(
            self.bus_voltage_v, self.resistance_ohm, config.inrush_limit_ohm, capacitance_f, self._undervoltage_v
        )
        self.inrush_peak_a, self.bus_voltage_min_v = rush.peak_a, rush.voltage_min_v
        self.energy_j = max(0.0, self.energy_j - rush.energy_j / self._discharge_efficiency)
        if rush.under_s > config.undervoltage_filter_s:
            self.rail_tripped = True

    def step(self, dt_s: float, array_w: float, load_w: float) -> None:
        """Hold array and load for ``dt_s``, then set voltage and current to what they are at its end."""
        net_w = array_w - load_w
        self.spilled_w = self.unserved_w = 0.0
        if self._resistive:
            voltage_v, current_a, loss_w = self._exchange(dt_s, net_w)
        else:
            voltage_v, current_a, loss_w = self._exchange_nominal(dt_s, net_w)
        self.bus_voltage_v = self.bus_voltage_min_v = voltage_v
        self.battery_current_a = current_a
        self.inrush_peak_a = 0.0
        if self.unserved_w > 0.0 or voltage_v < self._undervoltage_v:
            self.rail_tripped = True

        warming_w = loss_w - self._conductance_w_k * (self.battery_temp_degc - self._panel_degc)
        self.battery_temp_degc += dt_s * warming_w / self._heat_capacity_j_k
        soc_fraction = self.energy_j / self.capacity_j
        if self._follows:
            self.resistance_ohm = self._resistance(soc_fraction)
        if self._ages and self.ageing.observe(dt_s, soc_fraction, self.battery_temp_degc + ZERO_CELSIUS_K):
            self._wear_down()

    def _exchange_nominal(self, dt_s: float, net_w: float) -> tuple[float, float, float]:
        """Law "efficiency": move energy; returns voltage and current at the step's end, and heat, W."""
        if net_w >= 0.0:
            efficiency = self._charge_efficiency
            battery_w = min(net_w, self._charge_max_w, (self.capacity_j - self.energy_j) / (efficiency * dt_s))
            self.energy_j = min(self.capacity_j, self.energy_j + battery_w * efficiency * dt_s)
            self.spilled_w = net_w - battery_w
            loss_w = battery_w * (1.0 - efficiency)
        else:
            efficiency = self._discharge_efficiency
            battery_w = max(net_w, -self.energy_j * efficiency / dt_s)
            self.energy_j = max(0.0, self.energy_j + battery_w / efficiency * dt_s)
            self.unserved_w = battery_w - net_w
            loss_w = -battery_w * (1.0 / efficiency - 1.0)
        emf_v = open_circuit_v(self.energy_j / self.capacity_j)
        # V I = P with V = emf + R I; the root that goes to P/emf for small P. Past emf²/4R the bus has collapsed.
        discriminant = emf_v * emf_v + 4.0 * self.resistance_ohm * battery_w
        voltage_v = 0.5 * (emf_v + (sqrt(discriminant) if discriminant > 0.0 else 0.0))
        return voltage_v, battery_w / voltage_v, loss_w

    def _exchange(self, dt_s: float, net_w: float) -> tuple[float, float, float]:
        """Law "resistance": move energy; returns voltage and current over the step, and heat, W."""
        emf_v, ohm = open_circuit_v(self.energy_j / self.capacity_j), max(self.resistance_ohm, 1e-9)
        if net_w >= 0.0:
            most_a = (self.capacity_j - self.energy_j) / (emf_v * dt_s)
            most_w = most_a * (emf_v + ohm * most_a)
            battery_w = min(net_w, self._charge_max_w, most_w / self._charge_efficiency)
            pack_w = battery_w * self._charge_efficiency
            self.spilled_w = net_w - battery_w
        else:
            # Neither more than the cells hold nor past the greatest power of an emf behind a resistance.
            most_a = min(self.energy_j / (emf_v * dt_s), emf_v / (2.0 * ohm))
            most_w = most_a * (emf_v - ohm * most_a)
            battery_w, pack_w = net_w, net_w / self._discharge_efficiency
            if pack_w < -most_w:
                battery_w, pack_w = -most_w * self._discharge_efficiency, -most_w
                self.unserved_w = battery_w - net_w
        discriminant = emf_v * emf_v + 4.0 * ohm * pack_w
        voltage_v = 0.5 * (emf_v + (sqrt(discriminant) if discriminant > 0.0 else 0.0))
        current_a = pack_w / voltage_v
        self.energy_j = min(self.capacity_j, max(0.0, self.energy_j + emf_v * current_a * dt_s))
        return voltage_v, current_a, ohm * current_a * current_a + abs(battery_w - pack_w)

    def _resistance(self, soc_fraction: float) -> float:
        """The pack's resistance now."""
        ohm = self._worn_ohm
        if self._follows:
            ohm *= resistance_factor(self.battery_temp_degc + ZERO_CELSIUS_K, soc_fraction)
        return ohm

    def _wear_down(self) -> None:
        """Take fade and faults into capacity and resistance."""
        lost = self.ageing.lost
        self.capacity_j = self._config.capacity_wh * JOULE_PER_WH * (1.0 - lost) * self._strings
        grown = (1.0 + RESISTANCE_PER_LOSS * lost) * self._growth / self._strings
        self._worn_ohm = self.resistance_ohm = self._config.resistance_ohm * grown
        self.energy_j = min(self.energy_j, self.capacity_j)

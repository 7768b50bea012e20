"""The battery as believed: its curve, its sensors' errors, and how one sees from outside that it is full.

    V = OCV(SoC) + I R          dSoC = η_c P dt / E_cap  charging,  P dt / (η_d E_cap)  discharging

P = V I at the bus side, positive when charging; both efficiencies stand for every loss between bus and cell.

*Full* is the one moment at which the charge is known without a gauge. It shows by refusal: in sunlight, with power
left over that is burnt elsewhere, the battery takes next to nothing. Two states look alike and are told apart here.
At the charge limit power is left over too, but the battery takes the limit. In a deficit, or when somebody spends
the array to the last watt, the battery takes nothing because nothing is left over. The voltage, where there is one,
must be near the top of the curve as well; without it the estimate itself must already be near full.
"""

from itertools import pairwise
from typing import Annotated, Final

from msgspec import Meta, Struct

from flightsw.link.avionics import SensorFrame

J_PER_WH: Final = 3600.0
LIT_ABOVE: Final = 0.6
"""Sun sensor over this is sunlight."""
ACCEPTS: Final = 0.05
"""A full battery takes at most this part of its charge limit: a tail of charge, and the offset of the sensor."""
LEFT_OVER: Final = 0.05
"""Power left over must be at least this part of the array's output, beyond any error of gain of the sensors."""
LEFT_OVER_MIN_W: Final = 40.0
TOP_V_PER_CELL: Final = 0.03
"""Open-circuit voltage of a full cell: at most this far under the top of the curve (3 % of charge)."""
TOP_SOC: Final = 0.02
"""Without a voltage: the estimate is at most this far from full, or five of its own uncertainties."""

Volts = Annotated[float, Meta(gt=0.0, le=10.0)]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Battery as believed, and the errors of what watches it; ``*_sigma`` are standard uncertainties."""

    capacity_wh: Annotated[float, Meta(gt=0.0, le=1e6)] = 700.0
    """Battery capacity."""
    charge_efficiency: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.95
    """Stored energy per energy into the battery."""
    discharge_efficiency: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.95
    """Energy out of the battery per stored energy."""
    charge_power_max_w: Annotated[float, Meta(gt=0.0, le=1e6)] = 350.0
    """Charge limit on the bus side (C/2)."""
    bus_power_w: Annotated[float, Meta(ge=0.0, le=1e6)] = 60.0
    """Load of everything but the GPU."""
    cells_in_series: Annotated[int, Meta(ge=1, le=200)] = 8
    """Cells in series in the pack."""
    cell_ocv_v: Annotated[tuple[Volts, ...], Meta(min_length=2, max_length=64)] = (
        3.00, 3.45, 3.55, 3.60, 3.65, 3.71, 3.79, 3.88, 3.97, 4.07, 4.18,
    )  # fmt: skip
    """Open-circuit voltage of one cell at equally spaced states of charge, 0 to 1; strictly rising."""
    cell_ocv_sigma_v: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.005
    """Error of that curve."""
    resistance_ohm: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.040
    """Internal resistance of the pack."""
    resistance_sigma: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.2
    """Its relative error: temperature, age."""
    gauge_bias_sigma: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.003
    """Constant error of the fuel gauge."""
    gauge_noise: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.001
    """Noise of one reading of the fuel gauge."""
    current_offset_sigma_a: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.1
    """Constant error of the battery current."""
    current_gain_sigma: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.01
    """Relative error of the charge that is counted: gain of the sensor, efficiency, capacity."""
    voltage_noise_v: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.02
    """Noise of one reading of the battery voltage."""
    full_sigma: Annotated[float, Meta(gt=0.0, le=0.1)] = 0.0005
    """How far from full a battery may be that takes no more charge."""
    full_hold_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 30.0
    """A battery is full when it has refused charge for this long (mission time)."""

    def __post_init__(self) -> None:
        if not all(low < high for low, high in pairwise(self.cell_ocv_v)):
            raise ValueError("cell_ocv_v must rise from point to point, empty to full")

    @property
    def capacity_j(self) -> float:
        """Battery capacity in joules."""
        return self.capacity_wh * J_PER_WH


def open_circuit(config: Config, soc_fraction: float) -> tuple[float, float]:
    """Open-circuit voltage of the pack and its slope, volts per unit of charge; linear beyond both ends."""
    curve = config.cell_ocv_v
    last = len(curve) - 1
    place = soc_fraction * last
    index = min(last - 1, max(0, int(place)))
    low = curve[index]
    rise = curve[index + 1] - low
    return config.cells_in_series * (low + rise * (place - index)), config.cells_in_series * rise * last


def charge_at(config: Config, open_circuit_v: float) -> float:
    """State of charge, 0 to 1, at an open-circuit voltage of the pack."""
    curve, last = config.cell_ocv_v, len(config.cell_ocv_v) - 1
    cell_v = open_circuit_v / config.cells_in_series
    for index in range(last):
        if cell_v < curve[index + 1]:
            return max(0.0, (index + (cell_v - curve[index]) / (curve[index + 1] - curve[index])) / last)
    return 1.0


def refuses(config: Config, frame: SensorFrame, power_w: float, soc_fraction: float, soc_sigma: float) -> bool:
    """Whether this frame shows a full battery; ``power_w`` flows into it, the estimate is for want of a voltage."""
    array_w = frame.array_power_w
    if not (frame.sun_fraction > LIT_ABOVE and abs(power_w) <= ACCEPTS * config.charge_power_max_w):
        return False
    # Of two opinions on the load the greater one: a load that is not seen would look like power left over.
    load_w = frame.gpu_rail_power_w + config.bus_power_w
    measured_w = frame.bus_voltage_v * frame.bus_current_a
    if measured_w > load_w or load_w != load_w:
        load_w = measured_w
    if not array_w - load_w - power_w >= max(LEFT_OVER_MIN_W, LEFT_OVER * array_w):
        return False
    rest_v = frame.battery_voltage_v - frame.battery_current_a * config.resistance_ohm
    if rest_v == rest_v:
        return rest_v >= config.cells_in_series * (config.cell_ocv_v[-1] - TOP_V_PER_CELL)
    return soc_fraction >= 1.0 - max(TOP_SOC, 5.0 * soc_sigma)

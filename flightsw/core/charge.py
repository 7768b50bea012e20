"""State of charge with its uncertainty: coulombs counted, gauge and voltage fused, and *full* as the anchor.

Each percent of charge that is held back for want of knowledge costs 0.75 % of an orbit's compute, and the
governor's margin is a multiple of the σ told here. So σ is small where something is known, and never smaller.

States of the filter, all constant but for a slow drift, and what teaches them:

    SoC              counted charge; the sum of everything below
    gauge bias       the gauge against the count, once the battery has been full
    current offset   gauge against count over hours; 0.1 A is 0.6 % of charge in an orbit
    gain, charging   gauge against count over a swing; holds gain, efficiency and capacity together
    gain, discharging
    voltage          error of the open-circuit curve, volts of the pack
    resistance       error of R

*Batches.* Frames come at 10 Hz, at 1 Hz or every 10 s of mission time, and gains must not depend on it. So a frame
only counts charge and averages the gauge; every ``BATCH_S`` the filter takes one measurement of each kind, with
the noise of one reading however many were averaged. At most one batch is lost when a frame is missing.

*Full* (``battery.refuses``) says SoC = 1 within ``full_sigma``. It is a clamp, not one measurement more in every
batch: its error is the same each time. While it lasts nothing is counted, since what the sensor shows is its
offset. From then on the gauge's bias is known to about 0.1 %.

*A gauge that clips* at 1 says nothing there: near the end of its range it is not read, judged by what is predicted
and not by the reading, because that would prefer its low readings. A reading far below is read all the same.

*A gauge that lies* is refused by its innovation and not heard again until it agrees; nothing is learned of it
meanwhile. Count, gauge and voltage are three witnesses: when voltage sides with the gauge for ``RESET_S``, the
count was wrong and the filter begins anew. At the start, when gauge and voltage contradict, the lower one is
believed, and the other one refused, until they agree or the battery is full.

*Voltage* has an error that is the same in every reading. It helps while the charge is less well known than the
curve, and is only a witness after that.

*Ticks.* The current of a frame is taken for the whole time since the last one. When it has jumped, nobody knows
when in between: that goes into σ.
"""

from math import sqrt
from typing import Final

from msgspec import Struct

from flightsw.link.avionics import SensorFrame

from . import battery, kalman
from .battery import Config
from .events import Event

__all__ = ["COLD", "Config", "State", "step"]

SOC, BIAS, OFFSET, GAIN_IN, GAIN_OUT, CURVE, RESISTANCE = range(7)

BATCH_S: Final = 10.0
GAP_S: Final = 60.0
"""After a longer silence nothing is known of the charge that flowed (mission time)."""
GATE: Final = 5.0
"""A measurement this many standard uncertainties off is refused."""
RESET_S: Final = 60.0
"""Gauge and voltage contradict the count together for this long (mission time): the count was wrong."""
JUMP_SHARE: Final = 0.29
"""Standard deviation of a moment within a tick, as part of it: 1/√12."""
BIAS_DRIFT: Final = 2e-11
"""Variance per second: 0.1 % in half a day."""
OFFSET_DRIFT_A2: Final = 1e-8
"""Variance per second: 10 mA in 10,000 s, with temperature."""
RESISTANCE_MEMORY_S: Final = 6000.0
"""R follows temperature, so what was learned of it fades within an orbit."""
NOT_REFUSING: Final = -1.0
RATE_MAX_1_S: Final = 1.0 / 3600.0
"""Charge that may flow unseen: 1C."""


class State(Struct, frozen=True, kw_only=True):
    """The estimate now (``soc_fraction`` 0 to 1, NaN when unknown; ``soc_sigma``), and the batch being filled.

    ``gauge_bias`` and its sigma are what is known of the gauge. ``refused_s`` is how long it has been refused, 0
    while it is heard; ``contradicted_s`` how long the voltage sided with it.
    """

    soc_fraction: float = float("nan")
    soc_sigma: float = float("nan")
    full: bool = False
    refused_s: float = 0.0
    contradicted_s: float = 0.0
    mean: kalman.Vector = ()
    covariance: kalman.Covariance = ()
    clear_of_clip: float = 1.0
    refusing_s: float = NOT_REFUSING
    power_w: float = float("nan")
    span_s: float = 0.0
    charged: float = 0.0
    discharged: float = 0.0
    lever_1_a: float = 0.0
    unseen_var: float = 0.0
    gauge_sum: float = 0.0
    gauge_count: int = 0

    @property
    def known(self) -> bool:
        """Whether there is an estimate."""
        return bool(self.mean)

    @property
    def gauge_bias(self) -> float:
        """What the gauge reads too much; NaN before the first frame."""
        return self.mean[BIAS] if self.mean else float("nan")

    @property
    def gauge_bias_sigma(self) -> float:
        """Standard uncertainty of ``gauge_bias``; NaN before the first frame."""
        return kalman.sigma(self.covariance, BIAS) if self.mean else float("nan")


COLD: Final = State()


def step(state: State, config: Config, frame: SensorFrame, dt_s: float) -> tuple[State, tuple[Event, ...]]:
    """The charge after one more frame, ``dt_s`` of mission time after the one before; NaN readings are missing."""
    mean = state.mean
    if not mean:
        return _begun(config, frame)
    charged, discharged, lever = state.charged, state.discharged, state.lever_1_a
    unseen_var = state.unseen_var
    capacity_j = config.capacity_j
    voltage_v, current_a = frame.battery_voltage_v, frame.battery_current_a
    if voltage_v != voltage_v:
        voltage_v = battery.open_circuit(config, state.soc_fraction)[0]
    power_w = voltage_v * current_a
    refusing_s = NOT_REFUSING
    if battery.refuses(config, frame, power_w, state.soc_fraction, state.soc_sigma):
        refusing_s = state.refusing_s + dt_s if state.refusing_s >= 0.0 else 0.0
    full = state.full and refusing_s >= 0.0
    if not (power_w == power_w and dt_s <= GAP_S):
        unseen = min(0.3, RATE_MAX_1_S * dt_s)
        unseen_var += unseen * unseen
    elif not full:
        if power_w >= 0.0:
            per_j = config.charge_efficiency * dt_s / capacity_j
            charged += power_w * per_j
        else:
            per_j = dt_s / (config.discharge_efficiency * capacity_j)
            discharged += power_w * per_j
        lever += voltage_v * per_j
        jump = JUMP_SHARE * (power_w - state.power_w) * per_j
        if jump == jump:
            unseen_var += jump * jump
    soc = mean[SOC] + charged * (1.0 + mean[GAIN_IN]) + discharged * (1.0 + mean[GAIN_OUT]) - mean[OFFSET] * lever
    gauge, gauge_sum, gauge_count = frame.soc_fraction, state.gauge_sum, state.gauge_count
    clear = state.clear_of_clip
    if gauge == gauge and (soc < clear or gauge < clear + clear - 1.0):
        gauge_sum += gauge - soc
        gauge_count += 1
    after = State(
        soc_fraction=1.0 if soc > 1.0 else 0.0 if soc < 0.0 else soc,
        soc_sigma=state.soc_sigma if not unseen_var else sqrt(state.covariance[SOC][SOC] + unseen_var),
        full=full,
        refused_s=state.refused_s,
        contradicted_s=state.contradicted_s,
        mean=mean,
        covariance=state.covariance,
        clear_of_clip=state.clear_of_clip,
        refusing_s=refusing_s,
        power_w=power_w,
        span_s=state.span_s + dt_s,
        charged=charged,
        discharged=discharged,
        lever_1_a=lever,
        unseen_var=unseen_var,
        gauge_sum=gauge_sum,
        gauge_count=gauge_count,
    )
    if after.span_s < BATCH_S - 1e-6:
        return after, ()
    return _fused(after, config, frame)


def _begun(config: Config, frame: SensorFrame) -> tuple[State, tuple[Event, ...]]:
    """The first estimate: by the gauge, by the voltage, or by the lower one when they contradict."""
    gauge, sigma = frame.soc_fraction, sqrt(config.gauge_bias_sigma**2 + config.gauge_noise**2)
    by_voltage, voltage_sigma = _by_voltage(config, frame)
    tied = True
    found: tuple[Event, ...] = ()
    if gauge != gauge:
        gauge, sigma, tied = by_voltage, voltage_sigma, False
    elif abs(by_voltage - gauge) > GATE * sqrt(sigma * sigma + voltage_sigma * voltage_sigma):
        # NaN compares false: without a voltage the gauge is believed.
        found = (Event("CHARGE_CONTRADICTED", {"gauge": gauge, "voltage": by_voltage}),)
        if by_voltage < gauge:
            gauge, sigma, tied = by_voltage, voltage_sigma, False
    if gauge != gauge:
        return COLD, ()
    covariance = kalman.diagonal(sigma, *_priors(config))
    if tied:
        # Whatever the gauge reads too much, the estimate is too high by.
        shared = -(config.gauge_bias_sigma**2)
        first, second = covariance[SOC], covariance[BIAS]
        covariance = ((first[0], shared, *first[2:]), (shared, second[1], *second[2:]), *covariance[2:])
    mean = (gauge, *(0.0 for _ in range(RESISTANCE)))
    begun = State(
        soc_fraction=min(1.0, max(0.0, gauge)),
        soc_sigma=sigma,
        mean=mean,
        covariance=covariance,
        clear_of_clip=_clear_of_clip(config, mean, covariance),
        power_w=frame.battery_voltage_v * frame.battery_current_a,
    )
    return begun, found


def _priors(config: Config) -> tuple[float, ...]:
    return (
        config.gauge_bias_sigma,
        config.current_offset_sigma_a,
        config.current_gain_sigma,
        config.current_gain_sigma,
        config.cells_in_series * config.cell_ocv_sigma_v,
        config.resistance_sigma * config.resistance_ohm,
    )


def _by_voltage(config: Config, frame: SensorFrame) -> tuple[float, float]:
    """Charge that the voltage alone tells, and its standard uncertainty; NaN without voltage or current."""
    current_a = frame.battery_current_a
    rest_v = frame.battery_voltage_v - current_a * config.resistance_ohm
    if rest_v != rest_v:
        return rest_v, rest_v
    soc = battery.charge_at(config, rest_v)
    _, slope = battery.open_circuit(config, soc)
    curve_v = config.cells_in_series * config.cell_ocv_sigma_v
    drop_v = config.resistance_sigma * config.resistance_ohm * current_a
    return soc, sqrt(curve_v * curve_v + drop_v * drop_v + config.voltage_noise_v**2) / slope


def _clear_of_clip(config: Config, mean: kalman.Vector, covariance: kalman.Covariance) -> float:
    """Charge under which the gauge surely does not stand at the end of its range."""
    spread = sqrt(max(0.0, covariance[BIAS][BIAS]) + config.gauge_noise**2)
    return 1.0 - 3.0 * spread - max(0.0, mean[BIAS])


def _fused(state: State, config: Config, frame: SensorFrame) -> tuple[State, tuple[Event, ...]]:
    """The end of a batch: what was counted is carried over, then gauge, voltage and *full* have their say."""
    span_s, mean = state.span_s, state.mean
    covariance = kalman.carry(
        state.covariance,
        SOC,
        (
            (SOC, 1.0),
            (OFFSET, -state.lever_1_a),
            (GAIN_IN, state.charged),
            (GAIN_OUT, state.discharged),
        ),
        state.unseen_var,
    )
    covariance = kalman.widened(covariance, BIAS, BIAS_DRIFT * span_s)
    covariance = kalman.widened(covariance, OFFSET, OFFSET_DRIFT_A2 * span_s)
    counted = (
        mean[SOC]
        + state.charged * (1.0 + mean[GAIN_IN])
        + state.discharged * (1.0 + mean[GAIN_OUT])
        - mean[OFFSET] * state.lever_1_a
    )
    mean = (counted, *mean[1:])
    refused_s, contradicted_s = state.refused_s, 0.0
    found: tuple[Event, ...] = ()
    read_v = _voltage(config, frame, mean)
    if state.gauge_count:
        innovation = state.gauge_sum / state.gauge_count - mean[BIAS]
        noise_var = config.gauge_noise**2
        spread = kalman.variance(covariance, _GAUGE) + noise_var
        if innovation * innovation <= GATE * GATE * spread:
            mean, covariance = kalman.fuse(mean, covariance, _GAUGE, innovation, noise_var)
            if refused_s:
                found = (Event("GAUGE_HEARD", {"refused_s": refused_s}),)
            refused_s = 0.0
        else:
            if not refused_s:
                found = (Event("GAUGE_REFUSED", {"gauge": counted + innovation, "soc": counted}),)
            refused_s += span_s
            if _sides_with_gauge(config, covariance, read_v, innovation):
                contradicted_s = state.contradicted_s + span_s
    if contradicted_s > RESET_S:
        begun, more = _begun(config, frame)
        return begun, (*found, Event("CHARGE_RESET", {"soc": counted, "gauge": frame.soc_fraction}), *more)
    prior = config.gauge_bias_sigma
    if read_v is not None and covariance[SOC][SOC] > 0.25 * prior * prior:
        row, innovation_v = read_v
        noise_var = config.voltage_noise_v**2
        spread = kalman.variance(covariance, row) + noise_var
        if innovation_v * innovation_v <= GATE * GATE * spread:
            mean, covariance = kalman.fuse(mean, covariance, row, innovation_v, noise_var)
    full = state.refusing_s >= config.full_hold_s
    if full:
        if not state.full:
            found += (Event("BATTERY_FULL", {"soc": mean[SOC], "sigma": kalman.sigma(covariance, SOC)}),)
        mean, covariance = _clamped(config, mean, covariance)
    fade = span_s / RESISTANCE_MEMORY_S
    sigma_ohm = config.resistance_sigma * config.resistance_ohm
    covariance = kalman.widened(covariance, RESISTANCE, min(1.0, fade) * sigma_ohm * sigma_ohm)
    soc = mean[SOC]
    return (
        State(
            soc_fraction=1.0 if soc > 1.0 else 0.0 if soc < 0.0 else soc,
            soc_sigma=kalman.sigma(covariance, SOC),
            full=full,
            refused_s=refused_s,
            contradicted_s=contradicted_s,
            mean=mean,
            covariance=covariance,
            clear_of_clip=_clear_of_clip(config, mean, covariance),
            refusing_s=state.refusing_s,
            power_w=state.power_w,
        ),
        found,
    )


def _voltage(config: Config, frame: SensorFrame, mean: kalman.Vector) -> tuple[kalman.Row, float] | None:
    """The voltage as a measurement of the states and how far it is off, or None when it is missing."""
    current_a = frame.battery_current_a
    open_v, slope = battery.open_circuit(config, mean[SOC])
    off_v = frame.battery_voltage_v - open_v - mean[CURVE] - (config.resistance_ohm + mean[RESISTANCE]) * current_a
    return (((SOC, slope), (CURVE, 1.0), (RESISTANCE, current_a)), off_v) if off_v == off_v else None


def _sides_with_gauge(
    config: Config, covariance: kalman.Covariance, read_v: tuple[kalman.Row, float] | None, gauge_off: float
) -> bool:
    """Whether the voltage contradicts the count too, to the side of the gauge and at least half as much."""
    if read_v is None:
        return False
    row, off_v = read_v
    allowed_v = GATE * sqrt(kalman.variance(covariance, row) + config.voltage_noise_v**2)
    gauge_v = row[0][1] * gauge_off
    return abs(off_v) > allowed_v and off_v * gauge_v >= 0.5 * gauge_v * gauge_v


def _clamped(
    config: Config, mean: kalman.Vector, covariance: kalman.Covariance
) -> tuple[kalman.Vector, kalman.Covariance]:
    """A full battery: the charge is 1 within ``full_sigma``, however often it is said."""
    missing, known_var, full_var = 1.0 - mean[SOC], covariance[SOC][SOC], config.full_sigma**2
    if missing * missing > GATE * GATE * (known_var + full_var):
        # What was believed is wrong, and with it all that was learned of the gauge.
        covariance = kalman.forgotten(covariance, SOC, config.full_sigma)
        return (1.0, 0.0, *mean[OFFSET:]), kalman.forgotten(covariance, BIAS, config.gauge_bias_sigma)
    if known_var <= full_var * 1.000001:
        return mean, covariance
    return kalman.fuse(mean, covariance, _CHARGE, missing, full_var * known_var / (known_var - full_var))


_CHARGE: Final = ((SOC, 1.0),)
_GAUGE: Final = ((SOC, 1.0), (BIAS, 1.0))

"""What the solar array gives in full sun, learned from its own sensor, with its uncertainty.

A random walk observed through a noisy sensor: a scalar Kalman filter whose gain settles where slow change (season,
incidence, ageing) and noise balance. Three things go into σ: the filter's own variance, the error of gain of the
sensor, which no averaging removes, and the scatter of the output around its mean over the last orbit.

*When it counts.* Only full sun teaches; penumbra does not. With a shunt regulator the sensor sees what the array
*can* give, whatever is used. With a series regulator (MPPT) it sees what is *taken*, so a battery that is full or
charges at its limit hides the rest: such readings only ever raise the estimate.

*Jumps* (a string is lost, a shadow gone). A reading far below is believed at once, since spending what is not there
costs charge; one far above must stand for ``RISE_S``.
"""

from math import sqrt
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from flightsw.link.avionics import SensorFrame

if TYPE_CHECKING:
    from .eps import Config

FULL_SUN: Final = 0.97
"""Sun sensor over this is full sun; a reading has noise."""
NOISE_W: Final = 3.0
"""Noise and quantisation of one reading."""
NOISE_S: Final = 10.0
"""Readings within this mission time count as one, so that the gain does not depend on the frame rate."""
DRIFT_1_S: Final = 1e-7
"""Relative variance per second: 2 % in an orbit."""
SCATTER_S: Final = 6000.0
"""Memory of the scatter, an orbit (mission time)."""
GATE: Final = 5.0
JUMP: Final = 0.05
"""A reading that is off by more than so many standard uncertainties, and this part of the output, is a jump."""
RISE_S: Final = 20.0
"""An output that jumped up is believed after this (mission time)."""
CURTAILED_SOC: Final = 0.97
CURTAILED_CHARGE: Final = 0.85
"""Over this charge, or this part of the charge limit, a series regulator may be holding back."""


class State(Struct, frozen=True, kw_only=True):
    """Output in full sun ``power_w`` and its standard uncertainty; ``measured`` once the sensor has told any."""

    power_w: float
    sigma_w: float
    measured: bool = False
    variance_w2: float = 0.0
    scatter_w2: float = 0.0
    above_s: float = 0.0


def start(config: "Config") -> State:
    """As configured, until it has been measured."""
    return State(power_w=config.array_power_w, sigma_w=config.array_sigma * config.array_power_w)


def step(state: State, config: "Config", frame: SensorFrame, soc_fraction: float, dt_s: float) -> State:
    """After one more frame, ``dt_s`` of mission time after the one before; ``soc_fraction`` is the estimate."""
    reading_w = frame.array_power_w
    if not frame.sun_fraction > FULL_SUN or reading_w != reading_w:
        return state
    reading_w = max(0.0, reading_w)
    if config.array_regulation == "series" and _curtailed(config, frame, soc_fraction):
        return state if reading_w <= state.power_w else _taken(config, reading_w)
    if not state.measured:
        return _taken(config, reading_w)
    noise_w2 = NOISE_W * NOISE_W
    drift_w2 = DRIFT_1_S * state.power_w * state.power_w
    variance_w2 = state.variance_w2 + drift_w2 * dt_s
    off_w = reading_w - state.power_w
    jump_w = JUMP * state.power_w
    if off_w * off_w > max(jump_w * jump_w, GATE * GATE * (variance_w2 + state.scatter_w2 + noise_w2)):
        above_s = state.above_s + dt_s
        if off_w < 0.0 or above_s >= RISE_S:
            return _taken(config, reading_w)
        return State(
            power_w=state.power_w,
            sigma_w=state.sigma_w,
            measured=True,
            variance_w2=state.variance_w2,
            scatter_w2=state.scatter_w2,
            above_s=above_s,
        )
    gain = variance_w2 / (variance_w2 + noise_w2 * max(1.0, NOISE_S / dt_s)) if dt_s > 0.0 else 0.0
    memory = dt_s / (SCATTER_S + dt_s)
    scatter_w2 = max(0.0, state.scatter_w2 + memory * (off_w * off_w - noise_w2 - state.scatter_w2))
    power_w, variance_w2 = state.power_w + gain * off_w, (1.0 - gain) * variance_w2
    return State(
        power_w=power_w,
        sigma_w=_sigma_w(config, power_w, variance_w2 + scatter_w2),
        measured=True,
        variance_w2=variance_w2,
        scatter_w2=scatter_w2,
    )


def _taken(config: "Config", reading_w: float) -> State:
    """The reading as it is: the first one, or the output has jumped."""
    variance_w2 = NOISE_W * NOISE_W
    return State(
        power_w=reading_w,
        sigma_w=_sigma_w(config, reading_w, variance_w2),
        measured=True,
        variance_w2=variance_w2,
    )


def _sigma_w(config: "Config", power_w: float, variance_w2: float) -> float:
    gain_w = config.array_gain_sigma * power_w
    return sqrt(variance_w2 + gain_w * gain_w)


def _curtailed(config: "Config", frame: SensorFrame, soc_fraction: float) -> bool:
    """Whether a series regulator may be holding back; what is not known may be."""
    charge_w = frame.battery_voltage_v * frame.battery_current_a
    return not (soc_fraction < CURTAILED_SOC and charge_w < CURTAILED_CHARGE * config.charge_power_max_w)

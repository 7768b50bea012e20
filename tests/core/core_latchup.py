"""A bus with a paced card on it, as its sensors show it: what the latch-up detector has to live with.

Duty is commanded in steps; power follows within ``LAG_S``. The card's curve is off by up to 5 % of its range, with
a shape that no straight line has; pacing is noisy by 1 % of the power it draws; the bus load is off by 15 %, a
heater on it switches in the dark; the transmitter goes on and off. Current: σ 0.02 A, 0.01 A steps; voltage: σ 0.02
V, 0.01 V steps; rail meter: σ 2 W. All of it seeded.
"""

from dataclasses import dataclass

import numpy as np

from flightsw.core import latchup

MODEL = latchup.Model(60.0, 10.0, 80.0, 700.0)
SPAN_W = MODEL.maximum_w - MODEL.idle_w
ORBIT_S, ECLIPSE_S, PASS_S = 5700.0, 2100.0, 500.0
LAG_S = 0.6
HEATER_W = 15.0


@dataclass(frozen=True)
class Bus:
    """Samples as rows: what is commanded, and what the sensors read; ``extra_w`` is drawn through the rail."""

    time_s: np.ndarray
    duty: np.ndarray
    transmitter: np.ndarray
    power_w: np.ndarray
    rail_w: np.ndarray

    def samples(self) -> list[latchup.Sample]:
        rows = zip(
            self.power_w.tolist(),
            self.rail_w.tolist(),
            self.duty.tolist(),
            self.transmitter.tolist(),
            strict=True,
        )
        return [latchup.Sample(power, rail, duty, True, tx, True, False, False) for power, rail, duty, tx in rows]


def bus(
    seed: int,
    seconds: float,
    dt_s: float,
    *,
    duty: float | None = None,
    extra_w: float = 0.0,
    from_s: float = 0.0,
    stray_w: float = 0.0,
    curve_error: float = 0.05,
    drift_w_h: float = 0.0,
) -> Bus:
    """``duty`` None steps each minute to anywhere, idle and full often; ``stray_w`` bypasses the rail."""
    rng = np.random.default_rng(seed)
    count = round(seconds / dt_s)
    t = dt_s * np.arange(count)
    minutes = int(seconds // 60) + 1
    levels = rng.choice([0.0, 1.0, -1.0], minutes, p=[0.2, 0.2, 0.6])
    levels = (
        np.where(levels < 0.0, rng.uniform(0.0, 1.0, minutes), levels) if duty is None else np.full(minutes, duty)
    )
    commanded = levels[(t // 60).astype(int)]
    # Power follows a step linearly within the lag.
    since = t % 60.0
    before = np.concatenate(([levels[0]], levels[:-1]))[(t // 60).astype(int)]
    share = np.clip(since / LAG_S, 0.0, 1.0)
    actual = before + (commanded - before) * share
    shape = curve_error * rng.choice([-1.0, 1.0]) * np.sin(np.pi * actual * rng.uniform(0.5, 1.5))
    gpu = MODEL.idle_w + SPAN_W * (actual + shape)
    gpu *= 1.0 + 0.01 * rng.standard_normal(count)
    late = (t >= from_s).astype(float)
    gpu += extra_w * late + drift_w_h * t / 3600.0
    phase = t % ORBIT_S
    dark = phase > ORBIT_S - ECLIPSE_S
    heater = HEATER_W * (dark & (phase % 400.0 < 200.0))
    transmitter = phase % 2500.0 < PASS_S
    others = MODEL.bus_w * rng.uniform(0.85, 1.15) + heater + 10.0 * transmitter + stray_w * late
    voltage = np.where(dark, 31.5 - 2.0 * (phase - ORBIT_S + ECLIPSE_S) / ECLIPSE_S, 32.5)
    current = (gpu + others) / voltage + 0.02 * rng.standard_normal(count)
    read_a, read_v = np.round(current, 2), np.round(voltage + 0.02 * rng.standard_normal(count), 2)
    rail = np.round(gpu + 2.0 * rng.standard_normal(count), 1)
    return Bus(t, commanded, transmitter, read_a * read_v, rail)


def trips(
    bus: Bus, config: latchup.Config, state: latchup.State = latchup.WATCHING
) -> tuple[list[float], latchup.State]:
    """Times at which the detector trips, the response left out so that it goes on watching."""
    found: list[float] = []
    step = latchup.step
    for t, sample in zip(bus.time_s.tolist(), bus.samples(), strict=True):
        after, _ = step(state, config, MODEL, sample, t)
        if after.trips != state.trips:
            found.append(t)
            after = latchup.replace(after, phase=latchup.Phase.WATCH, ceiling=1.0)
        state = after
    return found, state

"""The plant's battery and heat balance against published governor runs, digit by digit.

The closed-form energy-neutral governor with its random scenarios (draws, errors and order of draws as published)
flies six orbits on *our* ``PowerSystem`` and ``HeatBalance``. A wrong sign, efficiency, sub-step or
constant in either moves the last printed digit of throughput, least charge or highest temperature.
"""

from math import floor

import numpy as np
import pytest

from hil.plant.eps import EpsConfig, PowerSystem
from hil.plant.thermal import HeatBalance, ThermalConfig

TICK_S = 10.0
IDLE_W, MAXIMUM_W = 80.0, 700.0
ETA = 0.95
ACTIVE_W, LINEAR_W = 100.0, 100.0
CUBIC_W = MAXIMUM_W - IDLE_W - ACTIVE_W - LINEAR_W
KNEE = (ACTIVE_W / (2.0 * CUBIC_W)) ** (1.0 / 3.0)
KNEE_W = IDLE_W + ACTIVE_W + LINEAR_W * KNEE + CUBIC_W * KNEE**3

GRID = np.linspace(0.0, 1.0, 2001)
CURVE_W = np.where(
    GRID < KNEE, IDLE_W + (KNEE_W - IDLE_W) * GRID / KNEE, IDLE_W + ACTIVE_W + LINEAR_W * GRID + CUBIC_W * GRID**3
)


def throughput(power_w: float) -> float:
    return float(np.interp(power_w, CURVE_W, GRID))


@pytest.mark.parametrize(("watts", "share"), [(80, 0.0), (150, 0.173), (300, 0.540), (500, 0.827), (700, 1.0)])
def test_the_throughput_curve_is_the_published_one(watts, share):
    assert throughput(watts) == pytest.approx(share, abs=5e-4)


def draw(scenario: int) -> tuple[dict[str, float], dict[str, float]]:
    """Plant and the governor's belief, drawn in the published order."""
    rng = np.random.default_rng(1000 + scenario)
    p = {"orbit_s": rng.uniform(5520, 5760)}
    p["eclipse_s"] = rng.choice([rng.uniform(1700, 2160), rng.uniform(0, 2160)], p=[0.8, 0.2])
    p["array_w"] = 1200 * rng.uniform(0.85, 1)
    p["capacity_j"] = 2.52e6 * rng.uniform(0.85, 1)
    p["q_ir"] = 65 * rng.uniform(0.8, 1.25)
    p["q_sun"] = 20 * rng.uniform(0.5, 3)
    p["emissivity"] = rng.uniform(0.80, 0.88)
    p["conductance"] = 14 * rng.uniform(0.9, 1.1)
    p["c_radiator"] = 12000 * rng.uniform(0.85, 1.15)
    p["bus_w"] = 60 * rng.uniform(0.8, 1.3)
    p["energy_j"] = p["capacity_j"] * rng.uniform(0.85, 1)
    p["radiator_k"] = rng.uniform(283, 303)
    p["phase_s"] = rng.uniform(0, p["orbit_s"])
    b = {"array_w": p["array_w"] * (1 + rng.normal(0, 0.015))}
    b["eclipse_s"] = max(0.0, p["eclipse_s"] + rng.normal(0, 10))
    b["phase_s"] = p["phase_s"] + rng.normal(0, 5)
    for _ in range(3):  # q_ir, q_sun and ε: the closed form does not use them.
        rng.normal()
    b["conductance"] = p["conductance"] * (1 + rng.normal(0, 0.03))
    rng.normal()
    b["bus_w"] = p["bus_w"] * (1 + rng.normal(0, 0.03))
    return p, b


def govern(b, p, time_s, soc, gpu_k, radiator_k, dark, integral):
    """Energy-neutral rule and thermal PI; returns the power and the new integral."""
    phase_s, sun_s = (time_s + b["phase_s"]) % p["orbit_s"], p["orbit_s"] - b["eclipse_s"]
    energy_j, floor_j = soc * p["capacity_j"], (1 - 0.30 + 0.013) * p["capacity_j"]
    if dark or phase_s >= sun_s:
        left_s = max(p["orbit_s"] - phase_s, 20.0)
        energy_w = max(energy_j - floor_j, 0.0) * ETA / left_s - b["bus_w"]
    else:
        left_s = max(sun_s - phase_s, 20.0)
        need_w = min(max(0.0, 0.998 * p["capacity_j"] - energy_j) / (ETA * left_s), 350.0)
        energy_w = b["array_w"] - b["bus_w"] - (0.0 if soc > 0.99 else need_w)
    set_k = 353.15 - 2.0
    error_k = set_k - gpu_k
    integral = min(10.0, max(-10.0, integral + error_k * TICK_S / 60.0))
    heat_w = b["conductance"] * (set_k - radiator_k) + 15.0 * error_k + 0.5 * integral
    return min(MAXIMUM_W, max(IDLE_W, min(energy_w, heat_w))), integral


# scenario, mean throughput, least SoC, highest GPU node °C, seconds over the limit: the published table.
PUBLISHED = [
    (0, 0.7051, 0.7108, 78.60, 0),
    (7, 0.6990, 0.7143, 78.26, 0),
    (19, 0.8355, 0.7495, 78.75, 0),
    (92, 0.8075, 0.7688, 80.08, 150),
    (500, 0.7809, 0.7145, 77.92, 0),
]


@pytest.mark.parametrize(("scenario", "mean", "soc_min", "gpu_max_degc", "over_s"), PUBLISHED)
def test_six_orbits_reproduce_the_published_run(scenario, mean, soc_min, gpu_max_degc, over_s):
    p, b = draw(scenario)
    power = PowerSystem(
        EpsConfig(capacity_wh=p["capacity_j"] / 3600.0, initial_soc_fraction=p["energy_j"] / p["capacity_j"])
    )
    heat = HeatBalance(
        ThermalConfig(
            environment="reference",
            reference_ir_w_m2=p["q_ir"],
            reference_sun_w_m2=p["q_sun"],
            emissivity=p["emissivity"],
            conductance_w_k=p["conductance"],
            radiator_heat_capacity_j_k=p["c_radiator"],
            initial_degc=p["radiator_k"] - 273.15,
        )
    )
    rng = np.random.default_rng(5000 + scenario)
    soc_bias, gpu_bias = rng.normal(0, 0.003), rng.normal(0, 0.3)
    total = integral = hot_s = 0.0
    lowest, hottest = 1.0, -100.0
    ticks = floor(6 * p["orbit_s"] / TICK_S)
    for tick in range(ticks):
        time_s = tick * TICK_S
        sun = 1.0 if (time_s + p["phase_s"]) % p["orbit_s"] < p["orbit_s"] - p["eclipse_s"] else 0.0
        soc = power.soc_fraction + soc_bias + rng.normal(0, 0.001)
        gpu_k = heat.gpu_degc + 273.15 + gpu_bias + rng.normal(0, 0.3)
        radiator_k = heat.radiator_degc + 273.15 + rng.normal(0, 0.3)
        watts, integral = govern(b, p, time_s, soc, gpu_k, radiator_k, sun == 0.0, integral)
        watts = min(MAXIMUM_W, max(IDLE_W, watts * (1 + rng.normal(0, 0.01))))
        total += throughput(watts)
        power.step(TICK_S, p["array_w"] * sun, watts + p["bus_w"])
        heat.step(TICK_S, watts, p["bus_w"], heat.environment_w(6928.0, 0.0, 1.0, sun, 1.0), 1.0)
        lowest, hottest = min(lowest, power.soc_fraction), max(hottest, heat.gpu_degc)
        hot_s += TICK_S if heat.gpu_degc > 80.0 else 0.0
    assert round(total / ticks, 4) == mean
    assert round(lowest, 4) == soc_min
    assert round(hottest, 2) == gpu_max_degc
    assert hot_s == over_s

"""Requests as the reference draws its scenarios, and its own programme and plant for comparison.

Nothing here is shared with the planner: the programme has variables and rows as section 6.4 of the
power-thermal-orbit reference writes them (Crank-Nicolson, tangents, charge and discharge as variables), the plant
is section 6.3.
"""

from typing import Any

import highspy
import numpy as np

from flightsw.core.plan import HeatPath, Plan, PlanRequest
from flightsw.link.card import reference_workload

KELVIN = 273.15
SIGMA = 5.670374419e-8
AREA_M2 = 1.4
CURVE = reference_workload()
BLOCKED = (60.0,) * 10 + (180.0,) * 32
ORBIT_S, ECLIPSE_S = 5700.0, 2100.0


def nominal(steps_s: tuple[float, ...] = BLOCKED, phase_s: float = 0.0, **changes: Any) -> PlanRequest:
    """The nominal vehicle of section 6.1 at a phase of its orbit (0 is the end of an eclipse)."""
    values: dict[str, Any] = {
        "id": 1,
        "world_s": 1000.0,
        "steps_s": steps_s,
        "sunlit": shares(steps_s, phase_s),
        "energy_j": 0.9 * 2.52e6,
        "gpu_degc": 60.0,
        "radiator_degc": 35.0,
        "array_power_w": 1200.0,
        "bus_power_w": 60.0,
        "capacity_j": 2.52e6,
        "energy_min_j": 0.7 * 2.52e6,
        "charge_efficiency": 0.95,
        "discharge_efficiency": 0.95,
        "charge_power_max_w": 350.0,
        "discharge_power_max_w": 700.0,
        "gpu_max_degc": 80.0,
        "radiator_max_degc": 60.0,
        "heat": heat(),
        "power_w": CURVE.power_w,
        "throughput": CURVE.throughput,
        "gpu_ceiling_w": 700.0,
    }
    return PlanRequest(**(values | changes))


def heat(
    conductance_w_k: float = 14.0,
    radiator_j_k: float = 12000.0,
    emissivity: float = 0.85,
    infrared_w_m2: float = 65.0,
    sun_w_m2: float = 20.0,
) -> HeatPath:
    return HeatPath(
        gpu_capacity_j_k=3000.0,
        radiator_capacity_j_k=radiator_j_k,
        conductance_w_k=conductance_w_k,
        emission_w_k4=emissivity * SIGMA * AREA_M2,
        absorbed_w=AREA_M2 * infrared_w_m2,
        absorbed_sun_w=AREA_M2 * sun_w_m2,
    )


def shares(
    steps_s: tuple[float, ...], phase_s: float, orbit_s: float = ORBIT_S, dark_s: float = ECLIPSE_S
) -> tuple:
    found, at_s = [], phase_s
    for step_s in steps_s:
        times = at_s + (np.arange(12) + 0.5) * step_s / 12
        found.append(float(np.mean(times % orbit_s < orbit_s - dark_s)))
        at_s += step_s
    return tuple(found)


def drawn(seed: int, steps_s: tuple[float, ...] = BLOCKED) -> PlanRequest:
    """A vehicle of the spread of section 6.7 somewhere in its orbit, somewhere in its state."""
    random = np.random.default_rng(seed)
    orbit_s = random.uniform(5520, 5760)
    dark_s = random.uniform(0, 2160)
    capacity_j = 2.52e6 * random.uniform(0.85, 1)
    radiator_degc = random.uniform(10, 45)
    return nominal(
        steps_s,
        id=seed,
        sunlit=shares(steps_s, random.uniform(0, orbit_s), orbit_s, dark_s),
        energy_j=capacity_j * random.uniform(0.68, 1.0),
        gpu_degc=radiator_degc + random.uniform(0, 36),
        radiator_degc=radiator_degc,
        array_power_w=1200 * random.uniform(0.5, 1),
        bus_power_w=60 * random.uniform(0.8, 1.3),
        capacity_j=capacity_j,
        energy_min_j=capacity_j * random.uniform(0.7, 0.72),
        gpu_max_degc=random.uniform(77, 80),
        heat=heat(
            14 * random.uniform(0.9, 1.1),
            12000 * random.uniform(0.85, 1.15),
            random.uniform(0.80, 0.88),
            65 * random.uniform(0.8, 1.25),
            20 * random.uniform(0.5, 3),
        ),
    )


def fly(request: PlanRequest, plan: Plan, tick_s: float = 10.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plan through the plant of section 6.3 at the request's own parameters: E, T_g and T_r after each tick.

    Heat moves in steps of 1 s instead of 5, whose error in a fast rise is 0.2 K.
    """
    energy_j, gpu_k = request.energy_j, request.gpu_degc + KELVIN
    radiator_k, path = request.radiator_degc + KELVIN, request.heat
    rows = []
    for step_s, share, power_w in zip(plan.steps_s, request.sunlit, plan.gpu_power_w, strict=True):
        for _ in range(round(step_s / tick_s)):
            net_w = request.array_power_w * share - power_w - request.bus_power_w
            if net_w >= 0:
                gain_w = min(net_w, request.charge_power_max_w) * request.charge_efficiency
            else:
                gain_w = net_w / request.discharge_efficiency
            energy_j = min(request.capacity_j, energy_j + gain_w * tick_s)
            for _ in range(int(tick_s)):
                flow_w = path.conductance_w_k * (gpu_k - radiator_k)
                absorbed_w = request.bus_power_w + path.absorbed_w + path.absorbed_sun_w * share
                gpu_k, radiator_k = (
                    gpu_k + (power_w - flow_w) / path.gpu_capacity_j_k,
                    radiator_k
                    + (flow_w + absorbed_w - path.emission_w_k4 * radiator_k**4) / path.radiator_capacity_j_k,
                )
            rows.append((energy_j, gpu_k - KELVIN, radiator_k - KELVIN))
    return tuple(np.array(rows).T)


def reference_work_s(request: PlanRequest, rounds: int = 6) -> float:
    """Best work of the programme as section 6.4 has it, solved cold with presolve: seconds at full throughput."""
    tangent_k = np.full(len(request.steps_s), 308.0)
    work_s = float("nan")
    for _ in range(rounds):
        work_s, radiator_k = _reference_lp(request, tangent_k)
        ends = np.array([request.radiator_degc + KELVIN, *radiator_k])
        found = 0.5 * (ends[1:] + ends[:-1])
        if np.abs(found - tangent_k).max() < 0.01:
            break
        tangent_k = found
    return work_s


def _reference_lp(request: PlanRequest, tangent_k: np.ndarray) -> tuple[float, list[float]]:
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    inf, path = highs.inf, request.heat
    lines = [
        ((s1 - s0) / (p1 - p0), s0 - p0 * (s1 - s0) / (p1 - p0))
        for p0, p1, s0, s1 in zip(
            request.power_w, request.power_w[1:], request.throughput, request.throughput[1:], strict=False
        )
    ]
    energy = highs.addVariable(request.energy_j, request.energy_j)
    gpu = highs.addVariable(request.gpu_degc + KELVIN, request.gpu_degc + KELVIN)
    radiator = highs.addVariable(request.radiator_degc + KELVIN, request.radiator_degc + KELVIN)
    work, radiators = [], []
    for dt, share, mid_k in zip(request.steps_s, request.sunlit, tangent_k, strict=True):
        s = highs.addVariable(0, 1)
        power = highs.addVariable(request.power_w[0], min(request.gpu_ceiling_w, request.power_w[-1]))
        charge = highs.addVariable(0, request.charge_power_max_w)
        discharge = highs.addVariable(0, request.discharge_power_max_w)
        for slope, offset in lines:
            highs.addConstr(s <= slope * power + offset)
        highs.addConstr(power + charge - discharge <= request.array_power_w * share - request.bus_power_w)
        next_energy = highs.addVariable(request.energy_min_j, request.capacity_j)
        highs.addConstr(
            next_energy
            - energy
            - request.charge_efficiency * dt * charge
            + dt / request.discharge_efficiency * discharge
            <= 0
        )
        next_gpu = highs.addVariable(-inf, request.gpu_max_degc + KELVIN)
        next_radiator = highs.addVariable(-inf, request.radiator_max_degc + KELVIN)
        conductance, al, be = (
            path.conductance_w_k,
            dt / 2 / path.gpu_capacity_j_k,
            dt / 2 / path.radiator_capacity_j_k,
        )
        highs.addConstr(
            (1 + al * conductance) * next_gpu
            - (1 - al * conductance) * gpu
            - al * conductance * (next_radiator + radiator)
            - 2 * al * power
            == 0
        )
        slope, constant = 4 * path.emission_w_k4 * mid_k**3, -3 * path.emission_w_k4 * mid_k**4
        absorbed_w = request.bus_power_w + path.absorbed_w + path.absorbed_sun_w * share
        highs.addConstr(
            (1 + be * (conductance + slope)) * next_radiator
            - (1 - be * (conductance + slope)) * radiator
            - be * conductance * (next_gpu + gpu)
            == 2 * be * (absorbed_w - constant)
        )
        energy, gpu, radiator = next_energy, next_gpu, next_radiator
        radiators.append(radiator)
        work.append(dt * s)
    highs.maximize(sum(work[1:], start=work[0]))
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise AssertionError(highs.modelStatusToString(highs.getModelStatus()))
    return highs.getObjectiveValue(), [highs.val(variable) for variable in radiators]

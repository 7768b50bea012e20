"""The solver: a request in, a plan out, in this process.

Emission is linear in the programme and the fourth power in the world, so a solve is a short iteration: solve, run
the plan through tangents at its own temperatures, and solve again with those while the two differ by more than
``AGREE_K``. One programme is usually enough, because the first tangents come from a fair guess and the error of a
tangent is of second order: half a watt for 4 K. A plan that has not agreed after ``ITERATIONS_MAX`` is still safe,
a tangent errs to the hot side.

What the plan promises (charge, temperatures) is not read from the programme but computed from its powers: a
programme is free to throw energy away where it gains nothing, the battery is not.

The same request gives the same plan: every solve starts from the same basis, and nothing of an earlier one is kept.
"""

import time
from typing import Any, Final

import highspy
import numpy as np

from flightsw.core.plan import Plan, PlanRequest

from . import horizon as horizons
from . import lp
from .horizon import KELVIN, RequestError

ITERATIONS_MAX: Final = 3
AGREE_K: Final = 0.05
"""The plan's temperatures and those of its own tangents agree within this."""
ITERATIONS_PER_ROW: Final = 100
"""Simplex iterations per row of the programme before it is given up; a sound one needs about one."""
OPTIONS: Final = (
    ("output_flag", False),
    ("threads", 1),
    ("parallel", "off"),
    ("presolve", "off"),
    ("solver", "simplex"),
    ("simplex_strategy", 1),
    # Devex weights: steepest edge costs one solve per row to begin with, as much as the iterations it would save.
    ("simplex_dual_edge_weight_strategy", 1),
)


class Solver:
    """One HiGHS instance for plan after plan."""

    def __init__(self) -> None:
        # Not its subclass Highs, which prints a banner before it can be silenced and adds callbacks nobody needs.
        self._highs: Any = highspy._Highs()  # type: ignore[attr-defined]
        for name, value in OPTIONS:
            self._highs.setOptionValue(name, value)
        self._shapes: dict[tuple[int, int], lp.Structure] = {}

    def solve(self, request: PlanRequest, deadline_s: float) -> Plan:
        """The plan for a request, within about ``deadline_s`` of time; without one, the plan's ``fault`` says why.

        Raises nothing for any request that has the type.
        """
        began_s = time.process_time()
        try:
            plan = self._plan(request, time.perf_counter() + deadline_s)
        except RequestError as error:
            plan = Plan(id=request.id, world_s=request.world_s, fault=str(error))
        except (ArithmeticError, ValueError, _NoOptimum) as error:
            plan = Plan(id=request.id, world_s=request.world_s, fault=f"no plan: {error}")
        return _timed(plan, time.process_time() - began_s)

    def _plan(self, request: PlanRequest, until_s: float) -> Plan:
        horizon = horizons.horizon(request)
        shape = self._shape(*horizon.width_w.shape)
        gpu_k, radiator_k = request.gpu_degc + KELVIN, request.radiator_degc + KELVIN
        step = horizons.propagation(
            request.heat, horizon.steps_s, horizon.absorbed_w, horizons.first_tangents(request, horizon)
        )
        basis = shape.basis
        for _ in range(ITERATIONS_MAX):
            lp.load(self._highs, shape, request, horizon, step)
            self._highs.setBasis(basis)
            power_w = self._optimum(horizon, shape, until_s)
            basis = self._highs.getBasis()
            expected = horizons.temperatures(step, power_w, gpu_k, radiator_k)
            step = horizons.propagation(
                request.heat, horizon.steps_s, horizon.absorbed_w, horizons.midpoints(expected[1], radiator_k)
            )
            found = horizons.temperatures(step, power_w, gpu_k, radiator_k)
            if float(np.abs(np.array(found) - np.array(expected)).max()) < AGREE_K:
                break
        work = np.interp(power_w, request.power_w, request.throughput)
        return Plan(
            id=request.id,
            world_s=request.world_s,
            steps_s=request.steps_s,
            gpu_power_w=tuple(power_w.tolist()),
            energy_j=tuple(horizons.energies(horizon, request, power_w)),
            gpu_degc=tuple(kelvin - KELVIN for kelvin in found[0]),
            radiator_degc=tuple(kelvin - KELVIN for kelvin in found[1]),
            objective_s=float(work @ horizon.steps_s),
        )

    def _optimum(self, horizon: horizons.Horizon, shape: lp.Structure, until_s: float) -> horizons.Row:
        """Power of each step in W."""
        left_s = until_s - time.perf_counter()
        if left_s <= 0.0:
            raise _NoOptimum("the deadline has passed")
        highs = self._highs
        # The clock of an instance runs on from solve to solve.
        highs.setOptionValue("time_limit", highs.getRunTime() + left_s)
        highs.run()
        status = highs.getModelStatus()
        if status != highspy.HighsModelStatus.kOptimal:
            raise _NoOptimum(f"the solver says {highs.modelStatusToString(status)!r}")
        values = np.array(highs.getSolution().col_value)
        pieces_w = values[: shape.steps * shape.pieces].reshape(shape.steps, shape.pieces)
        power_w: horizons.Row = horizon.idle_w + np.clip(pieces_w, 0.0, horizon.width_w).sum(axis=1)
        return power_w

    def _shape(self, steps: int, pieces: int) -> lp.Structure:
        if (found := self._shapes.get((steps, pieces))) is None:
            if len(self._shapes) >= lp.SHAPES_MAX:
                self._shapes.clear()
            found = self._shapes[steps, pieces] = lp.structure(steps, pieces)
        return found


class _NoOptimum(Exception):
    """The solver came back without an optimum."""


def _timed(plan: Plan, solve_s: float) -> Plan:
    return Plan(
        id=plan.id,
        world_s=plan.world_s,
        steps_s=plan.steps_s,
        gpu_power_w=plan.gpu_power_w,
        energy_j=plan.energy_j,
        gpu_degc=plan.gpu_degc,
        radiator_degc=plan.radiator_degc,
        objective_s=plan.objective_s,
        solve_s=solve_s,
        fault=plan.fault,
    )

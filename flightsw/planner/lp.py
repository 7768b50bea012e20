"""The linear programme of a horizon, in the form that the simplex method likes best.

Per step k there are the pieces x of the card's power (boxes, no rows: the curve is concave, so they fill in order),
and three states at its end: energy E in kJ and the nodes T_g and T_r in K. Three rows tie them to the step before:

    E⁺ − E + Δt Σ drain_j x_j  ≤ Δt · idle rate            (inequality: what the battery cannot take is spilled)
    T_g⁺ − Φ_gg T_g − Φ_gr T_r − Γ_g Σ x_j = Γ_g P_idle + w_g
    T_r⁺ − Φ_rg T_g − Φ_rr T_r − Γ_r Σ x_j = Γ_r P_idle + w_r

Limits are bounds of the states. They are soft in the only way that needs no price: where even an idle card passes a
limit, the limit is what the idle card does, and since idling is best for every state at once, the programme always
has a solution, which is idling as long as nothing better keeps the limits.

With all states basic and all pieces at their upper bound (full power) the basis is triangular, and dual feasible
because every piece is boxed: the dual simplex method needs about one iteration per limit that binds. So every
solve starts from that basis, not from the last answer: a request has one answer, whatever was asked before.
"""

from typing import Any, Final, NamedTuple

import highspy
import numpy as np

from flightsw.core.plan import PlanRequest

from .horizon import KELVIN, Horizon, Propagation, Row, energies, temperatures

J_PER_KJ: Final = 1000.0
SLACK_KJ: Final = 1e-4
SLACK_K: Final = 1e-5
"""How far a limit that an idle card passes is moved beyond what it does: more than the solver's tolerance."""
COLUMNWISE: Final = int(highspy.MatrixFormat.kColwise)
MAXIMISE: Final = int(highspy.ObjSense.kMaximize)
SHAPES_MAX: Final = 64
"""Structures kept; a mission has a handful."""


class Structure(NamedTuple):
    """What depends only on how many steps and pieces there are: places of the non-zeros, and the first basis."""

    steps: int
    pieces: int
    starts: Any
    indices: Any
    basis: Any


def structure(steps: int, pieces: int) -> Structure:
    """Columns: all pieces step by step, then E, T_g, T_r of each step. Rows: energy, T_g, T_r of each step."""
    rows: list[list[int]] = [[3 * k, 3 * k + 1, 3 * k + 2] for k in range(steps) for _ in range(pieces)]
    for k in range(steps):
        last = k == steps - 1
        rows.append([3 * k] if last else [3 * k, 3 * k + 3])
        rows.append([3 * k + 1] if last else [3 * k + 1, 3 * k + 4, 3 * k + 5])
        rows.append([3 * k + 2] if last else [3 * k + 2, 3 * k + 4, 3 * k + 5])
    lengths = [len(row) for row in rows]
    status = highspy.HighsBasisStatus
    basis = highspy.HighsBasis()
    basis.col_status = [status.kUpper] * (steps * pieces) + [status.kBasic] * (3 * steps)
    basis.row_status = [status.kUpper] * (3 * steps)
    basis.valid = True
    return Structure(
        steps=steps,
        pieces=pieces,
        starts=np.concatenate(([0], np.cumsum(lengths)))[:-1].astype(np.int32),
        indices=np.array([row for column in rows for row in column], dtype=np.int32),
        basis=basis,
    )


class Bounds(NamedTuple):
    """Limits of the states at the end of each step, as far as an idle card can hold them."""

    energy_min_kj: Row
    gpu_max_k: Row
    radiator_max_k: Row


def bounds(request: PlanRequest, horizon: Horizon, step: Propagation) -> Bounds:
    """The limits of the request, moved to what an idle card does where it passes them."""
    idle_w = np.full(len(horizon.steps_s), horizon.idle_w)
    gpu_k, radiator_k = temperatures(step, idle_w, request.gpu_degc + KELVIN, request.radiator_degc + KELVIN)
    energy_kj = np.array(energies(horizon, request, idle_w)) / J_PER_KJ
    return Bounds(
        energy_min_kj=np.minimum(request.energy_min_j / J_PER_KJ, energy_kj - SLACK_KJ),
        gpu_max_k=np.maximum(request.gpu_max_degc + KELVIN, np.array(gpu_k) + SLACK_K),
        radiator_max_k=np.maximum(request.radiator_max_degc + KELVIN, np.array(radiator_k) + SLACK_K),
    )


def load(highs: Any, shape: Structure, request: PlanRequest, horizon: Horizon, step: Propagation) -> None:
    """Give the programme to the solver."""
    limits = bounds(request, horizon, step)
    steps, pieces = shape.steps, shape.pieces
    count = steps * pieces
    dt = horizon.steps_s[:, None]
    block = np.empty((steps, pieces, 3))
    block[:, :, 0] = horizon.drain * dt / J_PER_KJ
    block[:, :, 1] = -step.power_g[:, None]
    block[:, :, 2] = -step.power_r[:, None]
    # The state of step k stands in its own row, and in the rows of step k + 1 with that step's coefficients.
    states = np.empty((steps, 8))
    states[:, (0, 2, 5)] = 1.0
    states[:, 1] = -1.0
    states[:-1, 3], states[:-1, 4] = -step.gg[1:], -step.rg[1:]
    states[:-1, 6], states[:-1, 7] = -step.gr[1:], -step.rr[1:]
    tail = states.ravel()[:-8]
    values = np.concatenate((block.ravel(), tail, np.ones(3)))
    cost = np.zeros(count + 3 * steps)
    cost[:count] = (horizon.yield_per_w * dt).ravel()
    lower = np.zeros(count + 3 * steps)
    upper = np.empty(count + 3 * steps)
    upper[:count] = horizon.width_w.ravel()
    lower[count:].reshape(steps, 3)[:] = -np.inf
    lower[count::3] = limits.energy_min_kj
    upper[count::3] = request.capacity_j / J_PER_KJ
    upper[count + 1 :: 3] = limits.gpu_max_k
    upper[count + 2 :: 3] = limits.radiator_max_k
    right = np.empty((steps, 3))
    right[:, 0] = horizon.idle_rate_w * horizon.steps_s / J_PER_KJ
    right[:, 1] = step.power_g * horizon.idle_w + step.offset_g
    right[:, 2] = step.power_r * horizon.idle_w + step.offset_r
    gpu_k, radiator_k = request.gpu_degc + KELVIN, request.radiator_degc + KELVIN
    right[0, 0] += min(request.energy_j, request.capacity_j) / J_PER_KJ
    right[0, 1] += step.gg[0] * gpu_k + step.gr[0] * radiator_k
    right[0, 2] += step.rg[0] * gpu_k + step.rr[0] * radiator_k
    right_upper = right.ravel()
    right_lower = right_upper.copy()
    right_lower[::3] = -np.inf
    highs.passModel(
        count + 3 * steps,
        3 * steps,
        len(values),
        COLUMNWISE,
        MAXIMISE,
        0.0,
        cost,
        lower,
        upper,
        right_lower,
        right_upper,
        shape.starts,
        shape.indices,
        values,
        np.zeros(count + 3 * steps, dtype=np.int32),
    )

"""What a clairvoyant could have delivered: the value that every governor's score is divided by.

The clairvoyant knows the true world from the first second to the last. Its plan is the optimum of the linear
programme (``programme``), whose only approximation is the radiator's T⁴: a tangent at the temperatures of the last
plan, solved again until they stand still (power-thermal-orbit reference, section 6.5). Tangents and inner pieces of
the curve both err to the hot and hungry side, so the plan is one that can be flown.

Not taken on trust: ``achievable`` flies the plan in the non-linear plant, tick by tick. Where the flown plan passes
a limit (the two discretise differently, by some hundredths of a kelvin), the programme's limit is drawn in by what
was missing and solved again. The value is the true mean throughput of the plan that was flown without a violation.

``reference_value`` is the reference's own figure: 12 pieces, equal steps, no replay. It exists for the check
values; where a sunlit edge falls into a step it is a little more than can be flown.
"""

from itertools import pairwise
from typing import Final

import msgspec
import numpy as np

from .plant import Trace, judge, lit_ticks, replay_powers
from .programme import Programme, Solution, Start
from .scenarios import TICK_S, Scenario
from .world import GPU_MAX_K, Floats, World, inner

STEP_S: Final = 60.0
REFERENCE_PIECES: Final = 12
PIECES: Final = 24
"""Pieces of the curve: with 24 the chords cost 0.006 % of an orbit's work, with 12 0.03 %."""
FIRST_GUESS_K: Final = 308.0
SETTLED_K: Final = 0.05
ITERATIONS_MAX: Final = 6
REPAIRS_MAX: Final = 8
REPAIR_MARGIN_K: Final = 0.0005
REPAIR_MARGIN_J: Final = 2.0


class Achieved(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that was flown without a violation, and its true mean throughput. ``solution`` is the LP behind it."""

    value: float
    gpu_w: Floats
    solution: Solution
    trace: Trace
    programme: Programme


class NotFlyable(Exception):
    """No plan could be flown without a violation; says what was left."""


def settle(programme: Programme, middle_k: Floats, settled_k: float, iterations: int) -> tuple[Solution, int]:
    """Solve with tangents at the last plan's temperatures until those move by less than ``settled_k``."""
    taken = 0
    for taken in range(1, iterations + 1):  # noqa: B007 - the count is an answer.
        programme.tangents(middle_k)
        solution = programme.solve()
        moved_k = float(np.abs(solution.middle_k - middle_k).max())
        middle_k = solution.middle_k
        if moved_k < settled_k:
            break
    return solution, taken


def grid(scenario: Scenario) -> tuple[Floats, Floats]:
    """Steps of the scenario problem and their sunlit share, 0 or 1: no step reaches over a sunlit edge.

    The edges are the plant's own, on its ticks. A step that is half in the dark would let the plan average an
    array that is on and off, which no battery can do: with such steps the plans are not flyable.
    """
    lit = lit_ticks(scenario.truth, scenario.ticks)
    edges = np.concatenate(([0], np.flatnonzero(np.diff(lit)) + 1, [len(lit)]))
    per_step = int(STEP_S // TICK_S)
    ticks: list[int] = []
    share: list[float] = []
    for first, last in pairwise(edges.tolist()):
        whole, rest = divmod(last - first, per_step)
        pieces = [per_step] * whole + ([rest] if rest else [])
        ticks += pieces
        share += [float(lit[first])] * len(pieces)
    return np.array(ticks) * TICK_S, np.array(share)


def start_of(scenario: Scenario) -> Start:
    """Its initial state."""
    return Start(scenario.energy_j, scenario.gpu_k, scenario.radiator_k)


def reference_value(world: World, steps: int, start: Start | None) -> tuple[Solution, int]:
    """The reference's achievable value of a problem of 60 s steps, and the iterations it took."""
    steps_s, sunlit = np.full(steps, STEP_S), world.sunlit(steps, STEP_S)
    programme = Programme(world, steps_s, sunlit, inner(REFERENCE_PIECES), start)
    if start is None:
        return settle(programme, np.full(steps, 310.0), 0.02, 8)
    return settle(programme, np.full(steps, FIRST_GUESS_K), SETTLED_K, 4)


def achievable(scenario: Scenario) -> Achieved:
    """The clairvoyant's plan for a scenario. Raises ``NotFlyable`` and ``NotOptimal``."""
    steps_s, sunlit = grid(scenario)
    programme = Programme(scenario.truth, steps_s, sunlit, inner(PIECES), start_of(scenario))
    middle_k = np.full(len(steps_s), FIRST_GUESS_K)
    limit_k, floor_j = GPU_MAX_K, scenario.truth.energy_min_j
    for _ in range(REPAIRS_MAX):
        solution, _ = settle(programme, middle_k, SETTLED_K, ITERATIONS_MAX)
        middle_k = solution.middle_k
        trace = replay_powers(scenario, np.repeat(solution.gpu_w, (steps_s // TICK_S).astype(int)))
        outcome = judge(scenario, trace)
        over_k = outcome.gpu_max_k - GPU_MAX_K
        under_j = scenario.truth.energy_min_j - outcome.soc_min * scenario.truth.capacity_j
        if not outcome.heat_violation_s and not outcome.soc_violation_s:
            return Achieved(
                value=outcome.mean_throughput,
                gpu_w=solution.gpu_w,
                solution=solution,
                trace=trace,
                programme=programme,
            )
        limit_k -= over_k + REPAIR_MARGIN_K if over_k > 0.0 else 0.0
        floor_j += under_j + REPAIR_MARGIN_J if under_j > 0.0 else 0.0
        programme.limits(limit_k, floor_j)
    raise NotFlyable(f"scenario {scenario.id}: still {over_k:.3f} K over and {under_j:.0f} J under the limits")

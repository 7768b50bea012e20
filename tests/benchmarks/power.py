"""Part ``power``: the governor against a clairvoyant, the planner's time, the plant's speed, shedding, tracking.

The governor's figures are those of ``hil governor-bench`` on the report set, whose seeds no tuning has seen: 1,000
scenarios of six orbits. Results are kept in ``out/governor-bench`` and tied to the sources they were made with, so
a second call only flies what has changed; the first one takes about an hour on two cores.

Shedding is measured on real processes and wants a machine that does nothing else.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import shed
from results import Result, measured
from spine import percentile
from tracking import power_tracking_error

from flightsw.core import planning
from flightsw.core.plan import Plan, PlanRequest
from flightsw.planner.solver import Solver
from hil.plant.speed import reference_times_real, times_real
from hil.yardstick.campaign import Order, carry_out
from hil.yardstick.flight import Planned
from hil.yardstick.plant import fly
from hil.yardstick.scenarios import SETS, make

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "out" / "governor-bench"
SCENARIOS: Final = 1000
REPORTED: Final = ("planner", "closed_form", "energy_neutral", "hysteresis")
BOUNDS: Final = 60
"""Scenarios, drawn at random, whose bound is proved."""
SOLVED: Final = 12
"""Scenarios of the tuning set whose plans are timed: some 3,500 of them."""
ALARMS: Final = 1000
CUTS: Final = 200
FRAMES_PER_S: Final = 10.0


def run() -> Iterator[Result]:
    """All figures of power and heat, cheapest first."""
    yield from plant()
    yield from solver()
    yield from tracking()
    yield from shedding()
    yield from governors()


def plant() -> Iterator[Result]:
    """The embedded plant, stepwise from Python at 1 s."""
    yield measured(
        "plant.times_real", times_real(), "×", goal=100_000.0, better="higher",
        baseline=reference_times_real(), baseline_name="the reference's two nodes in bare Python",
    )  # fmt: skip


class Timed(Solver):
    """The planner's solver, with its processor time for each plan."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def solve(self, request: PlanRequest, deadline_s: float) -> Plan:
        """As ever."""
        plan = super().solve(request, deadline_s)
        self.seconds.append(plan.solve_s)
        return plan


def solver() -> Iterator[Result]:
    """Processor time of a plan, and of all power work of the daemon at 10 frames a second."""
    timed, tick_s = Timed(), []
    for number in list(SETS["tune"])[:SOLVED]:
        scenario = make(number)
        outcome, _ = fly(scenario, Planned(scenario.belief, timed))
        tick_s.append(outcome.tick_cpu_s * scenario.ticks)
    solve_ms = [1000.0 * s for s in timed.seconds]
    yield measured(
        "planner.solve_p99_ms", percentile(solve_ms, 0.99), "ms", goal=100.0, better="lower",
        baseline=percentile(solve_ms, 0.50), baseline_name="median of the same run",
    )  # fmt: skip
    ticks = sum(make(number).ticks for number in list(SETS["tune"])[:SOLVED])
    frame_s = (sum(tick_s) - sum(timed.seconds)) / ticks
    plan_s = sum(timed.seconds) / len(timed.seconds) / planning.Config().replan_s
    yield measured(
        "power.core_fraction", 100.0 * (FRAMES_PER_S * frame_s + plan_s), "% of a core", goal=1.0, better="lower",
        baseline=100.0 * FRAMES_PER_S * frame_s, baseline_name="without the planner",
    )  # fmt: skip


def tracking() -> Iterator[Result]:
    """Mean power over 10 s against its budget, worst from idle to maximum; simulated card, real pacing, virtual
    time."""
    yield measured(
        "power.tracking_error", power_tracking_error(), "%", goal=5.0, better="lower", baseline=None,
        baseline_name="",
    )  # fmt: skip


def shedding() -> Iterator[Result]:
    """From the frame that raises a bus alarm to the last kernel, and to the GPU-off command; real processes."""
    for name, measure, count, goal_ms in (
        ("shed.last_kernel_p999_ms", shed.last_kernel, ALARMS, 50.0),
        ("shed.gpu_off_p999_ms", shed.gpu_off, CUTS, 250.0),
    ):
        with tempfile.TemporaryDirectory(prefix="gpusat-bench-") as folder:
            latencies_ms = [1000.0 * s for s in measure(Path(folder), count)]
        yield measured(
            name, percentile(latencies_ms, 0.999), "ms", goal=goal_ms, better="lower",
            baseline=percentile(latencies_ms, 0.50), baseline_name=f"median of the same {count}",
        )  # fmt: skip


def governors() -> Iterator[Result]:
    """Scores on the report set, in percent of the clairvoyant that was flown; the bound's gap beside them."""
    order = Order(scenarios=SCENARIOS, folder=FOLDER, rivals=REPORTED, bounds=BOUNDS)
    report, _ = carry_out(order, lambda what, done, total: None)
    row = {score.rival: score for score in report.scores}
    planner, closed, reference = row["planner"], row["closed_form"], row["energy_neutral"]
    yield measured(
        "governor.planner_mean", planner.mean, "%", goal=98.0, better="higher",
        baseline=reference.mean, baseline_name="the reference's closed form",
    )  # fmt: skip
    yield measured(
        "governor.planner_worst", planner.worst, "%", goal=95.5, better="higher",
        baseline=reference.worst, baseline_name="the reference's closed form",
    )  # fmt: skip
    yield measured(
        "governor.closed_mean", closed.mean, "%", goal=96.8, better="higher",
        baseline=reference.mean, baseline_name="the reference's closed form",
    )  # fmt: skip
    broken = sum(score.soc_violations + score.heat_violations for score in (planner, closed))
    hysteresis = row["hysteresis"]
    yield measured(
        "governor.violations", broken, "scenarios", goal=0.0, better="lower",
        baseline=hysteresis.soc_violations + hysteresis.heat_violations, baseline_name="on/off hysteresis",
    )  # fmt: skip
    assert report.gap is not None, "the order asks for bounds"
    yield measured(
        "governor.bound_gap", report.gap.worst, "%", goal=0.1, better="lower",
        baseline=report.gap.mean, baseline_name=f"mean of the same {report.gap.scenarios}",
    )  # fmt: skip

"""Part ``services``: the virtual day, the exhaustive exploration, limit to response, coverage of core and link.

The virtual runs count processor time of this process, which is the same on a busy machine.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import process_time

from crossings import SAMPLE_S, measure
from results import Result, measured
from spine import percentile

from hil import endurance, exploration
from hil.plant.plant import Loads, Plant

ROOT = Path(__file__).resolve().parents[2]
SEED = 1
HOURS = 24.0
CROSSINGS = 120
"""On each kind of wire."""
RESPONSE_MS = 1000.0 * SAMPLE_S + 100.0
"""One sample period and 100 ms."""
PACKAGES = ("core", "link")


def run() -> Iterator[Result]:
    """All figures of the services, cheapest first."""
    yield from explored()
    yield from mission()
    yield from crossed()
    yield from covered()


def mission() -> Iterator[Result]:
    """24 virtual hours at 1 Hz with a fault every ten minutes."""
    verdict = endurance.fly(HOURS, 1.0, SEED)
    begin_s = process_time()
    plant, loads = Plant(seed=SEED), Loads(gpu_power_w=400.0)
    for _ in range(verdict.frames):
        plant.step(1.0, loads)
        plant.sense()
    yield measured(
        "mission24h.s", verdict.processor_s, "s", goal=60.0, better="lower",
        baseline=process_time() - begin_s, baseline_name="plant alone",
    )  # fmt: skip
    # A fault that was answered and not recovered from, and a broken standing rule, are open ends too.
    open_ends = verdict.unanswered + verdict.not_recovered + len(verdict.violations) + verdict.violations_left_out
    yield measured(
        "mission24h.unanswered", open_ends, "faults", goal=0.0, better="lower",
        baseline=verdict.due, baseline_name="faults that were due",
    )  # fmt: skip


def explored() -> Iterator[Result]:
    """Every state of mode × FDIR × payload; raises when something is not proved, because a figure would lie."""
    report = exploration.explore()
    if not report.ok:
        wrong = [violation.rule for violation in report.violations] + list(report.rows_missed)
        raise RuntimeError(f"not proved: {'; '.join(wrong)}")
    yield measured(
        "explore.states", report.states, "states", goal=None, better="higher",
        baseline=report.transitions, baseline_name="transitions",
    )  # fmt: skip
    yield measured("explore.s", report.processor_s, "s", goal=30.0, better="lower", baseline=None, baseline_name="")


def crossed() -> Iterator[Result]:
    """From a limit that is crossed in the world to the response on the actuator wire, over pty and UDP."""
    latencies_ms: list[float] = []
    for kind in ("pty", "udp"):
        with tempfile.TemporaryDirectory(prefix="gpusat-bench-") as folder:
            latencies_ms += [1000.0 * s for s in measure(Path(folder), kind, CROSSINGS, SEED)]
    yield measured(
        "fdir.latency_p99_ms", percentile(latencies_ms, 0.99), "ms", goal=RESPONSE_MS, better="lower",
        baseline=percentile(latencies_ms, 0.50), baseline_name="median of the same run",
    )  # fmt: skip


def covered() -> Iterator[Result]:
    """Line and branch coverage of the flight code that decides, by its own tests."""
    with tempfile.TemporaryDirectory(prefix="gpusat-bench-") as folder:
        path = Path(folder) / "coverage.json"
        command = [
            sys.executable, "-m", "pytest", "-q", "tests/core", "tests/link", "--cov-branch",
            *(f"--cov=flightsw.{package}" for package in PACKAGES), f"--cov-report=json:{path}",
        ]  # fmt: skip
        environment = os.environ | {"COVERAGE_FILE": str(Path(folder) / ".coverage")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"tests of core and link are red:\n{done.stdout[-1000:]}")
        files = json.loads(path.read_text())["files"]
    for package in PACKAGES:
        yield measured(
            f"coverage.{package}", coverage(files, f"flightsw/{package}/"), "%", goal=100.0, better="higher",
            baseline=None, baseline_name="",
        )  # fmt: skip


def coverage(files: dict[str, dict[str, dict[str, int]]], folder: str) -> float:
    """Percent of the lines and branches in a folder that were run, from coverage's JSON report."""
    run_of_all = [
        (
            summary["covered_lines"] + summary["covered_branches"],
            summary["num_statements"] + summary["num_branches"],
        )
        for name, entry in files.items()
        if name.startswith(folder)
        for summary in (entry["summary"],)
    ]
    return 100.0 * sum(run for run, _ in run_of_all) / sum(every for _, every in run_of_all)

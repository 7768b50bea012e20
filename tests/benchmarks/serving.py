"""Cost of integrity while answers are served: answers per second and latency at each level, with an A/A control.

    python tests/benchmarks/serving.py [tiny|char|gpt2-85m|hf:NAME] [--rounds N] [--rows N] [--tokens N]

A server without a daemon gets all requests at once and runs until the last reply. Rounds go through the levels in
turn, off twice; what is compared is processor time (ratio of medians to the first off), so other work on the
machine moves it little, and the second off says how little. Latency is wall-clock time, and only a quiet machine
gives it.
"""

import argparse
import statistics

import torch

from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import InferSpec
from flightsw.gpu.workloads.job import Job
from flightsw.gpu.workloads.sources import open_source
from flightsw.link.integrity import Level
from hil.integrity.contestants import One, Serving, Shape

ARMS = ("off", "off (A/A)", "watch", "standard", "storm")
CPU = torch.device("cpu")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="tiny")
    for name, default in (("rounds", 5), ("rows", 8), ("prompt", 96), ("tokens", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = Shape(
        name=options.model, kind="infer", preset=options.model, rows=options.rows, prompt=options.prompt,
        tokens=options.tokens,
    )  # fmt: skip
    if ":" in options.model:
        spec = InferSpec(model=options.model, batch_max=options.rows)
        source = open_source(spec, CPU, Job(lambda message: None, Pacer(1.0), Meter()))
    else:
        source = One(options.model, options.rows, CPU)
    server = Serving(shape, source, CPU)
    cpu_s: dict[str, list[float]] = {arm: [] for arm in ARMS}
    latency_s: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(options.rounds + 1):
        for arm in ARMS[number % len(ARMS) :] + ARMS[: number % len(ARMS)]:
            server.set_level(Level[arm.split()[0].upper()])
            spent_s = server.run(1)
            if number:  # The first round is to get warm.
                cpu_s[arm].append(spent_s)
                latency_s[arm].append(server.latency_s)
    base_s = statistics.median(cpu_s["off"])
    print(f"{options.model}: {options.rows} answers of {options.tokens} tokens at once, one core")
    print("level       answers/cpu-s  ratio   spread          latency s")
    for arm in ARMS:
        cost = [spent / base_s for spent in cpu_s[arm]]
        print(
            f"{arm:<12}{options.rows / statistics.median(cpu_s[arm]):>12.2f}{statistics.median(cost):>8.3f}"
            f"   {min(cost):.3f} to {max(cost):.3f}{statistics.median(latency_s[arm]):>10.2f}"
        )


if __name__ == "__main__":
    main()

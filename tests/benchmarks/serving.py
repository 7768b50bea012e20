"""Cost of integrity while answers are served: answers per second and latency at each level, with an A/A control.

    python tests/benchmarks/serving.py [tiny|char|gpt2-85m|hf:NAME] [--rounds N] [--answers N] [--tokens N]

A server without a daemon gets all requests at once and runs until the last reply. Rounds go through the levels in
turn, off twice; what is compared is processor time (ratio of medians to the first off), so other work on the
machine moves it little, and the second off says how little. Latency is wall-clock time, and only a quiet machine
gives it.
"""

import argparse
import statistics
import time

import torch

from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import Generate, InferSpec, IntegrityReport, Reply, Vigilance
from flightsw.gpu.workloads.gpt import GPT, PRESETS
from flightsw.gpu.workloads.infer import Server, Source, open_source
from flightsw.gpu.workloads.job import Job
from flightsw.gpu.workloads.served import GptEngine, Model

ARMS = ("off", "off (A/A)", "watch", "standard", "storm")
PROMPT = "The satellite crosses the belt, and every word of its answer is looked at before it leaves. "


class One:
    """A source of one fresh model of a preset."""

    def __init__(self, preset: str, rows: int) -> None:
        torch.manual_seed(1)
        self.model = Model(GptEngine(GPT(PRESETS[preset].model), rows, torch.device("cpu")), 1, 1)

    def first(self) -> Model:
        return self.model

    def again(self) -> None:
        return None

    def newer(self) -> None:
        return None

    def close(self) -> None:
        pass


class Bench:
    """One server; every arm sets its level before its round."""

    def __init__(self, model: str, rows: int) -> None:
        self.sent: list[object] = []
        self.job = Job(self.sent.append, Pacer(1.0), Meter())
        spec = InferSpec(model=model, batch_max=rows, queue_max=4096, integrity="off")
        source: Source = open_source(spec, torch.device("cpu"), self.job) if ":" in model else One(model, rows)
        self.server = Server(spec, self.job, source)
        self.server.begin(torch.device("cpu"))

    def round(self, arm: str, answers: int, tokens: int) -> tuple[float, float]:
        """All requests to their replies at an arm's level: processor seconds, and mean latency in seconds."""
        self.job.post(Vigilance(level=arm.split()[0]))
        self.server.turn()
        self.sent.clear()
        for number in range(answers):
            self.job.post(
                Generate(request=number, prompt=PROMPT, max_tokens=tokens, temperature=0.8, top_k=0, seed=number)
            )
        began_s = time.process_time()
        found: list[Reply] = []
        while len(found) < answers:
            self.server.turn()
            found = [message for message in self.sent if isinstance(message, Reply)]
        assert {reply.finish for reply in found} <= {"length", "stop"}, found
        return time.process_time() - began_s, statistics.mean(reply.duration_s for reply in found)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="tiny")
    for name, default in (("rounds", 5), ("answers", 16), ("tokens", 32), ("rows", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.model, options.rows)
    cpu_s: dict[str, list[float]] = {arm: [] for arm in ARMS}
    latency_s: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(options.rounds + 1):
        for arm in ARMS[number % len(ARMS) :] + ARMS[: number % len(ARMS)]:
            cpu, latency = bench.round(arm, options.answers, options.tokens)
            if number:  # The first round is to get warm.
                cpu_s[arm].append(cpu)
                latency_s[arm].append(latency)
    bench.server.fail_all("the end")
    report = [message for message in bench.sent if isinstance(message, IntegrityReport)][-1]
    assert report.detected == 0, report
    base_s = statistics.median(cpu_s["off"])
    print(f"{options.model}, {options.rows} rows, {options.answers} answers of {options.tokens} tokens, one core")
    print("level       answers/cpu-s  ratio   spread          latency s")
    for arm in ARMS:
        cost = [spent / base_s for spent in cpu_s[arm]]
        print(
            f"{arm:<12}{options.answers / statistics.median(cpu_s[arm]):>12.2f}{statistics.median(cost):>8.3f}"
            f"   {min(cost):.3f} to {max(cost):.3f}{statistics.median(latency_s[arm]):>10.2f}"
        )


if __name__ == "__main__":
    main()

"""The bench's load as a process: each kind of work, what it refuses, and that it ends with its bench."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flightsw.gpu.bench_load import Kernel, Partition, main
from flightsw.gpu.workloads.job import JobFault
from flightsw.link import load
from flightsw.link.load import Answer, Order
from flightsw.link.meter import METER_LAYOUT

COMMAND = (sys.executable, "-m", "flightsw.gpu.bench_load")
WAIT_S = 60.0


class Process:
    """One load and its meter."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.meter = folder / "meter"
        self.process = subprocess.Popen(
            [*COMMAND, "--meter", str(self.meter), "--device", device, "--preset", "micro"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.number = 0
        self.greeting = self.hear()

    def hear(self) -> Answer:
        return load.decode_answer(self.process.stdout.readline())

    def say(self, **order: object) -> Answer:
        self.number += 1
        self.process.stdin.write(load.encode(Order(id=self.number, **order)))
        self.process.stdin.flush()
        answer = self.hear()
        assert answer.id == self.number
        return answer

    def units(self) -> int:
        return METER_LAYOUT.unpack(self.meter.read_bytes()[: METER_LAYOUT.size])[1]

    def works(self) -> bool:
        """Whether units come; waits for the third, or a while."""
        begin, deadline_s = self.units(), time.monotonic() + 10.0
        while time.monotonic() < deadline_s:
            if self.units() >= begin + 3:
                return True
        return False


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    running = Process(tmp_path_factory.mktemp("load"))
    yield running
    running.process.stdin.close()
    assert running.process.wait(WAIT_S) == 0
    running.process.stdout.close()
    running.process.stderr.close()


def test_it_greets_with_what_it_is(process: Process) -> None:
    assert (process.greeting.id, process.greeting.device, process.greeting.ok) == (-1, "cpu", True)
    assert "torch" in process.greeting.software


# (order, tokens of one unit)
WORK = (
    ({"work": "train"}, 4 * 32),
    ({"work": "train", "batch": 2}, 2 * 32),
    ({"work": "train", "batch": 2, "duty": 0.5}, 2 * 32),
    ({"work": "decode", "batch": 3}, 3),
    ({"work": "decode"}, 8),
    ({"work": "kernel", "kernel_s": 0.002}, 0),
    ({"work": "kernel", "kernel_s": 0.002, "duty": 0.5, "period_s": 0.02}, 0),
)


@pytest.mark.parametrize(("order", "tokens"), WORK, ids=[str(order) for order, _ in WORK])
def test_it_does_what_it_is_told_and_rests_when_told(process: Process, order: dict, tokens: int) -> None:
    answer = process.say(**order)
    assert (answer.ok, answer.units_tokens) == (True, tokens), answer.reason
    assert answer.unit_s > 0.0
    assert process.works()
    assert process.say().ok
    count = process.units()
    # It has answered, so it rests: another order and its answer take a while in which nothing moves.
    assert process.say().ok
    assert process.units() == count


def test_a_partition_on_a_processor_is_refused_and_the_load_lives(process: Process) -> None:
    answer = process.say(work="train", sms=16)
    assert (answer.ok, answer.reason) == (False, "a processor has no multiprocessors to partition")
    assert process.say(work="train").ok


def test_a_line_that_is_no_order_is_dropped(process: Process) -> None:
    process.process.stdin.write(b"nonsense\n")
    assert process.say().ok


def test_a_longer_kernel_is_ordered_and_got() -> None:
    def length_s(kernel_s: float) -> float:
        kernel, times_s = Kernel(kernel_s, torch.device("cpu")), []
        for _ in range(9):
            start_s = time.monotonic()
            kernel.unit()
            times_s.append(time.monotonic() - start_s)
        return min(times_s)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert length_s(0.1) > 3.0 * length_s(0.002)
    finally:
        torch.set_num_threads(threads)


REFUSED = {
    "cuda": (("--meter", "METER", "--device", "cuda"), "no CUDA device is usable here"),
    "no place for the meter": (("--meter", "nowhere/meter", "--device", "cpu"), "nowhere/meter: No such file"),
}


@pytest.mark.parametrize(("arguments", "line"), REFUSED.values(), ids=REFUSED)
def test_wrong_use_is_one_line(
    tmp_path: Path,
    arguments: tuple[str, ...],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a card here")
    monkeypatch.chdir(tmp_path)
    assert main([str(tmp_path / "meter") if a == "METER" else a for a in arguments]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert line in told.err
    assert told.err.count("\n") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_partition_of_a_real_card_is_slower_than_the_whole() -> None:
    device = torch.device("cuda")
    kernel = Kernel(0.02, device)

    def timed(partition: Partition) -> float:
        times_s = []
        for _ in range(5):
            start_s = time.monotonic()
            with partition.entered():
                kernel.unit()
            times_s.append(time.monotonic() - start_s)
        return min(times_s)

    try:
        part = Partition(16, device)
    except JobFault as fault:
        pytest.skip(fault.reason)
    assert timed(part) > 1.5 * timed(Partition(0, device))

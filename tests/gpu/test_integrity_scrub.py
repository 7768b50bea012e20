"""The scrubber: its share of time holds, every block gets its turn, and the gate of answers opens late enough."""

import pytest
import torch
from torch import Tensor

from flightsw.gpu.integrity.digest import BLOCK_WORDS
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.regions import regions_of
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.integrity.scrub import CREDIT_MAX_S, TURN_MAX_S, Budget, Scrubber, earn, spend

BLOCKS = 6
BLOCK_S = 0.004


class Bench:
    """Six small blocks, and a clock that runs by what a block costs: slower and faster in turn."""

    def __init__(self, blocks: int = BLOCKS) -> None:
        self.tensors = [torch.full((3,), float(index)) for index in range(blocks)]
        self.findings: list[Finding] = []
        named = [(f"weight {index}", tensor) for index, tensor in enumerate(self.tensors)]
        self.resident = Clocked(regions_of(named), self.findings.append)
        self.resident.adopt()
        self.scrubber = Scrubber(self.resident, lambda: self.resident.now_s)

    def memory(self, index: int) -> Tensor:
        return torch.empty(0, dtype=torch.uint8).set_(self.tensors[index].untyped_storage())

    def hit(self, index: int, words: int = 1) -> None:
        for word in range(words):
            self.memory(index)[4 * word] ^= 0x10


class Clocked(Resident):
    """A resident whose looks take time on a clock of its own."""

    now_s = 100.0
    looks = 0

    def verify(self, first_block: int = 0, count: int | None = None) -> bool:
        assert count is not None
        self.looks += count
        self.now_s += count * BLOCK_S * (1.7 if self.looks % 5 else 0.4)
        return super().verify(first_block, count)


@pytest.mark.parametrize("share", [0.002, 0.01, 0.03, 0.5])
@pytest.mark.parametrize("worked_s", [0.003, 0.1, 4.0])
def test_the_share_holds_whatever_a_block_costs(share: float, worked_s: float) -> None:
    bench = Bench(40)
    turns = int(200 * BLOCK_S / (share * worked_s)) + 100
    for _ in range(turns):
        assert bench.scrubber.turn(worked_s, share)
    spent, earned = bench.scrubber.progress.busy_s, turns * worked_s * share
    assert spent <= earned + 2 * BLOCK_S
    # What is not spent: the savings for a block, and what goes beyond one round in a turn.
    assert spent >= 0.8 * earned - 3 * BLOCK_S or bench.resident.looks >= 40 * (turns - 3)


def test_a_share_that_changes_is_followed_at_once() -> None:
    bench = Bench()
    for share, expected in ((0.0, 0.0), (0.5, 0.5), (0.01, 0.01), (0.0, 0.0)):
        before = bench.scrubber.progress.busy_s
        for _ in range(400):
            bench.scrubber.turn(0.02, share)
        assert bench.scrubber.progress.busy_s - before == pytest.approx(8.0 * expected, abs=0.03)


@pytest.mark.parametrize(
    ("budget", "worked_s", "share", "credit_s", "blocks"),
    [
        (Budget(0.0, 0.001), 1.0, 0.0, 0.0, 0),  # Off.
        (Budget(0.5, 0.001), 1.0, 0.0, 0.5, 0),  # Off, with savings.
        (Budget(0.0, 0.001), 1.0, 0.01, 0.01, 10),
        (Budget(0.0, 0.0), 1.0, 0.01, 0.01, 1),  # Cost unknown.
        (Budget(0.0, 0.02), 1.0, 0.01, 0.01, 0),  # Saves for a block.
        (Budget(-0.03, 0.001), 1.0, 0.01, -0.02, 0),  # Owes.
        (Budget(0.9, 0.001), 20.0, 0.01, CREDIT_MAX_S, 200),  # Full, and this turn's own share.
        (Budget(0.9, 0.001), 0.1, 0.01, 0.901, int(TURN_MAX_S / 0.001)),  # A turn stays short.
        (Budget(0.0, 1e-9), 1.0, 1.0, 1.0, 4096),
    ],
)
def test_earnings(budget: Budget, worked_s: float, share: float, credit_s: float, blocks: int) -> None:
    after, turn = earn(budget, worked_s, share)
    assert after.credit_s == pytest.approx(credit_s)
    assert turn == blocks


def test_what_was_spent_is_paid_and_the_cost_follows() -> None:
    budget = spend(Budget(0.5, 0.0), 2, 0.02)
    assert (budget.credit_s, budget.block_s) == (pytest.approx(0.48), pytest.approx(0.01))
    assert spend(budget, 1, 0.02).block_s == pytest.approx(0.012)


@pytest.mark.parametrize(("worked_s", "share"), [(-1.0, 0.1), (float("nan"), 0.1), (1.0, -0.1), (1.0, 1.1)])
def test_numbers_out_of_range(worked_s: float, share: float) -> None:
    with pytest.raises(ValueError, match="are allowed"):
        Bench().scrubber.turn(worked_s, share)


def test_every_block_gets_its_turn() -> None:
    bench = Bench()
    for index in range(BLOCKS):
        bench.hit(index)
    while bench.scrubber.passes < 2:
        assert bench.scrubber.turn(0.02, 0.5)
    assert sorted(finding.where for finding in bench.findings) == [f"weight {index}" for index in range(BLOCKS)]
    assert all(finding.outcome == "repaired" for finding in bench.findings)
    assert all(torch.equal(tensor, torch.full((3,), float(index))) for index, tensor in enumerate(bench.tensors))


def test_progress_for_people() -> None:
    bench = Bench()
    assert bench.scrubber.progress.gb_per_s == 0.0
    assert bench.scrubber.finish_pass(10.0)
    progress = bench.scrubber.progress
    assert (progress.block, progress.blocks, progress.passes) == (0, BLOCKS, 1)
    assert progress.last_pass_s == pytest.approx(progress.busy_s)
    assert progress.gb_per_s == pytest.approx(72 / progress.busy_s / 1e9)


def go_round(bench: Bench, blocks: int) -> None:
    """Look at so many blocks in turns of one."""
    looks = bench.resident.looks
    while bench.resident.looks < looks + blocks:
        bench.scrubber.turn(BLOCK_S, 0.5)


def test_the_gate_opens_after_one_round_from_wherever_it_stands() -> None:
    bench = Bench()
    go_round(bench, 2)
    mark = bench.scrubber.mark()
    go_round(bench, BLOCKS - 1)
    assert bench.scrubber.passes == 1
    assert not bench.scrubber.begun_after(mark)
    go_round(bench, 1)
    assert bench.scrubber.begun_after(mark)
    assert not bench.scrubber.begun_after(bench.scrubber.mark())


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("looked", [0, 1, BLOCKS])
def test_a_hit_keeps_the_gate_shut_also_when_it_is_repaired(block: int, looked: int) -> None:
    """Whether it is found before the answer's last token or after it."""
    bench = Bench()
    go_round(bench, 3)
    start = bench.scrubber.mark()
    bench.hit(block)
    go_round(bench, looked)
    end = bench.scrubber.mark(since=start)
    go_round(bench, 2 * BLOCKS)
    assert not bench.scrubber.begun_after(end)
    assert bench.scrubber.spoiled(end)
    # What begins now is made with good memory.
    mark = bench.scrubber.mark()
    assert not bench.scrubber.spoiled(mark)
    go_round(bench, BLOCKS)
    assert bench.scrubber.begun_after(mark)


def test_damage_that_stays_keeps_the_gate_shut() -> None:
    bench = Bench()
    bench.hit(4, words=2)
    assert not bench.scrubber.finish_pass(10.0)
    assert not bench.scrubber.finish_pass(10.0)
    assert [finding.outcome for finding in bench.findings] == ["open"]


def test_a_hit_that_somebody_else_found_counts() -> None:
    bench = Bench()
    mark = bench.scrubber.mark()
    bench.hit(2)
    assert bench.resident.verify(0, BLOCKS)
    assert not bench.scrubber.finish_pass(10.0, mark)
    assert bench.scrubber.spoiled(mark)


def test_new_state_spoils_what_was_marked_on_the_old() -> None:
    bench = Bench()
    mark = bench.scrubber.mark()
    bench.resident.adopt()
    assert bench.scrubber.spoiled(mark)
    assert not bench.scrubber.finish_pass(10.0, mark)
    assert bench.scrubber.finish_pass(10.0)


def test_a_pass_that_cannot_wait_is_bounded_and_owed() -> None:
    bench = Bench()
    mark = bench.scrubber.mark()
    assert not bench.scrubber.finish_pass(2 * BLOCK_S, mark)
    assert bench.resident.looks < BLOCKS
    assert bench.scrubber.finish_pass(10.0, mark)
    looks = bench.resident.looks
    assert looks == BLOCKS
    bench.scrubber.turn(0.01, 0.5)
    assert bench.resident.looks == looks
    for _ in range(20):
        bench.scrubber.turn(0.01, 0.5)
    assert bench.resident.looks > looks


def test_fewer_blocks_after_an_adoption() -> None:
    bench = Bench()
    go_round(bench, 5)
    bench.resident.adopt(regions_of([("less", bench.tensors[0])]))
    mark = bench.scrubber.mark()
    assert bench.scrubber.finish_pass(1.0, mark)


def test_nothing_to_guard_keeps_no_gate_shut() -> None:
    bench = Bench(0)
    assert bench.scrubber.turn(1.0, 1.0)
    assert bench.scrubber.finish_pass(1.0)


def test_blocks_of_one_large_region_on_the_real_clock() -> None:
    weight = torch.randn(3 * BLOCK_WORDS)
    findings: list[Finding] = []
    resident = Resident(regions_of([("weight", weight)]), findings.append)
    resident.adopt()
    scrubber = Scrubber(resident)
    torch.empty(0, dtype=torch.uint8).set_(weight.untyped_storage())[2 * BLOCK_WORDS * 4 + 1] ^= 4
    assert not scrubber.finish_pass(30.0)
    assert scrubber.finish_pass(30.0)
    assert scrubber.progress.gb_per_s > 0.0
    assert [finding.outcome for finding in findings] == ["repaired"]

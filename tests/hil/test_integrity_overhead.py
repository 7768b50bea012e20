"""How overhead is estimated: against both twins, a piece at a time, on one thread, in rounds that are whole."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
import torch

from flightsw.gpu.workloads import corpus
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.link.integrity import Level
from hil.integrity import overhead
from hil.integrity.contestants import Shape, contestant
from hil.integrity.overhead import ROUNDS_MAX, ROUNDS_MIN, Spent, measure, period, side_by_side

CPU = torch.device("cpu")
TRAIN = Shape(name="a training", kind="train", preset="micro", rows=2, micro_batches=3)
SERVE = Shape(name="a server", kind="infer", preset="micro", rows=2, prompt=130, tokens=4, small=True)


@pytest.fixture(scope="module")
def text() -> Corpus:
    return corpus.load("", 256)


@pytest.fixture
def two_threads():
    """A caller that computes with two threads, whatever this process did before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# (seconds of the plain twin, of the second one, of the guarded one), per cent, control's per cent
ROUNDS = [
    ((10.0, 10.0, 11.0), 10.0, 0.0),
    ((10.0, 12.0, 11.0), 0.0, 20.0),
    ((12.0, 8.0, 15.0), 50.0, -100.0 / 3.0),
]


@pytest.mark.parametrize(("seconds", "percent", "control"), ROUNDS)
def test_an_unlucky_twin_counts_half(seconds: tuple[float, float, float], percent: float, control: float) -> None:
    spent = Spent(*seconds)
    assert spent.percent == pytest.approx(percent)
    assert spent.control_percent == pytest.approx(control)


def test_all_advance_a_piece_at_a_time_in_an_order_drawn_anew() -> None:
    seen: list[int] = []

    def turn(number: int, pieces: int):
        for _ in range(pieces):
            seen.append(number)
            yield 10.0**number

    assert side_by_side([turn(0, 50), turn(1, 50), turn(2, 52)], Random(1)) == [50.0, 500.0, 5200.0]
    laps = [tuple(seen[lap * 3 : lap * 3 + 3]) for lap in range(50)]
    assert {tuple(sorted(lap)) for lap in laps} == {(0, 1, 2)}, "nobody is two pieces ahead"
    assert len(Counter(laps)) == 6, "every order comes up"
    assert any(one != next_one for one, next_one in pairwise(laps))
    assert seen[150:] == [2, 2], "who has more to do goes on alone"


@pytest.mark.parametrize(
    ("shape", "pieces"), [(TRAIN, 6), (SERVE, 2)], ids=lambda value: getattr(value, "kind", "")
)
@pytest.mark.parametrize("guarded", [False, True])
def test_two_units_come_in_pieces(text: Corpus, shape: Shape, pieces: int, guarded: bool) -> None:
    work = contestant(shape, text, CPU, guarded=guarded)
    work.set_level(Level.STORM if guarded else Level.OFF)
    spent = list(work.pieces(2))
    assert len(spent) == pieces
    assert all(seconds > 0.0 for seconds in spent)


# (shape, passes of a unit), then units of a round: enough for what a level does most seldom, and no more.
LENGTHS = [
    (TRAIN, 3, {Level.WATCH: 11, Level.STANDARD: 11, Level.STORM: 2}),
    (SERVE, 3, {Level.WATCH: 11, Level.STANDARD: 11, Level.STORM: 2}),
    (overhead.CPU[1], 12, {Level.WATCH: 3, Level.STANDARD: 3, Level.STORM: 1}),
    (overhead.CPU[3], 3, {Level.WATCH: 11, Level.STANDARD: 11, Level.STORM: 2}),
]


@pytest.mark.parametrize(("shape", "passes", "units"), LENGTHS)
def test_a_round_holds_a_whole_period(shape: Shape, passes: int, units: dict[Level, int]) -> None:
    assert shape.passes == passes
    assert {level: overhead.units_of(shape, level) for level in units} == units
    assert all(count * passes >= period(level) for level, count in units.items())


@pytest.mark.parametrize(("shape", "budget_s"), [(TRAIN, 0.0), (SERVE, 0.5)], ids=["train", "infer"])
def test_measured_on_one_thread_until_the_time_is_spent(
    text: Corpus, shape: Shape, budget_s: float, two_threads
) -> None:
    threads: list[int] = []
    rows = []
    for row in measure(
        shape, text, CPU, budget_s, levels=(Level.STORM,), tell=lambda said: threads.append(torch.get_num_threads())
    ):
        assert torch.get_num_threads() == 2, "put back before anybody else computes"
        rows.append(row)
    (row,) = rows
    assert set(threads) == {1}
    assert len(threads) == row.rounds
    assert (row.rounds == ROUNDS_MIN) if not budget_s else (ROUNDS_MIN < row.rounds <= ROUNDS_MAX)
    assert (row.kind, row.level, row.device, row.small) == (shape.kind, "storm", "cpu", shape.small)
    assert row.passes == overhead.units_of(shape, Level.STORM) * shape.passes
    assert row.low <= row.percent <= row.high
    assert row.control_low <= row.control_high


def test_threads_are_put_back_when_a_measurement_fails(text: Corpus, two_threads) -> None:
    def refuse(said: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(measure(TRAIN, text, CPU, 0.0, levels=(Level.STORM,), tell=refuse))
    assert torch.get_num_threads() == 2

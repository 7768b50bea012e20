"""The release gate while things change: swaps, levels, damage that stays, the end of the job."""

import random
from collections.abc import Callable

import msgspec
import pytest

from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.protocol import Generate, Reply, Swapped, Vigilance
from flightsw.gpu.workloads import infer, release
from flightsw.gpu.workloads.job import JobFault
from flightsw.gpu.workloads.release import PATIENCE, Patience
from flightsw.link.integrity import Level
from tests.gpu.answer_faults import hit_weight, hit_weights
from tests.gpu.serving_rig import REQUESTS, TURNS_MAX, Bench, Shelf, undisturbed, without_waiting


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


@pytest.fixture(scope="module")
def expected() -> tuple[str, ...]:
    return undisturbed()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held answers wait for ever while there is other work, and scrubbing gets nowhere by itself."""
    for level in Level:
        monkeypatch.setitem(PATIENCE, level, Patience(wait_s=1e9, share=1.0))
        monkeypatch.setitem(LEVELS, level, msgspec.structs.replace(LEVELS[level], scrub_share=0.0))


LONG = Generate(request=0, prompt="long", max_tokens=100, temperature=0.8, top_k=0, seed=3)


def with_one_held(level: str = "standard") -> Bench:
    """A long answer runs, a short one is held."""
    bench = Bench(level)
    bench.job.post(LONG)
    bench.job.post(msgspec.structs.replace(REQUESTS[1], request=1))
    for _ in range(TURNS_MAX):
        if any(one.finish for one in bench.server.sequences):
            return bench
        bench.server.turn()
    raise AssertionError("never held")


def turns(bench: Bench, until: Callable[[], bool]) -> None:
    for _ in range(TURNS_MAX):
        if until():
            return
        bench.server.turn()
    raise AssertionError(f"never; sent {bench.sent}")


@pytest.mark.usefixtures("patient")
def test_a_held_answer_is_failed_at_the_end_not_released() -> None:
    bench = with_one_held()
    assert bench.replies == {}
    bench.server.fail_all("the job was stopped")
    assert {number: (reply.finish, reply.text, reply.tokens) for number, reply in bench.replies.items()} == {
        0: ("failed", "the job was stopped", 0),
        1: ("failed", "the job was stopped", 0),
    }
    assert bench.job.progress.pending == 0


@pytest.mark.usefixtures("patient")
def test_a_swap_waits_for_held_answers_and_hurries_them(expected: tuple[str, ...]) -> None:
    bench = with_one_held()
    bench.shelf.next.append(bench.shelf.model(2))
    turns(bench, lambda: any(isinstance(message, Swapped) for message in bench.sent))
    kinds = [type(message) for message in bench.sent if isinstance(message, Reply | Swapped)]
    assert kinds == [Reply, Reply, Swapped]
    assert {reply.generation for reply in bench.replies.values()} == {1}
    assert bench.replies[1].text == expected[1]


@pytest.mark.usefixtures("patient")
def test_a_full_gate_hurries_the_pass(monkeypatch: pytest.MonkeyPatch, expected: tuple[str, ...]) -> None:
    monkeypatch.setattr(release, "HELD_MAX", 1)
    bench = with_one_held()
    turns(bench, lambda: 1 in bench.replies)
    assert bench.replies[1].text == expected[1]
    assert 0 not in bench.replies, "the long one runs on"


def test_a_rise_from_off_starts_anew_and_finds_old_damage(expected: tuple[str, ...]) -> None:
    bench = Bench("off")
    raised = Vigilance(level="storm")

    def rise() -> bool:
        assert hit_weight(bench, random.Random(1))
        bench.job.post(raised)
        return True

    assert bench.serve(lambda turn: turn == 5, rise)
    assert tuple(reply.text for reply in bench.answers) == expected
    report = bench.report
    assert (report.level, report.repaired, report.recomputed) == ("storm", 1, 0), "disowned, not damaged"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("words", "repaired"), [(1, 1), (3, 0)], ids=["repaired", "loaded again"])
def test_a_fall_to_off_still_passes_what_is_held(expected: tuple[str, ...], words: int, repaired: int) -> None:
    bench = with_one_held()
    damaged = bench.engine
    assert hit_weight(bench, random.Random(2), words)
    bench.job.post(Vigilance(level="off"))
    turns(bench, lambda: len(bench.replies) == 2)
    assert bench.replies[1].text == expected[1], "damage of before the fall is found by the last pass"
    assert (bench.engine is damaged) == bool(repaired)
    assert bench.report.repaired == repaired


def test_damage_twice_is_a_failure_that_says_why() -> None:
    bench = Bench("standard")
    hits = [0]

    def hit() -> bool:
        if bench.sequences():
            hit_weight(bench, random.Random(hits[0]))
            hits[0] += 1
        return False

    bench.serve(lambda turn: True, hit)
    assert hits[0] > 2
    for reply in bench.answers:
        assert (reply.finish, reply.tokens) == ("failed", 0)
        assert reply.text.endswith("no answer is released")
        assert "before that: " in reply.text
    assert bench.report.contained >= len(REQUESTS)


def test_without_a_source_to_load_from_requests_wait_and_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "MODEL_WAIT_MAX_S", 0.0)
    bench = Bench("standard")
    bench.shelf.gone = True
    assert bench.serve(lambda turn: turn > 2, lambda: hit_weights(bench, random.Random(3)))
    assert {reply.finish for reply in bench.answers} == {"failed"}
    assert all("no verified checkpoint" in reply.text for reply in bench.answers)


def test_a_model_that_never_loads_right_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shelf, "flaw", lambda shelf, module: "norm.weight in memory is not what was saved")
    with pytest.raises(JobFault, match="loaded 3 times and never as its source has it: norm") as caught:
        Bench("standard")
    assert caught.value.code == "memory"


def test_a_request_that_changes_while_it_waits_is_refused() -> None:
    bench = Bench("standard")
    one = msgspec.structs.replace(REQUESTS[0], request=1)
    bench.job.post(one)
    bench.server.turn()
    msgspec.structs.force_setattr(one, "seed", 6)
    turns(bench, lambda: bool(bench.replies))
    assert bench.replies[1].text == "the request itself changed in host memory; send it again"

"""Faults in what a cached pass hands over: met where a guard is told of it, fired there or not at all, counted by
themselves; and red when a check of it is missing."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.told import OPERATIONS, Told
from hil.integrity import answers_part, compute_part
from hil.integrity.injection import Injection, draw
from hil.integrity.injector import NeverFired
from hil.integrity.ledger import Ledger
from hil.integrity.operations import TOLD
from hil.integrity.plan import Group, prior_named
from hil.integrity.tally import coverage_figures, rows
from hil.integrity.telling import FROM_HOST
from hil.integrity.testees import Roster

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        kernels.native(torch.device("cpu"), "native_table") is None, reason="the tape needs Numba (extra native)"
    ),
]
SEED = 3
WORKS = ("steps", "chunks")


@pytest.fixture(scope="module")
def roster() -> Roster:
    return Roster(SEED, 40)


@pytest.fixture(params=WORKS)
def trial(request: pytest.FixtureRequest, roster: Roster) -> Iterator[compute_part.Trial]:
    found = compute_part.Trial(roster, f"{request.param}-told")
    yield found
    found.close()


def group(trial: compute_part.Trial | answers_part.Trial, **changes: object) -> Group:
    part = "answers" if isinstance(trial, answers_part.Trial) else "compute"
    return Group(**{"part": part, "subject": trial.info.name, "prior": "even:multi_bit+nan", "quota": 1} | changes)  # type: ignore[arg-type]


def drawn(trial: compute_part.Trial | answers_part.Trial, one: Group, count: int) -> list[Injection]:
    info, prior = one.narrowed(trial.info), prior_named(one.prior)
    return [draw(SEED, index, info, prior) for index in range(count)]


def test_a_survey_meets_all_that_is_handed_over(trial: compute_part.Trial) -> None:
    above = {site.operation for site in trial.info.sites if site.target == "activations"}
    below = {site.operation for site in trial.info.sites if site.target in ("arithmetic", "output_before_rounding")}
    names = {f"{TOLD}{func.overloadpacket.__name__}" for func in OPERATIONS}
    gathered = trial.info.name == "chunks-told"
    # A store has no result of its own, nor has a view; rows that are not all in order are gathered.
    made = names - {f"{TOLD}index_put_", f"{TOLD}reshape"}
    assert below == made | ({f"{TOLD}index"} if gathered else set())
    assert above == below | {f"{TOLD}{FROM_HOST}"}
    layers = {site.layer for site in trial.info.sites if site.operation == f"{TOLD}linear"}
    assert {"blocks.0.attention.qkv", "blocks.1.contract", "root"} <= layers


@pytest.mark.parametrize("target", ["activations", "arithmetic", "output_before_rounding", "output_after_rounding"])
def test_a_fault_is_met_where_the_guard_is_told(trial: compute_part.Trial, target: str) -> None:
    some = drawn(trial, group(trial, target=target), 4)
    found = [trial.one(one) for one in some]
    assert not any(end.released for _, end in found if end.effect != "masked")
    assert any(end.detectors for _, end in found)
    assert trial.one(some[0]) == found[0], "it is replayed from its values"


def test_a_pass_that_is_seen_and_not_told_is_no_pass(
    trial: compute_part.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(trial.guard.mode), "hands", lambda self, weight: None)
    with pytest.raises(NeverFired, match="it was not handed over to the guard; the run is invalid"):
        trial.one(drawn(trial, group(trial, target="activations"), 1)[0])


def test_a_fault_in_an_operation_that_does_not_come_never_fires(trial: compute_part.Trial) -> None:
    (one,) = drawn(trial, group(trial, target="activations", operation="*gelu"), 1)
    values = {name: getattr(one, name) for name in one.__struct_fields__}
    with pytest.raises(NeverFired, match=r"the pass ran told:gelu 2 times, number 7 is to be hit"):
        trial.one(Injection(**{**values, "call": 7}))


def unlooked(self: Told, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mutant: computed, and no note taken."""
    return F.linear(x, weight)


@pytest.mark.parametrize("sound", [True, False], ids=["as it is", "mutant: no look at the logits"])
@pytest.mark.parametrize("target", ["activations", "output_before_rounding"])
def test_coverage_falls_below_its_goal_without_a_look(
    trial: compute_part.Trial, target: str, sound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not sound:
        monkeypatch.setattr(Told, "product", unlooked)
    info = trial.info.only(target=target, layer="root", operation="*linear")
    with Ledger(tmp_path) as ledger:
        for index in range(3):
            injection = draw(SEED, index, info, prior_named("even:nan"))
            ledger.begin(injection)
            ledger.end(injection, *trial.one(injection))
    figure = next(one for one in coverage_figures(rows(tmp_path)) if one.id == "told.coverage")
    assert (figure.value, figure.met) == ((100.0, True) if sound else (0.0, False))


def test_no_wrong_answer_leaves_a_server_that_is_told(roster: Roster) -> None:
    trial = answers_part.Trial(roster, answers_part.TOLD)
    ends = [trial.one(one)[1] for one in drawn(trial, group(trial, target="output_after_rounding"), 4)]
    assert not any(end.released for end in ends)
    assert any(end.detectors for end in ends)


def test_a_fault_that_ends_the_worker_is_no_answer(roster: Roster) -> None:
    """Numbers of the host name rows and slots; one that names none is torch's own error."""
    trial = answers_part.Trial(roster, answers_part.TOLD)
    one = group(trial, target="activations", operation=f"*{FROM_HOST}", prior="even:single_bit")
    ends = [trial.one(injection)[1] for injection in drawn(trial, one, 12)]
    assert not any(end.released for end in ends)
    found = Counter(name for end in ends for name in end.detectors)
    assert found[answers_part.EXCEPTION]
    assert all("IndexError" in end.detail for end in ends if answers_part.EXCEPTION in end.detectors)

"""The parts of a guarded training: votes, boundary, batches, the fused update, what is said of gaps."""

import pytest
import torch
from msgspec.structs import replace
from worker_harness import tiny_corpus

from flightsw.gpu import protocol
from flightsw.gpu.integrity import votes
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.tally import Tally
from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.workloads import corpus, train
from flightsw.gpu.workloads.batches import BadCorpus, Batches
from flightsw.gpu.workloads.boundary import Boundary, Lost
from flightsw.gpu.workloads.compute_path import ComputePath
from flightsw.gpu.workloads.findings import LINES_MAX, LINES_S, Findings
from flightsw.gpu.workloads.guarded import Damaged, Guarded
from flightsw.gpu.workloads.job import Job
from flightsw.gpu.workloads.training_cover import gaps, training_cover
from flightsw.link.integrity import Level

A, B, C, TAINTED = b"a", b"b", b"c", None
# (runs of a step, whether a proof is wanted, exact, decisions, recomputed)
RUNS = (
    ((A,), False, True, ("use",), False),
    ((A, A), True, True, ("again", "use"), False),
    ((A, B, A), True, True, ("again", "again", "use"), True),
    ((A, B, B), True, True, ("again", "again", "use"), True),
    ((A, B, C), True, True, ("again", "again", "lost"), True),
    ((TAINTED, A), False, True, ("again", "use"), True),
    ((TAINTED, A, A), True, True, ("again", "again", "use"), True),
    ((TAINTED,) * 6, False, True, ("again",) * 5 + ("lost",), True),
    ((A, B), True, False, ("again", "use"), True),
    ((A,), False, False, ("use",), False),
)


@pytest.mark.parametrize(("runs", "wanted", "exact", "decisions", "recomputed"), RUNS)
def test_votes(runs, wanted, exact, decisions, recomputed):
    state, said = votes.State(), []
    for fingerprint in runs:
        state, decision = votes.vote(state, fingerprint, wanted=wanted, exact=exact)
        said.append(decision)
    assert tuple(said) == decisions
    assert state.recomputed is recomputed


def test_after_a_run_that_wanted_proof_the_next_one_needs_an_equal():
    """Suspect the first time, sound the second: it was the first that was wrong, or the second; a third decides."""
    state, _ = votes.vote(votes.State(), A, wanted=True)
    state, decision = votes.vote(state, B, wanted=False)
    assert decision == "again"
    assert votes.vote(state, B, wanted=False)[1] == "use"


def kept():
    found = []
    boundary = Boundary(found.append)
    states = {"random.order": torch.arange(40, dtype=torch.uint8), "counters": torch.tensor([3, 96])}
    boundary.take(states)
    states["counters"][0] = 9  # The caller's tensors are not what is kept.
    return boundary, found


def test_a_boundary_gives_back_what_it_took():
    boundary, found = kept()
    assert boundary.states()["counters"].tolist() == [3, 96]
    assert boundary.differing({"counters": torch.tensor([3, 96])}) == []
    assert boundary.differing({"counters": torch.tensor([2, 96])}) == ["counters"]
    assert found == []


def test_either_copy_of_a_boundary_may_be_hit():
    boundary, found = kept()
    boundary.states()["counters"][1] ^= 1 << 40
    assert boundary.states()["counters"].tolist() == [3, 96]
    assert [(finding.outcome, finding.where) for finding in found] == [("repaired", "counters")]
    assert boundary.states()["counters"].tolist() == [3, 96]
    assert len(found) == 1


def test_copies_that_agree_outvote_their_digest_and_two_that_do_not_are_lost(monkeypatch):
    boundary, found = kept()
    monkeypatch.setattr("flightsw.gpu.workloads.boundary.fingerprint", lambda state: "another")
    assert boundary.states()["counters"].tolist() == [3, 96]
    assert len(found) == 2
    other = iter("abcd")
    monkeypatch.setattr("flightsw.gpu.workloads.boundary.fingerprint", lambda state: next(other))
    with pytest.raises(Lost, match="both copies are damaged"):
        boundary.states()


@pytest.fixture
def spec(tmp_path):
    return protocol.TrainSpec(preset="micro", device="cpu", corpus=tiny_corpus(tmp_path), micro_batches=2)


def batches(spec):
    found = []
    text = corpus.load(spec.corpus, 32)
    return Batches(text, torch.device("cpu"), 32, 4, seed=5), found


def test_a_checked_draw_is_the_draw(spec):
    plain, checked = batches(spec)[0], batches(spec)[0]
    for _ in range(3):
        for one, other in zip(plain.draw(), checked.draw_checked(print), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("copies", [1, 2])
def test_the_corpus_is_mended_from_its_other_copy_while_one_is_good(spec, copies):
    expected = batches(spec)[0]
    drawn, found = batches(spec)
    expected.draw()
    drawn.draw_checked(found.append)
    drawn.tokens.add_(1)
    if copies == 2:
        # The copy is not to be reached from outside: a corpus whose digest is another's stands for it.
        text = corpus.load(spec.corpus, 32)
        drawn = Batches(replace(text, digest="0" * 32), torch.device("cpu"), 32, 4, seed=5)
        drawn.draw_checked(found.append)
        drawn.tokens.add_(1)
        with pytest.raises(BadCorpus, match="both copies"):
            drawn.draw_checked(found.append)
        return
    for one, other in zip(expected.draw(), drawn.draw_checked(found.append), strict=True):
        assert torch.equal(one, other)
    assert [(finding.outcome, finding.where) for finding in found] == [("repaired", "corpus")]


def fused(spec, level):
    trainer = train.prepare(spec)
    found = []
    passes = ComputePath(trainer.model, level, found.append, compiled=True)
    return Guarded(trainer, passes, level, found.append, fused=True)


def step(guarded):
    while not guarded.turn():
        pass
    return guarded.trainer.digest()


@pytest.mark.parametrize("level", [Level.WATCH, Level.STANDARD, Level.STORM])
def test_a_fused_update_is_the_update(spec, level):
    straight = train.prepare(spec)
    guarded = fused(spec, level)
    for _ in range(4):
        while not straight.micro_batch():
            pass
        assert step(guarded) == straight.digest()
    assert guarded.verifications == 4
    assert guarded.unverified == 0
    assert guarded.resident.verify()


@pytest.mark.parametrize("name", ["model.norm.bias", "optimiser.norm.weight.exp_avg"])
def test_a_fused_update_that_meets_damage_is_not_used(spec, name):
    guarded = fused(spec, Level.WATCH)
    step(guarded)
    tensor = guarded.trainer.live()[name]
    torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())[tensor.storage_offset() * 4 + 2] ^= 8
    with pytest.raises(Damaged, match="step 2: the update met"):
        step(guarded)


@pytest.mark.parametrize(
    ("change", "said"),
    [({}, ()), ({"compile": True}, ("compiled code",)), ({"deterministic": False}, ("need not agree",))],
)
def test_what_is_not_covered_is_said(spec, change, said):
    lines = gaps(replace(spec, **change))
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert words in line
    assert all(row.by for row in training_cover(spec))


def test_findings_are_one_line_each_and_bounded(capsys):
    now_s = 100.0
    tally = Tally(Level.WATCH)
    findings = Findings(tally, "train", lambda: now_s)
    for number in range(LINES_MAX + 5):
        finding = Finding(detector="digest", outcome="repaired", where=f"place {number}", detail="one word")
        findings.add(finding)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: integrity: place 0: repaired (digest): one word"
    assert len(lines) == LINES_MAX + 1
    assert lines[-1] == f"train: integrity: more findings, not shown for {LINES_S:g} s"
    assert tally.report.repaired == LINES_MAX + 5
    now_s += LINES_S
    findings.add(finding)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_done_aside_is_busy_and_no_micro_batch():
    job = Job(lambda message: None, Pacer(1.0), Meter())
    with job.aside():
        pass
    assert job.progress.busy_s == job.meter.busy_s > 0.0
    assert job.progress.progress == job.meter.micro_batches == 0

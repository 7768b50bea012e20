"""Steps that are run again: sampled ones, suspect ones, those that never agree; and how work is cut into turns."""

import pytest
import torch
from msgspec.structs import replace

from flightsw.gpu.workloads import state_verification
from flightsw.gpu.workloads.guarded import Damaged
from flightsw.gpu.workloads.trainer import NonFinite
from tests.gpu.training_faults import PARTS, RUN_AGAIN, STEPS, OneFault, Run, sampled, twin


@pytest.mark.parametrize("which", [1, 2], ids=["the first run was wrong", "the second run was wrong"])
def test_a_sampled_step_is_run_again_and_two_of_three_decide(storm_spec, monkeypatch, which):
    sampled(monkeypatch, replay_every=3)
    straight = twin(storm_spec)
    run = Run(storm_spec, blind=True).until(2)
    for _ in range((which - 1) * (PARTS + 1)):
        run.turn()
    with OneFault("aten::addmm", 2) as fault:
        run.turn()
    assert fault.fired == 1
    assert run.finish() == straight
    assert [(finding.detector, finding.outcome) for finding in run.found] == [RUN_AGAIN]
    assert run.turns == 2 * (PARTS + 1) + 3 * (PARTS + 1)  # Step 3 took three runs.
    sampled(monkeypatch, replay_every=0)
    bare = Run(storm_spec, blind=True).until(2)
    with OneFault("aten::addmm", 2):
        bare.turn()
    assert bare.finish() != straight


def test_a_sampled_step_that_comes_out_the_same_is_no_finding(storm_spec, monkeypatch):
    sampled(monkeypatch, replay_every=2)
    run = Run(storm_spec)
    assert run.finish() == twin(storm_spec)
    assert run.found == []
    assert run.turns == 4 * (PARTS + 1)


def test_runs_that_never_agree_are_damage(storm_spec, monkeypatch):
    sampled(monkeypatch, replay_every=3)
    run = Run(storm_spec, blind=True).until(2)
    for number in range(2 * (PARTS + 1)):
        # Another product of each run's first part.
        with OneFault("aten::addmm", 1 + number // PARTS if number % (PARTS + 1) == 0 else 10**9):
            run.turn()
    with OneFault("aten::addmm", 3):
        run.turn()
    with pytest.raises(Damaged, match="step 3: 3 runs, no two agree"):
        run.until(3)


def test_a_suspect_step_is_run_again(storm_spec, monkeypatch):
    """Damage that no digest and no check sees, large enough for the statistics."""
    sampled(monkeypatch, transit_every=0, replay_every=0)
    straight = twin(storm_spec, 40)
    run = Run(storm_spec, blind=True).until(36, PARTS)
    run.trainer.model.blocks[0].expand.weight.grad[3, 4] = 1e12
    run.until(40)
    assert run.journal == straight
    assert run.guarded.suspects == 1
    assert "gradient norm" in run.found[-1].detail


def test_a_loss_that_is_not_finite_is_run_again_before_it_is_believed(storm_spec, monkeypatch):
    straight = twin(storm_spec)
    run = Run(storm_spec, blind=True).until(2, PARTS)
    sampled(monkeypatch, transit_every=0)
    run.trainer.model.norm.weight.grad[3] = torch.nan
    assert run.finish() == straight
    # A recipe that is broken comes to the same again.
    broken = Run(replace(storm_spec, learning_rate=1.0), blind=True).until(1)
    broken.trainer.model.register_forward_hook(lambda module, args, result: (result[0], result[1] * torch.inf))
    with pytest.raises(NonFinite, match="step 2: loss inf"):
        broken.until(3)


def test_a_job_that_is_not_deterministic_takes_its_second_run(storm_spec, monkeypatch):
    sampled(monkeypatch, transit_every=0, replay_every=1)
    run = Run(replace(storm_spec, deterministic=False), blind=True)
    run.until(36, PARTS)
    assert run.turns == 36 * (PARTS + 1) + PARTS  # Nothing is sampled: runs need not agree.
    run.trainer.model.blocks[0].expand.weight.grad[3, 4] = 1e12
    run.until(40)
    assert run.guarded.suspects == 1


def test_verification_of_a_large_state_is_cut_into_turns(storm_spec, monkeypatch):
    monkeypatch.setattr(state_verification, "UNIT_BLOCKS", {"cpu": 1})
    run = Run(storm_spec)
    assert run.finish() == twin(storm_spec)
    blocks = run.guarded.resident.blocks
    assert run.turns == STEPS * (PARTS + blocks)
    assert run.guarded.verifications == STEPS
    looks = 1
    while not run.guarded.vouch():
        looks += 1
    assert looks == blocks


def test_without_parts_what_follows_the_last_pass_is_no_turn_of_its_own(storm_spec):
    run = Run(replace(storm_spec, micro_batch_split=1))
    run.until(STEPS)
    assert run.turns == STEPS * 2

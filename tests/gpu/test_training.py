"""Training: a run that was cut goes on bit for bit; damaged state is rolled back and never saved."""

import math
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from training_rig import WAIT_S, Daemon, micro_spec, torch_as_it_was

from flightsw.gpu import protocol
from flightsw.gpu.checkpoint.ring import Ring
from flightsw.gpu.checkpoint.saver import Saver
from flightsw.gpu.workloads import corpus, train
from flightsw.gpu.workloads.job import JobFault, pick_device
from flightsw.gpu.workloads.recipe import learning_rate_factor
from flightsw.gpu.workloads.session import ROLLBACKS_MAX, SLOW_MICRO_BATCHES
from flightsw.gpu.workloads.splitting import fitting_split
from flightsw.gpu.workloads.trainer import NonFinite, Trainer, Unfit
from tests.background import Background


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    with torch_as_it_was():
        yield


@pytest.fixture
def spec(tmp_path, monkeypatch):
    return micro_spec(tmp_path, monkeypatch)


def steps(trainer, count):
    """Digest after each of the next optimiser steps."""
    digests = []
    while len(digests) < count:
        if trainer.micro_batch():
            digests.append(trainer.digest())
    return digests


def test_a_micro_batch_in_pieces_is_the_same_step_in_another_order_of_summation(spec):
    plain = replace(spec, deterministic=False)
    whole, cut = train.prepare(plain), train.prepare(plain)
    for trainer in (whole, cut):
        trainer.model.eval()  # Dropout draws anew for each piece.
    assert [whole.micro_batch() for _ in range(2)] == [False, True]
    assert [cut.micro_batch(pieces=3) for _ in range(4)] == [False, False, False, True]  # Two of two each.
    assert cut.step == 1
    for name, tensor in whole.live().items():
        torch.testing.assert_close(cut.live()[name], tensor, rtol=1e-3, atol=1e-4)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-5)


def test_a_bound_cuts_micro_batches_of_jobs_that_need_not_be_deterministic(spec):
    for deterministic, expected in ((True, {1}), (False, {1, 4})):
        daemon = Daemon()
        daemon.job.post(protocol.Pace(1.0, 1e-9))
        folder = f"{spec.checkpoint_dir}-{deterministic}"
        session = train.Session(replace(spec, deterministic=deterministic, checkpoint_dir=folder), daemon.job)
        cuts = set()
        for _ in range(10):
            session.turn()
            cuts.add(session.trainer.cut)
        session.close()
        assert cuts == expected


def with_a_checkpoint(spec, at_step):
    """A ring with one generation, of this step."""
    daemon = Daemon()
    session = train.Session(spec, daemon.job)
    while session.trainer.step < at_step:
        session.turn()
    session.finish()
    session.close()
    return daemon.all(protocol.Committed)[0]


def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(spec):
    straight = steps(train.prepare(spec), 12)
    committed = with_a_checkpoint(spec, 5)
    assert committed.digest == straight[4]
    torch.manual_seed(99)  # Another process would have other random states.
    session = train.Session(spec, Daemon().job)
    assert (session.trainer.step, session.generation) == (5, 0)
    assert session.trainer.digest() == straight[4]
    assert steps(session.trainer, 7) == straight[5:]
    session.close()


@pytest.mark.parametrize("forgotten", ["random.order", "random.host", "optimiser.norm.weight.exp_avg_sq"])
def test_every_part_of_the_state_matters(spec, forgotten):
    """The checker checked: leave one part out of the restore and the paths must part."""
    straight = steps(train.prepare(spec), 8)
    with_a_checkpoint(spec, 5)
    restored = Ring(Path(spec.checkpoint_dir)).newest()
    fresh = train.prepare(spec)
    tensors = {**restored.tensors, forgotten: {**fresh.live(), **fresh.random_states}[forgotten].clone()}
    fresh.restore(restored.manifest, tensors)
    assert steps(fresh, 3) != straight[5:]


def test_a_snapshot_inside_an_accumulated_step_is_of_the_last_boundary(spec, tmp_path):
    straight = steps(train.prepare(spec), 6)
    trainer = train.prepare(spec)
    steps(trainer, 3)
    assert not trainer.micro_batch()  # The first half of step 4.
    ring = Ring(tmp_path / "ring")
    ring.open_for_writing()
    saver = Saver(ring, trainer.live(), lambda outcome: None)
    saver.snapshot(trainer.step, trainer.facts(), trainer.random_states)
    saver.drain(WAIT_S)
    assert steps(trainer, 3) == straight[3:]
    resumed = train.prepare(spec)
    restored = ring.newest()
    resumed.restore(restored.manifest, restored.tensors)
    assert resumed.step == 3
    assert steps(resumed, 3) == straight[3:]
    saver.close()
    ring.close()


def test_the_seed_decides_everything(spec):
    one, same, other = (steps(train.prepare(spec_), 3) for spec_ in (spec, spec, replace(spec, seed=4)))
    assert one == same != other


def test_the_loss_falls(spec):
    trainer = train.prepare(replace(spec, micro_batches=1, learning_rate=3e-3))
    losses = []
    for _ in range(120):
        trainer.micro_batch()
        losses.append(trainer.loss)
    assert losses[0] == pytest.approx(math.log(256), abs=0.3)
    assert sum(losses[-10:]) / 10 < 3.2
    assert trainer.tokens == 120 * 4 * 32


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1 / 30), (14, 0.5), (29, 1.0), (30, 1.0), (1000, 1.0), (4000, 0.5), (100_000, 0.1)]
)
def test_learning_rate(step, factor):
    assert learning_rate_factor(step) == pytest.approx(factor)


def test_a_step_that_is_not_finite_is_not_applied(spec):
    trainer = train.prepare(spec)
    steps(trainer, 2)
    good = trainer.digest()
    bias = trainer.live()["model.norm.bias"]
    value = bias[3].item()
    bias[3] = math.nan
    with pytest.raises(NonFinite, match="step 3"):
        steps(trainer, 1)
    bias[3] = value
    assert (trainer.step, trainer.digest()) == (2, good)
    assert math.isfinite(trainer.loss)


def test_a_non_finite_loss_goes_back_to_the_last_verified_generation(spec):
    spec = replace(spec, integrity="off")  # Else the word is put right: test_training_integrity.
    straight = steps(train.prepare(spec), 9)
    with_a_checkpoint(spec, 5)
    daemon = Daemon()
    session = train.Session(spec, daemon.job)
    while session.trainer.step < 7:
        session.turn()
    session.trainer.live()["model.norm.weight"][0] = math.inf
    while session.trainer.step >= 7:
        session.turn()
    (fault,) = daemon.all(protocol.Fault)
    assert fault.code == "non_finite"
    assert "rolled back to generation 0 (step 5), the job goes on" in fault.reason
    assert steps(session.trainer, 4) == straight[5:9]
    session.close()


def test_without_a_checkpoint_it_goes_back_to_the_start(spec):
    spec = replace(spec, integrity="off")  # Else the word is put right: test_training_integrity.
    straight = steps(train.prepare(spec), 3)
    daemon = Daemon()
    session = train.Session(spec, daemon.job)
    session.turn()
    session.trainer.live()["model.norm.weight"][0] = math.nan
    session.turn()
    assert "the start" in daemon.all(protocol.Fault)[0].reason
    assert steps(session.trainer, 3) == straight
    session.close()


def test_rollbacks_that_do_not_help_end_the_job(spec):
    spec = replace(spec, integrity="off")  # Else the word is put right: test_training_integrity.
    daemon = Daemon()
    session = train.Session(spec, daemon.job)

    def damaged_turn():
        session.trainer.live()["model.norm.weight"][0] = math.nan
        session.turn()

    for _ in range(ROLLBACKS_MAX):
        damaged_turn()
    with pytest.raises(JobFault, match="3 rollbacks did not help"):
        damaged_turn()
    assert len(daemon.all(protocol.Fault)) == ROLLBACKS_MAX
    session.close()


def test_damaged_generations_are_reported_and_the_older_one_resumes(spec):
    with_a_checkpoint(spec, 2)
    with_a_checkpoint(spec, 4)
    newest = Ring(Path(spec.checkpoint_dir)).path(1)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(data)
    daemon = Daemon()
    session = train.Session(spec, daemon.job)
    assert session.trainer.step == 2
    (rejected,) = daemon.all(protocol.Rejected)
    assert rejected.generation == 1
    assert "does not match its digest" in rejected.reason
    session.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [("corpus", "another corpus"), ("preset", "another model")],
)
def test_a_checkpoint_of_another_job_is_refused(spec, tmp_path, change, words):
    with_a_checkpoint(spec, 2)
    (tmp_path / "other.txt").write_text("other text " * 500)
    other = {"corpus": {"corpus": str(tmp_path / "other.txt")}, "preset": {"preset": "tiny"}}[change]
    with pytest.raises(JobFault, match=words) as caught:
        train.Session(replace(spec, **other), Daemon().job)
    assert caught.value.code == "checkpoint"
    assert "checkpoint_dir" in caught.value.reason


def test_unfit_leaves_the_trainer_alone(spec, tmp_path):
    with_a_checkpoint(spec, 2)
    restored = Ring(Path(spec.checkpoint_dir)).newest()
    (tmp_path / "other.txt").write_text("other text " * 500)
    trainer = Trainer(spec, corpus.load(str(tmp_path / "other.txt"), 32), torch.device("cpu"))
    before = trainer.digest()
    with pytest.raises(Unfit):
        trainer.restore(restored.manifest, restored.tensors)
    assert (trainer.step, trainer.digest()) == (0, before)


def test_a_parked_job_checkpoints_answers_and_stops(spec):
    daemon = Daemon(duty=0.0)
    with Background(lambda: train.run(spec, daemon.job), lambda: daemon.job.post(protocol.Stop())):
        daemon.wait_for(protocol.Ready)
        daemon.job.post(protocol.Checkpoint("command"))
        first = daemon.wait_for(protocol.Committed)
        daemon.job.post(protocol.Checkpoint("again"))
        again = daemon.wait_for(protocol.Committed, 2)
        assert (first.generation, first.step) == (again.generation, again.step) == (0, 0)  # No second file.
        daemon.job.post(protocol.Generate(request=3, prompt="", max_tokens=1, temperature=1.0, top_k=0, seed=0))
        assert daemon.wait_for(protocol.Reply).finish == "failed"
    assert daemon.job.progress.progress == 0


def test_it_ends_at_max_steps_with_a_checkpoint_and_a_journal(spec, tmp_path):
    spec = replace(spec, max_steps=4, journal=str(tmp_path / "journal"))
    daemon = Daemon()
    train.run(spec, daemon.job)
    lines = [line.split() for line in (tmp_path / "journal").read_text().splitlines()]
    assert [int(step) for step, _ in lines] == [1, 2, 3, 4]
    committed = daemon.all(protocol.Committed)[-1]
    assert (committed.step, committed.digest) == (4, lines[-1][1])
    assert daemon.job.progress.progress == 8  # Two micro-batches a step.
    assert daemon.job.meter.micro_batches == 8


def test_slow_micro_batches_are_told_once(spec):
    daemon = Daemon()
    session = train.Session(replace(spec, micro_batch_max_s=1e-6), daemon.job)
    for _ in range(3 * SLOW_MICRO_BATCHES):
        session.turn()
    (fault,) = daemon.all(protocol.Fault)
    assert fault.code == "micro_batch"
    assert "goes on" in fault.reason
    session.close()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"preset": "huge"}, "spec", "preset"),
        ({"checkpoint_dir": ""}, "spec", "checkpoint_dir"),
        ({"corpus": "/no/such/file"}, "corpus", "/no/such/file: No such file"),
        ({"checkpoint_dir": "/dev/null/x"}, "checkpoint", "Not a directory"),
        ({"journal": "/no/such/journal"}, "journal", "No such file"),
    ],
)
def test_a_job_that_cannot_run_is_one_fault(spec, change, code, words):
    with pytest.raises(JobFault, match=words) as caught:
        train.Session(replace(spec, **change), Daemon().job)
    assert caught.value.code == code


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(JobFault, match="no CUDA device"):
        pick_device("cuda")


@pytest.mark.gpu
def test_on_a_card_a_resumed_run_equals_the_undisturbed_one(spec):
    spec = replace(spec, device="cuda")
    straight = steps(train.prepare(spec), 12)
    committed = with_a_checkpoint(spec, 5)
    assert committed.digest == straight[4]
    torch.manual_seed(99)
    session = train.Session(spec, Daemon().job)
    assert steps(session.trainer, 7) == straight[5:]
    session.close()


@pytest.mark.parametrize("split", [2, 4])
def test_parts_add_up_to_the_whole_gradient(spec, split: int) -> None:
    undropped = replace(spec, preset="tiny", batch_size=4, micro_batches=2, learning_rate=1e-4)
    whole, cut = (train.prepare(replace(undropped, micro_batch_split=n)) for n in (1, split))
    while not whole.micro_batch():
        pass
    calls = 1
    while not cut.micro_batch():
        calls += 1
    assert calls == 2 * split
    assert cut.loss == pytest.approx(whole.loss, rel=1e-5)
    assert cut.tokens == whole.tokens
    for (name, one), other in zip(whole.live().items(), cut.live().values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=2e-5), name


def test_a_split_run_is_deterministic_and_resumes_with_its_split(spec, tmp_path) -> None:
    split = replace(spec, micro_batch_split=2)
    assert steps(train.prepare(split), 6) == (straight := steps(train.prepare(split), 6))
    assert straight != steps(train.prepare(spec), 6), "dropout is drawn part by part"
    trainer = train.prepare(split)
    steps(trainer, 3)
    trainer.micro_batch()
    ring = Ring(tmp_path / "ring")
    ring.open_for_writing()
    saver = Saver(ring, trainer.live(), lambda outcome: None)
    saver.snapshot(trainer.step, trainer.facts(), trainer.random_states)
    saver.drain(WAIT_S)
    restored = ring.newest()
    saver.close()
    ring.close()
    # The configuration leaves the choice open: the checkpoint knows it.
    resumed = train.prepare(spec)
    resumed.restore(restored.manifest, restored.tensors)
    assert resumed.split == 2
    assert steps(resumed, 3) == straight[3:]
    # With another batch size the old parts mean nothing.
    other = train.prepare(replace(spec, batch_size=3))
    other.restore(restored.manifest, restored.tensors)
    assert other.split == 1


# (target for one part, s; parts of the four rows)
TARGETS = ((10.0, 1), (1e-9, 4))


@pytest.mark.parametrize(("target_s", "parts"), TARGETS)
def test_a_split_is_chosen_by_time_and_the_choice_costs_the_run_nothing(spec, target_s: float, parts: int) -> None:
    trainer = train.prepare(spec)
    assert fitting_split(trainer, target_s) == parts
    assert steps(trainer, 4) == steps(train.prepare(spec), 4)


def test_a_split_that_does_not_divide_is_refused(spec) -> None:
    with pytest.raises(JobFault, match="micro_batch_split 3 does not divide batch_size 4"):
        train.prepare(replace(spec, micro_batch_split=3))


def test_a_twin_refuses_to_choose(spec) -> None:
    with pytest.raises(JobFault, match="micro_batch_split of the run"):
        train.run_solo(replace(spec, micro_batch_target_s=0.02), lambda: True)


def test_a_job_with_a_target_chooses_once_and_a_restart_keeps_it(spec):
    aimed = replace(spec, micro_batch_target_s=1e-9)
    assert with_a_checkpoint(aimed, 3).step == 3
    # Slower or faster by now: the checkpoint decides, not the clock.
    session = train.Session(replace(aimed, micro_batch_target_s=10.0), Daemon().job)
    assert (session.trainer.step, session.trainer.split) == (3, 4)
    session.close()

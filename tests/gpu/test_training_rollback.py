"""A guarded job and its checkpoints: verified before they are saved, gone back to when nothing else helps."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from training_rig import Daemon

from flightsw.gpu import protocol
from flightsw.gpu.checkpoint.ring import Ring
from flightsw.gpu.integrity import tally
from flightsw.gpu.workloads.job import JobFault
from flightsw.gpu.workloads.session import ROLLBACKS_MAX, Session
from tests.gpu.training_faults import STEPS, WEIGHT, flip, twin


def two_words(session):
    flip(session.trainer.live()[WEIGHT], word=5)
    flip(session.trainer.live()[WEIGHT], word=90)


def until(session, step):
    journal = []
    while session.trainer.step < step:
        before = session.trainer.step
        session.turn()
        if session.trainer.step == before + 1:
            journal.append((session.trainer.step, session.trainer.digest()))
    return journal


def saved(session, daemon):
    session.handle(protocol.Checkpoint("test"))
    session.save_if_due()
    session.finish()
    return daemon.all(protocol.Committed)[-1]


def test_damage_that_cannot_be_repaired_is_rolled_back(storm_spec, capsys):
    straight = twin(storm_spec)
    daemon = Daemon()
    session = Session(storm_spec, daemon.job)
    until(session, 1)
    assert saved(session, daemon).digest == straight[0]
    until(session, 3)
    two_words(session)
    while session.trainer.step >= 3:
        session.turn()
    (fault,) = daemon.all(protocol.Fault)
    assert fault.code == "integrity"
    assert "step 4: model" not in fault.reason
    assert "cannot be repaired; rolled back to generation 0 (step 1), the job goes on" in fault.reason
    assert [digest for _, digest in until(session, STEPS)] == straight[1:]
    session.tell()
    report = daemon.all(protocol.IntegrityReport)[-1]
    assert (report.level, report.open, report.contained, report.scrubs) == ("storm", 0, 3, 3 + 1 + 2)
    assert report.checks > 100
    assert "integrity: weights of matrices: open (digest): more than one word was hit" in capsys.readouterr().err
    session.close()


def test_damage_that_no_rollback_helps_ends_the_job(storm_spec):
    daemon = Daemon()
    session = Session(storm_spec, daemon.job)
    for number in range(ROLLBACKS_MAX):
        two_words(session)
        while len(daemon.all(protocol.Fault)) == number:
            session.turn()
    two_words(session)
    with pytest.raises(JobFault, match="3 rollbacks did not help") as caught:
        until(session, 1)
    assert caught.value.code == "integrity"
    session.close()


def test_state_is_verified_before_it_is_saved(storm_spec):
    straight = twin(storm_spec)
    daemon = Daemon()
    session = Session(storm_spec, daemon.job)
    until(session, 2)
    flip(session.trainer.live()[WEIGHT])
    committed = saved(session, daemon)
    assert (committed.step, committed.digest) == (2, straight[1])
    busy_s = daemon.job.progress.busy_s
    assert busy_s == pytest.approx(daemon.job.meter.busy_s)
    until(session, 3)
    two_words(session)
    session.handle(protocol.Checkpoint("test"))
    session.save_if_due()
    (failed,) = daemon.all(protocol.SaveFailed)
    assert failed.reason == "step 4: weights of matrices cannot be repaired; not saved"
    assert session.trainer.step == 2  # Rolled back at once.
    assert Ring(Path(storm_spec.checkpoint_dir)).generations() == [0]
    assert [digest for _, digest in until(session, STEPS)] == straight[2:]
    manifest = Ring(Path(storm_spec.checkpoint_dir)).newest().manifest
    assert "unverified_steps" not in manifest.facts
    session.close()


def test_random_states_are_saved_as_they_were_at_the_boundary(storm_spec):
    straight = twin(storm_spec)
    daemon = Daemon()
    session = Session(storm_spec, daemon.job)
    until(session, 2)
    session.trainer.random_states["random.order"][160] ^= 4
    saved(session, daemon)
    session.close()
    resumed = Session(storm_spec, Daemon().job)
    assert resumed.trainer.step == 2
    assert [digest for _, digest in until(resumed, STEPS)] == straight[2:]
    resumed.close()


def test_the_daemon_orders_the_level_and_hears_of_it(storm_spec, monkeypatch):
    monkeypatch.setattr(tally, "INTEGRITY_REPORT_S", 1e9)  # However slow this machine is.
    daemon = Daemon()
    session = Session(replace(storm_spec, integrity="auto"), daemon.job)
    session.tell()
    session.handle(protocol.Vigilance("storm"))
    until(session, 1)
    session.tell()
    assert [report.level for report in daemon.all(protocol.IntegrityReport)] == [
        "standard"
    ]  # At most one in that time.
    session.handle(protocol.Vigilance("off"))
    until(session, 3)
    committed = saved(session, daemon)
    session.close()
    assert committed.step == 3
    facts = Ring(Path(storm_spec.checkpoint_dir)).newest().manifest.facts
    assert facts["unverified_steps"] == 2

"""The worker as the daemon sees it: real processes, real pipes, real signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from worker_harness import DEADLINE_S, WorkerProcess, tiny_corpus

from flightsw.gpu import protocol
from flightsw.gpu.checkpoint.ring import Ring
from flightsw.gpu.worker import TERMINATED_STATUS
from flightsw.link.meter import METER_LAYOUT
from tests.background import Child

pytestmark = pytest.mark.process


@pytest.fixture
def spec(tmp_path):
    return protocol.TrainSpec(
        preset="micro",
        device="cpu",
        corpus=tiny_corpus(tmp_path),
        checkpoint_dir=str(tmp_path / "checkpoints"),
        meter=str(tmp_path / "meter"),
    )


def solo(path):
    return Child(
        [sys.executable, "-m", "flightsw.gpu.worker", "--solo", str(path)], stderr=subprocess.PIPE, text=True
    )


def twin_journal(spec, tmp_path, until_step):
    """Digest by step of an undisturbed run, which is stopped with SIGTERM once it has passed ``until_step``."""
    journal = tmp_path / "journal"
    os.mkfifo(journal)  # Reading it waits for the twin's lines instead of polling for them.
    path = tmp_path / "twin.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, journal=str(journal), meter="")))
    digests = {}
    twin = solo(path)
    with twin, open(journal, encoding="ascii") as lines:
        for line in lines:
            step, digest = line.split()
            digests[int(step)] = digest
            if int(step) == until_step:
                twin.send_signal(signal.SIGTERM)
        assert twin.wait(DEADLINE_S) == 0
        assert twin.stderr.read() == ""
    return digests


def test_kill_9_and_resume_equals_the_twin(spec, tmp_path):
    """The promise of the demo: checkpoints of a worker that was killed match an undisturbed run's journal."""
    with WorkerProcess(spec) as worker:
        assert worker.expect(protocol.Ready).generation == -1
        worker.expect(protocol.Heartbeat, lambda beat: beat.progress == 0)  # Parked, and beating.
        worker.send(protocol.Pace(1.0))
        worker.expect(protocol.Heartbeat, lambda beat: beat.step >= 10)
        worker.send(protocol.Checkpoint("test"))
        first = worker.expect(protocol.Committed)
        worker.expect(protocol.Heartbeat, lambda beat: beat.step > first.step)
        worker.process.kill()
        assert worker.wait() == -signal.SIGKILL
    with WorkerProcess(spec) as worker:
        ready = worker.expect(protocol.Ready)
        assert (ready.step, ready.generation) == (first.step, first.generation)
        assert os.getpriority(os.PRIO_PROCESS, ready.pid) >= 10
        worker.send(protocol.Pace(1.0))
        worker.expect(protocol.Heartbeat, lambda beat: beat.step > first.step + 10)
        worker.send(protocol.Stop())
        assert worker.wait() == 0
        last = worker.all(protocol.Committed)[-1]
        assert last.step == worker.all(protocol.Heartbeat)[-1].step > first.step
    assert METER_LAYOUT.unpack((tmp_path / "meter").read_bytes())[1] >= last.step
    digests = twin_journal(spec, tmp_path, last.step)
    assert digests[first.step] == first.digest
    assert digests[last.step] == last.digest


def test_a_lost_daemon_ends_the_worker_with_its_state_saved(spec):
    with WorkerProcess(spec) as worker:
        worker.expect(protocol.Ready)
        worker.process.send_signal(signal.SIGINT)  # A terminal's Ctrl-C is the daemon's business.
        worker.write(protocol.LENGTH_PREFIX.pack(3) + b"???")  # Garbage is dropped.
        worker.send(protocol.Pace(1.0))
        worker.expect(protocol.Heartbeat, lambda beat: beat.step > 0)
        worker.process.stdin.close()
        assert worker.wait() == 0
        step = worker.all(protocol.Heartbeat)[-1].step
        assert "malformed" in worker.stderr.decode()
    assert Ring(Path(spec.checkpoint_dir)).newest().manifest.step >= step


def test_sigterm_from_a_stranger_saves_but_is_no_completed_job(spec):
    with WorkerProcess(spec) as worker:
        worker.expect(protocol.Ready)
        worker.send(protocol.Pace(1.0))
        worker.expect(protocol.Heartbeat, lambda beat: beat.step > 0)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait() == TERMINATED_STATUS
        assert worker.all(protocol.Committed)[-1].step == worker.all(protocol.Heartbeat)[-1].step


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"corpus": "/no/such/corpus"}, "corpus", "/no/such/corpus: No such file or directory"),
        ({"meter": "/no/such/folder/meter"}, "spec", "meter /no/such/folder/meter: No such file"),
    ],
)
def test_a_job_that_cannot_start_is_one_fault_and_one_line(spec, change, code, words):
    with WorkerProcess(msgspec.structs.replace(spec, **change)) as worker:
        fault = worker.expect(protocol.Fault)
        assert worker.wait() == 1
        assert fault.code == code
        assert words in fault.reason
        assert worker.all(protocol.Heartbeat) == []
        assert worker.stderr.decode().count("\n") == 1


def test_a_first_message_that_is_no_job_is_a_fault_and_silence_an_end():
    with WorkerProcess(protocol.ProbeSpec()) as worker:
        assert "ProbeSpec" in worker.expect(protocol.Fault).reason
        assert worker.wait() == 1
    with WorkerProcess(None) as worker:
        worker.process.stdin.close()
        assert worker.wait() == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "truncated"),
        (json.dumps({"kind": "train", "batch_size": -1}), "batch_size"),
        (json.dumps({"kind": "train", "colour": "blue"}), "colour"),
        ("\xff", "worker: "),
    ],
)
def test_a_wrong_solo_specification_is_one_line(tmp_path, content, words):
    path = tmp_path / "spec.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    process = solo(path)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert words in err
    assert err.count("\n") == 1
    assert str(path) in err

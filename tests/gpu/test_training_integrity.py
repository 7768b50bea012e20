"""Faults put into a training, one at a time: each ends put right, and the run is its undisturbed twin's.

Every fault is also run with integrity off, where the same run must part from the twin: what is not seen to do harm
proves nothing about the guard.
"""

import contextlib
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from training_rig import Daemon, micro_spec, torch_as_it_was

from flightsw.gpu import protocol
from flightsw.gpu.checkpoint.ring import Ring
from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.workloads import guarded_step, state_verification, train
from flightsw.gpu.workloads.compute_path import ComputePath
from flightsw.gpu.workloads.guarded import Damaged, Guarded
from flightsw.gpu.workloads.job import JobFault
from flightsw.gpu.workloads.session import ROLLBACKS_MAX, Session
from flightsw.gpu.workloads.trainer import NonFinite
from flightsw.link.integrity import Level

STEPS = 3
PARTS = 4
"""Two micro-batches of two parts each."""


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    with torch_as_it_was():
        yield


@pytest.fixture
def spec(tmp_path, monkeypatch):
    return micro_spec(tmp_path, monkeypatch, layers=1, micro_batch_split=2, integrity="storm")


@pytest.fixture
def plain():
    """Without the processor's kernels."""
    with kernels.plain():
        yield


_twins = {}


def twin(spec, count=STEPS):
    """The journal of the run that nobody disturbs and nobody guards."""
    if count not in _twins:
        _twins[count] = journal_of_the_twin(spec, count)
    return _twins[count]


def journal_of_the_twin(spec, count):
    trainer = train.prepare(spec)
    digests = []
    while len(digests) < count:
        if trainer.micro_batch():
            digests.append(trainer.digest())
    return digests


def flip(tensor, word=5, bit=20):
    """Turn one bit of a tensor's memory over, as an upset does: nothing of torch sees it."""
    words = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).view(torch.int32)
    words[word] ^= 1 << bit


class OneFault(TorchDispatchMode):
    """Damage the result of the n-th operation of a name, once: bit 20 of a word behind its middle."""

    def __init__(self, name, number):
        super().__init__()
        self.name, self.left = name, number
        self.fired = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self.name in func._schema.name:
            self.left -= 1
            if self.left == 0:
                target = args[0][0] if "_fused_" in self.name else result
                target = target[0] if isinstance(target, tuple) else target
                with _disable_current_modes():  # A guard below must not take it for an operation of the program.
                    words = target.detach().reshape(-1).view(torch.int32)
                    words[len(words) * 5 // 8 + 3 if len(words) > 8 else 0] ^= 1 << 20
                self.fired += 1
        return result


class Above:
    """The compute path's guard with something between it and the program: what the program gets back."""

    def __init__(self, passes, mode):
        self.passes, self.mode = passes, mode

    level = property(lambda self: self.passes.level, lambda self, level: setattr(self.passes, "level", level))
    checks = property(lambda self: self.passes.checks)
    keeps_gradients = property(lambda self: self.passes.keeps_gradients)

    @contextlib.contextmanager
    def running(self, *, everything=False, adds=False):
        with self.passes.running(everything=everything, adds=adds), self.mode:
            yield

    def look_at_gradients(self):
        self.passes.look_at_gradients()

    def settle(self):
        return self.passes.settle()

    def renew(self):
        self.passes.renew()


class Run:
    """A guarded training and its findings."""

    def __init__(self, spec, level=Level.STORM, above=None, blind=False):
        self.trainer = train.prepare(spec)
        self.found = []
        passes = ComputePath(self.trainer.model, level, self.found.append, compiled=blind)
        if above is not None:
            passes = Above(passes, above)
        self.guarded = Guarded(self.trainer, passes, level, self.found.append, exact=spec.deterministic)
        self.journal = []
        self.turns = 0

    def turn(self):
        self.turns += 1
        if self.guarded.turn():
            self.journal.append(self.trainer.digest())

    def until(self, step, parts=0):
        """To the boundary after ``step``, and some parts further."""
        while self.trainer.step < step:
            self.turn()
        for _ in range(parts):
            self.turn()
        return self

    def finish(self):
        return self.until(STEPS).journal

    def outcomes(self):
        return {(finding.detector, finding.outcome) for finding in self.found}


REPAIRED, RUN_AGAIN = ("digest", "repaired"), ("replay", "recomputed")


def in_live(name, **where):
    return lambda run: flip(run.trainer.live()[name], **where)


def in_gradients(run):
    flip(run.trainer.model.blocks[0].expand.weight.grad, word=300)


def in_host_generator(run):
    torch.rand(1)


def in_data_order(run):
    torch.rand(1, generator=run.trainer.batches.order)


def in_kept_states(run):
    run.trainer.random_states["random.order"][160] ^= 4
    run.trainer.batches.order.set_state(run.trainer.random_states["random.order"])


def in_corpus(run):
    run.trainer.batches.tokens[::3] ^= 1


def in_batch(run):
    run.trainer.at_hand[0][3, 7] ^= 8


def in_step_counter(run):
    run.trainer.step -= 1


WEIGHT = "model.blocks.0.expand.weight"
# (name, after how many parts of step 3, what is damaged, what must have been found)
AT_REST = (
    ("weight at the boundary", 0, in_live(WEIGHT), {REPAIRED, RUN_AGAIN}),
    ("weight within a step", 1, in_live(WEIGHT), {REPAIRED, RUN_AGAIN}),
    ("weight before the update", PARTS, in_live(WEIGHT), {REPAIRED, RUN_AGAIN}),
    ("first moment", 2, in_live(f"optimiser.{WEIGHT[6:]}.exp_avg", bit=28), {REPAIRED}),
    ("second moment", 2, in_live(f"optimiser.{WEIGHT[6:]}.exp_avg_sq", bit=28), {REPAIRED}),
    ("optimiser's step count", 2, in_live(f"optimiser.{WEIGHT[6:]}.step", word=0, bit=22), {REPAIRED}),
    ("gradients between two parts", 2, in_gradients, {("transit", "contained"), RUN_AGAIN}),
    ("gradients before the update", PARTS, in_gradients, {("transit", "contained"), RUN_AGAIN}),
    ("torch's generator at the boundary", 0, in_host_generator, {("transit", "repaired")}),
    ("torch's generator within a step", 2, in_host_generator, {("transit", "contained"), RUN_AGAIN}),
    ("data order at the boundary", 0, in_data_order, {("transit", "repaired")}),
    ("data order within a step", 1, in_data_order, {("transit", "contained"), RUN_AGAIN}),
    ("random states that are kept", 0, in_kept_states, {("transit", "repaired")}),
    ("corpus", 0, in_corpus, {REPAIRED}),
    ("corpus within a step", 2, in_corpus, {REPAIRED}),
    ("batch at hand", 1, in_batch, {("transit", "contained"), RUN_AGAIN}),
    ("step counter", 0, in_step_counter, {("transit", "repaired")}),
    ("step counter within a step", 1, in_step_counter, {("transit", "contained"), RUN_AGAIN}),
)


@pytest.mark.parametrize(("name", "parts", "damage", "found"), AT_REST, ids=[row[0] for row in AT_REST])
def test_damage_at_rest(spec, name, parts, damage, found):
    straight = twin(spec)
    # Only weights are seen by the compute path's guard, too; the rest is quicker without it.
    run = Run(spec, blind="weight" not in name).until(2, parts)
    damage(run)
    assert run.finish() == straight
    assert found <= run.outcomes(), run.found
    bare = Run(spec, Level.OFF).until(2, min(parts, PARTS - 1))  # Without a turn after the last part.
    damage(bare)
    assert bare.finish() != straight


# (operation, which one of step 3's first part; None: of step 3's last turn, its update)
ARITHMETIC = (
    ("aten::addmm", 2), ("aten::mm", 3), ("aten::gelu", 1), ("aten::native_layer_norm", 1),
    ("aten::gelu_backward", 1), ("aten::embedding_dense_backward", 1), ("aten::_fused_adamw_", None),
    ("aten::linalg_vector_norm", None),
)  # fmt: skip


@pytest.mark.parametrize(("name", "number"), ARITHMETIC, ids=[name for name, _ in ARITHMETIC])
def test_an_error_of_the_arithmetic(spec, name, number, plain):
    """In torch's own operators, those of the update among them."""
    straight = twin(spec)

    def disturbed(level):
        run = Run(spec, level).until(2, 0 if number else PARTS - (level is Level.OFF))
        with OneFault(name, number or 1) as fault:
            run.turn()
        assert fault.fired == 1
        return run

    run = disturbed(Level.STORM)
    assert run.finish() == straight
    assert run.outcomes()
    assert all(outcome in ("recomputed", "contained") for _, outcome in run.outcomes()), run.found
    assert disturbed(Level.OFF).finish() != straight


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_whichever_of_the_results_of_an_update_is_wrong_the_right_one_is_kept(spec, number, plain):
    """The rehearsal of a chunk, or the update itself; there are two chunks."""
    straight = twin(spec)
    run = Run(spec).until(2, PARTS)
    with OneFault("aten::_fused_adamw_", number) as fault:
        run.turn()
    assert fault.fired == 1
    assert run.finish() == straight
    assert ("repeat", "recomputed") in run.outcomes()


class Misread:
    """The processor's update reads gradients wrongly in some of its calls; memory is as it was."""

    def __init__(self, kernel, numbers):
        self._kernel, self._numbers = kernel, numbers
        self.scalars, self.same_as_torch = kernel.scalars, kernel.same_as_torch
        self.calls = 0

    def advance(self, rows, *arguments, **named):
        self.calls += 1
        if self.calls not in self._numbers:
            return self._kernel.advance(rows, *arguments, **named)
        wrong = rows[1].clone()
        flip(wrong, word=len(wrong) // 2 + self.calls, bit=24)
        return self._kernel.advance((rows[0], wrong, *rows[2:]), *arguments, **named)


def misread(monkeypatch, *numbers):
    """From now on the processor's kernel fails in these of its calls."""
    kernel = kernels.native(torch.device("cpu"), "native_adamw")
    if not (kernel and kernel.same_as_torch()):
        pytest.skip("this machine's torch rounds otherwise than the kernel, which is not used then")
    wrong = Misread(kernel, numbers)
    monkeypatch.setattr(kernels, "native", lambda device, name, ask=kernels.native: (
        wrong if name == "native_adamw" else ask(device, name)))  # fmt: skip
    return wrong


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_whichever_call_of_the_processor_s_update_is_wrong_the_right_result_is_kept(spec, monkeypatch, number):
    """Two groups are rehearsed, then updated."""
    straight = twin(spec)
    run = Run(spec, blind=True).until(2, PARTS)
    kernel = misread(monkeypatch, number)
    run.turn()
    assert kernel.calls == 4
    assert run.finish() == straight
    assert [(finding.detector, finding.outcome) for finding in run.found] == [("repeat", "recomputed")]


def test_an_update_of_which_no_two_results_agree_is_damage(spec, monkeypatch):
    run = Run(spec, blind=True).until(2, PARTS)
    misread(monkeypatch, 1, 3)
    with OneFault("aten::_fused_adamw_", 1), pytest.raises(Damaged, match="no two of 3 results"):
        run.turn()


def test_an_update_that_is_not_rehearsed_believes_the_kernel(spec, monkeypatch):
    """Which shows that it is the kernel's bits that count, and the rehearsal that saw the error."""
    sampled(monkeypatch, repeat_every=0)
    run = Run(spec, blind=True).until(2, PARTS)
    kernel = misread(monkeypatch, 1)
    assert run.finish() != twin(spec)
    assert kernel.calls == 2
    assert run.found == []


@pytest.mark.parametrize("name", ["aten::addmm", "aten::gelu"])
def test_a_result_that_changes_on_its_way(spec, name):
    straight = twin(spec)

    def disturbed(level):
        fault = OneFault(name, 10**9)
        run = Run(spec, level, above=fault).until(2)
        fault.left = 1
        run.turn()
        assert fault.fired == 1
        return run

    run = disturbed(Level.STORM)
    assert run.finish() == straight
    assert RUN_AGAIN in run.outcomes(), run.found
    assert disturbed(Level.OFF).finish() != straight


@pytest.mark.parametrize("level", Level)
def test_no_level_changes_a_bit_without_the_processor_s_kernels(spec, level, plain):
    assert Run(spec, level).finish() == twin(spec)


@pytest.mark.parametrize("level", Level)
def test_no_level_changes_a_bit(spec, level):
    run = Run(spec, level)
    assert run.finish() == twin(spec)
    assert run.found == []
    assert run.guarded.take_checks() > 0 or level is Level.OFF
    assert run.guarded.take_checks() == 0


def test_the_level_switched_while_it_trains_changes_no_bit(spec):
    straight = twin(spec, 12)
    run = Run(spec, Level.OFF)
    levels = [Level.STORM, Level.OFF, Level.STANDARD, Level.WATCH, Level.STORM, Level.WATCH, Level.OFF]
    while run.trainer.step < 12:
        if run.turns % 7 == 3:
            run.guarded.level = levels[run.turns // 7 % len(levels)]
        run.turn()
    assert run.journal == straight
    assert run.found == []


def sampled(monkeypatch, **changes):
    """Level STORM with other counts."""
    levels = {**LEVELS, Level.STORM: replace(LEVELS[Level.STORM], **changes)}
    monkeypatch.setattr(guarded_step, "LEVELS", levels)


@pytest.mark.parametrize("which", [1, 2], ids=["the first run was wrong", "the second run was wrong"])
def test_a_sampled_step_is_run_again_and_two_of_three_decide(spec, monkeypatch, which):
    sampled(monkeypatch, replay_every=3)
    straight = twin(spec)
    run = Run(spec, blind=True).until(2)
    for _ in range((which - 1) * (PARTS + 1)):
        run.turn()
    with OneFault("aten::addmm", 2) as fault:
        run.turn()
    assert fault.fired == 1
    assert run.finish() == straight
    assert [(finding.detector, finding.outcome) for finding in run.found] == [RUN_AGAIN]
    assert run.turns == 2 * (PARTS + 1) + 3 * (PARTS + 1)  # Step 3 took three runs.
    sampled(monkeypatch, replay_every=0)
    bare = Run(spec, blind=True).until(2)
    with OneFault("aten::addmm", 2):
        bare.turn()
    assert bare.finish() != straight


def test_a_sampled_step_that_comes_out_the_same_is_no_finding(spec, monkeypatch):
    sampled(monkeypatch, replay_every=2)
    run = Run(spec)
    assert run.finish() == twin(spec)
    assert run.found == []
    assert run.turns == 4 * (PARTS + 1)


def test_runs_that_never_agree_are_damage(spec, monkeypatch):
    sampled(monkeypatch, replay_every=3)
    run = Run(spec, blind=True).until(2)
    for number in range(2 * (PARTS + 1)):
        # Another product of each run's first part.
        with OneFault("aten::addmm", 1 + number // PARTS if number % (PARTS + 1) == 0 else 10**9):
            run.turn()
    with OneFault("aten::addmm", 3):
        run.turn()
    with pytest.raises(Damaged, match="step 3: 3 runs, no two agree"):
        run.until(3)


def test_a_suspect_step_is_run_again(spec, monkeypatch):
    """Damage that no digest and no check sees, large enough for the statistics."""
    sampled(monkeypatch, transit_every=0, replay_every=0)
    straight = twin(spec, 40)
    run = Run(spec, blind=True).until(36, PARTS)
    run.trainer.model.blocks[0].expand.weight.grad[3, 4] = 1e12
    run.until(40)
    assert run.journal == straight
    assert run.guarded.suspects == 1
    assert "gradient norm" in run.found[-1].detail


def test_a_loss_that_is_not_finite_is_run_again_before_it_is_believed(spec, monkeypatch):
    straight = twin(spec)
    run = Run(spec, blind=True).until(2, PARTS)
    sampled(monkeypatch, transit_every=0)
    run.trainer.model.norm.weight.grad[3] = torch.nan
    assert run.finish() == straight
    # A recipe that is broken comes to the same again.
    broken = Run(replace(spec, learning_rate=1.0), blind=True).until(1)
    broken.trainer.model.register_forward_hook(lambda module, args, result: (result[0], result[1] * torch.inf))
    with pytest.raises(NonFinite, match="step 2: loss inf"):
        broken.until(3)


def test_a_job_that_is_not_deterministic_takes_its_second_run(spec, monkeypatch):
    sampled(monkeypatch, transit_every=0, replay_every=1)
    run = Run(replace(spec, deterministic=False), blind=True)
    run.until(36, PARTS)
    assert run.turns == 36 * (PARTS + 1) + PARTS  # Nothing is sampled: runs need not agree.
    run.trainer.model.blocks[0].expand.weight.grad[3, 4] = 1e12
    run.until(40)
    assert run.guarded.suspects == 1


def test_verification_of_a_large_state_is_cut_into_turns(spec, monkeypatch):
    monkeypatch.setattr(state_verification, "UNIT_BLOCKS", {"cpu": 1})
    run = Run(spec)
    assert run.finish() == twin(spec)
    blocks = run.guarded.resident.blocks
    assert run.turns == STEPS * (PARTS + blocks)
    assert run.guarded.verifications == STEPS
    looks = 1
    while not run.guarded.vouch():
        looks += 1
    assert looks == blocks


def test_without_parts_what_follows_the_last_pass_is_no_turn_of_its_own(spec):
    run = Run(replace(spec, micro_batch_split=1))
    run.until(STEPS)
    assert run.turns == STEPS * 2


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


def test_damage_that_cannot_be_repaired_is_rolled_back(spec, capsys):
    straight = twin(spec)
    daemon = Daemon()
    session = Session(spec, daemon.job)
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


def test_damage_that_no_rollback_helps_ends_the_job(spec):
    daemon = Daemon()
    session = Session(spec, daemon.job)
    for number in range(ROLLBACKS_MAX):
        two_words(session)
        while len(daemon.all(protocol.Fault)) == number:
            session.turn()
    two_words(session)
    with pytest.raises(JobFault, match="3 rollbacks did not help") as caught:
        until(session, 1)
    assert caught.value.code == "integrity"
    session.close()


def test_state_is_verified_before_it_is_saved(spec):
    straight = twin(spec)
    daemon = Daemon()
    session = Session(spec, daemon.job)
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
    assert Ring(Path(spec.checkpoint_dir)).generations() == [0]
    assert [digest for _, digest in until(session, STEPS)] == straight[2:]
    manifest = Ring(Path(spec.checkpoint_dir)).newest().manifest
    assert "unverified_steps" not in manifest.facts
    session.close()


def test_random_states_are_saved_as_they_were_at_the_boundary(spec):
    straight = twin(spec)
    daemon = Daemon()
    session = Session(spec, daemon.job)
    until(session, 2)
    session.trainer.random_states["random.order"][160] ^= 4
    saved(session, daemon)
    session.close()
    resumed = Session(spec, Daemon().job)
    assert resumed.trainer.step == 2
    assert [digest for _, digest in until(resumed, STEPS)] == straight[2:]
    resumed.close()


def test_the_daemon_orders_the_level_and_hears_of_it(spec):
    daemon = Daemon()
    session = Session(replace(spec, integrity="auto"), daemon.job)
    session.tell()
    session.handle(protocol.Vigilance("storm"))
    until(session, 1)
    session.tell()
    assert [report.level for report in daemon.all(protocol.IntegrityReport)] == [
        "standard"
    ]  # At most one a second.
    session.handle(protocol.Vigilance("off"))
    until(session, 3)
    committed = saved(session, daemon)
    session.close()
    assert committed.step == 3
    facts = Ring(Path(spec.checkpoint_dir)).newest().manifest.facts
    assert facts["unverified_steps"] == 2

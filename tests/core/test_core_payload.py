"""Payload: lifecycle table, hang detection, restart policy, split of the duty; when checkpoints are asked for."""

import itertools

import msgspec
import pytest

from flightsw.core import checkpoint, payload
from flightsw.core.checkpoint import Outlook
from flightsw.core.effects import KillWorker, SaveCheckpoint, SetPace, StartWorker, StopWorker, SubmitRequest
from flightsw.core.events import Event
from flightsw.core.inputs import (
    CheckpointCommitted,
    CheckpointFailed,
    CheckpointRejected,
    ModelSwapped,
    RequestReply,
    WorkerExited,
    WorkerFault,
    WorkerProgress,
    WorkerReady,
)
from flightsw.core.job import Config, JobConfig
from flightsw.core.lifecycle import LIFECYCLE, WITH_PROCESS, Action, Life, Trigger
from flightsw.core.payload import Permit

JOBS = (
    JobConfig(id="train", kind="train", share=1.0),
    JobConfig(id="infer", kind="infer", share=0.5),
)
CONFIG = Config(
    start_timeout_s=60.0,
    stop_timeout_s=10.0,
    kill_timeout_s=5.0,
    heartbeat_timeout_s=20.0,
    hang_timeout_s=10.0,
    backoff_s=1.0,
    backoff_max_s=30.0,
    restarts_max=3,
    restart_window_s=600.0,
    quarantine_retry_s=300.0,
)
DIED = WorkerExited(job="train", returncode=-9, reason="signal 9")


def ready(job: str = "train", generation: int = 4) -> WorkerReady:
    return WorkerReady(job=job, pid=5, device="cpu", step=40, generation=generation)


def beat(progress: int, job: str = "train", tokens: int = 0) -> WorkerProgress:
    return WorkerProgress(
        job=job, progress=progress, step=progress, loss=2.0, tokens=tokens, busy_s=1.0, micro_batch_s=0.1, pending=0
    )


class Run:
    """Steps of ``payload`` on the machine clock; effects and events by step."""

    def __init__(self, jobs: tuple[JobConfig, ...] = JOBS[:1], duty: float = 1.0) -> None:
        self.jobs, self.duty, self.now_s, self.permit = jobs, duty, 0.0, Permit.RUN
        self.state = payload.start(jobs, 0.0)

    def step(self, *reports: object, after_s: float = 0.1, permit: Permit | None = None) -> list[object]:
        self.now_s += after_s
        self.permit = permit or self.permit
        self.state, out = payload.step(self.state, CONFIG, self.jobs, self.permit, self.duty, reports, self.now_s)
        return list(out)

    def effects(self, *reports: object, **how: object) -> list[object]:
        return [o for o in self.step(*reports, **how) if not isinstance(o, Event)]

    def names(self, *reports: object, **how: object) -> list[str]:
        return [o.name for o in self.step(*reports, **how) if isinstance(o, Event)]

    @property
    def life(self) -> Life:
        return self.state.jobs[0].life

    def running(self) -> "Run":
        self.step()
        self.step(*(ready(job.id) for job in self.jobs))
        return self


def test_ordinary_life() -> None:
    run = Run()
    assert run.effects() == [StartWorker("train")]
    assert run.life is Life.STARTING
    assert run.effects() == []
    assert run.effects(ready()) == [SetPace("train", 1.0)]
    assert run.life is Life.RUNNING
    run.state = payload.want(run.state, 0, False)
    assert run.effects() == [StopWorker("train")]
    assert run.life is Life.STOPPING
    assert run.names(WorkerExited(job="train", returncode=0, reason="done")) == ["JOB_STATE"]
    assert run.life is Life.OFF
    assert run.effects() == []


@pytest.mark.parametrize(
    ("before", "permit", "effect"),
    [
        (Life.STARTING, Permit.STOP, StopWorker("train")),
        (Life.STARTING, Permit.CUT, KillWorker("train", "power rail off")),
        (Life.RUNNING, Permit.STOP, StopWorker("train")),
        (Life.RUNNING, Permit.CUT, KillWorker("train", "power rail off")),
    ],
)
def test_permission_withdrawn_and_given_back(before: Life, permit: Permit, effect: object) -> None:
    run = Run()
    run.step()
    if before is Life.RUNNING:
        run.step(ready())
    assert run.effects(permit=permit) == [effect]
    assert run.effects() == []
    run.step(WorkerExited(job="train", returncode=-9, reason="killed"))
    assert run.life is Life.OFF
    assert run.effects() == []
    assert run.effects(permit=Permit.RUN) == [StartWorker("train")]


def test_rail_cut_while_stopping_kills() -> None:
    run = Run().running()
    run.step(permit=Permit.STOP)
    assert run.effects(permit=Permit.CUT) == [KillWorker("train", "power rail off")]
    assert run.effects() == []


def test_stop_and_kill_have_deadlines() -> None:
    run = Run().running()
    run.step(permit=Permit.STOP)
    assert run.effects(after_s=9.9) == []
    assert run.effects(after_s=0.2) == [KillWorker("train", "did not stop in time")]
    assert run.effects(after_s=4.9) == []
    assert run.effects(after_s=0.2) == [KillWorker("train", "did not stop in time")]
    run.step(WorkerExited(job="train", returncode=-9, reason="killed"))
    assert run.life is Life.OFF


@pytest.mark.parametrize(("deaths", "life"), [(1, Life.FAILED), (CONFIG.restarts_max + 1, Life.QUARANTINED)])
def test_a_broken_job_that_is_no_longer_wanted_is_off_for_good(deaths: int, life: Life) -> None:
    run = Run().running()
    for _ in range(deaths - 1):
        run.step(DIED)
        assert run.effects(after_s=CONFIG.backoff_max_s) == [StartWorker("train")]
        run.step(ready())
    run.step(DIED)
    assert run.life is life
    run.state = payload.want(run.state, 0, False)
    assert run.effects() == []
    assert run.life is Life.OFF
    assert run.effects(after_s=2 * CONFIG.quarantine_retry_s) == []


def test_start_has_a_deadline() -> None:
    run = Run()
    run.step()
    assert run.effects(after_s=60.0) == []
    assert run.effects() == [KillWorker("train", "not ready within 60 s")]
    run.step(DIED)
    assert run.life is Life.FAILED


def test_restarts_back_off_then_quarantine_then_slow_retry() -> None:
    run = Run().running()
    pauses = []
    for _ in range(3):
        assert "WORKER_DIED" in run.names(DIED)
        assert run.life is Life.FAILED
        failed_s = run.now_s
        while not run.effects():
            pass
        pauses.append(round(run.now_s - failed_s, 1))
        run.step(ready())
    assert pauses == pytest.approx([1.0, 2.0, 4.0], abs=0.15)
    assert run.names(DIED) == ["WORKER_DIED", "WORKER_QUARANTINED", "JOB_STATE"]
    assert run.life is Life.QUARANTINED
    assert run.effects(after_s=299.0) == []
    assert run.effects(after_s=2.0) == [StartWorker("train")]
    assert run.state.jobs[0].restarts == 4


def test_failures_leave_the_window() -> None:
    run = Run().running()
    for _ in range(10):
        run.step(DIED)
        assert run.life is Life.FAILED
        run.step(after_s=31.0)
        run.step(ready())
        for tick in range(40):
            run.step(beat(tick), after_s=10.0)
    assert run.life is Life.RUNNING


def test_operator_ends_quarantine() -> None:
    run = Run().running()
    for _ in range(4):
        run.step(DIED)
        run.step(after_s=31.0)
        run.step(ready())
    assert run.life is Life.QUARANTINED
    run.state = payload.want(run.state, 0, True)
    assert run.effects() == [StartWorker("train")]


def test_completed_job_is_not_restarted_but_a_server_is() -> None:
    run = Run(JOBS).running()
    run.step(*(WorkerExited(job=j.id, returncode=0, reason="") for j in JOBS))
    assert [job.life for job in run.state.jobs] == [Life.OFF, Life.FAILED]
    assert [job.wanted for job in run.state.jobs] == [False, True]


@pytest.mark.parametrize(
    ("duty", "beats", "hung_s"),
    [
        (1.0, "moving", None),
        (1.0, "still", 10.0),  # hang_timeout_s at full duty
        (0.5, "still", 20.0),
        (0.1, "still", 100.0),
        (0.0, "still", None),  # owes nothing
        (1.0, "none", 10.0),
        (0.0, "none", 20.0),  # heartbeat_timeout_s
    ],
)
def test_hang_is_missing_progress_for_the_duty_given(duty: float, beats: str, hung_s: float | None) -> None:
    run = Run(duty=duty).running()
    start_s = run.now_s
    for tick in range(2400):
        reports = () if beats == "none" or tick % 10 else (beat(tick if beats == "moving" else 5),)
        names = run.names(*reports)
        if "WORKER_HUNG" in names:
            break
    if hung_s is None:
        assert run.life is Life.RUNNING
    else:
        # The first heartbeat is progress from nothing.
        assert run.now_s - start_s == pytest.approx(hung_s, abs=0.4)
        run.step(DIED)
        assert run.life is Life.FAILED


def test_hang_clock_survives_changes_of_duty() -> None:
    run = Run(duty=0.2).running()
    run.step(beat(5))
    for tick in range(1000):
        run.duty = 0.2 if tick % 2 else 0.4
        if "WORKER_HUNG" in run.names(*((beat(5),) if tick % 10 == 0 else ())):
            break
    assert run.now_s == pytest.approx(10.0 / 0.3, abs=1.0)


def test_an_idle_server_owes_nothing_until_it_is_asked() -> None:
    run = Run(JOBS[1:]).running()
    for tick in range(400):
        run.step(*((beat(5, "infer"),) if tick % 10 == 0 else ()))
    assert run.life is Life.RUNNING
    submit = SubmitRequest(job="infer", request=9, prompt="a", max_tokens=1, temperature=0.0, top_k=0, seed=0)
    run.state, out = payload.request(run.state, 0, submit)
    assert out == (submit,)
    asked_s = run.now_s
    for tick in range(400):
        if "WORKER_HUNG" in run.names(*((beat(5, "infer"),) if tick % 10 == 0 else ())):
            break
    assert run.now_s - asked_s == pytest.approx(10.0, abs=0.4)


@pytest.mark.parametrize(
    ("duty", "requests", "paces"),
    [
        (0.9, 0, {"train": 0.9, "infer": 0.0}),
        (0.9, 1, {"train": 0.6, "infer": 0.3}),
        (0.0, 1, {"train": 0.0, "infer": 0.0}),
        (0.012, 1, {"train": 0.008, "infer": 0.0}),  # under duty_min a worker cannot pace
        (0.004, 0, {"train": 0.0, "infer": 0.0}),
    ],
)
def test_split_of_the_duty(duty: float, requests: int, paces: dict[str, float]) -> None:
    run = Run(JOBS, duty=0.5).running()
    for number in range(requests):
        submit = SubmitRequest(
            job="infer", request=number, prompt="a", max_tokens=1, temperature=0.0, top_k=0, seed=0
        )
        run.state, _ = payload.request(run.state, 1, submit)
    run.duty = duty
    got = {e.job: e.duty for e in run.effects(after_s=3.0) if isinstance(e, SetPace)}
    assert got == pytest.approx(paces)


def test_the_longest_micro_batch_goes_with_the_set_point() -> None:
    run = Run(duty=0.5).running()
    run.state, out = payload.step(run.state, CONFIG, JOBS[:1], Permit.RUN, 0.9, (), run.now_s, 0.04)
    assert out == (SetPace("train", 0.9, 0.04),)


def test_pace_is_sent_on_change_and_refreshed() -> None:
    run = Run(duty=0.5).running()
    assert run.effects() == []
    run.duty = 0.504
    assert run.effects() == []
    run.duty = 0.51
    assert run.effects() == [SetPace("train", 0.51)]
    run.duty = 0.0
    assert run.effects() == [SetPace("train", 0.0)]
    sent = sum(len(run.effects()) for _ in range(100))
    assert sent == pytest.approx(10.0 / CONFIG.pace_refresh_s, abs=1)


@pytest.mark.parametrize(
    ("report", "event", "read", "value"),
    [
        (ModelSwapped(job="infer", generation=8, step=80), "MODEL_SWAPPED", "generation", 8),
        (WorkerFault(job="infer", code="oom", reason="x"), "WORKER_FAULT", "life", Life.RUNNING),
    ],
)
def test_reports_of_a_worker(report: object, event: str, read: str, value: object) -> None:
    run = Run(JOBS).running()
    assert run.names(report) == [event]
    assert getattr(run.state.jobs[1], read) == value


@pytest.mark.parametrize("finish", ["length", "failed"])
def test_reply_is_passed_on_once(finish: str) -> None:
    run = Run(JOBS).running()
    submit = SubmitRequest(job="infer", request=9, prompt="a", max_tokens=1, temperature=0.0, top_k=0, seed=0)
    run.state, _ = payload.request(run.state, 1, submit)
    reply = RequestReply(job="infer", request=9, text="t", tokens=1, finish=finish, generation=1, duration_s=0.1)
    out = run.step(reply)
    assert (reply in out) is (finish == "length")
    assert ([o.name for o in out if isinstance(o, Event)] == ["REQUEST_FAILED"]) is (finish == "failed")
    assert run.state.jobs[1].requests == ()
    assert reply not in run.step(reply)


def test_requests_die_with_their_worker() -> None:
    run = Run(JOBS).running()
    submit = SubmitRequest(job="infer", request=9, prompt="a", max_tokens=1, temperature=0.0, top_k=0, seed=0)
    run.state, _ = payload.request(run.state, 1, submit)
    assert "REQUEST_FAILED" in run.names(WorkerExited(job="infer", returncode=-9, reason="x"))
    assert run.state.jobs[1].requests == ()


def test_throughput_is_a_difference_of_heartbeats() -> None:
    run = Run().running()
    run.step(beat(1, tokens=5000), after_s=1.0)
    assert str(run.state.jobs[0].tokens_per_s) == "nan"
    run.step(beat(2, tokens=5300), after_s=1.0)
    assert run.state.jobs[0].tokens_per_s == pytest.approx(300.0)


def test_unknown_jobs_and_late_reports_change_nothing() -> None:
    run = Run()
    before = run.state
    run.permit = Permit.STOP
    run.step(DIED, beat(5), WorkerExited(job="ghost", returncode=1, reason=""))
    assert run.state.jobs[0].life is before.jobs[0].life


def test_lifecycle_table_has_no_dead_ends() -> None:
    rows = LIFECYCLE
    assert {source for source, _ in rows} == set(Life)
    assert {trigger for _, trigger in rows} == set(Trigger)
    for (source, _), (target, action) in rows.items():
        # Only a start makes a process, and only an exit takes it away.
        if action is Action.START:
            assert source not in WITH_PROCESS
        if source in WITH_PROCESS and target not in WITH_PROCESS:
            assert action is Action.NONE


# --- checkpoints -------------------------------------------------------------------------------------------


def committed(generation: int) -> CheckpointCommitted:
    return CheckpointCommitted(
        job="train", generation=generation, step=7, digest="d", size_bytes=1, stall_s=0.002, total_s=0.1
    )


class Ring:
    """Steps of ``checkpoint`` with one running training job."""

    def __init__(self, **config: object) -> None:
        self.config = checkpoint.Config(interval_world_s=600.0, eclipse_lead_s=100.0, **config)
        self.work = Run().running().state
        self.state = checkpoint.start(JOBS[:1])
        self.now_s = 0.0

    def at(self, world_s: float, *reports: object, eclipse: bool = False, remaining_s: float = 3000.0) -> list[str]:
        self.now_s += 1.0
        outlook = Outlook(world_s, eclipse, remaining_s)
        self.state, out = checkpoint.step(
            self.state, self.config, JOBS[:1], self.work, outlook, reports, self.now_s
        )
        return [o.reason if isinstance(o, SaveCheckpoint) else o.name for o in out]

    @property
    def ring(self) -> checkpoint.Ring:
        return self.state.rings[0]


def test_interval_is_mission_time_and_counts_from_the_commit() -> None:
    ring = Ring()
    assert ring.at(599.0) == []
    assert ring.at(600.0) == ["interval"]
    assert ring.at(650.0) == []
    assert ring.at(660.0, committed(1)) == ["CHECKPOINT_COMMITTED"]
    assert ring.at(1259.0) == []
    assert ring.at(1260.0) == ["interval"]
    assert (ring.ring.generation, ring.ring.committed, ring.ring.committed_world_s) == (1, 1, 660.0)


def test_once_before_each_eclipse() -> None:
    ring = Ring()
    assert ring.at(10.0, remaining_s=101.0) == []
    assert ring.at(11.0, remaining_s=100.0) == ["eclipse ahead"]
    assert ring.at(12.0, committed(1), remaining_s=99.0) == ["CHECKPOINT_COMMITTED"]
    assert ring.at(60.0, remaining_s=50.0) == []
    assert ring.at(120.0, eclipse=True, remaining_s=2000.0) == []
    assert ring.at(200.0, remaining_s=90.0) == ["eclipse ahead"]


def test_news_of_an_unknown_job_changes_no_ring() -> None:
    ring = Ring()
    before = ring.state
    assert ring.at(10.0, msgspec.structs.replace(committed(9), job="ghost")) == []
    assert ring.state == before


def test_before_eclipse_can_be_switched_off() -> None:
    assert Ring(before_eclipse=False).at(11.0, remaining_s=50.0) == []


def test_no_answer_is_given_up_on_the_machine_clock() -> None:
    ring = Ring(answer_timeout_s=5.0)
    asked = [bool(ring.at(700.0)) for _ in range(14)]
    assert [i for i, a in enumerate(asked) if a] == [0, 6, 12]


@pytest.mark.parametrize(
    ("report", "event", "counter"),
    [
        (CheckpointRejected(job="train", generation=3, reason="digest"), "CHECKPOINT_REJECTED", "rejected"),
        (CheckpointFailed(job="train", reason="no space"), "CHECKPOINT_FAILED", "failed"),
    ],
)
def test_bad_news_is_counted(report: object, event: str, counter: str) -> None:
    ring = Ring()
    assert ring.at(10.0, report) == [event]
    assert getattr(ring.ring, counter) == 1


def test_failure_waits_for_the_next_interval() -> None:
    ring = Ring()
    assert ring.at(600.0) == ["interval"]
    assert ring.at(601.0, CheckpointFailed(job="train", reason="no space")) == ["CHECKPOINT_FAILED"]
    assert list(itertools.chain(*(ring.at(w) for w in range(602, 1201)))) == []
    assert ring.at(1201.0) == ["interval"]


def test_resumed_worker_tells_the_newest_generation() -> None:
    ring = Ring()
    ring.at(10.0, ready(generation=12))
    assert (ring.ring.generation, ring.ring.step, ring.ring.committed_world_s) == (12, 40, None)


def test_only_running_jobs_are_asked() -> None:
    ring = Ring()
    job = msgspec.structs.replace(ring.work.jobs[0], life=Life.STOPPING)
    ring.work = payload.State(jobs=(job,))
    assert ring.at(5000.0) == []

"""SAFE and BOOT imply payload off: every reachable combination of mode and payload, under every input.

The executive is stepped from every state found with every choice of: the power and heat facts good or bad, sensors
there or not, contact, what a worker reports, which telecommand comes. A state is the part of the vehicle that
decides about payload; frames come short and long, so that each timer may expire or not. The walk ends when nothing
new appears.

The invariant, checked after each frame: outside COMPUTE and DOWNLINK no job is starting or running, no worker is
started, no duty is given, and a stopping worker is killed in the end. The mutants at the end plant a bug each and
must be caught, so the checker has been seen to fail.
"""

import itertools
from collections import deque
from collections.abc import Iterator

import msgspec
import pytest
from core_flight import sensor_frame, telecommand
from core_plant import Plant

from flightsw.core import commanding, eps, executive, housekeeping, mode, thermal
from flightsw.core.effects import SetPace, StartWorker
from flightsw.core.inputs import Inputs, WorkerExited, WorkerReady
from flightsw.core.job import Config as PayloadConfig
from flightsw.core.job import JobConfig
from flightsw.core.lifecycle import LIFECYCLE, Action, Life, Trigger
from flightsw.core.mode import PAYLOAD_MODES
from flightsw.core.payload import Permit
from flightsw.link.schema import Mode

FRAMES_S = (0.1, 11.0)
"""A frame shorter and one longer than every debounce, time-out and back-off: each timer may expire, or not."""
CONFIG = executive.Config(
    jobs=(JobConfig(id="train", kind="train"),),
    housekeeping=housekeeping.Config(fast_interval_s=0.0, main_interval_s=0.0, slow_interval_s=0.0),
    eps=eps.Config(trip_s=0.0),
    thermal=thermal.Config(trip_s=0.0),
    mode=mode.Config(recover_s=0.0, stale_safe_s=10.0),
    payload=PayloadConfig(
        start_timeout_s=10.0,
        stop_timeout_s=10.0,
        kill_timeout_s=5.0,
        heartbeat_timeout_s=10.0,
        quarantine_retry_s=10.0,
        restarts_max=1,
    ),
)
ON = (Life.STARTING, Life.RUNNING)
WORLDS = (
    {},
    {"soc_fraction": 0.70},
    {"radio_lock": True},
    None,  # No sensor frame at all.
)
REPORTS = (
    (),
    (WorkerReady(job="train", pid=1, device="cpu", step=0, generation=-1),),
    (WorkerExited(job="train", returncode=-9, reason="x"),),
    (WorkerExited(job="train", returncode=0, reason="x"),),
)
ORDERS = (
    (),
    ("mode.set", {"mode": "SAFE"}),
    ("mode.set", {"mode": "NOMINAL"}),
    ("job.start", {"job": "train"}),
    ("job.stop", {"job": "train"}),
    ("gpu.rail", {"on": False}),
    ("gpu.rail", {"on": True}),
)
Choice = tuple[dict[str, object] | None, tuple[object, ...], tuple[object, ...], float]
# A frame has a report or a telecommand, in every world; timers expire in frames of the first kind.
CHOICES: list[Choice] = [
    *itertools.product(WORLDS, REPORTS, ORDERS[:1], FRAMES_S),
    *itertools.product(WORLDS, REPORTS[:1], ORDERS[1:], FRAMES_S[:1]),
]


def essence(vehicle: executive.Vehicle) -> tuple[object, ...]:
    """What of a vehicle decides about its payload; two vehicles of one essence behave alike."""
    job = vehicle.payload.jobs[0]
    return (
        vehicle.mode.mode,
        vehicle.mode.cause,
        vehicle.mode.requested,
        vehicle.eps.rail_commanded,
        vehicle.eps.soc_low.active,
        job.life,
        job.wanted,
        job.killed,
        bool(job.broken),
        len(job.failures),
    )


def fresh() -> executive.Vehicle:
    return executive.boot(CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=1.0)[0]


def after(vehicle: executive.Vehicle, choice: Choice, number: int) -> tuple[executive.Vehicle, tuple[object, ...]]:
    """One long frame under this choice; hazardous commands are armed, histories are kept empty."""
    world, reports, order, frame_s = choice
    now_s = vehicle.now_s + frame_s
    desk = commanding.arm(commanding.State(), CONFIG.commanding, 0x31, now_s)
    vehicle = msgspec.structs.replace(vehicle, commanding=desk)
    frame = None if world is None else sensor_frame(number, Plant(time_s=now_s), **world)
    commands = (telecommand(order[0], number, **order[1]),) if order else ()
    inputs = Inputs(sensors=frame, reports=reports, telecommands=commands)
    return executive.step(vehicle, CONFIG, inputs, now_s)


def violations(vehicle: executive.Vehicle, effects: tuple[object, ...]) -> Iterator[str]:
    """What breaks the invariant in this frame."""
    job, where = vehicle.payload.jobs[0], vehicle.mode.mode
    forbidden = where not in PAYLOAD_MODES
    if forbidden and job.life in ON:
        yield f"{where.name} with a job {job.life.name}"
    if forbidden and job.duty > 0.0:
        yield f"{where.name} with duty {job.duty}"
    for effect in effects:
        if forbidden and isinstance(effect, StartWorker):
            yield f"{where.name} starts a worker"
        if forbidden and isinstance(effect, SetPace) and effect.duty > 0.0:
            yield f"{where.name} gives duty"
        if not vehicle.eps.rail_on and isinstance(effect, StartWorker):
            yield "a worker is started without its rail"


def explore(states_max: int = 20_000) -> tuple[set[tuple[object, ...]], list[str]]:
    """Every reachable essence, and every violation on the way; stops early at the first violation."""
    start = fresh()
    frontier, seen, number = deque([start]), {essence(start)}, 1
    while frontier:
        vehicle = frontier.popleft()
        for choice in CHOICES:
            number += 1
            new, effects = after(vehicle, choice, number)
            if broken := list(violations(new, effects)):
                return seen, broken
            key = essence(new)
            if key not in seen:
                assert len(seen) < states_max, "the state space is larger than it should be"
                seen.add(key)
                frontier.append(new)
    return seen, []


def test_safe_implies_payload_off_in_every_reachable_state() -> None:
    seen, broken = explore()
    assert broken == []
    assert {key[0] for key in seen} == set(Mode)
    assert {key[5] for key in seen} == set(Life)
    assert {key[1] for key in seen} >= {"command", "soc_low", "blind"}


def test_a_stopping_worker_is_gone_or_killed_in_the_end() -> None:
    vehicle, number = fresh(), 0
    for choice in (({}, (), (), 0.1), ({}, (), (), 0.1), ({}, REPORTS[1], (), 0.1), ({}, (), ORDERS[1], 0.1)):
        number += 1
        vehicle, _ = after(vehicle, choice, number)
    killed = []
    for _ in range(5):
        number += 1
        vehicle, effects = after(vehicle, ({}, (), (), 11.0), number)
        killed += [e for e in effects if type(e).__name__ == "KillWorker"]
    assert vehicle.mode.mode is Mode.SAFE
    assert len(killed) >= 2


def _forget_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LIFECYCLE, (Life.RUNNING, Trigger.STOP))


def _stop_keeps_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIFECYCLE, (Life.STARTING, Trigger.STOP), (Life.STARTING, Action.STOP))


def _safe_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode, "PAYLOAD_MODES", PAYLOAD_MODES | {Mode.SAFE})


def _rail_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executive, "_permit", lambda m, p, r: Permit.RUN if m.payload_permitted else Permit.STOP)


@pytest.mark.parametrize("plant", [_forget_stop, _stop_keeps_starting, _safe_permits, _rail_is_ignored])
def test_the_exploration_catches_a_planted_bug(plant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert explore()[1]

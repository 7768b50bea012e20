"""R10: adapters and workers owe progress: late after 3 missed cycles, stuck after 5, and the watchdog waits."""

import msgspec
import pytest
from core_flight import Flight

from flightsw.core import executive, supervision
from flightsw.core.effects import Announce, KickWatchdog
from flightsw.core.getters import GETTERS
from flightsw.core.inputs import AdapterStatus, Health, Inputs
from flightsw.core.job import JobConfig
from flightsw.core.supervision import FAULT_CYCLES, WARN_CYCLES, Pulse, State

CONFIG = executive.Config(jobs=(JobConfig(id="train", kind="train"),))
RADIO = AdapterStatus(name="radio", executions=1, restarts=0, failed=False, mandatory=True)
PROBE = AdapterStatus(name="probe", executions=0, restarts=0, failed=False, mandatory=False, cycle_s=2.0)
FRAME_S = 0.1


class Watched:
    """A vehicle whose adapters are told in every frame; ``log`` holds (time, event name)."""

    def __init__(self) -> None:
        self.vehicle, _ = executive.boot(
            CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0
        )
        self.log: list[tuple[float, str]] = []
        self.kicked: list[bool] = []
        self.time_s = 0.0

    def run(self, duration_s: float, *adapters: AdapterStatus, moving: tuple[str, ...] = ()) -> None:
        for _ in range(round(duration_s / FRAME_S)):
            self.time_s += FRAME_S
            told = tuple(
                msgspec.structs.replace(a, executions=int(self.time_s / FRAME_S)) if a.name in moving else a
                for a in adapters
            )
            self.vehicle, out = executive.step(self.vehicle, CONFIG, Inputs(adapters=told), self.time_s)
            names = [e.name for e in out if isinstance(e, Announce) and e.name.startswith("ADAPTER")]
            self.log += [(round(self.time_s, 1), name) for name in names]
            self.kicked.append(any(isinstance(e, KickWatchdog) for e in out))

    def parameter(self, name: str) -> float:
        return GETTERS[name](self.vehicle)


def test_the_steps_are_those_of_the_requirement() -> None:
    assert (WARN_CYCLES, FAULT_CYCLES) == (3, 5)


def test_r10_a_standing_adapter_is_late_then_stuck_then_moves() -> None:
    watched = Watched()
    watched.run(2.0, RADIO, moving=("radio",))
    watched.run(7.0, RADIO)
    watched.run(1.0, RADIO, moving=("radio",))
    assert watched.log == [
        (pytest.approx(5.1, abs=0.11), "ADAPTER_LATE"),
        (pytest.approx(7.1, abs=0.11), "ADAPTER_STUCK"),
        (pytest.approx(9.1, abs=0.11), "ADAPTER_MOVES"),
    ]
    assert (watched.parameter("supervision.late"), watched.parameter("supervision.stuck")) == (1, 1)


def test_r12_the_watchdog_is_kicked_only_while_no_mandatory_adapter_is_stuck() -> None:
    watched = Watched()
    watched.run(2.0, RADIO, moving=("radio",))
    watched.run(7.0, RADIO)
    stuck = watched.kicked.index(False)
    assert stuck * FRAME_S == pytest.approx(7.0, abs=0.11)
    assert not any(watched.kicked[stuck:])
    watched.run(1.0, RADIO, moving=("radio",))
    assert all(watched.kicked[-9:])


def test_an_adapter_that_is_not_mandatory_never_holds_the_watchdog_back() -> None:
    watched = Watched()
    watched.run(1.0, RADIO, PROBE, moving=("radio", "probe"))
    watched.run(11.0, RADIO, msgspec.structs.replace(PROBE, executions=7), moving=("radio",))
    # Its own cycle of 2 s counts: late at 6 s, stuck at 10 s.
    assert [name for _, name in watched.log] == ["ADAPTER_LATE", "ADAPTER_STUCK"]
    assert watched.log[0][0] == pytest.approx(7.1, abs=0.11)
    assert all(watched.kicked)


def test_the_probe_may_take_its_time_to_start() -> None:
    watched = Watched()
    watched.run(60.0, RADIO, PROBE, moving=("radio",))
    assert watched.log == []


def test_a_mandatory_adapter_that_never_moved_is_stuck() -> None:
    watched = Watched()
    watched.run(6.0, msgspec.structs.replace(RADIO, executions=0))
    assert not watched.kicked[-1]


def test_an_adapter_that_stops_being_mandatory_or_vanishes_lets_the_watchdog_go() -> None:
    """Seen red: an entry that stays mandatory for ever would hold the watchdog back until the daemon is killed."""
    for after in ((msgspec.structs.replace(RADIO, mandatory=False),), (PROBE,)):
        watched = Watched()
        watched.run(6.0, RADIO)
        assert not watched.kicked[-1]
        watched.run(0.1, *after)
        assert watched.kicked[-1]


def test_a_standstill_of_the_daemon_blames_no_adapter() -> None:
    watched = Watched()
    watched.run(2.0, RADIO, moving=("radio",))
    watched.time_s += 60.0
    watched.run(1.0, msgspec.structs.replace(RADIO, executions=20))
    assert watched.log == []
    assert all(watched.kicked)


def test_between_two_reports_of_the_shell_the_pulse_goes_on() -> None:
    state = State()
    state, _ = supervision.step(state, (), Health(), 1.0, Inputs(adapters=(RADIO,)))
    for _ in range(5):
        state, found = supervision.step(state, (RADIO,), Health(), 1.0, Inputs())
    assert [e.name for e in found] == ["ADAPTER_STUCK"]
    assert state.pulses == {"radio": Pulse(executions=1, mandatory=True, idle_s=5.0, late=True, stuck=True)}
    assert not supervision.adapters_alive(state)


def test_r12_a_watchdog_that_is_missing_is_one_event() -> None:
    state, said = State(), []
    before = Health()
    for fault in ("", "no device", "no device", "", "deaf"):
        health = Health(watchdog_fault=fault)
        state, found = supervision.step(state, (), before, 0.1, Inputs(health=health))
        said += [event.fields["reason"] for event in found]
        before = health
    assert said == ["no device", "deaf"]


# --- workers -----------------------------------------------------------------------------------------------


def test_r10_a_worker_without_progress_is_late_then_killed() -> None:
    """A fifth of each limit is a cycle: 15 s at full duty, and 20 s without a heartbeat."""
    flight = Flight(CONFIG)
    flight.fly(5.0)
    flight.workers["train"].stuck = True
    flight.fly(40.0)
    late, hung = flight.events("WORKER_LATE"), flight.events("WORKER_HUNG")
    assert (len(late), len(hung)) == (1, 1)
    assert (hung[0][0] - late[0][0]) == pytest.approx(6.0, abs=0.3)
    assert GETTERS["supervision.late"](flight.vehicle) == GETTERS["supervision.stuck"](flight.vehicle) == 1.0


def test_r10_a_silent_worker_is_late_and_may_recover() -> None:
    flight = Flight(executive.Config(jobs=(JobConfig(id="infer", kind="infer"),)))
    flight.fly(5.0)
    flight.workers["infer"].silent = True
    flight.fly(13.5)
    assert len(flight.events("WORKER_LATE")) == 1
    assert flight.vehicle.payload.jobs[0].late
    flight.workers["infer"].silent = False
    flight.fly(3.0)
    assert not flight.vehicle.payload.jobs[0].late
    assert flight.events("WORKER_HUNG") == []
    flight.workers["infer"].silent = True
    flight.fly(25.0)
    assert len(flight.events("WORKER_LATE")) == 2
    assert len(flight.events("WORKER_HUNG")) == 1

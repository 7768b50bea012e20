"""R11: the restart ladder, rung by rung: task, quarantine, daemon, SAFE; its counters, and the ground's say."""

import msgspec
import pytest
from core_flight import Flight, telecommand

from flightsw.core import durable, executive, ladder
from flightsw.core.effects import CountUncleanBoots, Persist, Restart
from flightsw.core.getters import GETTERS
from flightsw.core.inputs import AdapterStatus, Inputs, Reset
from flightsw.core.job import Config as PayloadConfig
from flightsw.core.job import Job, JobConfig
from flightsw.core.ladder import Config, State, trouble
from flightsw.core.lifecycle import Life
from flightsw.core.table_kinds import image_of
from flightsw.link.schema import Mode
from flightsw.link.tables import TABLE_BY_NAME

CONFIG = Config(adapter_failed_s=100.0, quarantine_retries=2, restarts_max=2, good_day_s=1000.0)
MISSION = executive.Config(
    jobs=(JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer", autostart=False)),
    ladder=CONFIG,
    payload=PayloadConfig(quarantine_retry_s=20.0, backoff_s=1.0),
)
RADIO = AdapterStatus(name="radio", executions=1, restarts=9, failed=True, mandatory=True)
SOUND = msgspec.structs.replace(RADIO, failed=False)
PROBE = AdapterStatus(name="probe", executions=1, restarts=9, failed=True, mandatory=False)
HELD = Job(wanted=True, life=Life.QUARANTINED, quarantines=3)
WORKING = Job(wanted=True, life=Life.RUNNING)
UNWANTED = Job(wanted=False)


@pytest.mark.parametrize(
    ("failed_s", "failed", "jobs", "reason"),
    [
        (0.0, "", (), ""),
        (99.0, "radio", (), ""),
        (100.0, "radio", (), "adapter radio has been failed for 100 s"),
        (100.0, "", (), ""),
        (0.0, "", (WORKING,), ""),
        (0.0, "", (UNWANTED,), ""),
        (0.0, "", (HELD,), "every wanted job has failed 2 tries in quarantine"),
        (0.0, "", (HELD, UNWANTED), "every wanted job has failed 2 tries in quarantine"),
        # A single bad job beside a working one never restarts the daemon.
        (0.0, "", (HELD, WORKING), ""),
        (0.0, "", (HELD, msgspec.structs.replace(HELD, quarantines=2)), ""),
        (0.0, "", (msgspec.structs.replace(HELD, life=Life.STARTING),), ""),
    ],
)
def test_r11_what_is_worth_a_restart(failed_s: float, failed: str, jobs: tuple[Job, ...], reason: str) -> None:
    assert trouble(CONFIG, failed_s, failed, jobs) == reason


def climb(state: State, seconds: int, *adapters: AdapterStatus) -> tuple[State, list[tuple[int, str]], list[str]]:
    """Seconds of the ladder; restarts as (second, reason), and events."""
    restarts, names = [], []
    for second in range(1, seconds + 1):
        state, reason, found = ladder.step(state, CONFIG, adapters, (), 1.0)
        names += [e.name for e in found]
        if reason:
            restarts.append((second, reason))
    return state, restarts, names


def test_r11_two_restarts_then_safe() -> None:
    state, restarts, names = climb(State(), 400, RADIO, PROBE)
    assert [second for second, _ in restarts] == [100, 200]
    assert names == ["LADDER_RESTART", "LADDER_RESTART", "LADDER_EXHAUSTED"]
    assert (state.restarts, state.exhausted) == (2, True)
    state, _, _ = climb(state, 1, SOUND, PROBE)
    assert not state.exhausted


def test_a_failed_adapter_that_recovers_begins_anew() -> None:
    state, restarts, _ = climb(State(), 90, RADIO)
    state, _, _ = climb(state, 1, SOUND)
    state, restarts, _ = climb(state, 90, RADIO)
    assert restarts == []


def test_r11_a_good_day_clears_the_count() -> None:
    state, _, names = climb(State(restarts=2, quiet_s=500.0), 499, SOUND)
    assert (state.restarts, names) == (2, [])
    state, _, names = climb(state, 1, SOUND)
    assert (state, names) == (State(), ["LADDER_CLEARED"])
    # Trouble is no part of a good day.
    state, _, _ = climb(State(restarts=1, quiet_s=900.0), 100, RADIO)
    assert (state.restarts, state.quiet_s) == (2, 0.0)


def test_a_fault_response_asks_for_the_same_rung() -> None:
    state = ladder.request(ladder.request(State(), "actionpoint 7"), "actionpoint 8")
    state, reason, _ = ladder.step(state, CONFIG, (), (), 1.0)
    assert (reason, state.restarts) == ("actionpoint 7", 1)
    state, reason, _ = ladder.step(state, CONFIG, (), (), 1.0)
    assert reason == ""
    state, reason, found = ladder.step(ladder.request(State(restarts=2), "x"), CONFIG, (), (), 1.0)
    assert (reason, state.exhausted, [e.name for e in found]) == ("", True, ["LADDER_EXHAUSTED"])


# --- in the vehicle ----------------------------------------------------------------------------------------


class Troubled(Flight):
    """A flight with an operator, adapters, and a store that outlives the daemon."""

    adapters: tuple[AdapterStatus, ...] = (SOUND,)
    store: dict[str, bytes]

    def __init__(self, **how: object) -> None:
        super().__init__(MISSION, **how)
        self.store, self.number = {}, 0

    def restarts(self) -> list[Restart]:
        return [e for e in self.effects if isinstance(e, Restart)]

    def send(self, name: str, **arguments: object) -> None:
        self.number += 1
        self.frame(telecommand(name, self.number, **arguments))
        self.frame()

    def frame(self, *telecommands: bytes, reports: tuple[object, ...] = ()) -> tuple[object, ...]:
        moved = tuple(msgspec.structs.replace(a, executions=self._sequence) for a in self.adapters)
        self.vehicle = msgspec.structs.replace(self.vehicle, adapters=moved)
        out = super().frame(*telecommands, reports=reports)
        self.store |= {e.key: e.payload for e in out if isinstance(e, Persist)}
        return out

    def fail(self, times: int) -> None:
        """The training worker dies as soon as it is started, this often."""
        for _ in range(times):
            while "train" not in self.workers:
                self.frame()
            self.workers["train"].gone_s, self.workers["train"].returncode = 0.0, 1
            self.frame()

    def reboot(self) -> None:
        self.workers.clear()
        self.vehicle, _ = executive.boot(
            MISSION, boot_count=9, cause="t", crash_loop=False, config_hash="", now_s=self.now_s,
            durable=self.store, power_on=False,
        )  # fmt: skip


def test_r11_from_a_bad_job_to_safe() -> None:
    """Task → quarantine → slow tries → daemon → daemon → SAFE, with a reboot wherever one is asked for."""
    flight = Troubled()
    for number in (1, 2):
        flight.fail(4)
        assert flight.vehicle.payload.jobs[0].life is Life.QUARANTINED
        flight.fly(1.0)
        assert len(flight.restarts()) == number - 1
        flight.fail(2)
        flight.fly(1.0)
        assert len(flight.restarts()) == number
        assert flight.restarts()[-1].by_ladder
        assert durable.decode(flight.store["vehicle"]).ladder_restarts == number
        flight.reboot()
        flight.fly(1.0)
        assert GETTERS["ladder.daemon_restarts"](flight.vehicle) == number
    flight.fail(6)
    flight.fly(1.0)
    assert len(flight.restarts()) == 2
    assert (flight.vehicle.mode.mode, flight.vehicle.mode.cause) == (Mode.SAFE, "restart_ladder")
    # Telecommand exit, over a reboot too.
    flight.reboot()
    flight.fly(60.0)
    assert flight.vehicle.mode.cause == "restart_ladder"
    flight.send("ladder.set", rung="daemon", value=0)
    assert durable.decode(flight.store["vehicle"]).ladder_restarts == 0
    flight.send("mode.set", mode="NOMINAL")
    flight.fly(5.0)
    assert flight.vehicle.mode.mode is Mode.COMPUTE


def test_r11_quarantine_is_retried_one_failure_at_a_time_and_forgotten_after_a_good_window() -> None:
    flight = Troubled()
    flight.fail(4)
    assert flight.vehicle.payload.jobs[0].quarantines == 1
    flight.fail(1)
    assert (flight.vehicle.payload.jobs[0].life, flight.vehicle.payload.jobs[0].quarantines) == (
        Life.QUARANTINED,
        2,
    )
    flight.frame_s = 0.5
    flight.fly(700.0)
    assert (flight.vehicle.payload.jobs[0].life, flight.vehicle.payload.jobs[0].quarantines) == (Life.RUNNING, 0)


def test_r11_a_failed_mandatory_adapter_restarts_the_daemon() -> None:
    flight = Troubled()
    flight.adapters = (RADIO,)
    flight.fly(99.0)
    assert flight.restarts() == []
    flight.fly(5.0)
    assert [r.reason for r in flight.restarts()] == ["adapter radio has been failed for 100 s"]
    assert len(flight.events("LADDER_RESTART")) == 1


def test_an_order_that_stands_is_kept() -> None:
    flight = Troubled()
    flight.send("arm", opcode=0x70)
    flight.vehicle = msgspec.structs.replace(flight.vehicle, ladder=ladder.request(flight.vehicle.ladder, "twice"))
    flight.send("daemon.restart")
    flight.fly(3.0)
    assert [(r.reason, r.by_ladder) for r in flight.restarts()] == [("twice", True)]


# --- the ground --------------------------------------------------------------------------------------------


def test_r11_the_ground_clears_a_quarantine() -> None:
    flight = Troubled()
    flight.fail(4)
    assert GETTERS["ladder.quarantined"](flight.vehicle) == 1.0
    flight.send("ladder.set", rung="task", value=0, job="train")
    assert flight.vehicle.payload.jobs[0].life is Life.STARTING
    assert flight.vehicle.payload.jobs[0].quarantines == 0


def test_r11_the_ground_raises_the_failures_of_every_job() -> None:
    flight = Troubled()
    flight.fly(3.0)
    flight.send("ladder.set", rung="task", value=3)
    flight.fail(1)
    assert flight.vehicle.payload.jobs[0].life is Life.QUARANTINED
    assert len(flight.vehicle.payload.jobs[1].failures) == 3


def test_r11_the_ground_sets_daemon_and_crash_loop() -> None:
    flight = Troubled()
    flight.send("ladder.set", rung="daemon", value=2)
    assert flight.vehicle.ladder.restarts == 2
    flight.send("ladder.set", rung="crash_loop", value=3)
    assert [e.count for e in flight.effects if isinstance(e, CountUncleanBoots)] == [3]


def test_r14_the_last_resets_are_reported_on_request() -> None:
    resets = tuple(
        Reset(
            boot=n,
            cause="UNCLEAN",
            uptime_s=n * 1.5,
            mode="SAFE",
            safe_cause="soc_low",
            tai_s=2e9,
            reason="SIGKILL",
        )
        for n in range(1, 20)
    )
    resets = (*resets, Reset(boot=20, cause="WATCHDOG"))
    flight = Troubled()
    flight.vehicle = msgspec.structs.replace(flight.vehicle, resets=resets)
    assert GETTERS["reset_cause"](flight.vehicle) == 6.0
    flight.send("reset.report", count=2)
    first, second = (fields for _, _, fields in flight.events("RESET_RECORD"))
    assert first == {
        "boot": 19, "cause": "UNCLEAN", "uptime_s": 28.5, "mode": "SAFE", "safe_cause": "soc_low", "tai_s": 2e9,
        "reason": "SIGKILL",
    }  # fmt: skip
    assert (second["cause"], second["mode"], second["safe_cause"], second["tai_s"]) == (
        "WATCHDOG",
        "unknown",
        "none",
        None,
    )
    flight.send("reset.report")
    assert len(flight.events("RESET_RECORD")) == 22


def test_without_a_record_the_cause_is_unknown() -> None:
    vehicle, _ = executive.boot(MISSION, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0)
    cause = GETTERS["reset_cause"](executive.step(vehicle, MISSION, Inputs(), 0.1)[0])
    assert cause != cause


def test_r14_the_resets_are_a_table_that_can_be_dumped() -> None:
    flight = Troubled()
    flight.vehicle = msgspec.structs.replace(flight.vehicle, resets=(Reset(boot=20, cause="WATCHDOG"),))
    image = image_of(flight.vehicle, TABLE_BY_NAME["resets"])
    assert image is not None
    assert msgspec.msgpack.decode(image, type=tuple[Reset, ...]) == flight.vehicle.resets

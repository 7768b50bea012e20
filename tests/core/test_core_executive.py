"""The executive end to end: telecommands to completion, SAFE and back, supervision, restart, determinism."""

import msgspec
import pytest
from core_flight import Flight, telecommand

from flightsw.core import commanding, eps, executive, payload
from flightsw.core.effects import Acknowledge, Actuate, Announce, KillWorker, Restart, Telemetry
from flightsw.core.inputs import AdapterStatus, CheckpointFailed, GpuSample, Health, Inputs, RequestReply
from flightsw.core.job import Config as PayloadConfig
from flightsw.core.job import JobConfig
from flightsw.core.lifecycle import Life
from flightsw.core.plan import Plan, PlanRequest
from flightsw.link.bodies import PingBody, ReplyBody, VerificationBody
from flightsw.link.codec import HousekeepingBody, decode_telemetry
from flightsw.link.dictionary import (
    APID_HK_SLOW,
    APID_PING,
    APID_REPLY,
    APID_VERIFICATION,
    EVENT_BY_NAME,
    TELECOMMAND_BY_NAME,
)
from flightsw.link.schema import FailureCode, Mode, Stage

JOBS = (JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer", share=0.5))
CONFIG = executive.Config(jobs=JOBS, eps=eps.Config(eclipse_entry_s=3600.0))
A, S, C = Stage.ACCEPTANCE, Stage.START, Stage.COMPLETION
OK = FailureCode.NONE


class Desk(Flight):
    """A flight with an operator: ``send`` one command and fly until its final report or a deadline."""

    def __init__(self, config: executive.Config = CONFIG, settle_s: float = 5.0, **how: object) -> None:
        super().__init__(config, **how)
        self.number = 0
        self.fly(settle_s)

    def reports(self, command_id: int) -> list[tuple[Stage, FailureCode, str]]:
        bodies = [
            decode_telemetry(e.packet).body
            for e in self.effects
            if isinstance(e, Telemetry) and e.apid == APID_VERIFICATION
        ]
        return [
            (Stage(b.stage), FailureCode(b.code), b.text)
            for b in bodies
            if isinstance(b, VerificationBody) and b.id == command_id
        ]

    def send(self, name: str, within_s: float = 10.0, **arguments: object) -> list[tuple[Stage, FailureCode]]:
        self.number += 1
        end_s = self.plant.time_s + within_s
        self.frame(telecommand(name, self.number, **arguments))
        while self.plant.time_s < end_s and self.vehicle.commanding.in_flight:
            self.frame()
        return [(stage, code) for stage, code, _ in self.reports(self.number)]

    def life(self, job: int = 0) -> Life:
        return self.vehicle.payload.jobs[job].life


DONE = [(A, OK), (S, OK), (C, OK)]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("ping", {}, DONE),
        ("arm", {"opcode": 0x31}, DONE),
        ("arm", {"opcode": 0x01}, [(A, OK), (S, FailureCode.UNKNOWN_TARGET)]),
        ("mode.set", {"mode": Mode.SAFE}, DONE),
        ("mode.set", {"mode": Mode.NOMINAL}, [(A, OK), (S, FailureCode.EXECUTION_FAILED)]),
        ("job.start", {"job": "train"}, DONE),
        ("job.start", {"job": "ghost"}, [(A, OK), (S, FailureCode.UNKNOWN_TARGET)]),
        ("job.stop", {"job": "train"}, DONE),
        ("job.checkpoint", {"job": "train"}, DONE),
        ("job.checkpoint", {"job": "infer"}, [(A, OK), (S, FailureCode.UNKNOWN_TARGET)]),
        ("job.infer", {"job": "infer", "prompt": "to be"}, DONE),
        ("job.infer", {"job": "train", "prompt": "to be"}, [(A, OK), (S, FailureCode.UNKNOWN_TARGET)]),
        ("governor.cap", {"power_cap_w": 200.0}, DONE),
        ("gpu.rail", {"on": False}, [(A, FailureCode.NOT_ARMED)]),
        ("hk.enable", {"group": 0}, DONE),
        ("hk.disable", {"group": 1}, DONE),
        ("hk.request", {"group": 2}, DONE),
        ("hk.interval", {"group": 2, "interval_s": 5.0}, DONE),
        ("hk.interval", {"group": 2, "interval_s": 0.5}, [(A, OK), (S, FailureCode.BAD_ARGUMENT)]),
        ("event.filter", {"severity": 3}, DONE),
        ("recorder.acknowledge", {"boot": 1, "apid": 32, "first": 3, "last": 9}, DONE),
        (
            "recorder.acknowledge",
            {"boot": 1, "apid": 32, "first": 9, "last": 3},
            [(A, OK), (S, FailureCode.BAD_ARGUMENT)],
        ),
        ("daemon.restart", {}, [(A, FailureCode.NOT_ARMED)]),
        ("ladder.set", {"rung": "task", "value": 0}, DONE),
        ("ladder.set", {"rung": "task", "value": 3, "job": "train"}, DONE),
        ("ladder.set", {"rung": "task", "value": 4, "job": "train"}, [(A, OK), (S, FailureCode.BAD_ARGUMENT)]),
        ("ladder.set", {"rung": "task", "value": 0, "job": "ghost"}, [(A, OK), (S, FailureCode.UNKNOWN_TARGET)]),
        ("ladder.set", {"rung": "daemon", "value": 2}, DONE),
        ("ladder.set", {"rung": "daemon", "value": 2, "job": "train"}, [(A, OK), (S, FailureCode.BAD_ARGUMENT)]),
        ("ladder.set", {"rung": "daemon", "value": 101}, [(A, FailureCode.BAD_ARGUMENT)]),
        ("ladder.set", {"rung": "crash_loop", "value": 0}, DONE),
        ("ladder.set", {"rung": "crash_loop", "value": 0, "job": "a"}, [(A, OK), (S, FailureCode.BAD_ARGUMENT)]),
        ("ladder.set", {"rung": "moon", "value": 0}, [(A, FailureCode.BAD_ARGUMENT)]),
        ("reset.report", {}, DONE),
        ("reset.report", {"count": 0}, [(A, FailureCode.BAD_ARGUMENT)]),
        ("reset.report", {"count": 21}, [(A, FailureCode.BAD_ARGUMENT)]),
    ],
)
def test_each_telecommand_to_its_final_report(
    name: str, arguments: dict[str, object], expected: list[tuple[Stage, FailureCode]]
) -> None:
    assert Desk().send(name, **arguments) == expected


def test_ping_is_answered() -> None:
    desk = Desk()
    desk.send("ping")
    bodies = [
        decode_telemetry(e.packet).body for e in desk.effects if isinstance(e, Telemetry) and e.apid == APID_PING
    ]
    assert len(bodies) == 1
    assert isinstance(bodies[0], PingBody)


def test_job_stop_and_start() -> None:
    desk = Desk()
    assert desk.send("job.stop", job="train") == DONE
    assert desk.life() is Life.OFF
    desk.fly(5.0)
    assert desk.life() is Life.OFF
    assert desk.send("job.start", job="train") == DONE
    assert desk.life() is Life.RUNNING


def test_a_job_is_started_from_nominal() -> None:
    jobs = (JobConfig(id="train", kind="train", autostart=False),)
    desk = Desk(executive.Config(jobs=jobs))
    assert desk.vehicle.mode.mode is Mode.NOMINAL
    assert desk.send("job.start", job="train") == DONE
    assert desk.vehicle.mode.mode is Mode.COMPUTE
    assert desk.send("job.stop", job="train") == DONE
    desk.frame()
    assert desk.vehicle.mode.mode is Mode.NOMINAL


def test_start_that_fails_is_reported_with_the_reason() -> None:
    jobs = (JobConfig(id="train", kind="train", autostart=False),)
    desk = Desk(executive.Config(jobs=jobs))
    desk.frame(telecommand("job.start", 9, job="train"))
    desk.frame()
    desk.workers["train"].gone_s, desk.workers["train"].returncode = 0.0, 1
    desk.frame()
    assert desk.reports(9)[-1][:2] == (C, FailureCode.EXECUTION_FAILED)
    assert "ended with 1" in desk.reports(9)[-1][2]


def test_inference_reply_reaches_the_ground() -> None:
    desk = Desk()
    assert desk.send("job.infer", job="infer", prompt="to be", max_tokens=5) == DONE
    replies = [
        decode_telemetry(e.packet).body for e in desk.effects if isinstance(e, Telemetry) and e.apid == APID_REPLY
    ]
    assert len(replies) == 1
    assert isinstance(replies[0], ReplyBody)
    assert (replies[0].id, replies[0].text) == (desk.number, "words")


@pytest.mark.parametrize(("name", "extra"), [("job.infer", {"prompt": "x"}), ("job.checkpoint", {})])
def test_worker_that_dies_fails_what_waits_for_it(name: str, extra: dict[str, object]) -> None:
    desk = Desk()
    job = "infer" if name == "job.infer" else "train"
    desk.workers[job].stuck = True
    desk.workers[job].duty = 0.0
    desk.frame(telecommand(name, 9, job=job, **extra))
    desk.workers[job].commits_s, desk.workers[job].requests = [], []
    desk.workers[job].gone_s, desk.workers[job].returncode = 0.0, -9
    desk.frame()
    assert desk.reports(9)[-1][:2] == (C, FailureCode.EXECUTION_FAILED)


# --- what a telecommand meets after its acceptance -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("job.checkpoint", {"job": "train"}, "job train is OFF, not RUNNING"),
        ("job.infer", {"job": "infer", "prompt": "x"}, "job infer is OFF, not RUNNING"),
    ],
)
def test_work_is_refused_by_a_job_that_does_not_run(name: str, arguments: dict[str, object], text: str) -> None:
    desk = Desk()
    assert desk.send("job.stop", job=arguments["job"]) == DONE
    assert desk.send(name, **arguments) == [(A, OK), (S, FailureCode.EXECUTION_FAILED)]
    assert desk.reports(desk.number)[-1][2] == text


@pytest.mark.parametrize(
    ("first", "meanwhile", "text"),
    [
        ("job.start", "job.stop", "the job was stopped meanwhile, or is complete"),
        ("job.stop", "job.start", "the job was started meanwhile"),
    ],
)
def test_the_later_wish_for_a_job_ends_the_earlier(first: str, meanwhile: str, text: str) -> None:
    desk = Desk(executive.Config(jobs=(JobConfig(id="train", kind="train", autostart=first == "job.stop"),)))
    desk.frame(telecommand(first, 900, job="train"))
    desk.frame(telecommand(meanwhile, 901, job="train"))
    desk.fly(3.0)
    assert desk.reports(900)[-1] == (C, FailureCode.EXECUTION_FAILED, text)
    assert desk.reports(901)[-1] == (C, OK, "")


def test_a_checkpoint_that_cannot_be_written_fails_with_the_workers_reason() -> None:
    desk = Desk()
    desk.frame(telecommand("job.checkpoint", 900, job="train"))
    desk.workers["train"].commits_s = []
    desk.frame(reports=(CheckpointFailed(job="infer", reason="not this one"),))
    assert desk.reports(900)[-1][:2] == (S, OK)
    desk.frame(reports=(CheckpointFailed(job="train", reason="no space left"),))
    assert desk.reports(900)[-1] == (C, FailureCode.EXECUTION_FAILED, "no space left")


def reply(request: int, finish: str, text: str) -> RequestReply:
    return RequestReply(
        job="infer", request=request, text=text, tokens=0, finish=finish, generation=-1, duration_s=0.1
    )


def test_an_inference_that_fails_says_the_workers_reason() -> None:
    desk = Desk()
    assert desk.send("governor.cap", power_cap_w=0.0) == DONE
    desk.frame(telecommand("job.infer", 900, job="infer", prompt="x"))
    desk.frame(reports=(reply(901, "failed", "another request"),))
    assert desk.reports(900)[-1][:2] == (S, OK)
    desk.frame(reports=(reply(900, "failed", "prompt too long"),))
    assert desk.reports(900)[-1] == (C, FailureCode.EXECUTION_FAILED, "prompt too long")


def test_requests_that_wait_are_bounded() -> None:
    """With the GPU idle nobody answers; the request over the bound is refused, and taken once one was answered."""
    desk = Desk(executive.Config(jobs=JOBS, commanding=commanding.Config(in_flight_max=2 * payload.REQUESTS_MAX)))
    assert desk.send("governor.cap", power_cap_w=0.0) == DONE
    desk.fly(1.0)
    first = 900
    over = first + payload.REQUESTS_MAX
    desk.frame(*(telecommand("job.infer", n, job="infer", prompt="x") for n in range(first, over + 1)))
    assert [desk.reports(n)[-1][:2] for n in range(first, over)] == [(S, OK)] * payload.REQUESTS_MAX
    assert desk.reports(over)[-1][:2] == (S, FailureCode.BUSY)
    assert f"{payload.REQUESTS_MAX} requests are waiting" in desk.reports(over)[-1][2]
    desk.frame(reports=(reply(first, "length", "words"),))
    desk.frame(telecommand("job.infer", over + 1, job="infer", prompt="x"))
    assert desk.reports(over + 1)[-1][:2] == (S, OK)


def test_a_command_is_refused_when_the_mode_changed_after_its_acceptance() -> None:
    desk = Desk(executive.Config(jobs=(JobConfig(id="train", kind="train", autostart=False),)))
    desk.frame(telecommand("mode.set", 900, mode="SAFE"))
    desk.vehicle, _ = executive.accept(
        desk.vehicle, desk.config, telecommand("job.start", 901, job="train"), desk.now_s
    )
    assert len(desk.vehicle.commanding.in_flight) == 2
    out = desk.frame()
    verdict = [
        (Stage(b.stage), FailureCode(b.code), b.text)
        for b in (decode_telemetry(e.packet).body for e in out if isinstance(e, Telemetry))
        if isinstance(b, VerificationBody) and b.id == 901
    ]
    assert verdict == [(S, FailureCode.MODE_FORBIDS, "the mode became SAFE meanwhile")]
    assert not desk.vehicle.payload.wanted


def test_the_way_out_of_safe_is_closed_by_a_cause_that_comes_up() -> None:
    """The cause trips in the frame between the start of the command and the step of the mode."""
    desk = Desk()
    assert desk.send("mode.set", mode="SAFE") == DONE
    # Another cause by the first frame in which the request is looked at.
    desk.frame(telecommand("mode.set", 900, mode="NOMINAL"))
    assert desk.reports(900)[-1][:2] == (S, OK)
    desk.now_s += CONFIG.mode.stale_safe_s + 1.0
    desk.sensors_on = False
    desk.frame()
    assert desk.reports(900)[-1] == (C, FailureCode.EXECUTION_FAILED, "a cause of SAFE came up meanwhile")
    assert desk.vehicle.mode.mode is Mode.SAFE


def test_the_rail_cannot_be_switched_on_while_safe_sheds_it() -> None:
    desk = Desk()
    desk.send("arm", opcode=0x31)
    assert desk.send("gpu.rail", on=False) == DONE
    desk.sensor_changes["soc_fraction"] = 0.70
    desk.fly(12.0)  # A batch of the charge filter, which refuses this gauge: its reading counts from then on.
    assert desk.vehicle.mode.event == "SOC_LOW"
    desk.send("arm", opcode=0x31)
    assert desk.send("gpu.rail", on=True) == [(A, OK), (S, OK), (C, FailureCode.EXECUTION_FAILED)]
    assert desk.reports(desk.number)[-1][2] == "SAFE sheds the rail; it will be on afterwards"
    assert not desk.rail_on
    desk.sensor_changes["soc_fraction"] = 0.80
    desk.fly(15.0)
    assert desk.rail_on


def test_command_without_an_end_times_out() -> None:
    desk = Desk()
    desk.workers["train"].silent = True
    desk.frame(telecommand("job.checkpoint", 9, job="train"))
    desk.workers["train"].commits_s = []
    desk.workers["train"].silent = False
    desk.fly(TELECOMMAND_BY_NAME["job.checkpoint"].timeout_s + 0.2)
    assert desk.reports(9)[-1][:2] == (C, FailureCode.TIMEOUT)
    assert desk.vehicle.commanding.in_flight == ()


def test_accept_answers_at_once_and_executes_in_the_next_frame() -> None:
    desk = Desk()
    vehicle, effects = executive.accept(desk.vehicle, desk.config, telecommand("ping", 77), desk.now_s + 0.01)
    assert [e.apid for e in effects if isinstance(e, Telemetry)] == [APID_VERIFICATION]
    desk.vehicle = vehicle
    out = desk.frame()
    assert [e.apid for e in out if isinstance(e, Telemetry)][:3] == [
        APID_VERIFICATION,
        APID_PING,
        APID_VERIFICATION,
    ]


def test_accept_survives_garbage_and_reports_it_now_and_then() -> None:
    desk = Desk()
    for _ in range(50):
        desk.vehicle, effects = executive.accept(desk.vehicle, desk.config, b"\x00garbage", desk.now_s)
        assert effects == ()
    desk.fly(30.0)
    assert [fields["count"] for _, _, fields in desk.events("TC_GARBAGE")] == [50]


def test_acknowledge_is_passed_to_the_recorder_silently() -> None:
    desk = Desk()
    out = desk.frame(telecommand("recorder.acknowledge", 9, ack=0, boot=1, apid=32, first=3, last=9))
    assert Acknowledge(1, 32, 3, 9) in out
    assert desk.reports(9) == []


def test_cap_idles_and_is_taken_back() -> None:
    desk = Desk()
    assert desk.send("governor.cap", power_cap_w=0.0) == DONE
    desk.fly(1.0)
    assert desk.vehicle.governor.duty == 0.0
    assert desk.workers["train"].duty == 0.0
    assert desk.send("governor.cap", power_cap_w=2000.0) == DONE
    desk.fly(1.0)
    assert desk.vehicle.governor.duty > 0.9
    assert desk.vehicle.governor.power_cap_w is None


def test_rail_off_kills_every_worker_and_rail_on_brings_them_back() -> None:
    desk = Desk()
    assert desk.send("arm", opcode=0x31) == DONE
    before = len(desk.effects)
    assert desk.send("gpu.rail", on=False) == DONE
    out = desk.effects[before:]
    assert {e.job for e in out if isinstance(e, KillWorker)} == {"train", "infer"}
    assert [e.gpu_rail_on for e in out if isinstance(e, Actuate)] == [True, False]
    desk.fly(2.0)
    assert desk.vehicle.payload.off
    assert desk.send("job.start", job="train")[-1] == (S, FailureCode.EXECUTION_FAILED)
    desk.send("arm", opcode=0x31)
    desk.send("gpu.rail", on=True)
    desk.fly(3.0)
    assert (desk.life(0), desk.life(1)) == (Life.RUNNING, Life.RUNNING)


def test_event_filter_by_telecommand() -> None:
    desk = Desk()
    assert desk.send("event.filter", severity=2) == DONE
    desk.effects.clear()
    desk.send("job.stop", job="infer")
    assert desk.events("JOB_STATE") == []


def test_one_shot_housekeeping() -> None:
    desk = Desk()
    desk.effects.clear()
    desk.send("hk.request", group="slow")
    bodies = [
        decode_telemetry(e.packet).body for e in desk.effects if isinstance(e, Telemetry) and e.apid == APID_HK_SLOW
    ]
    assert len(bodies) == 1
    assert isinstance(bodies[0], HousekeepingBody)


# --- SAFE --------------------------------------------------------------------------------------------------


def test_safe_by_command_stops_payload_and_stays() -> None:
    desk = Desk()
    assert desk.send("mode.set", mode="SAFE") == DONE
    desk.fly(60.0)
    assert desk.vehicle.mode.mode is Mode.SAFE
    assert desk.vehicle.payload.off
    assert desk.rail_on
    assert desk.send("job.start", job="train") == [(A, FailureCode.MODE_FORBIDS)]
    assert desk.send("mode.set", mode="NOMINAL") == DONE
    desk.fly(5.0)
    assert (desk.vehicle.mode.mode, desk.life()) == (Mode.COMPUTE, Life.RUNNING)


def test_low_battery_sheds_the_rail_and_recovers_by_itself() -> None:
    desk = Desk()
    desk.sensor_changes["soc_fraction"] = 0.70
    desk.fly(12.0)  # A batch of the charge filter, which refuses this gauge: its reading counts from then on.
    assert desk.vehicle.mode.event == "SOC_LOW"
    assert not desk.rail_on
    assert desk.vehicle.payload.off
    assert desk.send("mode.set", mode="NOMINAL") == [(A, OK), (S, FailureCode.EXECUTION_FAILED)]
    desk.sensor_changes["soc_fraction"] = 0.80
    desk.fly(9.0)
    assert desk.vehicle.mode.mode is Mode.SAFE
    desk.fly(4.0)
    assert desk.rail_on
    assert (desk.vehicle.mode.mode, desk.life()) == (Mode.COMPUTE, Life.RUNNING)
    assert [fields["state"] for _, _, fields in desk.events("RAIL_SWITCHED")] == ["OFF", "ON"]


@pytest.mark.parametrize(("field", "event"), [("gpu_temp_degc", "GPU_HOT"), ("radiator_temp_degc", "RADIATOR_HOT")])
def test_heat_is_reported_once_and_sheds_the_rail(field: str, event: str) -> None:
    desk = Desk()
    desk.sensor_changes[field] = 95.0
    desk.fly(3.0)
    assert [fields["temp_degc"] for _, _, fields in desk.events(event)] == [95.0]
    assert (desk.vehicle.mode.event, desk.rail_on) == (event, False)


def test_silent_sensors_idle_the_gpu_then_safe_then_back() -> None:
    desk = Desk()
    desk.sensors_on = False
    desk.fly(2.5)
    assert (desk.vehicle.governor.duty, desk.vehicle.mode.mode) == (0.0, Mode.COMPUTE)
    desk.fly(9.0)
    assert desk.vehicle.mode.event == "SENSORS_STALE"
    desk.sensors_on = True
    desk.fly(15.0)
    assert (desk.vehicle.mode.mode, desk.life()) == (Mode.COMPUTE, Life.RUNNING)
    names = [name for _, name, _ in desk.events()]
    assert names.count("SENSORS_STALE") == names.count("SENSORS_RECOVERED") == 1


def test_crash_loop_boots_into_safe_until_commanded() -> None:
    desk = Desk()
    desk.vehicle, effects = executive.boot(
        CONFIG, boot_count=9, cause="crash", crash_loop=True, config_hash="", now_s=desk.now_s,
        unclean_boots=3, crash_window_s=600.0,
    )  # fmt: skip
    assert "3 unclean boots within 600 s" in " ".join(e.text for e in effects if isinstance(e, Announce))
    desk.workers.clear()
    desk.fly(60.0)
    assert (desk.vehicle.mode.mode, desk.vehicle.mode.event) == (Mode.SAFE, "CRASH_LOOP")
    assert desk.send("mode.set", mode="NOMINAL") == DONE
    desk.fly(5.0)
    assert desk.vehicle.mode.mode is Mode.COMPUTE


# --- faults, supervision, end ------------------------------------------------------------------------------


def test_killed_worker_is_restarted() -> None:
    desk = Desk()
    desk.workers["train"].gone_s, desk.workers["train"].returncode = 0.0, -9
    desk.fly(5.0)
    assert desk.life() is Life.RUNNING
    names = [name for _, name, _ in desk.events()]
    assert names.count("WORKER_DIED") == 1
    assert names.count("WORKER_READY") == 3


def test_hung_worker_is_killed_and_restarted() -> None:
    desk = Desk()
    desk.workers["train"].stuck = True
    desk.fly(40.0)
    assert desk.life() is Life.RUNNING
    assert [name for _, name, _ in desk.events() if name.startswith("WORKER_")].count("WORKER_HUNG") == 1


def statuses(executions: int, **changes: object) -> tuple[AdapterStatus, ...]:
    base = AdapterStatus(name="avionics", executions=executions, restarts=0, failed=False, mandatory=True)
    extra = AdapterStatus(name="probe", executions=0, restarts=0, failed=False, mandatory=False)
    return msgspec.structs.replace(base, **changes), extra


def test_adapter_trouble_is_reported_once() -> None:
    vehicle, _ = executive.boot(CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0)
    texts = []
    history = [
        {},
        {"restarts": 1, "reason": "eof"},
        {"restarts": 1, "reason": "eof"},
        {"restarts": 5, "failed": True},
    ]
    for frame, changes in enumerate(history * 1):
        vehicle, out = executive.step(vehicle, CONFIG, Inputs(adapters=statuses(frame, **changes)), frame * 0.1)
        texts += [e.name for e in out if isinstance(e, Announce) and e.name.startswith("ADAPTER")]
    assert texts == ["ADAPTER_RESTARTED", "ADAPTER_RESTARTED", "ADAPTER_FAILED"]


def test_overrun_is_reported() -> None:
    vehicle, _ = executive.boot(CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0)
    vehicle, out = executive.step(vehicle, CONFIG, Inputs(health=Health(frame_late_s=0.3, frames_skipped=2)), 0.5)
    assert "minor frame late by 300 ms, 2 skipped" in [e.text for e in out if isinstance(e, Announce)]


def test_restart_lets_the_workers_go_first() -> None:
    desk = Desk()
    desk.send("arm", opcode=0x70)
    assert desk.send("daemon.restart") == DONE
    asked = len(desk.effects)
    desk.fly(5.0)
    restarts = [i for i, e in enumerate(desk.effects) if isinstance(e, Restart)]
    assert len(restarts) == 1
    assert desk.vehicle.payload.off
    assert restarts[0] > asked


def test_shutdown_says_goodbye() -> None:
    desk = Desk()
    _, effects = executive.shutdown(desk.vehicle, CONFIG, "SIGTERM", desk.now_s)
    assert [e.text for e in effects if isinstance(e, Announce)] == ["shutdown: SIGTERM"]


def test_configuration_that_contradicts_itself() -> None:
    with pytest.raises(ValueError, match="job ids must be unique, these are not: a"):
        executive.Config(jobs=(JobConfig(id="a", kind="train"), JobConfig(id="a", kind="infer")))
    with pytest.raises(ValueError, match=r"eps.soc_safe = 0.8 is over the governor's own floor"):
        executive.Config(eps=eps.Config(soc_safe=0.8, soc_recovered=0.9))


def test_every_event_of_the_dictionary_is_raised_somewhere(repository: object) -> None:
    from pathlib import Path

    text = "".join(p.read_text() for p in (Path(str(repository)) / "flightsw" / "core").glob("*.py"))
    assert {name for name in EVENT_BY_NAME if f'"{name}"' not in text} == set()


def test_payload_defaults_are_the_documented_restart_policy() -> None:
    config = PayloadConfig()
    assert (config.restarts_max, config.restart_window_s) == (3, 600.0)


# --- what the power chain reports -------------------------------------------------------------------------------


def test_a_planner_that_falls_silent_is_reported_and_so_is_its_return() -> None:
    """Frames without a plan fly the closed form; both changes reach the ground as events."""
    desk = Desk(CONFIG, planner=_even_plan, frame_s=0.5)
    desk.fly(60.0)
    assert desk.events("PLAN_FALLBACK") == []
    desk.planner = None
    desk.fly(CONFIG.planning.plan_age_max_s + 10.0)
    assert len(desk.events("PLAN_FALLBACK")) == 1
    desk.planner = _even_plan
    desk.fly(2.0 * CONFIG.planning.replan_s)
    assert len(desk.events("PLAN_RESUMED")) == 1


def _even_plan(asked: PlanRequest) -> Plan:
    """300 W in every step, charge and temperatures constant."""
    count = len(asked.steps_s)
    return Plan(
        id=asked.id,
        world_s=asked.world_s,
        steps_s=asked.steps_s,
        gpu_power_w=(300.0,) * count,
        energy_j=(asked.energy_j,) * count,
        gpu_degc=(asked.gpu_degc,) * count,
        radiator_degc=(asked.radiator_degc,) * count,
    )


@pytest.mark.parametrize(("share", "mismatches"), [(1.0, 0), (0.7, 1)])
def test_a_rail_meter_that_contradicts_the_card_is_reported(share: float, mismatches: int) -> None:
    """The card counts joules, the power board measures watts; here the board sees ``share`` of them."""
    desk = Desk(CONFIG)
    energy_j = 0.0
    for frame in range(600):
        power_w = desk.plant.gpu_w
        energy_j += power_w * desk.frame_s
        desk.gpu_override = GpuSample(sequence=10_000 + frame, source="sim", power_w=power_w, energy_j=energy_j)
        # A board that stands still to the last digit is no witness.
        desk.sensor_changes = {"gpu_rail_power_w": share * power_w + 0.01 * (frame % 7)}
        desk.frame()
    assert len(desk.events("POWER_MISMATCH")) == mismatches

"""The executive in virtual time: same bytes, same decisions at two rates, faults and commands that show."""

from itertools import pairwise

import msgspec
import pytest
from typer.testing import CliRunner

from hil.cli import app
from hil.inproc import ORBIT_S, mission, run_inproc
from hil.inproc_evidence import Evidence, TimedCommand, TimedFault
from hil.inproc_tally import Recorder
from hil.plant.eps import EpsConfig
from hil.plant.plant import Plant, PlantConfig


def fly(
    duration_s=ORBIT_S, frame_s=1.0, seed=1, plant=None, commands=(), faults=(), plant_seed=1, **sections
) -> Evidence:
    plant = plant or Plant(seed=plant_seed)
    return run_inproc(mission(plant, **sections), plant, duration_s, frame_s, seed, commands, faults)


@pytest.fixture(scope="module")
def orbit():
    """One undisturbed orbit at 1 Hz."""
    return fly()


def named(evidence, name):
    return [event for event in evidence.events if event.name == name]


def test_one_orbit_keeps_every_limit_and_does_its_work(orbit):
    assert orbit.ok
    assert orbit.soc_min >= orbit.soc_floor
    assert orbit.gpu_temp_max_degc <= orbit.gpu_temp_limit_degc
    assert orbit.frames == 5700
    assert orbit.train_steps > 20_000
    assert orbit.checkpoints >= 8
    assert orbit.boots == 1
    assert orbit.watchdog_kicks == orbit.frames
    assert orbit.eclipse_s == pytest.approx(2124.0, abs=3.0)


def test_the_gpu_is_throttled_in_eclipse(orbit):
    assert orbit.gpu_power_sun_w > 500.0
    assert 80.0 < orbit.gpu_power_eclipse_w < 0.6 * orbit.gpu_power_sun_w


def test_modes_follow_sunlight_and_passes(orbit):
    assert set(orbit.mode_time_s) >= {"COMPUTE", "DOWNLINK"}
    assert orbit.mode_time_s["DOWNLINK"] == pytest.approx(orbit.contact_s, abs=3.0)
    assert sum(orbit.mode_time_s.values()) == pytest.approx(orbit.duration_s)
    assert len(named(orbit, "CONTACT_START")) == len(named(orbit, "CONTACT_END")) == 3
    assert len(named(orbit, "ECLIPSE_ENTERED")) == len(named(orbit, "ECLIPSE_LEFT")) == 1


def test_every_packet_is_live_played_back_or_waiting(orbit):
    assert orbit.packets_made == orbit.packets_live + orbit.packets_playback + orbit.packets_pending
    assert orbit.packets_playback > 0
    assert orbit.packets_shed == 0


def test_same_seed_same_bytes_and_another_seed_other_bytes():
    """Over a checkpoint, a pass and a bit of housekeeping of every group."""
    span_s = 900.0
    first = fly(span_s)
    assert fly(span_s).digest == first.digest
    digests = {
        first.digest,
        fly(span_s, seed=2).digest,
        fly(span_s, plant_seed=2).digest,
        fly(span_s, checkpoint={"interval_world_s": 601.0}).digest,
    }
    assert len(digests) == 4


def test_ten_and_one_hertz_agree(orbit):
    """A pass's end and the eclipse entry: the same events in the same order, and the same world within bounds."""
    span_s = 700.0
    slow, fast = (
        fly(span_s, frame_s=frame_s, plant=Plant(PlantConfig(start_s=1300.0), seed=1)) for frame_s in (1.0, 0.1)
    )
    assert fast.frames == 7000
    interesting = ("MODE_CHANGED", "JOB_STATE", "ECLIPSE_ENTERED", "CHECKPOINT_COMMITTED", "CONTACT_END")

    def story(evidence):
        return [(e.name, e.text.split(",")[0]) for e in evidence.events if e.name in interesting]

    assert [name for name, _ in story(fast)] == [name for name, _ in story(slow)]
    assert fast.soc_end == pytest.approx(slow.soc_end, abs=0.005)
    assert fast.gpu_temp_max_degc == pytest.approx(slow.gpu_temp_max_degc, abs=1.0)
    assert fast.train_steps == pytest.approx(slow.train_steps, rel=0.02)


@pytest.fixture(scope="module")
def beginning():
    """The first 1,500 s, undisturbed."""
    return fly(1500.0)


def test_a_killed_worker_resumes_from_its_last_checkpoint(beginning):
    evidence = fly(1500.0, faults=[TimedFault(world_s=1000.0, name="worker_kill")])
    assert evidence.worker_kills == 1
    assert evidence.worker_starts == beginning.worker_starts + 1
    (died,) = named(evidence, "WORKER_DIED")
    assert "train" in died.text
    before = [e for e in named(evidence, "CHECKPOINT_COMMITTED") if e.world_s < 1000.0][-1]
    step = before.text.split("step ")[1].split(",")[0]
    assert f"resumed at step {step}" in named(evidence, "WORKER_READY")[-1].text
    # Lost: the work since the checkpoint at about 600 s, and the restart.
    assert 0.6 * beginning.train_steps < evidence.train_steps < 0.8 * beginning.train_steps


def test_a_step_has_the_same_digest_however_often_the_job_was_interrupted(orbit):
    faults = [TimedFault(world_s=500.0 * k, name="worker_kill") for k in range(1, 4)]
    runs = (orbit, fly(2000.0, faults=faults, checkpoint={"interval_world_s": 200.0}))
    by_step = {}
    for text in [e.text for run in runs for e in named(run, "CHECKPOINT_COMMITTED")]:
        step, digest = (text.split(f"{word} ")[1].split(",")[0] for word in ("step", "digest"))
        assert by_step.setdefault(step, digest) == digest
    assert len(set(by_step.values())) == len(by_step) > 10


def test_a_degraded_radiator_costs_work_and_no_limit(beginning):
    fault = TimedFault(world_s=100.0, name="radiator_degrade", parameters={"factor": 0.6}, duration_s=1200.0)
    evidence = fly(1500.0, faults=[fault])
    assert evidence.ok
    assert evidence.train_steps < 0.95 * beginning.train_steps
    assert evidence.digest != beginning.digest


def test_r9_what_ails_the_card_is_reported(beginning):
    faults = [
        TimedFault(world_s=100.0, name="gpu_ecc", parameters={"count": 12, "corrected": 1}),
        TimedFault(world_s=150.0, name="gpu_ecc", parameters={"count": 2}),
        TimedFault(world_s=200.0, name="gpu_xid", parameters={"xid": 48}),
        TimedFault(world_s=200.0, name="gpu_xid", parameters={"xid": 63}),
        TimedFault(world_s=250.0, name="probe_silent", duration_s=20.0),
    ]
    evidence = fly(400.0, faults=faults)
    told = [(e.name, e.text) for e in evidence.events if e.name.startswith(("GPU_", "PROBE_"))]
    assert [name for name, _ in told] == [
        *("PROBE_UNSUPPORTED", "GPU_ECC_CORRECTED", "GPU_ECC", "GPU_XID", "GPU_XID"),
        *("PROBE_SILENT", "PROBE_RECOVERED"),
    ]  # fmt: skip
    assert "12 new corrected" in told[1][1]
    assert "2 new uncorrected" in told[2][1]
    assert "XID 48: double bit ECC error" in told[3][1]
    assert not [e for e in beginning.events if e.name.startswith("GPU_XID")]


def test_r9_a_card_off_the_bus_says_so_with_its_last_words():
    evidence = fly(60.0, faults=[TimedFault(world_s=30.0, name="gpu_xid", parameters={"xid": 79})])
    (xid,) = named(evidence, "GPU_XID")
    assert "GPU has fallen off the bus" in xid.text


def test_a_gauge_that_jumps_is_refused_and_the_floor_holds():
    evidence = fly(
        4000.0, 2.0, faults=[TimedFault(world_s=1500.0, name="battery_bias", parameters={"offset": 0.1})]
    )
    assert named(evidence, "GAUGE_REFUSED")
    assert evidence.ok


def test_a_load_that_nobody_can_shed_breaks_the_floor_and_evidence_says_so():
    """The checker can fail: truth is judged, and no reading of it."""
    evidence = fly(
        4000.0, 2.0, faults=[TimedFault(world_s=1500.0, name="stray_load", parameters={"power_w": 900.0})]
    )
    assert not evidence.ok
    assert evidence.soc_violation_s > 60.0
    assert evidence.soc_min < evidence.soc_floor


def test_sensors_fail_by_the_clock_and_each_is_mended_on_its_own():
    def timed(name, begin_s, length_s, **parameters):
        return TimedFault(world_s=begin_s, name=name, duration_s=length_s, parameters=parameters)

    plant = Plant(PlantConfig(), seed=1)
    fly(
        60.0,
        plant=plant,
        faults=[
            timed("sensor_missing", 10.0, 20.0, sensor="soc_fraction"),
            timed("sensor_missing", 10.0, 0.0, sensor="gpu_temp_degc"),
            timed("sensors_silent", 50.0, 0.0),
        ],
    )
    assert set(plant.faults) == {"sensor_missing:gpu_temp_degc", "sensors_silent"}
    with pytest.raises(ValueError, match="count = 'many': must be a whole number"):
        fly(10.0, faults=[timed("gpu_ecc", 1.0, 0.0, count="many")])


def test_a_low_battery_is_safe_mode_with_the_rail_off():
    plant = Plant(PlantConfig(start_s=1900.0, eps=EpsConfig(initial_soc_fraction=0.706)), seed=1)
    evidence = fly(600.0, plant=plant)
    assert named(evidence, "SOC_LOW")
    assert evidence.mode_time_s["SAFE"] > 300.0
    assert any("OFF" in event.text for event in named(evidence, "RAIL_SWITCHED"))


def test_commands_wait_for_contact_and_are_executed():
    evidence = fly(
        1600.0,
        commands=[
            TimedCommand(world_s=100.0, name="job.checkpoint", arguments={"job": "train"}),
            TimedCommand(world_s=900.0, name="job.infer", arguments={"job": "infer", "prompt": "Hello"}),
            TimedCommand(world_s=1000.0, name="mode.set", arguments={"mode": 1}),
        ],
    )
    assert not named(evidence, "TC_REFUSED")
    assert not named(evidence, "TC_FAILED")
    (safe,) = named(evidence, "SAFE_ENTERED")
    assert safe.world_s == pytest.approx(1000.0, abs=2.0)
    committed = [e.world_s for e in named(evidence, "CHECKPOINT_COMMITTED")]
    assert any(880.0 <= t <= 885.0 for t in committed), "the early command goes up when the pass begins"
    assert evidence.mode_time_s["SAFE"] == pytest.approx(600.0, abs=3.0)


def test_a_wrong_argument_is_refused_on_board():
    evidence = fly(1000.0, commands=[TimedCommand(world_s=0.0, name="job.start", arguments={"job": "nobody"})])
    assert len(named(evidence, "TC_REFUSED") + named(evidence, "TC_FAILED")) == 1


def test_a_restart_comes_back_and_goes_on():
    commands = [
        TimedCommand(world_s=900.0, name="arm", arguments={"opcode": 0x70}),
        TimedCommand(world_s=905.0, name="daemon.restart"),
    ]
    evidence = fly(1500.0, commands=commands)
    assert evidence.boots == 2
    ready = [e for e in named(evidence, "WORKER_READY") if "train" in e.text]
    assert len(ready) == 2
    assert "generation -1" not in ready[-1].text


def test_without_eclipse_nothing_is_throttled_by_energy():
    evidence = fly(1500.0, plant=Plant(PlantConfig(orbit="dawn_dusk_650"), seed=1))
    assert evidence.ok
    assert evidence.eclipse_s == 0.0
    assert evidence.gpu_power_sun_w > 450.0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"duration_s": 0.0}, "duration"),
        ({"duration_s": float("nan")}, "duration"),
        ({"frame_s": 0.0}, "frame"),
        ({"frame_s": 5.0}, "frame"),
        ({"commands": [TimedCommand(world_s=0.0, name="dance")]}, "telecommand 'dance'"),
        ({"faults": [TimedFault(world_s=0.0, name="meteor")]}, "fault 'meteor'"),
        ({"faults": [TimedFault(world_s=0.0, name="gpu_ecc")]}, "gpu_ecc: count is missing"),
        ({"faults": [TimedFault(world_s=0.0, name="gpu_ecc", parameters={"count": 0})]}, "count = 0"),
        ({"faults": [TimedFault(world_s=0.0, name="gpu_ecc", parameters={"count": 1.5})]}, "whole number"),
        (
            {"faults": [TimedFault(world_s=0.0, name="gpu_ecc", parameters={"count": 1, "corrected": 2})]},
            "corrected = 2",
        ),
        ({"faults": [TimedFault(world_s=0.0, name="gpu_xid", parameters={"xid": 70_000})]}, "xid = 70000"),
        ({"faults": [TimedFault(world_s=0.0, name="gpu_xid", parameters={"code": 1})]}, "code: unknown"),
        ({"faults": [TimedFault(world_s=0.0, name="probe_silent", parameters={"x": 1})]}, "known are none"),
        ({"eps": {"capacity_wh": -1.0}}, "capacity_wh"),
        ({"eps": {"colour": 1.0}}, "colour"),
    ],
)
def test_impossible_runs_are_refused_in_one_line(arguments, complaint):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        fly(**{"duration_s": 10.0} | arguments)
    assert complaint in str(caught.value)


def test_the_command_prints_evidence():
    arguments = ["inproc", "--orbits", "0.05", "--rate", "1"]
    as_json, as_table = (CliRunner().invoke(app, [*arguments, *more]) for more in (["--json"], []))
    assert (as_json.exit_code, as_table.exit_code) == (0, 0)
    printed = msgspec.json.decode(as_json.stdout, type=Evidence)
    assert printed.frames == round(0.05 * 5737.0)
    assert printed.digest in as_table.stdout


def test_event_times_never_go_back(orbit):
    assert all(a.world_s <= b.world_s for a, b in pairwise(orbit.events))


def test_the_recorder_plays_the_most_important_first_then_the_oldest():
    recorder = Recorder()
    for priority, size_bytes in ((3, 100), (1, 50), (3, 100), (1, 60), (3, 40)):
        recorder.take(priority, size_bytes, live=False, in_contact=True, record=True)
    recorder.play(109)  # The second of priority 1 does not fit any more, and nothing overtakes it.
    assert (recorder.playback, recorder.pending, recorder.sent_bytes) == (1, 4, 50)
    recorder.play(260)
    assert (recorder.playback, recorder.pending, recorder.sent_bytes) == (4, 1, 310)
    recorder.take(3, 40, live=True, in_contact=True, record=True)
    recorder.take(3, 40, live=False, in_contact=False, record=False)
    assert (recorder.live, recorder.pending, recorder.made) == (1, 1, 7)

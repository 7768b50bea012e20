"""R25: the long mission. Every fault of its table is answered, the same seed is the same mission, and each checker
has been seen to fail: a core with one response taken out leaves the faults unanswered that it answered.
"""

import itertools
import json

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from flightsw.core import duty, eps, executive, fdir, governor, limits, mode, payload, shedding, supervision
from flightsw.core.lifecycle import LIFECYCLE, Life, Trigger
from flightsw.core.mode import PAYLOAD_MODES
from flightsw.link.schema import Mode
from hil import cli_virtual, endurance
from hil.cli import app
from hil.endurance import commit, fly, slope
from hil.endurance_fault import SAFE, SERVING, Condition, Fault
from hil.endurance_faults import FAULTS
from hil.endurance_faults_link import begins, sends
from hil.endurance_verdict import lines
from hil.plant.eps import PowerSystem

ROWS = {fault.name: fault for fault in FAULTS}
HOUR_S = 3600.0
AT_WORK_S = 100.0
"""After this the vehicle serves, and the first fault of a mission that has one may come."""


def alone(name: str):
    """A mission that has this fault, once, and no other; one that waits for its moment is given more time.

    What is not over half an hour after the end is taken for open.
    """
    wait_s = 130.0 if ROWS[name].ready is SERVING else 4000.0 if name == "card_disobeys" else 950.0
    hours = (AT_WORK_S + wait_s) / HOUR_S
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endurance, "FIRST_FAULT_S", AT_WORK_S)
        patch.setattr(endurance, "SETTLE_MAX_S", 1800.0)
        return fly(hours=hours, seed=3, every_s=hours * HOUR_S, faults=[ROWS[name]])


def test_r25_a_mission_of_hours_answers_every_fault() -> None:
    verdict = fly(hours=3.0, seed=1)
    assert lines(verdict)[-1] == "verdict   PASS"
    assert verdict.ok
    assert len(verdict.faults) == verdict.due == 18
    assert verdict.unanswered == verdict.not_recovered == 0
    assert verdict.safe_entries >= 2
    assert verdict.train_steps > 40_000


def test_names_are_unique_and_deadlines_make_sense() -> None:
    assert len(ROWS) == len(FAULTS) >= 60
    for fault in FAULTS:
        assert fault.answers or fault.forbidden, f"{fault.name} can never be unanswered"
        assert fault.recovered, f"{fault.name} ends in nothing"
        assert all(at_s < fault.span_s[1] for at_s, _ in fault.steps), fault.name


@pytest.mark.parametrize("name", sorted(ROWS))
def test_r25_every_fault_is_answered_when_it_comes_alone(name: str) -> None:
    verdict = alone(name)
    assert verdict.ok, "\n".join(lines(verdict))
    assert {record.name for record in verdict.faults} == {name}


def test_same_seed_same_mission_and_another_seed_another() -> None:
    first, again, other = (fly(hours=0.35, seed=seed, every_s=300.0) for seed in (5, 5, 6))
    assert len(first.faults) == 4
    assert first.digest == again.digest
    assert first.faults == again.faults
    assert first.digest != other.digest


def test_ten_hertz_flies_the_same_faults() -> None:
    fast = fly(hours=0.27, frame_s=0.1, seed=2, every_s=300.0)
    slow = fly(hours=0.27, frame_s=1.0, seed=2, every_s=300.0)
    assert fast.ok, "\n".join(lines(fast))
    assert len(fast.faults) == 3
    assert [r.name for r in fast.faults] == [r.name for r in slow.faults]


def _no_shedding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shedding, "step", lambda state, *how: (state, ()))


def _no_fdir(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fdir, "step", lambda state, *how: (state, state.orders, ()))


def _no_limits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "step", lambda watch, limit, value, now_s: watch)


def _never_blind(patch: pytest.MonkeyPatch) -> None:
    awake = {m: tuple(r for r in rows if r.cause != "blind") for m, rows in mode._ROWS.items()}
    patch.setattr(mode, "_ROWS", awake)


def _safe_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mode, "_recovery", lambda state, config, facts, now_s: (state, False))


def _no_hang_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(payload, "checked_for_hang", lambda job, *rest: job)


def _no_restart(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(LIFECYCLE, (Life.FAILED, Trigger.RETRY))


def _no_kill(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(LIFECYCLE, (Life.STOPPING, Trigger.STOP_OVERDUE))


def _always_alive(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(supervision, "adapters_alive", lambda *how: True)


def _deaf_to_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(supervision, "garbage", lambda state, count, now_s: (state, ()))


def _rail_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(eps, "switch_rail", lambda state, *how: (state, ()))


def _spends_blindly(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(governor, "_energy", lambda config, power, situation, margin_soc: 1e6)


MUTANTS = [
    (_no_limits, "soc_reads_low"),
    (_no_limits, "gpu_node_hot"),
    (_no_limits, "short_circuit"),
    (_never_blind, "sensors_missing"),
    (_never_blind, "soc_missing"),
    (_safe_for_ever, "sensors_frozen"),
    (_no_hang_check, "worker_mute_train"),
    (_no_hang_check, "worker_stuck_infer"),
    (_no_restart, "worker_killed_infer"),
    (_no_kill, "worker_deaf_train"),
    (_always_alive, "adapter_stuck"),
    (_deaf_to_noise, "garbage"),
    (_rail_stays, "radiator_hot"),
    (_rail_stays, "rail_ordered_off"),
    (_spends_blindly, "array_lost"),
]


@pytest.mark.parametrize(("plant", "name"), MUTANTS, ids=lambda x: getattr(x, "__name__", x))
def test_r25_a_core_without_a_response_leaves_its_fault_open(plant, name, monkeypatch) -> None:
    plant(monkeypatch)
    verdict = alone(name)
    assert not verdict.ok
    assert verdict.unanswered or verdict.not_recovered
    assert any(line.startswith("repeat    hil endure") for line in lines(verdict))


def test_payload_in_safe_breaks_a_standing_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode, "PAYLOAD_MODES", PAYLOAD_MODES | {Mode.SAFE})
    rules = {violation.rule for violation in alone("safe_ordered").violations}
    assert "SAFE or BOOT with payload on" in rules


def test_a_duty_in_safe_breaks_a_standing_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode, "PAYLOAD_MODES", PAYLOAD_MODES | {Mode.SAFE})
    monkeypatch.setattr(duty, "has_work", lambda job, spec: True)
    rules = {violation.rule for violation in alone("safe_ordered").violations}
    assert "duty given in SAFE or BOOT" in rules


def test_a_battery_run_down_breaks_a_standing_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_limits(monkeypatch)
    _no_fdir(monkeypatch)
    _no_shedding(monkeypatch)
    _spends_blindly(monkeypatch)
    verdict = fly(hours=2.0, frame_s=2.0, seed=1, faults=[ROWS["tc_unarmed"]])
    assert "true charge under its floor" in {violation.rule for violation in verdict.violations}


def test_an_unkicked_watchdog_breaks_a_standing_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = itertools.count()
    monkeypatch.setattr(supervision, "adapters_alive", lambda state: next(frames) % 100 > 0)
    verdict = alone("tc_unarmed")
    assert {violation.rule for violation in verdict.violations} == {"watchdog not kicked"}


def test_an_exception_ends_the_mission_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    stepped = executive.step

    def fragile(vehicle, config, inputs, now_s):
        if now_s > 500.0:
            raise RuntimeError("boom")
        return stepped(vehicle, config, inputs, now_s)

    monkeypatch.setattr(executive, "step", fragile)
    verdict = fly(hours=0.5, seed=1)
    assert not verdict.ok
    (violation,) = verdict.violations
    assert violation.rule == "exception in a frame"
    assert "RuntimeError: boom at test_endurance.py:" in violation.detail


def test_safe_that_loses_charge_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One orbit in SAFE by command: positive as built, and a hidden load is found out."""
    held = Fault(
        name="held_in_safe",
        text="SAFE for more than an orbit",
        begin=begins(sends("mode.set", mode="SAFE")),
        end=sends("mode.set", mode="NOMINAL"),
        span_s=(7000.0, 7000.0),
        answers=(SAFE,),
        recovered=(SERVING,),
    )
    flight = {"hours": 2.2, "seed": 1, "every_s": 7900.0, "frame_s": 2.0, "faults": [held]}
    assert fly(**flight).ok

    charged = PowerSystem.step
    monkeypatch.setattr(PowerSystem, "step", lambda power, dt_s, array_w, load_w: charged(power, dt_s, 0.0, 30.0))
    verdict = fly(**flight)
    assert "SAFE loses charge over an orbit" in {violation.rule for violation in verdict.violations}


def test_a_fault_that_never_came_is_unanswered() -> None:
    never = replace(ROWS["garbage"], ready=Condition("never", lambda world: False))
    verdict = fly(hours=0.5, seed=1, faults=[never])
    assert verdict.faults == ()
    assert verdict.unanswered == verdict.due == 3
    assert not verdict.ok


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"hours": 0.0}, "0 hours: must be over 0"),
        ({"hours": float("nan")}, "nan hours"),
        ({"frame_s": 5.0}, "frame of 5 s: must be 0.02 to 2"),
        ({"every_s": 1.0}, "a fault every 1 s: must be 60"),
        ({"hours": 1.0, "every_s": 4000.0}, "to the length of the mission"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, says) -> None:
    with pytest.raises(ValueError, match=says):
        fly(**arguments)


def test_memory_slope_is_that_of_the_second_half() -> None:
    flat = [(float(t), 50.0) for t in range(0, 36_000, 600)]
    assert slope(flat).slope_mb_per_h == pytest.approx(0.0)
    assert slope(flat).ok
    growing = [(t, 50.0 if t < 18_000 else 50.0 + (t - 18_000) / 3600.0) for t, _ in flat]
    assert slope(growing).slope_mb_per_h == pytest.approx(1.0)
    assert not slope(growing).ok


def test_commit_names_one() -> None:
    assert commit() == "unknown" or commit().rstrip("+").isalnum()


def test_command_prints_the_verdict_and_its_json() -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["endure", "--hours", "0.2", "--seed", "4"])
    assert result.exit_code == 0, result.output
    assert "verdict   PASS" in result.output
    result = runner.invoke(app, ["endure", "--hours", "0.5", "--seed", "4", "--json"])
    summary = json.loads(result.stdout)
    assert summary["ok"]
    assert summary["unanswered"] == 0
    assert sum(summary["by_name"].values()) == summary["due"] == 3


def test_command_fails_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _safe_for_ever(monkeypatch)
    result = CliRunner().invoke(app, ["endure", "--hours", "1", "--every", "300", "--seed", "4"])
    assert result.exit_code == 1
    assert "repeat    hil endure --hours 1 --frame 1 --every 300 --seed 4" in result.output


def test_command_refuses_in_one_line() -> None:
    result = CliRunner().invoke(app, ["endure", "--hours", "-1"])
    assert result.exit_code == 2
    assert result.stderr == "hil: -1 hours: must be over 0 and at most 720\n"


def test_interrupt_is_judged_and_has_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self, share, line):
        if share > 0.5:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_virtual._Progress, "show", interrupt)
    result = CliRunner().invoke(app, ["endure", "--hours", "0.5"])
    assert result.exit_code == 130
    assert "verdict   INTERRUPTED" in result.output

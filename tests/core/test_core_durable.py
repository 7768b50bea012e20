"""Durable facts of the vehicle: what outlives a restart, when it is written, and what a bad payload does."""

import msgspec
import pytest
from core_flight import Flight, telecommand

from flightsw.core import durable, executive, mode
from flightsw.core.durable import DURABLE_KEYS, Outcome, VehicleFacts
from flightsw.core.effects import Announce, Persist, Restart
from flightsw.core.job import JobConfig
from flightsw.link.dictionary import TELECOMMAND_BY_NAME
from flightsw.link.schema import FailureCode, Mode, Stage

CONFIG = executive.Config(
    jobs=(JobConfig(id="train", kind="train"),), mode=mode.Config(loss_of_contact_s=500.0, recover_s=5.0)
)
RESTART = TELECOMMAND_BY_NAME["daemon.restart"].opcode


class Lives(Flight):
    """A flight whose store outlives its daemon: ``reboot`` is a new life on what was persisted."""

    def __init__(self, config: executive.Config = CONFIG, **how: object) -> None:
        super().__init__(config, **how)
        self.store: dict[str, bytes] = {}

    def facts(self) -> VehicleFacts:
        return durable.decode(self.store["vehicle"])

    def writes(self) -> list[Persist]:
        return [e for e in self.effects if isinstance(e, Persist)]

    def frame(self, *telecommands: bytes, reports: tuple[object, ...] = ()) -> tuple[object, ...]:
        out = super().frame(*telecommands, reports=reports)
        self.keep(out)
        return out

    def keep(self, effects: tuple[object, ...]) -> None:
        self.store |= {e.key: e.payload for e in effects if isinstance(e, Persist)}

    def reboot(self, **how: object) -> tuple[object, ...]:
        self.workers.clear()
        arguments = {"boot_count": 4, "cause": "t", "crash_loop": False, "config_hash": "", "durable": self.store}
        self.vehicle, out = executive.boot(self.config, now_s=self.now_s, **{**arguments, **how})
        self.effects.extend(out)
        return out


def names(effects: tuple[object, ...]) -> list[str]:
    return [e.name for e in effects if isinstance(e, Announce)]


# --- the payload -------------------------------------------------------------------------------------------

FACTS = VehicleFacts(
    safe_cause="loss_of_contact",
    safe_event="CONTACT_LOST",
    silence_s=7200.5,
    outcomes=(Outcome(2**64 - 1, RESTART, Stage.COMPLETION, FailureCode.NONE, "done"),),
)


def test_a_payload_comes_back() -> None:
    assert durable.decode(durable.encode(FACTS)) == FACTS
    assert set(DURABLE_KEYS) >= {"vehicle"}


def test_a_payload_of_an_older_make_has_defaults() -> None:
    assert durable.decode(msgspec.msgpack.encode({"silence_s": 5.0})) == VehicleFacts(silence_s=5.0)


# One row per field: (field, value, what the refusal says).
BAD = (
    ("safe_cause", "boredom", "safe_cause 'boredom' is unknown"),
    ("safe_cause", 7, r"\$.safe_cause"),
    ("safe_event", "PARTY", "safe_event 'PARTY' is unknown"),
    ("silence_s", -1.0, r"\$.silence_s"),
    ("silence_s", float("nan"), r"\$.silence_s"),
    ("silence_s", float("inf"), "silence_s = inf"),
    ("silence_s", "long", r"\$.silence_s"),
    ("outcomes", [[-1, 1, 7, 0, ""]], r"\$.outcomes"),
    ("outcomes", [[1, -1, 7, 0, ""]], r"\$.outcomes"),
    ("outcomes", [[1, 1, 2, 0, ""]], r"\$.outcomes"),
    ("outcomes", [[1, 1, 7, 99, ""]], r"\$.outcomes"),
    ("outcomes", [[1, 1, 7, 0, "x" * 97]], r"\$.outcomes"),
    ("outcomes", [[n, 1, 7, 0, ""] for n in range(65)], r"\$.outcomes"),
)


@pytest.mark.parametrize(("field", "value", "reason"), BAD, ids=[f"{row[0]}-{i}" for i, row in enumerate(BAD)])
def test_each_field_refused_with_defaults_and_an_event(field: str, value: object, reason: str) -> None:
    payload = msgspec.msgpack.encode({**msgspec.to_builtins(FACTS), field: value})
    with pytest.raises(ValueError, match=reason):
        durable.decode(payload)
    life = Lives()
    life.store = {"vehicle": payload}
    out = life.reboot()
    assert "DURABLE_REFUSED" in names(out)
    assert (life.vehicle.mode.resume, life.vehicle.contact_loss.silence_s) == (None, 0.0)
    assert life.vehicle.commanding.history == {}


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x80\x00", b"\x91" * 5000, b"\xa3abc"])
def test_bytes_that_are_no_map_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are msgspec's.
        durable.decode(payload)


# --- SAFE over a restart -----------------------------------------------------------------------------------


def test_r13_safe_by_command_outlives_a_restart_with_its_exit_rule() -> None:
    life = Lives()
    life.fly(5.0)
    before = len(life.writes())
    life.frame(telecommand("mode.set", 1, mode="SAFE"))
    life.frame()
    assert life.vehicle.mode.mode is Mode.SAFE
    # In the frame in which it changes, not with the next interval.
    assert len(life.writes()) == before + 1
    assert (life.facts().safe_cause, life.facts().safe_event) == ("command", "SAFE_ENTERED")
    life.reboot()
    life.frame()
    assert (life.vehicle.mode.mode, life.vehicle.mode.cause) == (Mode.SAFE, "command")
    life.fly(60.0)
    assert life.vehicle.mode.mode is Mode.SAFE
    life.frame(telecommand("mode.set", 2, mode="NOMINAL"))
    life.frame()
    assert life.vehicle.mode.mode is not Mode.SAFE
    assert life.facts().safe_cause == ""
    life.reboot()
    life.fly(1.0)
    assert life.vehicle.mode.mode is Mode.COMPUTE


def test_r13_safe_by_low_charge_outlives_a_restart_and_ends_by_itself() -> None:
    life = Lives()
    life.sensor_changes["soc_fraction"] = 0.70
    life.fly(3.0)
    life.reboot()
    assert life.vehicle.mode.resume == "soc_low"
    life.sensors_on = False
    life.fly(9.0)
    # Without sensors nobody knows that the cause is gone.
    assert (life.vehicle.mode.cause, life.vehicle.eps.rail_on) == ("soc_low", False)
    life.sensors_on, life.sensor_changes["soc_fraction"] = True, 0.80
    life.fly(4.0)
    assert life.vehicle.mode.mode is Mode.SAFE
    life.fly(2.0)
    assert life.vehicle.mode.mode is Mode.COMPUTE


def test_a_second_restart_before_the_first_frame_keeps_safe() -> None:
    life = Lives()
    life.store = {"vehicle": durable.encode(FACTS)}
    life.reboot()
    _, out = executive.shutdown(life.vehicle, CONFIG, "SIGTERM", life.now_s)
    life.keep(out)
    assert life.facts().safe_cause == "loss_of_contact"


def test_a_crash_loop_owns_safe_over_what_was_kept() -> None:
    life = Lives()
    life.store = {"vehicle": durable.encode(VehicleFacts(safe_cause="soc_low", safe_event="SOC_LOW"))}
    life.reboot(crash_loop=True)
    life.frame()
    assert life.vehicle.mode.cause == "crash_loop"


# --- loss of contact ---------------------------------------------------------------------------------------


def test_r13_loss_of_contact_over_restarts() -> None:
    """R13: command loss leads to SAFE; the silence is counted in mission time and kept over a restart."""
    life = Lives(warp=10.0)
    life.fly(300.0)
    assert life.vehicle.contact_loss.silence_s == pytest.approx(300.0, abs=2.0)
    _, out = executive.shutdown(life.vehicle, CONFIG, "SIGTERM", life.now_s)
    life.keep(out)
    life.reboot()
    life.fly(190.0)
    assert life.vehicle.mode.mode is not Mode.SAFE
    life.fly(20.0)
    assert (life.vehicle.mode.mode, life.vehicle.mode.event) == (Mode.SAFE, "CONTACT_LOST")
    assert [e[1] for e in life.events("CONTACT_LOST")] == ["CONTACT_LOST"]
    # Not left by itself, over a restart neither; a telecommand is contact and ends it.
    life.reboot()
    life.fly(100.0)
    assert life.vehicle.mode.cause == "loss_of_contact"
    life.frame(telecommand("ping", 7))
    life.fly(10.0)
    assert life.vehicle.mode.mode is Mode.SAFE
    assert len(life.events("CONTACT_REGAINED")) == 1
    life.frame(telecommand("mode.set", 8, mode="NOMINAL"))
    life.fly(10.0)
    assert life.vehicle.mode.mode is Mode.COMPUTE
    life.fly(400.0)
    assert life.vehicle.mode.mode is Mode.COMPUTE


def test_a_refused_or_onboard_command_is_no_contact() -> None:
    life = Lives()
    life.fly(5.0)
    silence_s = life.vehicle.contact_loss.silence_s
    life.frame(telecommand("gpu.rail", 5, on=False))
    life.frame(telecommand("ping", 2**63 + 5))
    life.frame(b"garbage")
    life.frame()
    assert life.vehicle.contact_loss.silence_s > silence_s
    assert life.vehicle.commanding.accepted == 1
    life.frame(telecommand("ping", 6))
    life.frame()
    assert life.vehicle.contact_loss.silence_s < 1.0


def test_a_jump_of_the_mission_clock_is_no_silence() -> None:
    life = Lives()
    life.fly(5.0)
    life.sensor_changes["world_s"] = 1e9
    life.frame()
    life.frame()
    assert life.vehicle.contact_loss.silence_s < 10.0


# --- commands and wear -------------------------------------------------------------------------------------


def test_a_repeated_restart_is_answered_and_not_executed_again() -> None:
    life = Lives()
    life.fly(5.0)
    life.frame(telecommand("arm", 1, opcode=RESTART))
    life.frame(telecommand("daemon.restart", 2))
    life.fly(3.0)
    assert [type(e) for e in life.effects].count(Restart) == 1
    _, out = executive.shutdown(life.vehicle, CONFIG, "telecommand", life.now_s)
    life.keep(out)
    life.reboot()
    life.effects.clear()
    life.frame(telecommand("arm", 3, opcode=RESTART))
    life.frame(telecommand("daemon.restart", 2))
    life.fly(5.0)
    assert [type(e) for e in life.effects].count(Restart) == 0
    assert life.vehicle.commanding.history[2].stage is Stage.COMPLETION
    # A new one is a new order.
    life.frame(telecommand("daemon.restart", 4))
    life.fly(3.0)
    assert [type(e) for e in life.effects].count(Restart) == 1


def test_the_restart_itself_writes_before_it_happens() -> None:
    life = Lives()
    life.fly(5.0)
    life.frame(telecommand("arm", 1, opcode=RESTART))
    life.frame(telecommand("daemon.restart", 2))
    life.fly(3.0)
    assert [o.id for o in life.facts().outcomes] == [1, 2]


def test_r13_wear_is_bounded_by_the_interval_not_by_commands() -> None:
    life = Lives()
    for number in range(1, 1211):
        life.frame(telecommand("hk.request", number, group="slow"))
    # Two minutes and a second of ten commands a second: two writes.
    assert len(life.writes()) == 2
    outcomes = life.facts().outcomes
    assert len(outcomes) == durable.COMMANDS_MAX
    assert outcomes[-1].id - outcomes[0].id == durable.COMMANDS_MAX - 1


def test_acknowledgements_do_not_push_others_out() -> None:
    life = Lives()
    life.frame(telecommand("hk.request", 1, group="slow"))
    for number in range(2, 200):
        life.frame(telecommand("recorder.acknowledge", number, boot=1, apid=32, first=1, last=2))
    _, out = executive.shutdown(life.vehicle, CONFIG, "SIGTERM", life.now_s)
    life.keep(out)
    assert [o.id for o in life.facts().outcomes] == [1]


def test_a_long_reason_is_cut() -> None:
    life = Lives()
    life.frame(telecommand("job.start", 1, job="g" * 32))
    life.fly(1.0)
    assert len(durable.facts(life.vehicle).outcomes[0].text) <= durable.TEXT_CHARACTERS_MAX


def test_nothing_new_is_not_written_again() -> None:
    life = Lives()
    life.fly(2.0)
    vehicle, first = durable.step(life.vehicle, CONFIG.durable, life.now_s, now=True)
    assert len(first) == 1
    assert durable.step(vehicle, CONFIG.durable, life.now_s, now=True) == (vehicle, ())


def test_the_boot_knows_whether_the_power_was_gone() -> None:
    life = Lives()
    assert life.vehicle.power_on
    life.reboot(power_on=False)
    life.frame()
    assert not life.vehicle.power_on

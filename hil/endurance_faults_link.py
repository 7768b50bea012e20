"""Faults of commanding, radio, storage, the daemon's own process and time.

An operator's mistake is refused and said; noise is counted; a broken adapter is reported, and one that the vehicle
cannot do without lets the external watchdog act. Every restart of the computer leads back into service by itself,
a crash loop into SAFE, which only the operator ends.
"""

# ruff: noqa: E501 - the table has one fact per line.

from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from flightsw.core.inputs import Health
from flightsw.link.avionics import SensorFrame

from .endurance_fault import (
    ANY_KILLED,
    BOOTED,
    ENTERED_SAFE,
    IN_SERVICE,
    KICKED,
    LEFT_SAFE,
    NOT_KICKED,
    PAYLOAD_OFF,
    RAIL_OFF,
    SAFE,
    SERVING,
    Condition,
    Fault,
    also,
    event,
    in_pass,
)
from .endurance_faults_bus import filtered, reading, unfiltered
from .endurance_world import BOOT_S, World, replaced

Act = Callable[[World], None]
TIME_STEP_S: Final = 3600.0
SILENCE_LEFT_S: Final = 30.0
VEHICLE_KEY: Final = "vehicle"
"""Key of the durable facts."""


def sends(name: str, **arguments: Any) -> Act:
    """The operator sends this."""
    return lambda world: world.send(name, **arguments)


def begins(*acts: Act) -> Callable[[World, Random], None]:
    """Begin with these acts."""

    def begin(world: World, random: Random) -> None:
        for act in acts:
            act(world)

    return begin


def armed(name: str, **arguments: Any) -> Act:
    """The operator arms this and sends it."""
    return lambda world: world.send_armed(name, **arguments)


def _garbage(world: World, random: Random) -> None:
    for size in (0, 1, 7, 60, 1200):
        world.receive(random.randbytes(size))
    world.send("ping")
    world.spoil()


def _adapter(name: str, **changes: Any) -> tuple[Any, Any]:
    def begin(world: World, random: Random) -> None:
        world.adapter_change[name] = changes

    def end(world: World) -> None:
        del world.adapter_change[name]

    return begin, end


def _recorder(**changes: Any) -> tuple[Any, Any]:
    def begin(world: World, random: Random) -> None:
        world.recorder_change.update(changes)

    def end(world: World) -> None:
        world.recorder_change.clear()

    return begin, end


def _shed(world: World, random: Random) -> None:
    world.shed += random.randint(1, 1000)


def _overrun(world: World, random: Random) -> None:
    world.health_now = Health(frame_late_s=0.7, frames_skipped=world.health_now.frames_skipped + 3)


def _deafen(deaf: bool) -> Act:
    def act(world: World) -> None:
        world.archive_deaf = deaf

    return act


def _carrier(dead: bool) -> Act:
    def act(world: World) -> None:
        world.radio_dead = dead

    return act


def _dies(world: World) -> None:
    if not world.down:
        world.halt("killed", BOOT_S)


def _rot(world: World, random: Random) -> None:
    world.durable[VEHICLE_KEY] = random.randbytes(200)
    _dies(world)


def _silence(world: World, random: Random) -> None:
    known = msgspec.msgpack.decode(world.durable[VEHICLE_KEY])
    known["silence_s"] = world.config.mode.loss_of_contact_s - SILENCE_LEFT_S
    world.durable[VEHICLE_KEY] = msgspec.msgpack.encode(known)
    _dies(world)


def _power_cut(world: World, random: Random) -> None:
    world.halt("power cut", random.uniform(5.0, 60.0), powered=False)


def _jump(by_s: float) -> Callable[[World, Random], None]:
    def shifted(frame: SensorFrame) -> SensorFrame:
        return replaced(frame, {"world_s": frame.world_s + by_s, "tai_s": frame.tai_s + by_s})

    return filtered(shifted)


_RESTART_BEGIN, _RESTART_END = _adapter("radio", restarts=1, reason="read error")
_FAILED_BEGIN, _FAILED_END = _adapter("probe", restarts=9, failed=True, reason="no answer")
_STUCK_BEGIN, _STUCK_END = _adapter("store", executions=0)
_STORE_BEGIN, _STORE_END = _recorder(fault="no space left on device")
_DROP_BEGIN, _DROP_END = _recorder(dropped=17)

_RESUMED: Final[dict[str, Any]] = {"recovered": (SERVING,), "recovery_s": 90.0}
_ABSORBED: Final[dict[str, Any]] = {"forbidden": (ENTERED_SAFE, ANY_KILLED), "recovery_s": 60.0}
_SHORT: Final = (5.0, 30.0)
_HELD: Final = (LEFT_SAFE,)
_OUT_OF_PASS: Final = Condition("out of DOWNLINK", lambda world: world.seen.mode in IN_SERVICE - {"DOWNLINK"})

ROWS: Final = (
    Fault(name="garbage", text="noise on the radio, and a telecommand with a flipped bit", begin=_garbage, span_s=_SHORT,
          answers=(event("TC_GARBAGE"),), deadline_s=15.0, **_ABSORBED),
    Fault(name="tc_unarmed", text="a hazardous telecommand that was not armed", begin=begins(sends("gpu.rail", on=False)),
          span_s=_SHORT, answers=(event("TC_REFUSED", "NOT_ARMED"),), deadline_s=3.0, **_ABSORBED),
    Fault(name="tc_bad_argument", text="a telecommand with an impossible argument", begin=begins(sends("governor.cap", power_cap_w=-1.0)),
          span_s=_SHORT, answers=(event("TC_REFUSED", "BAD_ARGUMENT"),), deadline_s=3.0, **_ABSORBED),
    Fault(name="tc_no_such_job", text="a telecommand for a job that does not exist", begin=begins(sends("job.stop", job="nobody")),
          span_s=_SHORT, answers=(event("TC_FAILED", "UNKNOWN_TARGET"),), deadline_s=3.0, **_ABSORBED),
    Fault(name="tc_pointless", text="the end of SAFE ordered outside SAFE", begin=begins(sends("mode.set", mode="NOMINAL")),
          span_s=_SHORT, answers=(event("TC_FAILED", "not in SAFE"),), deadline_s=3.0, **_ABSORBED),
    Fault(name="tc_flood", text="a hundred telecommands at once", begin=begins(*[sends("ping")] * 100), span_s=(20.0, 30.0), **_ABSORBED),
    Fault(name="tc_wrong_mode", text="a job is ordered to start in SAFE", begin=begins(sends("mode.set", mode="SAFE")),
          steps=((20.0, sends("job.start", job="train")),), end=sends("mode.set", mode="NOMINAL"), span_s=(40.0, 60.0),
          answers=(event("TC_REFUSED", "MODE_FORBIDS"), SAFE, PAYLOAD_OFF), deadline_s=30.0, forbidden=_HELD),
    Fault(name="safe_ordered", text="the operator orders SAFE", begin=begins(sends("mode.set", mode="SAFE")),
          end=sends("mode.set", mode="NOMINAL"), span_s=(120.0, 400.0),
          answers=(event("SAFE_ENTERED", "telecommand"), SAFE, PAYLOAD_OFF), deadline_s=30.0, forbidden=_HELD),
    Fault(name="rail_ordered_off", text="the operator switches the card off at work",
          begin=begins(armed("gpu.rail", on=False)), span_s=(40.0, 120.0),
          end=armed("gpu.rail", on=True),
          answers=(event("RAIL_SWITCHED", "telecommand"), RAIL_OFF, PAYLOAD_OFF), deadline_s=10.0, forbidden=(ENTERED_SAFE,)),
    Fault(name="radio_outage", text="nothing gets through, the carrier stays locked", begin=begins(_deafen(True)), end=_deafen(False),
          span_s=(60.0, 400.0), **_ABSORBED),
    Fault(name="carrier_lost", text="the carrier is lost in the middle of a pass", begin=begins(_carrier(True)), end=_carrier(False),
          span_s=(30.0, 90.0), ready=also(SERVING, "in a pass", in_pass),
          answers=(event("CONTACT_END"), _OUT_OF_PASS), deadline_s=10.0, **_ABSORBED),
    Fault(name="adapter_restarted", text="an adapter had to be restarted", begin=_RESTART_BEGIN, end=_RESTART_END, span_s=_SHORT,
          answers=(event("ADAPTER_RESTARTED", "radio"), KICKED), deadline_s=5.0, **_ABSORBED),
    Fault(name="adapter_failed", text="an adapter that can be missed is given up", begin=_FAILED_BEGIN, end=_FAILED_END, span_s=_SHORT,
          answers=(event("ADAPTER_FAILED", "probe"), KICKED), deadline_s=5.0, **_ABSORBED),
    Fault(name="adapter_stuck", text="an adapter that cannot be missed does nothing: the watchdog has to act",
          begin=_STUCK_BEGIN, end=_STUCK_END, span_s=(30.0, 70.0), answers=(NOT_KICKED,), deadline_s=25.0, **_RESUMED),
    Fault(name="store_fault", text="the disk is full", begin=_STORE_BEGIN, end=_STORE_END, span_s=_SHORT,
          answers=(event("STORE_FAULT", "no space"),), deadline_s=5.0, **_ABSORBED),
    Fault(name="recorder_over_quota", text="the recorder sheds packets", begin=_shed, span_s=_SHORT,
          answers=(event("RECORDER_SHED"),), deadline_s=5.0, **_ABSORBED),
    Fault(name="telemetry_dropped", text="a queue on board was full", begin=_DROP_BEGIN, end=_DROP_END, span_s=_SHORT,
          answers=(event("TM_DROPPED", "17"),), deadline_s=5.0, **_ABSORBED),
    Fault(name="frame_overrun", text="minor frames were skipped", begin=_overrun, span_s=_SHORT,
          answers=(event("FRAME_OVERRUN", "3 skipped"),), deadline_s=5.0, **_ABSORBED),
    Fault(name="daemon_killed", text="the daemon is killed with all its workers", begin=begins(_dies), span_s=(1.0, 1.0),
          answers=(BOOTED, event("BOOT")), deadline_s=10.0, **_RESUMED),
    Fault(name="daemon_restart", text="the operator restarts the daemon", span_s=(1.0, 1.0),
          begin=begins(armed("daemon.restart")),
          answers=(BOOTED, event("BOOT")), deadline_s=40.0, **_RESUMED),
    Fault(name="power_cut", text="all power is lost for a while", begin=_power_cut, span_s=(1.0, 1.0),
          answers=(BOOTED, event("BOOT", "power cut")), deadline_s=70.0, **_RESUMED),
    Fault(name="crash_loop", text="the daemon dies three times in a row: SAFE until the operator ends it", begin=begins(_dies),
          steps=((10.0, _dies), (20.0, _dies)), end=sends("mode.set", mode="NOMINAL"), span_s=(90.0, 200.0),
          answers=(event("CRASH_LOOP"), SAFE, PAYLOAD_OFF), deadline_s=45.0, forbidden=_HELD, **_RESUMED),
    Fault(name="crash_in_safe", text="the daemon dies in a SAFE that the sensors caused", begin=reading(soc_fraction=0.4),
          end=unfiltered, steps=((40.0, _dies),), span_s=(80.0, 120.0), answers=(event("SOC_LOW"), BOOTED, SAFE, PAYLOAD_OFF),
          deadline_s=75.0, **_RESUMED),
    Fault(name="crash_in_ordered_safe", text="the daemon dies in a SAFE that the operator ordered: it stays SAFE", span_s=(90.0, 150.0),
          begin=begins(sends("mode.set", mode="SAFE")), steps=((30.0, _dies),), end=sends("mode.set", mode="NOMINAL"),
          answers=(BOOTED, event("MODE_CHANGED", "kept over the restart"), SAFE, PAYLOAD_OFF), deadline_s=60.0, forbidden=_HELD, **_RESUMED),
    Fault(name="durable_corrupt", text="what the last boot wrote cannot be read", begin=_rot, span_s=(1.0, 1.0),
          answers=(BOOTED, event("DURABLE_REFUSED", "vehicle")), deadline_s=10.0, **_RESUMED),
    Fault(name="contact_lost", text="nobody has talked to it for three days, restarts included", begin=_silence, span_s=(90.0, 200.0),
          ready=also(SERVING, "facts on disk", lambda world: VEHICLE_KEY in world.durable), end=sends("mode.set", mode="NOMINAL"),
          answers=(BOOTED, event("CONTACT_LOST"), SAFE, PAYLOAD_OFF), deadline_s=80.0, forbidden=_HELD,
          recovered=(SERVING, event("CONTACT_REGAINED"))),
    Fault(name="time_forwards", text="the bus's clock is an hour ahead", begin=_jump(TIME_STEP_S), end=unfiltered, span_s=(60.0, 300.0),
          answers=(event("TIME_STEPPED"),), deadline_s=10.0, **_ABSORBED),
    Fault(name="time_backwards", text="the bus's clock is an hour behind", begin=_jump(-TIME_STEP_S), end=unfiltered,
          span_s=(60.0, 300.0), answers=(event("TIME_STEPPED"),), deadline_s=10.0, **_ABSORBED),
)  # fmt: skip

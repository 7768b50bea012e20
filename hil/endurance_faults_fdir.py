"""Faults that the shipped tables of limits answer: the card and the work on it (R9), the bus, the disk, the daemon.

Each row names the actionpoints that have to speak, and what has to follow from them: a throttled pace, an idle card,
a killed worker, the rail off, SAFE. An actionpoint that acts once is re-armed by the operator afterwards.
"""

# ruff: noqa: E501 - the table has one fact per line.

from collections.abc import Callable
from random import Random
from typing import Any, Final

from flightsw.core.inputs import Health

from .endurance_fault import (
    BOOTED,
    ENTERED_SAFE,
    IDLE,
    NEEDLESS_SAFE,
    RAIL_OFF,
    SAFE,
    SERVING,
    Condition,
    Fault,
    also,
    event,
    killed,
    started,
)
from .endurance_faults_bus import reading, unfiltered
from .endurance_faults_work import switch
from .endurance_world import World

THROTTLED: Final = 0.5
XID_ILLEGAL_ACCESS: Final = 13
XID_ECC: Final = 48
XID_OFF_THE_BUS: Final = 79
LOST_ACTION: Final = 343
"""The actionpoint that cycles the power of a lost card; it acts once."""


def says(actionpoint: str) -> Condition:
    """The actionpoint of this name has tripped."""
    return event("FDIR_TRIPPED", f"({actionpoint},")


def paced_at_most(duty: float) -> Condition:
    """The training worker's pace."""
    return Condition(f"pace at most {duty:g}", lambda world: world.pace.get("train", 0.0) <= duty)


def card(**values: Any) -> tuple[Callable[[World, Random], None], Callable[[World], None]]:
    """Begin and end: the probe reads these values."""

    def begin(world: World, random: Random) -> None:
        world.gpu_change = values

    def end(world: World) -> None:
        world.gpu_change = {}

    return begin, end


def _daemon(**values: Any) -> tuple[Callable[[World, Random], None], Callable[[World], None]]:
    def begin(world: World, random: Random) -> None:
        world.health_now = Health(**values)

    def end(world: World) -> None:
        world.health_now = Health()

    return begin, end


def _ecc(world: World, random: Random) -> None:
    world.card.health.ecc("uncorrected", 1)


def _xid(number: int) -> Callable[[World, Random], None]:
    def begin(world: World, random: Random) -> None:
        world.card.health.xid(number)

    return begin


def _rearm(world: World) -> None:
    world.send("action.reset", action=LOST_ACTION)


def _rail_back(end: Callable[[World], None]) -> Callable[[World], None]:
    def act(world: World) -> None:
        end(world)
        world.send_armed("gpu.rail", on=True)

    return act


_HOT_BEGIN, _HOT_END = card(die_degc=96.0)
_MEMORY_BEGIN, _MEMORY_END = card(memory_degc=105.0, unsupported=())
_BOARD_BEGIN, _BOARD_END = card(power_w=900.0)
_DEAF_BEGIN, _DEAF_END = switch("train", "runaway")
_LOSS_BEGIN, _LOSS_END = switch("train", "diverging")
_SLOW_BEGIN, _SLOW_END = switch("train", "slow")
_FULL_BEGIN, _FULL_END = _daemon(disk_free_mb=20.0)
_LEAK_BEGIN, _LEAK_END = _daemon(rss_mb=4000.0)

_LADDER: Final[dict[str, Any]] = {"forbidden": (ENTERED_SAFE,), "recovery_s": 300.0}
_AT_WORK: Final = also(SERVING, "at work", lambda world: world.pace.get("train", 0.0) > 0.1)
_HARD_AT_WORK: Final = also(SERVING, "hard at work", lambda world: world.pace.get("train", 0.0) > 0.6)
_HELD_BACK: Final = also(SERVING, "held back", lambda world: world.pace.get("train", 0.0) < 0.45)
_STOPPED: Final = Condition(
    "train stopped or killed", lambda world: "train" in world.seen.stopped | world.seen.killed, latched=True
)

ROWS: Final = (
    Fault(name="die_hot", text="the card's die is too hot, until its rungs end in a kill", begin=_HOT_BEGIN, end=_HOT_END, span_s=(26.0, 34.0),
          answers=(says("die.throttle"), says("die.checkpoint"), says("die.pause"), IDLE, says("die.kill"), killed("train")), deadline_s=30.0, **_LADDER),
    Fault(name="die_hot_for_long", text="the die stays hot: the last rung is the rail", begin=_HOT_BEGIN, end=_rail_back(_HOT_END), span_s=(60.0, 90.0),
          answers=(says("die.kill"), says("die.power_off"), RAIL_OFF), deadline_s=50.0, **_LADDER),
    Fault(name="memory_hot", text="the card's memory is too hot", begin=_MEMORY_BEGIN, end=_MEMORY_END, span_s=(15.0, 18.0),
          answers=(says("hbm.throttle"), says("hbm.checkpoint"), says("hbm.pause"), IDLE), deadline_s=14.0, **_LADDER),
    Fault(name="board_over_maximum", text="the board draws more than it can", begin=_BOARD_BEGIN, end=_BOARD_END, span_s=(18.0, 25.0),
          answers=(says("board.throttle"), paced_at_most(THROTTLED), says("board.checkpoint")), deadline_s=18.0, **_LADDER),
    Fault(name="card_disobeys", text="the training ignores its pace", begin=_DEAF_BEGIN, end=_rail_back(_DEAF_END), span_s=(90.0, 120.0), ready=_HELD_BACK,
          # Power that nobody commanded is taken for a latch-up, whoever draws it: the rail goes, and the worker with it.
          answers=(event("LATCH_UP"), _STOPPED, RAIL_OFF), deadline_s=20.0, forbidden=(NEEDLESS_SAFE,), recovery_s=300.0),
    Fault(name="ecc_uncorrected", text="the card lost data", begin=_ecc, span_s=(5.0, 20.0),
          answers=(event("GPU_ECC"), says("ecc.kill"), killed("train"), started("train")), deadline_s=45.0, **_LADDER),
    Fault(name="xid_told", text="the driver reports a fault of the program", begin=_xid(XID_ILLEGAL_ACCESS), span_s=(5.0, 20.0),
          answers=(event("GPU_XID"), says("xid.told")), deadline_s=5.0, **_LADDER),
    Fault(name="xid_grave", text="the driver reports a fault of the memory", begin=_xid(XID_ECC), span_s=(5.0, 20.0),
          answers=(event("GPU_XID"), says("xid.kill"), killed("train"), started("train")), deadline_s=45.0, **_LADDER),
    Fault(name="card_lost", text="the card falls off the bus and comes back with its power", begin=_xid(XID_OFF_THE_BUS), end=_rearm, span_s=(60.0, 90.0),
          answers=(event("GPU_XID"), says("xid.power_cycle"), RAIL_OFF), deadline_s=20.0, **_LADDER),
    Fault(name="loss_diverges", text="the training's loss runs away", begin=_LOSS_BEGIN, end=_LOSS_END, span_s=(60.0, 80.0), ready=_HARD_AT_WORK,
          answers=(says("loss.told"), says("loss.kill"), killed("train")), deadline_s=55.0, **_LADDER),
    Fault(name="steps_slow", text="training steps take ten times as long", begin=_SLOW_BEGIN, end=_SLOW_END, span_s=(50.0, 60.0), ready=_AT_WORK,
          answers=(says("step.told"),), deadline_s=50.0, **_LADDER),
    Fault(name="battery_hot", text="the battery reads 60 degC", begin=reading(battery_temp_degc=60.0), end=unfiltered, span_s=(40.0, 90.0),
          answers=(says("battery.throttle"), says("battery.safe"), SAFE, RAIL_OFF), deadline_s=55.0, recovery_s=180.0),
    Fault(name="overcurrent", text="the bus current reads 200 A", begin=reading(bus_current_a=200.0), end=unfiltered, span_s=(14.0, 17.0),
          answers=(says("overcurrent.throttle"), says("overcurrent.pause"), IDLE), deadline_s=14.0, **_LADDER),
    Fault(name="latch_up", text="the card's rail draws what no card draws", begin=reading(gpu_rail_power_w=1500.0), end=_rail_back(unfiltered), span_s=(5.0, 8.0),
          answers=(event("LATCH_UP"), RAIL_OFF), deadline_s=8.0, **_LADDER),
    Fault(name="disk_full", text="the disk has 20 MB left", begin=_FULL_BEGIN, end=_FULL_END, span_s=(80.0, 120.0),
          answers=(says("disk.low"), says("disk.pause"), IDLE), deadline_s=75.0, **_LADDER),
    Fault(name="memory_leak", text="the daemon's memory grows without end", begin=_LEAK_BEGIN, end=_LEAK_END, span_s=(100.0, 110.0),
          answers=(says("memory.restart"), BOOTED), deadline_s=95.0, **_LADDER),
)  # fmt: skip

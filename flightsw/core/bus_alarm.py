"""Bus alarm: the payload rests within milliseconds of a collapsing bus, and loses its rail if that did not help.

A minor frame is 0.1 s and a limit of ``eps`` persists for longer; a short circuit or a battery that lets go waits
for neither. So every sensor frame is judged when it *arrives* (``executive.alarm``), by raw values and nothing
else:

    GRAVE    bus under ``collapse_v`` or current over ``short_circuit_a``      an alarm at once
    BEYOND   bus under ``eps.bus_undervoltage_v`` or over ``overcurrent_a``    an alarm at the second frame in a row
    LOW      not yet over ``eps.bus_recovered_v``, or no believable value      neither raises nor ends an alarm
    WELL     the rest

An alarm parks every worker at once and asks trainers for a checkpoint. The load it removes is what most alarms come
from, so the rail goes only when the bus is still beyond its limit ``ride_through_s`` later: at the latest in the
minor frame after that, with ``frame.rate_hz = 10`` within 0.2 s of the alarm. Work goes on when the bus has been
well for ``hold_s``, or ``off_s`` when the rail was cut. A bus that stays low meanwhile leads to SAFE by the limits
of ``eps``; this module knows no modes.

The alarm counts from the arrival of the frame that raises it. A frame that came before (same sequence number) is no
second one. All timers are machine time.
"""

from enum import IntEnum, auto, unique
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.avionics import SensorFrame

from . import eps
from .events import Event, Fields
from .sense import RANGES

NAN: Final = float("nan")


@unique
class Level(IntEnum):
    """What one frame says about the bus, from good to bad."""

    WELL = auto()
    LOW = auto()
    BEYOND = auto()
    GRAVE = auto()


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hard limits of the bus that act on arrival of a sensor frame, and what follows."""

    collapse_v: Annotated[float, Meta(ge=0.0, le=200.0)] = 20.0
    """Alarm at the first frame under this; under eps.bus_undervoltage_v at the second in a row."""
    overcurrent_a: Annotated[float, Meta(gt=0.0, le=500.0)] = 60.0
    """Alarm at the second frame in a row over this."""
    short_circuit_a: Annotated[float, Meta(gt=0.0, le=500.0)] = 100.0
    """Alarm at the first frame over this."""
    ride_through_s: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.1
    """The rail is switched off when the bus is beyond a limit for this long with the payload at rest."""
    hold_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 5.0
    """The payload rests until the bus has been well for this long."""
    off_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 60.0
    """A rail that was cut stays off until the bus has been well for this long."""

    def __post_init__(self) -> None:
        if self.short_circuit_a < self.overcurrent_a:
            raise ValueError(
                f"short_circuit_a = {self.short_circuit_a:g} must not be under"
                f" overcurrent_a = {self.overcurrent_a:g}"
            )


class State(Struct, frozen=True, kw_only=True):
    """Newest judgement and its frame; since when there is an alarm, and the bus is well in it; the rail."""

    level: Level = Level.WELL
    sequence: int | None = None
    since_s: float | None = None
    well_s: float | None = None
    cut: bool = False

    @property
    def active(self) -> bool:
        """Whether the payload has to rest."""
        return self.since_s is not None


CLEAR: Final = State()


def judge(config: Config, power: eps.Config, frame: SensorFrame) -> Level:
    """What a frame as it came says about the bus; an impossible or missing value says nothing but LOW."""
    volts, amperes = (
        _believed("bus_voltage_v", frame.bus_voltage_v),
        _believed("bus_current_a", frame.bus_current_a),
    )
    # NaN fails every comparison.
    if volts < config.collapse_v or amperes > config.short_circuit_a:
        return Level.GRAVE
    if volts < power.bus_undervoltage_v or amperes > config.overcurrent_a:
        return Level.BEYOND
    return Level.WELL if volts > power.bus_recovered_v and amperes <= config.overcurrent_a else Level.LOW


def hear(state: State, config: Config, power: eps.Config, frame: SensorFrame, now_s: float) -> State:
    """The state after a frame that arrived just now: the same object when nothing changed."""
    level = judge(config, power, frame)
    if not state.active and level <= Level.LOW:
        return CLEAR
    if frame.sequence == state.sequence:
        return state
    since_s = state.since_s
    if since_s is None and (level is Level.GRAVE or state.level >= Level.BEYOND):
        since_s = now_s
    well_s = (now_s if state.well_s is None else state.well_s) if level is Level.WELL else None
    return State(level=level, sequence=frame.sequence, since_s=since_s, well_s=well_s, cut=state.cut)


def raised(config: Config, power: eps.Config, frame: SensorFrame) -> Event:
    """The report of an alarm that this frame raised."""
    fields: Fields = {
        "voltage_v": frame.bus_voltage_v,
        "current_a": frame.bus_current_a,
        "limit_v": power.bus_undervoltage_v,
        "limit_a": config.overcurrent_a,
    }
    return Event("BUS_ALARM", fields)


def step(state: State, config: Config, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Once a minor frame: the rail when rest did not help, the end when the bus has been well for long enough."""
    if state.since_s is None:
        return state, ()
    if state.well_s is not None and now_s - state.well_s >= (config.off_s if state.cut else config.hold_s):
        return CLEAR, (Event("BUS_ALARM_OVER", {"duration_s": now_s - state.since_s}),)
    if not state.cut and state.level >= Level.BEYOND and now_s - state.since_s >= config.ride_through_s:
        return replace(state, cut=True), ()
    return state, ()


def _believed(name: str, value: float) -> float:
    low, high = RANGES[name]
    return value if low <= value <= high else NAN

"""Plausibility: which sensors lie, told by what a healthy one cannot do. Policy is the tables, mechanism a loop.

*Frozen.* A noisy sensor does not give the same value ``REPEATS`` times. It must have shown noise before: a reading
that turns back again and again, as noise does and a smooth or constant reading does not. At the ends of its range
a reading may rest. When *every* noisy value of a frame stands still at once, one repetition is enough: the sequence
number moves, but nobody measures; such a frame is no valid frame.

*Jump.* Between two readings a quantity moves at most ``rate`` per second of mission time, beside noise (``slack``).
What is allowed grows with the time since the last reading that was believed, so a true jump is believed in the end.
What can jump (voltages, currents, powers, the sun sensor in a tumble) has no rate, and the gauge has a better
judge.

*Contradiction.* Two sensors that see the same watt must agree (``CHECKS``), over ``PERSISTENCE`` frames in a row,
because in one frame an edge of the sun may fall between their samples. Where a third one tells who is wrong, that
one is not believed; elsewhere it is only reported, and the worse of both stands. The gauge against counted charge
and voltage is the matter of ``charge``.

A sensor that is not believed is missing (NaN) for every estimate. Alarms are another matter, because they may be
true: the thresholds of SAFE, the watchpoints and the telemetry have the readings as they came. Ranges and silence
are the matter of ``sense``.
"""

from operator import attrgetter, eq
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link.avionics import SensorFrame

from .events import Event

REPEATS: Final = 30
"""Equal readings in a row after which a noisy sensor is frozen; by chance (0.15 each) once in 1e25."""
TURNS_MAX: Final = 30
NOISY: Final = 8
"""Surplus of turns over steady moves, at most ``TURNS_MAX``, from which a sensor counts as noisy."""
NOISY_FRAME: Final = 4
"""Noisy sensors that a frame must have before its standing still means anything."""
TURN_EVERY: Final = 4
"""Noise is looked for in every fourth frame; it does not come and go."""
PERSISTENCE: Final = 5
"""Frames in a row in which two sensors must contradict each other."""
GAP_S: Final = 600.0
"""After a longer silence (mission time) every reading is new."""
ALL: Final = "all"
"""Name of a verdict on the whole frame."""


class Row(Struct, frozen=True):
    """One sensor: where its reading may rest, and how fast it may move."""

    field: str
    rest_low: float = float("-inf")
    rest_high: float = float("inf")
    rate_1_s: float = float("inf")
    slack: float = 0.0


ROWS: Final = (
    Row("bus_voltage_v"),
    Row("bus_current_a", rest_low=0.0),
    Row("array_power_w", rest_low=0.5),
    Row("battery_voltage_v"),
    Row("battery_current_a"),
    Row("battery_temp_degc", rate_1_s=0.2, slack=4.0),
    Row("soc_fraction", rest_low=0.0, rest_high=0.9995),
    Row("sun_fraction", rest_low=0.001, rest_high=0.999),
    Row("gpu_temp_degc", rate_1_s=0.4, slack=4.0),
    Row("radiator_temp_degc", rate_1_s=0.2, slack=4.0),
    Row("gpu_rail_power_w", rest_low=0.1),
)
"""Rates: the GPU node heats by 0.23 K/s at full power, the radiator by 0.06 K/s; slack is 10 σ."""


class Check(Struct, frozen=True):
    """Two sensors against each other, and who is not believed when they contradict ("" is nobody)."""

    name: str
    culprit: str = ""


CHECKS: Final = (
    Check("rail over bus, though array, bus and battery balance", "gpu_rail_power_w"),
    Check("rail over bus, and no balance", "bus_current_a"),
    Check("battery out of balance with array and bus", "battery_current_a"),
    Check("array gives power in the dark", "sun_fraction"),
    Check("array gives nothing in the sun"),
    Check("bus and battery voltage apart"),
)
"""The order is that of ``contradictions``. The bus is unregulated, so its voltage is the battery's."""


def contradictions(frame: SensorFrame) -> tuple[bool, ...]:
    """Which of ``CHECKS`` this frame contradicts; NaN contradicts nobody."""
    array_w, sun = frame.array_power_w, frame.sun_fraction
    bus_v, battery_v = frame.bus_voltage_v, frame.battery_voltage_v
    load_w, battery_w = bus_v * frame.bus_current_a, battery_v * frame.battery_current_a
    over = load_w < 0.9 * frame.gpu_rail_power_w - 30.0
    net_w = array_w - load_w
    allowed_w = 60.0 + 0.1 * (array_w if array_w > load_w else load_w)
    # What is left over may be burnt in a shunt; what is missing comes from the battery.
    short = net_w if net_w < 0.0 else 0.0
    unbalanced = net_w == net_w and (
        battery_w > (net_w if net_w > 0.0 else 0.0) + allowed_w
        or battery_w < short - allowed_w
        or (net_w < -allowed_w and battery_w > net_w + allowed_w)
    )
    return (
        over and not unbalanced,
        over and unbalanced,
        unbalanced and not over,
        sun < 0.1 and array_w > 100.0,
        sun > 0.9 and array_w < 5.0,
        abs(bus_v - battery_v) > 2.0,
    )


FIELDS: Final = tuple(row.field for row in ROWS)
_values: Final = attrgetter(*FIELDS)
_RATED: Final = tuple((index, row) for index, row in enumerate(ROWS) if row.rate_1_s < float("inf"))
_NOTHING: Final = (0,) * len(ROWS)
_CLEAR: Final = (0,) * len(CHECKS)


class State(Struct, frozen=True, kw_only=True):
    """Per sensor of ``ROWS`` its last two readings, how many were equal in a row, and its turns.

    ``checks`` counts the frames in a row that each of ``CHECKS`` is contradicted.
    ``believed`` holds the last reading that was believed of each sensor with a rate, and when. ``bad`` are the
    sensors that are not believed, and why; ``reported`` the checks that stand.
    """

    values: tuple[float, ...] = ()
    older: tuple[float, ...] = ()
    at_s: float = 0.0
    runs: tuple[int, ...] = _NOTHING
    turns: tuple[int, ...] = _NOTHING
    countdown: int = TURN_EVERY
    believed: tuple[tuple[float, float], ...] = ()
    checks: tuple[int, ...] = _CLEAR
    bad: tuple[tuple[str, str], ...] = ()
    reported: tuple[str, ...] = ()

    @property
    def frozen(self) -> bool:
        """Whether the whole frame stands still."""
        return self.bad == ((ALL, "SENSOR_FROZEN"),)


START: Final = State()


def step(state: State, frame: SensorFrame) -> tuple[State, SensorFrame, tuple[Event, ...]]:
    """Judge a new frame: the next state, the frame with what is not believed taken out, and what changed."""
    values, at_s = _values(frame), frame.world_s
    before = state.values
    if not before or not 0.0 <= at_s - state.at_s <= GAP_S:
        believed = tuple((values[index], at_s) for index, _ in _RATED)
        return replace(state, values=values, older=values, at_s=at_s, runs=_NOTHING, believed=believed), frame, ()
    # Tuples find the same NaN equal to itself; a missing value is not one that stands still.
    if (
        values == before
        and all(map(eq, values, before))
        and sum(count >= NOISY for count in state.turns) >= NOISY_FRAME
    ):
        verdict = ((ALL, "SENSOR_FROZEN"),)
        return replace(state, at_s=at_s, bad=verdict), frame, _told(state.bad, verdict, frame)
    same = tuple(map(eq, values, before))
    runs = _NOTHING
    if True in same:
        runs = tuple([run + 1 if equal else 0 for run, equal in zip(state.runs, same, strict=True)])
    turns, countdown = state.turns, state.countdown - 1
    if not countdown:
        countdown = TURN_EVERY
        turns = _turned(state, values)
    bad: dict[str, str] = {}
    if runs is not _NOTHING and max(runs) >= REPEATS:
        for row, value, run, turned in zip(ROWS, values, runs, turns, strict=True):
            if run >= REPEATS and turned >= NOISY and row.rest_low < value < row.rest_high:
                bad[row.field] = "SENSOR_FROZEN"
    believed = state.believed
    fresh = []
    for (index, row), (last, last_s) in zip(_RATED, believed, strict=True):
        value = values[index]
        # NaN fails this comparison and is no jump.
        if abs(value - last) > row.slack + row.rate_1_s * (at_s - last_s):
            bad.setdefault(row.field, "SENSOR_JUMPED")
            fresh.append((last, last_s))
        else:
            fresh.append((value, at_s) if value == value else (last, last_s))
    checks = state.checks
    against = contradictions(frame)
    if True in against or checks is not _CLEAR:
        checks = tuple([count + 1 if true else 0 for true, count in zip(against, checks, strict=True)])
        if not any(checks):
            checks = _CLEAR
    found: tuple[Event, ...] = ()
    reported = state.reported
    if checks is not _CLEAR or reported:
        standing = [check for check, count in zip(CHECKS, checks, strict=True) if count >= PERSISTENCE]
        for check in standing:
            if check.culprit:
                bad.setdefault(check.culprit, "SENSOR_CONTRADICTED")
            if check.name not in reported:
                found += (Event("SENSOR_CONTRADICTED", {"check": check.name, "sensor": check.culprit or "nobody"}),)
        reported = tuple(check.name for check in standing)
    verdicts = tuple(bad.items())
    if verdicts != state.bad:
        found += _told(state.bad, verdicts, frame)
    after = State(
        values=values,
        older=before,
        at_s=at_s,
        runs=runs,
        turns=turns,
        countdown=countdown,
        believed=tuple(fresh),
        checks=checks,
        bad=verdicts,
        reported=reported,
    )
    return after, replace(frame, **dict.fromkeys(bad, float("nan"))) if bad else frame, found


def _turned(state: State, values: tuple[float, ...]) -> tuple[int, ...]:
    """Turns of all sensors: a move against the one before is a turn, one along with it takes one away."""
    turns = []
    for value, last, older, count in zip(values, state.values, state.older, state.turns, strict=True):
        by = (value - last) * (last - older)
        if by < 0.0:
            count = min(TURNS_MAX, count + 1)
        elif by > 0.0:
            count = max(0, count - 1)
        turns.append(count)
    return tuple(turns)


def _told(
    before: tuple[tuple[str, str], ...], after: tuple[tuple[str, str], ...], frame: SensorFrame
) -> tuple[Event, ...]:
    """Events of what is not believed any more, and of what is believed again."""
    was, now = dict(before), dict(after)
    fell = [
        Event(kind, {"sensor": name, "value": getattr(frame, name, float("nan"))})
        for name, kind in after
        if was.get(name) != kind and kind != "SENSOR_CONTRADICTED"
    ]
    rose = [Event("SENSOR_TRUSTED", {"sensor": name, "after": kind}) for name, kind in before if name not in now]
    return (*fell, *rose)

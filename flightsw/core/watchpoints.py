"""Watchpoints: every limit of the active table, evaluated in the frame in which its parameter has a new sample.

*What is a sample?* ``N`` consecutive samples beyond a limit mean ``N`` measurements, not ``N`` looks at the same
one. So each parameter has a source (``SOURCES``): sensors are new when a sensor frame came, the card's values
when the probe told, a worker's with its heartbeat, a commit's figures with the commit, everything else each
frame. Only what has a new sample is looked at, so a quiet frame costs little.

*Three results.* CLEAR, TRIPPED, and STALE when there was no valid new sample for ``stale_s`` of machine time. NaN
is no valid value: it neither counts towards ``N`` nor breaks the row. Every watchpoint begins STALE, because
nothing is known yet. One that goes stale while tripped comes back tripped, unless its next sample is behind
``clear``.

*Rates* are per second of mission time (``correlation.elapsed_world_s``, which never jumps), between samples at
least ``RATE_STEP_S`` of machine time apart. After a gap of ``stale_s`` a rate begins anew: an average over a gap
is none.

A table is compiled once, when it is activated. ``CALM`` stands for the usual case (valid, behind the limit,
nothing counted), so that almost every sample of almost every watchpoint is one read and one comparison. A
worker's values are those of the reports taken in by the frame before, because its reports are read later in a
frame.
"""

import operator
from collections.abc import Callable
from enum import IntEnum, unique
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from flightsw.link.limit_tables import RATE_STEP_S, Watchpoint, WatchTable

from .getters import GETTERS, Getter
from .limits import NEVER

if TYPE_CHECKING:
    from .vehicle import Vehicle

TABLES_MAX: Final = 8
"""Tables whose fast form is kept made: the active one, the one before it, those of a bench that boots often."""


@unique
class Result(IntEnum):
    """What a watchpoint says."""

    CLEAR = 0
    TRIPPED = 1
    STALE = 2


@unique
class Source(IntEnum):
    """Where samples of a parameter come from; the order is that of ``_TOKENS``."""

    CORE = 0
    """The core's own values: each frame."""
    SENSORS = 1
    """The avionics' sensors: each sensor frame that is news."""
    PROBE = 2
    """The card, as the probe reads it: each sample."""
    TRAINING = 3
    """The first training worker: each heartbeat."""
    INFERENCE = 4
    """The first inference worker: each heartbeat."""
    COMMIT = 5
    """Figures of a checkpoint: each commit."""


_BY_SOURCE: Final[dict[Source, tuple[str, ...]]] = {
    Source.SENSORS: (
        "eps.soc_fraction",
        "eps.bus_voltage_v",
        "eps.bus_current_a",
        "eps.battery_voltage_v",
        "eps.battery_current_a",
        "eps.battery_temp_degc",
        "eps.array_power_w",
        "eps.gpu_rail_power_w",
        "eps.sun_fraction",
        "thermal.gpu_degc",
        "thermal.radiator_degc",
        "orbit.latitude_deg",
        "orbit.longitude_deg",
        "orbit.altitude_km",
        "radiation.proton_flux_cm2_s",
    ),
    Source.PROBE: (
        "gpu.power_w",
        "gpu.die_degc",
        "gpu.memory_degc",
        "gpu.energy_j",
        "gpu.utilisation_fraction",
        "gpu.ecc_uncorrected",
        "gpu.unsupported_fields",
        "gpu.ecc_corrected",
        "gpu.xid",
        "gpu.xid_count",
        "gpu.throttle_reasons",
        "gpu.xid_grave",
        "gpu.power_average_w",
        "gpu.power_limit_w",
        "gpu.power_limit_enforced_w",
        "gpu.slowdown_margin_k",
        "governor.excess_w",
    ),
    Source.TRAINING: (
        "train.step",
        "train.loss",
        "train.tokens_per_s",
        "train.micro_batch_ms",
        "train.step_time_ratio",
        "train.loss_rise",
    ),
    Source.INFERENCE: ("infer.tokens",),
    Source.COMMIT: ("checkpoint.stall_ms",),
}
SOURCES: Final[dict[str, Source]] = {name: source for source, names in _BY_SOURCE.items() for name in names}
"""Source of each parameter that is not the core's own."""


def _heartbeat(index: int | None, vehicle: "Vehicle") -> float:
    # No heartbeat yet of this worker: what it showed before is no sample.
    if index is None or (job := vehicle.payload.jobs[index]).progress < 0:
        return NEVER
    return job.heartbeat_s


_TOKENS: Final[tuple[Callable[["Vehicle"], float], ...]] = (
    lambda v: v.frame_count,
    lambda v: v.sense.received_s,
    lambda v: v.sense.gpu_received_s,
    lambda v: _heartbeat(v.first_train, v),
    lambda v: _heartbeat(v.first_infer, v),
    lambda v: sum([ring.committed for ring in v.checkpoint.rings]) or NEVER,
)
"""By source: a number that changes with each new sample; ``NEVER`` is none yet."""

_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class Mark(Struct, frozen=True):
    """Memory of one watchpoint: tripped, samples in a row beyond, stale, machine time of the last valid sample."""

    tripped: bool
    count: int
    stale: bool
    valid_s: float


class Slope(Struct, frozen=True):
    """The newer sample of a rate: value, mission and machine time, and the rate up to it, NaN for the first."""

    value: float
    world_s: float
    at_s: float
    rate: float = float("nan")


CALM: Final = Mark(False, 0, False, NEVER)
"""Valid at its source's last sample, behind the limit, nothing counted. Compared by identity."""
_UNKNOWN: Final = Mark(False, 0, True, NEVER)

_Check = tuple[int, Getter, Callable[[float, float], bool], float]


class Program(Struct, frozen=True):
    """A compiled table: per source the checks of its values, all rates, and the shortest ``stale_s`` per source."""

    points: tuple[Watchpoint, ...]
    readers: tuple[Getter, ...]
    sources: tuple[Source, ...]
    values: tuple[tuple[_Check, ...], ...]
    rates: tuple[int, ...]
    stale_min_s: tuple[float, ...]
    index: dict[int, int]


class State(Struct, frozen=True, kw_only=True):
    """Memory of all watchpoints, in the order of the table; tuples of the second group are by source.

    ``results`` stays the same object while no result changes. ``valid_s`` is the oldest last valid sample among the
    values of a source that are not stale. ``lost`` are the watchpoints that went stale in this frame.
    """

    table: WatchTable
    program: Program
    marks: tuple[Mark, ...]
    slopes: dict[int, Slope]
    results: tuple[Result, ...]
    tokens: tuple[float, ...]
    sampled_s: tuple[float, ...]
    valid_s: tuple[float, ...]
    lost: tuple[int, ...] = ()

    @property
    def stale(self) -> int:
        """How many watchpoints are stale."""
        return self.results.count(Result.STALE)


@lru_cache(maxsize=TABLES_MAX)
def compiled(table: WatchTable) -> Program:
    """The fast form of a checked table."""
    points = table.watchpoints
    sources = tuple(SOURCES.get(point.parameter, Source.CORE) for point in points)
    readers = tuple(GETTERS[point.parameter] for point in points)
    values: list[list[_Check]] = [[] for _ in Source]
    stale_min_s = [float("inf")] * len(Source)
    for index, (point, source, read) in enumerate(zip(points, sources, readers, strict=True)):
        if point.quantity == "value":
            values[source].append((index, read, _OPERATORS[point.operator], point.trip))
            stale_min_s[source] = min(stale_min_s[source], point.stale_s)
    return Program(
        points=points,
        readers=readers,
        sources=sources,
        values=tuple(map(tuple, values)),
        rates=tuple(index for index, point in enumerate(points) if point.quantity == "rate"),
        stale_min_s=tuple(stale_min_s),
        index={point.id: index for index, point in enumerate(points)},
    )


def start(table: WatchTable) -> State:
    """State after activation: nothing is known."""
    count, none = len(table.watchpoints), (NEVER,) * len(Source)
    return State(
        table=table,
        program=compiled(table),
        marks=(_UNKNOWN,) * count,
        slopes={},
        results=(Result.STALE,) * count,
        tokens=none,
        sampled_s=none,
        valid_s=none,
    )


def activate(state: State, table: WatchTable) -> State:
    """State after another table was activated; a watchpoint that is the same in both keeps its memory."""
    fresh, before = start(table), state.program.index
    marks, slopes, results = list(fresh.marks), {}, list(fresh.results)
    for index, point in enumerate(table.watchpoints):
        old = before.get(point.id)
        if old is None or state.program.points[old] != point:
            continue
        source = state.program.sources[old]
        mark = state.marks[old]
        # CALM refers to its source's last sample; the memory of sources begins anew with the table.
        marks[index] = Mark(False, 0, False, state.sampled_s[source]) if mark is CALM else mark
        results[index] = state.results[old]
        if old in state.slopes:
            slopes[index] = state.slopes[old]
    return State(
        table=table,
        program=fresh.program,
        marks=tuple(marks),
        slopes=slopes,
        results=tuple(results),
        tokens=state.tokens,
        sampled_s=state.sampled_s,
        valid_s=tuple(_oldest(fresh.program, marks, source, state.sampled_s[source]) for source in Source),
    )


def step(state: State, vehicle: "Vehicle", now_s: float) -> State:
    """All watchpoints after this frame's sensing; ``vehicle`` is the vehicle being made, at ``now_s``."""
    program, marks, changed = state.program, state.marks, {}
    tokens, sampled_s, valid_s = list(state.tokens), list(state.sampled_s), list(state.valid_s)
    news = 0
    for number, token_of in enumerate(_TOKENS):
        token = token_of(vehicle)
        before_s = sampled_s[number]
        if token != tokens[number]:
            tokens[number] = token
            if token != NEVER:
                news |= 1 << number
                sampled_s[number] = valid_s[number] = now_s
                for index, read, beyond, trip in program.values[number]:
                    value = read(vehicle)
                    mark = marks[index]
                    # The usual case first; NaN differs from itself.
                    if value != value:
                        if mark.stale:
                            continue
                    elif mark is CALM and not beyond(value, trip):
                        continue
                    before, mark = mark, _sampled(mark, program.points[index], value, before_s, now_s)
                    if mark is not before:
                        changed[index] = mark
                    if not mark.stale and NEVER < mark.valid_s < valid_s[number]:
                        valid_s[number] = mark.valid_s
        if now_s - valid_s[number] > program.stale_min_s[number]:
            valid_s[number] = _aged(state, number, sampled_s[number], changed, now_s)
    slopes = _rates(state, vehicle, news, changed, now_s) if program.rates else state.slopes
    results = state.results
    lost: tuple[int, ...] = ()
    if changed:
        every = list(marks)
        for index, mark in changed.items():
            every[index] = mark
        marks = tuple(every)
        results, lost = _results(results, changed)
    return State(
        table=state.table,
        program=program,
        marks=marks,
        slopes=slopes,
        results=results,
        tokens=tuple(tokens),
        sampled_s=tuple(sampled_s),
        valid_s=tuple(valid_s),
        lost=lost,
    )


def reading(state: State, index: int, vehicle: "Vehicle") -> float:
    """What a watchpoint compares, as known now: the value, or the newest rate. NaN is no valid value."""
    if state.program.points[index].quantity == "rate":
        slope = state.slopes.get(index)
        return float("nan") if slope is None else slope.rate
    return float(state.program.readers[index](vehicle))


def age_s(state: State, index: int, now_s: float) -> float:
    """Machine time since the last valid sample; infinite before the first."""
    mark = state.marks[index]
    if mark is not CALM:
        return now_s - mark.valid_s
    slope = state.slopes.get(index)
    return now_s - (state.sampled_s[state.program.sources[index]] if slope is None else slope.at_s)


def _sampled(mark: Mark, point: Watchpoint, value: float, before_s: float, now_s: float) -> Mark:
    """A watchpoint after one more sample; ``before_s`` is when its source had the one before."""
    if value != value:
        if mark is CALM:
            mark = Mark(False, 0, False, before_s)
        if mark.stale or now_s - mark.valid_s <= point.stale_s:
            return mark
        return Mark(mark.tripped, mark.count, True, mark.valid_s)
    beyond = _OPERATORS[point.operator]
    if mark.tripped:
        clear = point.trip if point.clear is None else point.clear
        return Mark(True, 0, False, now_s) if beyond(value, clear) else CALM
    if not beyond(value, point.trip):
        return CALM
    # A gap of staleness ends the row of consecutive samples.
    count = 1 if mark.stale else mark.count + 1
    return Mark(True, 0, False, now_s) if count >= point.samples else Mark(False, count, False, now_s)


def _aged(state: State, number: int, sampled_s: float, changed: dict[int, Mark], now_s: float) -> float:
    """Find the values of a source that have gone stale; returns the oldest last valid sample of the others."""
    oldest_s = float("inf")
    for index, _, _, _ in state.program.values[number]:
        mark = changed.get(index, state.marks[index])
        if mark.stale:
            continue
        last_s = sampled_s if mark is CALM else mark.valid_s
        if now_s - last_s > state.program.points[index].stale_s:
            changed[index] = Mark(mark.tripped, mark.count, True, last_s)
        else:
            oldest_s = min(oldest_s, last_s)
    return oldest_s


def _oldest(program: Program, marks: list[Mark], source: Source, sampled_s: float) -> float:
    valid = [marks[index].valid_s for index, _, _, _ in program.values[source] if not marks[index].stale]
    return min(valid, default=sampled_s)


def _rates(state: State, vehicle: "Vehicle", news: int, changed: dict[int, Mark], now_s: float) -> dict[int, Slope]:
    """Take the rates that are due, drop those that are stale."""
    program, slopes = state.program, state.slopes
    for index in program.rates:
        slope = slopes.get(index)
        if slope is not None:
            age_s = now_s - slope.at_s
            # The usual case first: taken a moment ago.
            if age_s < RATE_STEP_S:
                continue
            if age_s > program.points[index].stale_s:
                mark = state.marks[index]
                changed[index] = Mark(mark.tripped, 0, True, slope.at_s)
                slopes = {number: kept for number, kept in slopes.items() if number != index}
                slope = None
        if not news >> program.sources[index] & 1:
            continue
        point = program.points[index]
        value, world_s = program.readers[index](vehicle), vehicle.correlation.elapsed_world_s
        if value != value:
            continue
        if slope is None:
            slopes = {**slopes, index: Slope(value, world_s, now_s)}
        elif world_s > slope.world_s:
            rate = (value - slope.value) / (world_s - slope.world_s)
            slopes = {**slopes, index: Slope(value, world_s, now_s, rate)}
            changed[index] = _sampled(changed.get(index, state.marks[index]), point, rate, slope.at_s, now_s)
    return slopes


def _results(before: tuple[Result, ...], changed: dict[int, Mark]) -> tuple[tuple[Result, ...], tuple[int, ...]]:
    """Results after these changes, the same object when none is another; and what went stale."""
    results: list[Result] | None = None
    lost: tuple[int, ...] = ()
    for index, mark in changed.items():
        result = Result.STALE if mark.stale else Result.TRIPPED if mark.tripped else Result.CLEAR
        if result is not before[index]:
            results = list(before) if results is None else results
            results[index] = result
            lost += (index,) if result is Result.STALE else ()
    return (before if results is None else tuple(results)), lost

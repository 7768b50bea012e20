"""Latch-up of the GPU: a step of the bus current that no commanded work explains, and what is done about it.

A particle can turn a parasitic thyristor of a chip on; it then draws a few watts to a few hundred more, heats one
spot, and ends only without power. A fixed limit is no use on a load that runs from idle to full by command
(power-thermal-orbit reference, section 5.2). So the current is compared with what was asked for:

    residual = V I − (bus + transmitter + idle + duty (maximum − idle)) − rest − bias

*Duty* is the highest that was commanded within ``settle_s`` to twice that, because power follows a command late: a
load that ramps never looks like too much. *Rest* is what the bus draws beside the GPU more than configured, as the
rail's own meter places it, followed within a second: a heater is no latch-up, and a power cycle would not end it.
It is told as a stray load. A meter without a value places nothing, nor does one that neither agrees with the model
nor leaves a rest under ``REST_MAX_W``: it may be frozen. So long the last rest stands. *Bias* is the model's error
at this duty (the card's curve, the bus load), learned by cells of duty; slowly (``learn_s``), so that a drift is
learned and a step is not. It rises faster than it falls: a worker that starves for a while must not make its return
to work a step. Residuals far under the model are lighter work and teach nothing.

*Confirm.* Σ ← max(0, Σ + residual − κ), κ = 0.4 ``step_w``; a latch-up is Σ over its threshold, ``step_w`` or more:

    threshold = max(step_w, ln(ARL) σ² c / 2κ),   c = 1 + 2 CORRELATION_S / Δt

This is Page's CUSUM: with noise σ the mean run to a false alarm is about ARL samples (Siegmund, Sequential
Analysis, 1985, for a drift of −κ), c allows for noise that outlives a sample. σ is learned beside the bias. So a
quiet bus confirms in two samples, a noisy one later. In a cell that is new, κ grows by what the model may be wrong.

*Act.* Duty 0 and a checkpoint; when it is committed, after ``checkpoint_s``, or at once when the excess is large,
the rail is off for ``hold_s``, twice as long with each latch-up that comes within ``good_s``. After ``cycles_max``
of them it stays off until the ground has looked. A rail meter that reads more than the card can draw is a latch-up,
too.

Clocks: everything is machine time, sample by sample of the sensors. Pacing, settling and latch-ups belong to the
computer, not to the orbit; on a bench at warp k a machine second is k mission seconds, and nothing here changes.
"""

import math
from enum import IntEnum, unique
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from .events import Event
from .limits import NEVER, TIMER_SLACK_S

CELLS: Final = 12
"""No worker, workers at duty 0, and ten tenths of duty."""
CELL_NEW: Final = (0.0, 900.0, 0.0)
"""A cell is (bias W, variance W², learned s); nothing is known of a new one but that it may be noisy."""
NOISE_STEP: Final = 100.0
"""Least variance, W², that a sample may show although less has been learned."""
PART: Final = 0.4
ARL_LOG: Final = 21.0
"""ln of the mean number of samples to a false alarm, 1.3e9."""
CORRELATION_S: Final = 0.2
FALL: Final = 0.25
"""Speed at which a bias falls over that at which it rises."""
PRIOR_S: Final = 0.5
"""Weight of a new cell's variance, in seconds of samples."""
BIAS_MAX_W: Final = 60.0
REST_MAX_W: Final = 80.0
REST_S: Final = 1.0
GROSS_FACTOR: Final = 1.2
GROSS_SAMPLES: Final = 3
"""The rail meter over this part of the card's maximum, so many samples in a row."""
HOLD_MAX_S: Final = 600.0
SAMPLE_MAX_S: Final = 2.0
"""A longer time between two samples counts as this: a gap teaches no more than a sample."""
STRAY_REPORT_S: Final = 60.0


@unique
class Phase(IntEnum):
    """Watching; saving the work before the cut; rail held off."""

    WATCH = 0
    SAVE = 1
    HELD = 2


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts as a step, how it is confirmed, and how the rail is cycled; on the machine clock."""

    enabled: bool = True
    """Whether latch-ups are looked for."""
    step_w: Annotated[float, Meta(ge=10.0, le=1000.0)] = 50.0
    """Step of power that is caught within a second of 10 Hz frames."""
    grave_w: Annotated[float, Meta(ge=20.0, le=10_000.0)] = 200.0
    """A step over this is cut at once, without waiting for a checkpoint."""
    settle_s: Annotated[float, Meta(ge=0.0, le=30.0)] = 1.0
    """Power follows a new set-point within this."""
    learn_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 30.0
    """Time constant with which the model's error is learned."""
    curve_error: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.05
    """The card's curve may be wrong by this part of its range before it is learned."""
    bus_error_w: Annotated[float, Meta(ge=0.0, le=1000.0)] = 18.0
    """The bus load may be wrong by this before it is learned."""
    checkpoint_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 2.0
    """A checkpoint may take this long before the rail is cut."""
    hold_s: Annotated[float, Meta(ge=0.5, le=600.0)] = 5.0
    """The rail stays off for this long; twice as long with each latch-up in a row, up to 600 s."""
    good_s: Annotated[float, Meta(ge=1.0, le=604_800.0)] = 3600.0
    """After this without a latch-up the next one is the first again."""
    cycles_max: Annotated[int, Meta(ge=1, le=100)] = 5
    """Cycles in a row; the next latch-up leaves the rail off."""


class Sample(Struct, frozen=True):
    """One sample of the power board, and what was commanded when it was taken.

    ``rail_w`` is the rail's own meter, NaN without a value. ``workers``: processes exist; ``changing``: one of them
    starts or stops, whose power nobody commands. ``saving``: a checkpoint that was asked for is not committed yet.
    """

    power_w: float
    rail_w: float
    duty: float
    rail_on: bool
    transmitter_on: bool
    workers: bool
    changing: bool
    saving: bool


class Model(Struct, frozen=True):
    """Loads as configured, W."""

    bus_w: float
    transmitter_w: float
    idle_w: float
    maximum_w: float


class State(Struct, frozen=True, kw_only=True):
    """Memory of the detector and of the response.

    ``excess_w`` is the residual of the newest sample, NaN while it means nothing. ``duty`` and ``duty_before`` are
    the highest commands of this and of the last stretch of ``settle_s``, ``steady_s`` since when rail and workers
    are as they are. ``cycle_s`` is for how long the rail is to be held off from this frame on, 0 for nothing to do,
    infinity for good; ``trips`` counts since boot, ``row`` those in a row.
    """

    cells: tuple[tuple[float, float, float], ...] = (CELL_NEW,) * CELLS
    sampled_s: float = NEVER
    duty: float = 0.0
    duty_before: float = 0.0
    stretch_s: float = NEVER
    steady_s: float = math.inf
    rest_w: float = 0.0
    total_w: float = 0.0
    excess_w: float = math.nan
    gross: int = 0
    phase: Phase = Phase.WATCH
    phase_s: float = NEVER
    grave: bool = False
    trips: int = 0
    row: int = 0
    tripped_s: float = NEVER
    stray_s: float = NEVER
    ceiling: float = 1.0
    checkpoint_asked: bool = False
    cycle_s: float = 0.0


WATCHING: Final = State()


def step(
    state: State, config: Config, model: Model, sample: Sample | None, now_s: float
) -> tuple[State, tuple[Event, ...]]:
    """The detector after this frame; ``sample`` is None without a new sensor frame."""
    if state.phase is not Phase.WATCH:
        return _acting(state, config, sample, now_s), ()
    if sample is None or not config.enabled:
        return state, ()
    dt_s = min(now_s - state.sampled_s, SAMPLE_MAX_S)
    duty, duty_before, stretch_s = state.duty, state.duty_before, state.stretch_s
    if now_s - stretch_s > config.settle_s:
        duty, duty_before, stretch_s = sample.duty, max(duty, sample.duty), now_s
    elif sample.duty > duty:
        duty = sample.duty
    steady_s = state.steady_s
    if not sample.rail_on or sample.changing:
        steady_s = math.inf
    elif steady_s == math.inf:
        steady_s = now_s
    highest = max(duty, duty_before)
    span_w = model.maximum_w - model.idle_w
    gpu_w = model.idle_w + highest * span_w
    rest_w, rest_now_w = state.rest_w, sample.power_w - sample.rail_w - model.bus_w
    if sample.transmitter_on:
        rest_now_w -= model.transmitter_w
    excess_w = sample.power_w - model.bus_w - gpu_w - rest_w
    if sample.transmitter_on:
        excess_w -= model.transmitter_w
    # A new process, a rail that came on: wait as after a set-point. More than two cards is no reading of one.
    armed = now_s - steady_s > config.settle_s and excess_w < 2.0 * model.maximum_w
    gross = state.gross + 1 if sample.rail_on and sample.rail_w > GROSS_FACTOR * model.maximum_w else 0
    cells, total_w, threshold_w, bias_w = state.cells, 0.0, math.inf, 0.0
    if armed:
        place = 0 if not sample.workers else 1 if highest <= 0.0 else 2 + min(9, int(10.0 * highest))
        bias_w, variance, learned_s = cells[place]
        doubt_w = 0.0
        if learned_s < config.learn_s:
            bias_w, doubt_w = _guess(cells, place, config, span_w)
        excess_w -= bias_w
        kappa_w = PART * config.step_w
        total_w = max(0.0, state.total_w + excess_w - kappa_w - doubt_w)
        correlated = 1.0 + 2.0 * CORRELATION_S / max(dt_s, 0.01)
        threshold_w = max(config.step_w, ARL_LOG * variance * correlated / (2.0 * kappa_w))
        if excess_w + bias_w > -BIAS_MAX_W:
            cell = _learned(bias_w, variance, learned_s, excess_w, kappa_w, config.learn_s, dt_s, total_w == 0.0)
            cells = (*cells[:place], cell, *cells[place + 1 :])
    rail_excess_w = sample.rail_w - gpu_w - bias_w
    agrees = -BIAS_MAX_W < rail_excess_w < BIAS_MAX_W
    stray = agrees and rail_excess_w < 0.5 * excess_w
    if agrees or -REST_MAX_W < rest_now_w < REST_MAX_W:
        rest_w += (rest_now_w - rest_w) * dt_s / (dt_s + REST_S)
    tripped = total_w >= threshold_w or gross >= GROSS_SAMPLES
    after = State(
        cells=cells,
        sampled_s=now_s,
        duty=duty,
        duty_before=duty_before,
        stretch_s=stretch_s,
        steady_s=steady_s,
        rest_w=rest_w,
        total_w=0.0 if tripped else total_w,
        excess_w=excess_w if armed else math.nan,
        gross=gross,
        trips=state.trips,
        row=state.row,
        tripped_s=state.tripped_s,
        stray_s=state.stray_s,
    )
    if not tripped:
        return after, ()
    if gross >= GROSS_SAMPLES:
        excess_w = sample.rail_w - gpu_w
    elif stray:
        if now_s - state.stray_s < STRAY_REPORT_S:
            return after, ()
        return replace(after, stray_s=now_s), (Event("STRAY_LOAD", {"excess_w": excess_w}),)
    return _trip(after, config, excess_w, now_s)


def hold_s(config: Config, row: int) -> float:
    """How long the rail stays off at latch-up number ``row`` in a row; infinity is until the ground has looked."""
    return math.inf if row > config.cycles_max else min(HOLD_MAX_S, config.hold_s * 2.0 ** (row - 1))


def _trip(state: State, config: Config, excess_w: float, now_s: float) -> tuple[State, tuple[Event, ...]]:
    row = state.row + 1 if now_s - state.tripped_s < config.good_s else 1
    off_s = hold_s(config, row)
    answer = "rail off until the ground has looked" if off_s == math.inf else f"rail off for {off_s:g} s"
    tripped = replace(
        state,
        phase=Phase.SAVE,
        phase_s=now_s,
        grave=excess_w >= config.grave_w,
        trips=state.trips + 1,
        row=row,
        tripped_s=now_s,
        gross=0,
        ceiling=0.0,
        checkpoint_asked=True,
    )
    return tripped, (Event("LATCH_UP", {"count": tripped.trips, "excess_w": excess_w, "answer": answer}),)


def _acting(state: State, config: Config, sample: Sample | None, now_s: float) -> State:
    """Save, cut, hold; watching begins anew when the rail is on again."""
    if state.phase is Phase.SAVE:
        waited = now_s - state.phase_s >= config.checkpoint_s - TIMER_SLACK_S
        saved = sample is not None and not sample.saving
        if not (state.grave or waited or saved):
            return replace(state, checkpoint_asked=False) if state.checkpoint_asked else state
        off_s = hold_s(config, state.row)
        return replace(state, phase=Phase.HELD, phase_s=now_s, checkpoint_asked=False, cycle_s=off_s)
    if state.cycle_s:
        return replace(state, cycle_s=0.0)
    if sample is None or not sample.rail_on:
        return state
    return replace(state, phase=Phase.WATCH, ceiling=1.0, steady_s=math.inf, stretch_s=NEVER, excess_w=math.nan)


def _guess(
    cells: tuple[tuple[float, float, float], ...], place: int, config: Config, span_w: float
) -> tuple[float, float]:
    """Bias of a cell that is not learned yet, from its nearest learned neighbour, and how wrong that may be, W."""
    bias_w, _, learned_s = cells[place]
    share = 1.0 - learned_s / config.learn_s
    known = [index for index in range(CELLS) if cells[index][2] >= config.learn_s]
    if not known:
        return bias_w, share * (config.bus_error_w + config.curve_error * span_w * max(0, place - 1) / 10.0)
    near = min(known, key=lambda index: abs(index - place))
    if learned_s == 0.0:
        bias_w = cells[near][0]
    return bias_w, share * config.curve_error * span_w * abs(near - place) / 10.0


def _learned(
    bias_w: float,
    variance: float,
    learned_s: float,
    excess_w: float,
    most_w: float,
    learn_s: float,
    dt_s: float,
    calm: bool,
) -> tuple[float, float, float]:
    """The cell after one more sample; a step is taken in no faster than ``most_w``."""
    gain = dt_s / (min(learned_s, learn_s) + dt_s)
    moved_w = most_w if excess_w > most_w else -most_w if excess_w < -most_w else excess_w
    if moved_w < 0.0 and learned_s >= learn_s:
        gain *= FALL
    bias_w = min(BIAS_MAX_W, max(-BIAS_MAX_W, bias_w + gain * moved_w))
    if calm:
        # A step is no noise: it does not widen what it is measured with.
        square = min(excess_w * excess_w, 9.0 * variance + NOISE_STEP)
        variance += (square - variance) * dt_s / (min(learned_s, learn_s) + PRIOR_S + dt_s)
    return bias_w, variance, min(learned_s + dt_s, learn_s)

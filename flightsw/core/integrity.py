"""Integrity: which level every worker works at, and what their findings mean for the vehicle.

*Level.* Nobody sees damage come, but its rate is known to follow the protons and the card's own memory errors
(radiation reference, section 2: nine tenths of all upsets fall into a tenth of the orbit). So the level that is
wanted is the highest of

    the floor · by proton flux · by ECC errors of late · STORM for ``finding_s`` after a finding

and each of the middle two rises at once and falls slowly: a value must stay under ``clear_fraction`` of its
threshold for ``dwell_s``, so that noise at a threshold does not switch anything. The operator's hold goes over all
of it, for a time or until it is released; it does not outlive the daemon.

*Without a believable flux* the last level stands for ``flux_stale_s`` (the orbit moves slowly), then at least
``blind_level``, STORM as shipped: an instrument falls silent or saturates first of all where protons are many, and
a level too high costs a few per cent while one too low costs answers. A satellite without one sets it lower.

*ECC errors of late* are a sum in which each corrected error counts one and is forgotten over ``ecc_window_s``; an
uncorrected one is a storm at once.

*Orders.* A worker is told its level when it becomes ready, at every change, and again every ``RESEND_S`` until it
reports that level. A job whose specification names a level keeps it; only the operator's hold goes over that.

*Findings* are read in ``integrity_reports``. An *incident* is a worker's life in which damage stayed open. The
answers stand in the tables of limits (``fdir_gpu``): the workers are killed and come back from their last verified
checkpoint; after ``open_max`` incidents, each less than ``open_window_s`` after the one before, the card is
power-cycled, after twice as many it is left off.

Clocks: what follows the orbit (dwell, windows, holds) is mission time, silence and reports are machine time.
"""

import math
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.integrity import LEVEL_BY_NAME, Level

from .effects import SetVigilance
from .events import Event, Fields
from .inputs import Report, WorkerIntegrity, WorkerReady
from .integrity_reports import NOTHING, Counts, Worker, heard, restarted
from .job import Job, JobConfig
from .lifecycle import Life
from .limits import NEVER

RESEND_S: Final = 10.0
"""A level is ordered again after this while the worker reports another one, or none."""
ECC_FORGOTTEN: Final = 0.01
"""A sum of ECC errors under this is nothing."""

LEVELS: Final = tuple(Level)
Reason = Literal["held", "flux", "blind", "ecc", "found", "floor"]
REASONS: Final[dict[Reason, str]] = {
    "held": "held by telecommand",
    "flux": "proton flux {flux:.3g}/(cm2 s)",
    "blind": "no believable proton flux",
    "ecc": "{ecc:.3g} ECC errors of late",
    "found": "a worker found damage",
    "floor": "nothing asks for more than the floor",
}
"""What asks for a level, in words for the event."""

Outcome = SetVigilance | Event


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What raises the integrity level of the workers, and when it falls again."""

    level_floor: Annotated[int, Meta(ge=0, le=3)] = int(Level.WATCH)
    """Level where nothing asks for more: 0 off, 1 watch, 2 standard, 3 storm."""
    standard_flux_cm2_s: Annotated[float, Meta(gt=0.0, le=1e9)] = 10.0
    """Standard from this flux of protons above 10 MeV on, in protons/(cm2 s): the rim of the belt."""
    storm_flux_cm2_s: Annotated[float, Meta(gt=0.0, le=1e9)] = 100.0
    """Storm from this flux on. NOAA's weakest radiation storm, S1, is 126 protons/(cm2 s) from all sides."""
    clear_fraction: Annotated[float, Meta(ge=0.05, le=0.95)] = 0.5
    """A level is left when its cause has fallen under this part of the threshold."""
    dwell_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 120.0
    """And has stayed there for this long (mission time)."""
    flux_stale_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0
    """The flux is unknown without a believable reading for this long (machine clock)."""
    blind_level: Annotated[int, Meta(ge=0, le=3)] = int(Level.STORM)
    """Level at least while the flux is unknown: 0 off, 1 watch, 2 standard, 3 storm."""
    ecc_window_s: Annotated[float, Meta(ge=1.0, le=604_800.0)] = 600.0
    """ECC errors are forgotten with this time constant (mission time)."""
    ecc_standard: Annotated[float, Meta(gt=0.0, le=1e9)] = 10.0
    """Standard from this many corrected ECC errors in that time on."""
    ecc_storm: Annotated[float, Meta(gt=0.0, le=1e9)] = 100.0
    """Storm from this many on; one uncorrected error counts as much."""
    finding_s: Annotated[float, Meta(ge=0.0, le=604_800.0)] = 1800.0
    """Storm for this long after a worker has found damage (mission time); 0 is not at all."""
    open_window_s: Annotated[float, Meta(ge=1.0, le=604_800.0)] = 3600.0
    """After this without damage that stayed open the next one is the first again (mission time)."""
    open_max: Annotated[int, Meta(ge=1, le=100)] = 3
    """Workers in a row whose damage stayed open: the card is power-cycled; twice as many, and it is left off."""

    def __post_init__(self) -> None:
        for low, high in (("standard_flux_cm2_s", "storm_flux_cm2_s"), ("ecc_standard", "ecc_storm")):
            if getattr(self, high) < getattr(self, low):
                raise ValueError(
                    f"{high} = {getattr(self, high):g} is under {low} = {getattr(self, low):g}:"
                    " storm begins where standard is already left"
                )


class Scene(Struct, frozen=True):
    """What is seen in a frame.

    ``flux_cm2_s`` is the proton flux of a sensor frame that is new, NaN when that has no believable one, None
    without such a frame; the counts are the card's ECC errors since boot.
    """

    flux_cm2_s: float | None
    ecc_corrected: int
    ecc_uncorrected: int


class Cause(Struct, frozen=True):
    """A level that a value asks for, and since when the value has been clear of it; infinity is not at all."""

    level: Level = Level.OFF
    clear_s: float = math.inf


class State(Struct, frozen=True, kw_only=True):
    """Memory of the levels and of the workers, in the order of the configuration.

    ``level`` is the level that is wanted. ``held`` is the operator's, up to mission time ``held_until_s``.
    ``ecc`` is the sum of ECC errors of late. ``row`` counts incidents in a row, the newest at ``open_s``.
    """

    workers: tuple[Worker, ...]
    flux_s: float
    level: Level
    flux_cm2_s: float = math.nan
    flux: Cause = Cause()
    ecc: float = 0.0
    ecc_s: float = 0.0
    ecc_cause: Cause = Cause()
    corrected: int = 0
    uncorrected: int = 0
    found_s: float = NEVER
    held: Level | None = None
    held_until_s: float = math.inf
    row: int = 0
    open_s: float = NEVER

    @property
    def totals(self) -> Counts:
        """Of all workers since boot."""
        total = NOTHING
        for worker in self.workers:
            total = total.plus(worker.totals)
        return total

    @property
    def lowest(self) -> Level | None:
        """Lowest level at which a worker says that it works; None without one that does."""
        return min((worker.level for worker in self.workers if worker.level is not None), default=None)


def start(config: Config, jobs: tuple[JobConfig, ...], now_s: float) -> State:
    """State at boot: the floor, until the flux is known or has been unknown for ``flux_stale_s``."""
    return State(workers=(Worker(),) * len(jobs), flux_s=now_s, level=Level(config.level_floor))


def step(
    state: State,
    config: Config,
    specs: tuple[JobConfig, ...],
    jobs: tuple[Job, ...],
    scene: Scene,
    reports: tuple[Report, ...],
    world_s: float,
    now_s: float,
) -> tuple[State, tuple[Outcome, ...]]:
    """Take in reports, decide the level, order it. ``world_s`` is mission time that never jumps."""
    out: list[Outcome] = []
    for report in reports:
        if isinstance(report, WorkerIntegrity | WorkerReady):
            state = _heard(state, specs, report, world_s, now_s, out)
    state = _seen(state, config, scene, world_s, now_s)
    if state.held is not None and world_s >= state.held_until_s:
        state, said = release(state, "its time is over")
        out.extend(said)
    if state.row and world_s - state.open_s >= config.open_window_s:
        state = replace(state, row=0)
    level, reason = _wanted(state, config, world_s, now_s)
    if level is not state.level:
        text = REASONS[reason].format(flux=state.flux_cm2_s, ecc=state.ecc)
        fields: Fields = {"old": state.level.name, "new": level.name, "reason": text}
        out.append(Event("INTEGRITY_LEVEL", fields))
        state = replace(state, level=level)
    return _ordered(state, specs, jobs, now_s, out), tuple(out)


def hold(state: State, level: Level, until_s: float, span: str) -> tuple[State, tuple[Event, ...]]:
    """The operator holds a level up to mission time ``until_s``, in words ``span``."""
    return replace(state, held=level, held_until_s=until_s), (
        Event("INTEGRITY_HELD", {"level": level.name, "span": span}),
    )


def release(state: State, reason: str) -> tuple[State, tuple[Event, ...]]:
    """The level follows orbit and card again; nothing to do when it does already."""
    if state.held is None:
        return state, ()
    fields: Fields = {"level": state.held.name, "reason": reason}
    return replace(state, held=None, held_until_s=math.inf), (Event("INTEGRITY_RELEASED", fields),)


def _heard(
    state: State,
    specs: tuple[JobConfig, ...],
    report: WorkerIntegrity | WorkerReady,
    world_s: float,
    now_s: float,
    out: list[Outcome],
) -> State:
    """The state after what one worker told; a job that is not configured has no worker."""
    index = next((i for i, spec in enumerate(specs) if spec.id == report.job), None)
    if index is None:
        return state
    before = state.workers[index]
    if isinstance(report, WorkerReady):
        return replace(state, workers=_put(state.workers, index, restarted(before)))
    worker, found = heard(before, report, now_s)
    out.extend(found)
    if worker.totals.detected > before.totals.detected:
        state = replace(state, found_s=world_s)
    if worker.now.open and (not before.now.open or worker.before is not before.before):
        state = replace(state, row=state.row + 1, open_s=world_s)
    return replace(state, workers=_put(state.workers, index, worker))


def _seen(state: State, config: Config, scene: Scene, world_s: float, now_s: float) -> State:
    """The state after this frame's flux and ECC errors."""
    flux = scene.flux_cm2_s
    if flux is not None and flux == flux:
        cause = _moved(state.flux, config, flux, config.standard_flux_cm2_s, config.storm_flux_cm2_s, world_s)
        state = replace(state, flux=cause, flux_cm2_s=flux, flux_s=now_s)
    fresh = scene.ecc_corrected - state.corrected + config.ecc_storm * (scene.ecc_uncorrected - state.uncorrected)
    if not fresh and not state.ecc and state.ecc_cause.level is Level.OFF:
        return state
    ecc = state.ecc * math.exp((state.ecc_s - world_s) / config.ecc_window_s) + fresh
    ecc = 0.0 if ecc < ECC_FORGOTTEN else ecc
    cause = _moved(state.ecc_cause, config, ecc, config.ecc_standard, config.ecc_storm, world_s)
    return replace(
        state,
        ecc=ecc,
        ecc_s=world_s,
        ecc_cause=cause,
        corrected=scene.ecc_corrected,
        uncorrected=scene.ecc_uncorrected,
    )


def _moved(cause: Cause, config: Config, value: float, standard: float, storm: float, world_s: float) -> Cause:
    """What a value asks for: more at once, less when it has been clear of the level for the dwell."""
    if value < standard and not cause.level:
        return cause  # Almost every frame.
    if (asked := _level_of(value, standard, storm)) > cause.level:
        return Cause(asked)
    left = _level_of(value, standard * config.clear_fraction, storm * config.clear_fraction)
    if left >= cause.level:
        return cause if cause.clear_s == math.inf else Cause(cause.level)
    clear_s = min(cause.clear_s, world_s)
    return Cause(left) if world_s - clear_s >= config.dwell_s else Cause(cause.level, clear_s)


def _level_of(value: float, standard: float, storm: float) -> Level:
    return Level.STORM if value >= storm else Level.STANDARD if value >= standard else Level.OFF


def _wanted(state: State, config: Config, world_s: float, now_s: float) -> tuple[Level, Reason]:
    """The level that is wanted, and what asks for it."""
    reason: Reason
    if state.held is not None:
        return state.held, "held"
    level, reason = state.flux.level, "flux"
    if now_s - state.flux_s > config.flux_stale_s and config.blind_level > level:
        level, reason = LEVELS[config.blind_level], "blind"
    if state.ecc_cause.level > level:
        level, reason = state.ecc_cause.level, "ecc"
    if world_s - state.found_s < config.finding_s and level is not LEVELS[-1]:
        level, reason = LEVELS[-1], "found"
    if config.level_floor >= level:
        level, reason = LEVELS[config.level_floor], "floor"
    return level, reason


def _ordered(
    state: State, specs: tuple[JobConfig, ...], jobs: tuple[Job, ...], now_s: float, out: list[Outcome]
) -> State:
    """The state after every worker was told its level that has to be."""
    workers = state.workers
    for index, (spec, job) in enumerate(zip(specs, jobs, strict=True)):
        worker = workers[index]
        if job.life is not Life.RUNNING:
            if worker.ordered is not None or worker.level is not None:
                workers = _put(workers, index, replace(worker, ordered=None, level=None))
            continue
        level = state.level if state.held is not None or spec.integrity == "auto" else LEVEL_BY_NAME[spec.integrity]
        heeded = worker.level is level or now_s - worker.ordered_s < RESEND_S
        if worker.ordered is not level or not heeded:
            out.append(SetVigilance(spec.id, level.name.lower()))
            workers = _put(workers, index, replace(worker, ordered=level, ordered_s=now_s))
    return state if workers is state.workers else replace(state, workers=workers)


def _put(workers: tuple[Worker, ...], index: int, worker: Worker) -> tuple[Worker, ...]:
    return (*workers[:index], worker, *workers[index + 1 :])

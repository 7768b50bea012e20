"""Time correlation: what TAI and mission time are at a machine time, how well that is known, and never by a jump.

The machine clock is monotonic and nothing else; TAI and mission time come with the sensor frames. A *line* ties
them together: at the machine time of its newest fitting frame they had the frame's values, and since then they
run on by ``warp`` mission seconds per machine second (1 in flight).

    frame fits the line        → the line is moved to it
    frame contradicts the line → the line freewheels; the frame starts, or strengthens, a *candidate* line
    candidate consistent for ``confirm_s`` and ``FRAMES_MIN`` frames → adopted, reported as TIME_STEPPED

A single bad frame or a short glitch therefore changes nothing: the next fitting frame drops the candidate. A
frame fits when TAI, mission time *and* warp agree with the prediction, within ``tolerance_s`` and what the
machine's clock may have drifted since. A small step back that fits is waited out: both clocks stand still until
the line has caught up, so they run backwards by reported steps only.

Quality. UNSYNCHRONISED: no frame has come; both clocks show the uptime. SETTLING: the first line is not confirmed.
SYNCHRONISED: a frame fitted within ``freewheel_after_s``. FREEWHEELING: none did; the uncertainty grows by
``drift_ppm``, and past ``uncertainty_max_s`` the time is no longer ``valid`` for absolute commands.

Whoever measures durations takes ``mission_dt_s`` (machine time × warp, never negative) or their sum since boot,
``elapsed_world_s``; whoever keeps instants takes ``steady_s``, mission time without the adopted steps. None jumps.
"""

from math import isfinite, nan
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.avionics import WARP_MAX, SensorFrame
from flightsw.link.dictionary import TIME_QUALITY

from .events import Event, Fields

UNSYNCHRONISED: Final = TIME_QUALITY.index("UNSYNCHRONISED")
FREEWHEELING: Final = TIME_QUALITY.index("FREEWHEELING")
SYNCHRONISED: Final = TIME_QUALITY.index("SYNCHRONISED")
SETTLING: Final = TIME_QUALITY.index("SETTLING")

FRAMES_MIN: Final = 3
"""Frames that must agree with each other before a line is believed, however long ``confirm_s`` took."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tolerances of the time correlation, on the machine clock; under warp they scale with the world."""

    tolerance_s: Annotated[float, Meta(ge=0.01, le=60.0)] = 1.0
    """A frame whose time is this far from the prediction contradicts the correlation."""
    confirm_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 3.0
    """Contradicting frames must agree with each other for this long before their time is adopted."""
    freewheel_after_s: Annotated[float, Meta(ge=0.2, le=600.0)] = 2.0
    """Without a fitting frame for this long the time is freewheeling."""
    resolution_s: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.1
    """Uncertainty of a fresh correlation: age of a frame when it is taken, and its own error."""
    drift_ppm: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 50.0
    """Drift of the machine's clock in parts per million; the uncertainty grows by it while freewheeling."""
    uncertainty_max_s: Annotated[float, Meta(gt=0.0, le=3600.0)] = 1.0
    """Past this uncertainty absolute commands wait."""

    def __post_init__(self) -> None:
        if self.uncertainty_max_s < self.resolution_s:
            raise ValueError(
                f"uncertainty_max_s = {self.uncertainty_max_s:g} is under resolution_s = {self.resolution_s:g}:"
                " the time would never be valid"
            )


class Line(Struct, frozen=True, kw_only=True):
    """TAI and mission time at machine time ``fit_s``, and their rate; frames agree on it since ``since_s``."""

    fit_s: float
    tai_s: float
    world_s: float
    warp: float
    since_s: float
    frames: int

    def tai_at(self, now_s: float) -> float:
        """TAI in seconds since 1958 at a machine time."""
        return self.tai_s + (now_s - self.fit_s) * self.warp

    def world_at(self, now_s: float) -> float:
        """Mission time in seconds at a machine time."""
        return self.world_s + (now_s - self.fit_s) * self.warp


class State(Struct, frozen=True, kw_only=True):
    """The clocks as they stand at machine time ``at_s``, and the lines behind them.

    ``mission_dt_s`` is the mission time that passed in this frame, ``elapsed_world_s`` since boot: machine time ×
    warp, whatever the clocks do. ``valid`` says whether ``tai_s`` is good enough for absolute commands;
    ``uncertainty_s`` is NaN until the correlation is confirmed. ``stepped_s`` sums the adopted steps of mission
    time, ``rejected`` counts frames that contradicted the line.
    """

    at_s: float
    frame_s: float
    tai_s: float = 0.0
    world_s: float = 0.0
    mission_dt_s: float = 0.0
    elapsed_world_s: float = 0.0
    stepped_s: float = 0.0
    quality: int = UNSYNCHRONISED
    valid: bool = False
    uncertainty_s: float = nan
    confirmed: bool = False
    line: Line | None = None
    candidate: Line | None = None
    steps: int = 0
    rejected: int = 0

    @property
    def warp(self) -> float:
        """Mission seconds per machine second."""
        return 1.0 if self.line is None else self.line.warp

    @property
    def steady_s(self) -> float:
        """Mission time without the steps adopted since boot: for instants that are kept and compared."""
        return self.world_s - self.stepped_s


def start(now_s: float) -> State:
    """State at boot."""
    return State(at_s=now_s, frame_s=now_s)


def step(state: State, config: Config, frame: SensorFrame | None, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """The clocks at this minor frame; ``frame`` is the sensor frame that is new in it, if one is."""
    found: list[Event] = []
    elapsed_s = max(0.0, now_s - state.frame_s) * state.warp
    tai_s, world_s = _clocks(state, state.line, now_s)
    line, candidate, confirmed = state.line, state.candidate, state.confirmed
    stepped_s, steps, rejected = state.stepped_s, state.steps, state.rejected
    if frame is not None and _usable(frame):
        if line is None:
            line = _started(frame, now_s)
            tai_s, world_s = line.tai_s, line.world_s
        elif _fits(line, config, frame, now_s):
            line, candidate = _moved(line, config, frame, now_s), None
            tai_s, world_s = _clocks(state, line, now_s)
        else:
            rejected += 1
            if candidate is not None and _fits(candidate, config, frame, now_s):
                candidate = _moved(candidate, config, frame, now_s)
            else:
                candidate = _started(frame, now_s)
            if _settled(candidate, config):
                line, candidate, confirmed = candidate, None, True
                fields: Fields = {
                    "step_s": line.tai_s - tai_s,
                    "mission_step_s": line.world_s - world_s,
                    "warp": line.warp,
                }
                found.append(Event("TIME_STEPPED", fields))
                stepped_s, steps = stepped_s + line.world_s - world_s, steps + 1
                tai_s, world_s = line.tai_s, line.world_s
        confirmed = confirmed or _settled(line, config)
    quality, uncertainty_s = _judged(line, confirmed, config, now_s)
    if quality != state.quality:
        names: Fields = {"old": TIME_QUALITY[state.quality], "new": TIME_QUALITY[quality]}
        found.append(Event("TIME_QUALITY", names))
    return (
        State(
            at_s=now_s,
            frame_s=now_s,
            tai_s=tai_s,
            world_s=world_s,
            mission_dt_s=elapsed_s,
            elapsed_world_s=state.elapsed_world_s + elapsed_s,
            stepped_s=stepped_s,
            quality=quality,
            # NaN compares false: what is not confirmed is not valid.
            valid=line is not None and uncertainty_s <= config.uncertainty_max_s * line.warp,
            uncertainty_s=uncertainty_s,
            confirmed=confirmed,
            line=line,
            candidate=candidate,
            steps=steps,
            rejected=rejected,
        ),
        tuple(found),
    )


def carried(state: State, now_s: float) -> State:
    """The clocks at a machine time between two frames; what is stamped there is never undercut later."""
    tai_s, world_s = _clocks(state, state.line, now_s)
    return replace(state, at_s=max(state.at_s, now_s), tai_s=tai_s, world_s=world_s)


def _clocks(state: State, line: Line | None, now_s: float) -> tuple[float, float]:
    """TAI and mission time by a line, at least what has been shown already."""
    if line is None:
        uptime_s = max(0.0, now_s - state.at_s)
        return state.tai_s + uptime_s, state.world_s + uptime_s
    return max(state.tai_s, line.tai_at(now_s)), max(state.world_s, line.world_at(now_s))


def _usable(frame: SensorFrame) -> bool:
    return isfinite(frame.tai_s) and isfinite(frame.world_s) and 0.0 < frame.warp <= WARP_MAX


def _started(frame: SensorFrame, now_s: float) -> Line:
    return Line(fit_s=now_s, tai_s=frame.tai_s, world_s=frame.world_s, warp=frame.warp, since_s=now_s, frames=1)


def _moved(line: Line, config: Config, frame: SensorFrame, now_s: float) -> Line:
    """The line through its newest frame; agreement counts anew after a gap."""
    gap = now_s - line.fit_s > config.freewheel_after_s
    return Line(
        fit_s=now_s,
        tai_s=frame.tai_s,
        world_s=frame.world_s,
        warp=frame.warp,
        since_s=now_s if gap else line.since_s,
        frames=1 if gap else line.frames + 1,
    )


def _fits(line: Line, config: Config, frame: SensorFrame, now_s: float) -> bool:
    if frame.warp != line.warp:
        return False
    drift_s = (now_s - line.fit_s) * config.drift_ppm * 1e-6
    allowed_s = (config.tolerance_s + drift_s) * line.warp
    return (
        abs(frame.tai_s - line.tai_at(now_s)) <= allowed_s
        and abs(frame.world_s - line.world_at(now_s)) <= allowed_s
    )


def _settled(line: Line, config: Config) -> bool:
    return line.frames >= FRAMES_MIN and line.fit_s - line.since_s >= config.confirm_s


def _judged(line: Line | None, confirmed: bool, config: Config, now_s: float) -> tuple[int, float]:
    """Quality and uncertainty of the clocks."""
    if line is None:
        return UNSYNCHRONISED, nan
    if not confirmed:
        return SETTLING, nan
    age_s = now_s - line.fit_s
    uncertainty_s = (config.resolution_s + age_s * config.drift_ppm * 1e-6) * line.warp
    return (SYNCHRONISED if age_s <= config.freewheel_after_s else FREEWHEELING), uncertainty_s

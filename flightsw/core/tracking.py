"""Power tracking: the duty at which the card really draws the budget, learned from its energy counter.

A paced card is either idle or at work, so its mean power is linear in duty whatever its curve P(s) looks like:

    P = P_idle + duty · (P_active − P_idle)

The profile gives both powers, and another sample of the card, another kind of work or another input voltage shifts
them. So they are estimated: over windows of at least ``window_s`` of machine time, between two readings of the
energy counter, the mean power at the mean duty d is one noisy point of that line. A Kalman filter over the two
numbers (x = P_idle, P_active − P_idle; h = 1, d) takes it in:

    K = P h / (h P h + R)      x += K (power − h x)      P −= K h P,  then P += Q, at most the prior

The prior is the profile with a standard uncertainty of ``prior_fraction``, R what micro-batches leave uncertain, Q
the drift of a card that warms up. So the first window at work is believed nearly whole, idle windows teach the idle
power, and set-points of different height the slope. Both are bounded by ``trim_max``. What is learned is the card,
not the error at one set-point: a new budget is met at once, and a saturated duty winds nothing up.

*Energy, not power.* The card samples its power for a quarter of the time; the counter over 10 s of dithered work
averages that out where a single reading does not (power-thermal-orbit reference, section 3).

*Two witnesses.* The power board measures the same watts. Where the two differ by more than ``mismatch_fraction``
the higher one is believed, because the budget is a bound, and it is reported. A counter that stands still or a
board that repeats one number for a whole window is no witness.

*Frozen* is the estimate, and the window is discarded, while a job starts or stops or is late, while the rail is
off or the probe is stale, while heat slows the card's clocks, and when the workers did far less than they were
given. The duty then goes on by what was learned before.

*Micro-batches.* A window of 10 s sees a whole number of them and parts of two more: the mean is uncertain by about
b · (1 − duty) · (P_active − P_idle) / window. ``micro_batch_s`` is the longest b that keeps this within
``ripple_fraction`` of the power, and goes to the workers with the set-point.
"""

import math
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from .events import Event
from .inputs import GpuSample
from .job import Job
from .lifecycle import Life
from .limits import NEVER

NAN: Final = float("nan")
WINDOW_LATE: Final = 3.0
"""A window that has not ended after this many times its length is discarded: the counter does not come."""
DELIVERED_MIN: Final = 0.6
"""Less busy time than this part of what was given, and the workers had no work."""
DELIVERED_SLACK_S: Final = 1.0
"""Busy time that a heartbeat may be behind."""
FOLLOWED: Final = 0.02
"""The jobs follow the set-point when they have it but for this much duty: small changes are not sent at once."""
COVERED_MIN: Final = 0.9
"""Part of a window that the power board must have measured to be a witness."""
CREDIBLE_MAX: Final = 2.0
"""More mean power than this many times P_active is a fault of the witness."""
NOISE_MIN_W: Final = 1.0
NOISE_FRACTION: Final = 0.0125
"""Standard uncertainty of a window's mean power, relative: what a card that samples a quarter of the time makes of
dithered work in 10 s (rms 0.8 % on the simulated sensor), and a part of a micro-batch."""
LAG_S: Final = 0.4
"""How much later than the set-point the card may follow: frame, micro-batch in flight, the counter's own period."""
MOVED: Final = 0.05
"""A larger change of duty from frame to frame is a step, after which no window opens for ``LAG_S``."""
MICRO_BATCH_MIN_S: Final = 0.005
MICRO_BATCH_MAX_S: Final = 10.0
HOT_CLOCKS: Final = 0x8 | 0x20 | 0x40 | 0x80
"""NVML clocks event reasons that change the card: hardware slowdown, thermal (software, hardware), power brake."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the duty is corrected by the measured energy."""

    window_s: Annotated[float, Meta(ge=10.0, le=600.0)] = 10.0
    """Length of a measurement (machine clock)."""
    prior_fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.2
    """Standard uncertainty of the profile's idle power and slope, relative; 0 flies on the profile alone."""
    drift_fraction: Annotated[float, Meta(ge=0.0, le=0.2)] = 0.003
    """Standard deviation of their change from one window to the next, relative."""
    trim_max: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.4
    """Largest correction of idle power and slope, as a part of the profile's."""
    mismatch_fraction: Annotated[float, Meta(ge=0.02, le=1.0)] = 0.15
    """Energy counter and power board differ when they are further apart than this."""
    ripple_fraction: Annotated[float, Meta(ge=0.001, le=1.0)] = 0.015
    """Share of the mean power over a window that one micro-batch may make."""


class Card(Struct, frozen=True):
    """The profile's line: power of the idle card and of the card at work, W."""

    idle_w: float
    active_w: float


class Seen(Struct, frozen=True):
    """What this frame knows. ``duty`` is what the jobs have had since the last frame, summed; ``busy_s`` their
    busy time by their heartbeats; ``steady`` says that none of them starts, stops or is late. ``fresh`` is about
    the probe, whose new reading, if one has come, is ``sample``; ``rail_w`` is the power board's, NaN when unknown.
    """

    sample: GpuSample | None
    fresh: bool
    rail_w: float
    rail_on: bool
    duty: float
    busy_s: float
    steady: bool


class Belief(Struct, frozen=True):
    """The filter: corrections of idle power and of P_active − P_idle, W, and their covariance, W²."""

    idle_trim_w: float = 0.0
    span_trim_w: float = 0.0
    idle_var: float = 0.0
    covariance: float = 0.0
    span_var: float = 0.0


class Window(Struct, frozen=True, kw_only=True):
    """A measurement in progress: counter and busy time at its beginning, then sums over time."""

    opened_s: float
    energy_j: float
    busy_s: float
    duty_s: float = 0.0
    budget_j: float = 0.0
    rail_j: float = 0.0
    rail_s: float = 0.0
    rail_low_w: float = float("inf")
    rail_high_w: float = float("-inf")
    duty_low: float = 1.0
    duty_high: float = 0.0
    followed: bool = True


class State(Struct, frozen=True, kw_only=True):
    """Budget, set-point (0 to 1) with its longest micro-batch, what is believed of the card, the window.

    ``idle_w`` and ``active_w`` are the ends of the line as believed; ``belief`` is None until the first window.
    ``power_w`` and ``error_fraction`` are of the last whole window; the error is NaN when the jobs did not follow
    the budget.
    """

    now_s: float
    budget_w: float = 0.0
    duty: float = 0.0
    micro_batch_s: float = MICRO_BATCH_MAX_S
    belief: Belief | None = None
    idle_w: float = NAN
    active_w: float = NAN
    window: Window | None = None
    given_duty: float = 0.0
    moved_s: float = NEVER
    counted: bool = False
    hot: bool = False
    power_w: float = NAN
    error_fraction: float = NAN
    windows: int = 0
    mismatch: bool = False


def start(now_s: float) -> State:
    """State at boot: the profile is believed."""
    return State(now_s=now_s)


def given(jobs: tuple[Job, ...]) -> tuple[float, float, bool]:
    """Duty of all running jobs, their busy time, and whether they are steady; see ``Seen``."""
    duty = busy_s = 0.0
    steady = True
    for job in jobs:
        if job.life is Life.RUNNING:
            duty += job.duty
            busy_s += job.busy_s
            steady = steady and not job.late
        elif job.has_process:
            steady = False
    return duty, busy_s, steady


def step(
    state: State, config: Config, card: Card, budget_w: float, working: bool, seen: Seen, now_s: float
) -> tuple[State, tuple[Event, ...]]:
    """Set-point for the frame to come. ``working`` is whether the governor gives any duty; without it it is 0."""
    state, found = _measured(state, config, card, seen, now_s)
    idle_w, span_w = line(state.belief, card)
    duty = min(1.0, max(0.0, (budget_w - idle_w) / span_w)) if working else 0.0
    power_w = idle_w + duty * span_w
    rest_w = (1.0 - duty) * span_w
    allowed_j = config.ripple_fraction * config.window_s * power_w
    longest_s = allowed_j / rest_w if rest_w * MICRO_BATCH_MAX_S > allowed_j else MICRO_BATCH_MAX_S
    return (
        replace(
            state,
            now_s=now_s,
            budget_w=budget_w,
            duty=duty,
            micro_batch_s=max(MICRO_BATCH_MIN_S, longest_s),
            idle_w=idle_w,
            active_w=idle_w + span_w,
        ),
        found,
    )


def line(belief: Belief | None, card: Card) -> tuple[float, float]:
    """Idle power and P_active − P_idle as believed, W."""
    if belief is None:
        return card.idle_w, card.active_w - card.idle_w
    return card.idle_w + belief.idle_trim_w, card.active_w - card.idle_w + belief.span_trim_w


def _measured(
    state: State, config: Config, card: Card, seen: Seen, now_s: float
) -> tuple[State, tuple[Event, ...]]:
    """Carry the window on, close it, open the next one."""
    counted, hot, energy_j = state.counted, state.hot, NAN
    if seen.sample is not None:
        counted = seen.sample.energy_j is not None
        hot = bool((seen.sample.throttle_reasons or 0) & HOT_CLOCKS)
        energy_j = NAN if seen.sample.energy_j is None else seen.sample.energy_j
    if not seen.fresh:
        counted = False
    # With a counter a window reaches from reading to reading, else from frame to frame.
    anchored = energy_j == energy_j or not counted
    window = state.window
    if counted is not state.counted or not (seen.rail_on and seen.steady) or hot:
        window = None
    found: tuple[Event, ...] = ()
    if window is not None:
        window = _carried(window, state, seen, now_s)
        lasted_s = now_s - window.opened_s
        if anchored and lasted_s >= config.window_s:
            state, found = _learned(state, config, card, window, energy_j, seen, lasted_s)
            window = None
        elif lasted_s > WINDOW_LATE * config.window_s:
            window = None
    moved_s = now_s if abs(seen.duty - state.given_duty) > MOVED else state.moved_s
    still = now_s - moved_s >= LAG_S
    if window is None and anchored and still and seen.rail_on and seen.steady and not hot:
        window = Window(opened_s=now_s, energy_j=energy_j, busy_s=seen.busy_s)
    return (
        replace(state, window=window, given_duty=seen.duty, moved_s=moved_s, counted=counted, hot=hot),
        found,
    )


def _carried(window: Window, state: State, seen: Seen, now_s: float) -> Window:
    """The window with the interval since the last frame."""
    dt_s = now_s - state.now_s
    rail_w, known = seen.rail_w, seen.rail_w == seen.rail_w
    return Window(
        opened_s=window.opened_s,
        energy_j=window.energy_j,
        busy_s=window.busy_s,
        duty_s=window.duty_s + seen.duty * dt_s,
        budget_j=window.budget_j + state.budget_w * dt_s,
        rail_j=window.rail_j + rail_w * dt_s if known else window.rail_j,
        rail_s=window.rail_s + dt_s if known else window.rail_s,
        rail_low_w=min(window.rail_low_w, rail_w) if known else window.rail_low_w,
        rail_high_w=max(window.rail_high_w, rail_w) if known else window.rail_high_w,
        duty_low=min(window.duty_low, seen.duty),
        duty_high=max(window.duty_high, seen.duty),
        followed=window.followed and abs(seen.duty - state.duty) <= FOLLOWED,
    )


def _learned(
    state: State, config: Config, card: Card, window: Window, energy_j: float, seen: Seen, lasted_s: float
) -> tuple[State, tuple[Event, ...]]:
    """What a whole window says about the card."""
    duty = window.duty_s / lasted_s
    rail_w = NAN
    if window.rail_s >= COVERED_MIN * lasted_s and window.rail_high_w > window.rail_low_w:
        rail_w = _credible(window.rail_j / window.rail_s, card)
    counter_w = _credible((energy_j - window.energy_j) / lasted_s, card)
    # Each comparison with NaN is false: a witness alone is believed, and none leaves no power.
    power_w = rail_w if counter_w != counter_w or rail_w > counter_w else counter_w
    mismatch = abs(rail_w - counter_w) > config.mismatch_fraction * power_w
    found: tuple[Event, ...] = ()
    if mismatch and not state.mismatch:
        found = (Event("POWER_MISMATCH", {"counter_w": counter_w, "rail_w": rail_w}),)
    delivered_s = seen.busy_s - window.busy_s
    had_work = delivered_s >= DELIVERED_MIN * window.duty_s - DELIVERED_SLACK_S
    if power_w != power_w or not had_work:
        return replace(state, power_w=power_w, error_fraction=NAN, mismatch=mismatch), found
    budget_w = window.budget_j / lasted_s
    return (
        replace(
            state,
            belief=_updated(
                state.belief, config, card, duty, power_w, LAG_S / lasted_s * (window.duty_high - window.duty_low)
            ),
            power_w=power_w,
            error_fraction=power_w / budget_w - 1.0 if window.followed and budget_w > 0.0 else NAN,
            windows=state.windows + 1,
            mismatch=mismatch,
        ),
        found,
    )


def _updated(
    belief: Belief | None, config: Config, card: Card, duty: float, power_w: float, duty_sigma: float
) -> Belief:
    """One step of the filter; equations in the module's docstring. ``duty_sigma`` is the mean duty's
    uncertainty."""
    card_span_w = card.active_w - card.idle_w
    prior = config.prior_fraction * config.prior_fraction
    idle_prior, span_prior = prior * card.idle_w * card.idle_w, prior * card_span_w * card_span_w
    if belief is None:
        belief = Belief(idle_var=idle_prior, span_var=span_prior)
    idle_w, span_w = line(belief, card)
    # P h, h P h + R, and the innovation.
    idle_ph = belief.idle_var + belief.covariance * duty
    span_ph = belief.covariance + belief.span_var * duty
    noise_w = max(NOISE_MIN_W, NOISE_FRACTION * power_w) + duty_sigma * span_w
    total = idle_ph + span_ph * duty + noise_w * noise_w
    error_w = power_w - (idle_w + duty * span_w)
    drift = config.drift_fraction * config.drift_fraction
    idle_var = belief.idle_var - idle_ph * idle_ph / total + drift * card.idle_w * card.idle_w
    span_var = belief.span_var - span_ph * span_ph / total + drift * card_span_w * card_span_w
    covariance = belief.covariance - idle_ph * span_ph / total
    # What no set-point tells apart grows to the prior and no further; scaling both sides keeps P positive.
    idle_scale, span_scale = _scale(idle_var, idle_prior), _scale(span_var, span_prior)
    return Belief(
        idle_trim_w=_bounded(belief.idle_trim_w + idle_ph / total * error_w, config.trim_max * card.idle_w),
        span_trim_w=_bounded(belief.span_trim_w + span_ph / total * error_w, config.trim_max * card_span_w),
        idle_var=idle_var * idle_scale * idle_scale,
        covariance=covariance * idle_scale * span_scale,
        span_var=span_var * span_scale * span_scale,
    )


def _scale(variance: float, most: float) -> float:
    return math.sqrt(most / variance) if variance > most else 1.0


def _credible(power_w: float, card: Card) -> float:
    """NaN for a power that no such card has; a counter that stands still or runs backwards is one too."""
    return power_w if 0.0 < power_w <= CREDIBLE_MAX * card.active_w else NAN


def _bounded(value: float, bound: float) -> float:
    return min(bound, max(-bound, value))

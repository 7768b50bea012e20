"""The training guard: whether a finished step looks like the steps before it.

Three numbers of each step are watched: the loss, the norm of the gradient before clipping, and the size of the
update relative to the weights. The last is divided by the learning rate, so that warm-up and decay of the
schedule are no change. All are positive and vary by factors, so they are looked at as logarithms.

*Band.* Of the last ``window`` clean steps the median and the spread σ = 1.4826 · median |x − median| are taken
(for a normal law σ is its standard deviation; Hampel, JASA 69 (1974) 383). Neither is moved by a few outliers. A
step is suspect above median + ``sigmas_above`` · σ, or below median − ``sigmas_below`` · σ; σ is never taken for
less than ``spread_min``. The loss has no lower side: it falls, that is what training is for. A trend within the
window widens σ by itself. A number that is not finite, or a norm or update of exactly 0, is suspect at once, in
warm-up too.

*What a verdict is worth.* "suspect" asks for proof, it proves nothing: the owner verifies the state and runs the
step again. A suspect step that comes out with the same bits was genuine, and is handed in once more as
``proven``: it then counts as clean. So a false alarm costs one step's time and changes nothing. When
``proven_max`` suspects in a row were genuine the training has changed its ways, and the statistics begin anew.

*What it does not see.* Most damage of a state moves none of the three numbers (radiation reference, section 7.3:
97 % of flips in a weight). Digests see those. The guard is the second line, for what no digest covers.

*False alarms, measured* on undisturbed runs of preset "micro", seeds and learning rates mixed, loss and gradient
norm only: 0 of 5,789 steps; with bands of 8 and 12 σ, 10 of 4,642, all gradient norms. Each costs one replay.
"""

import math
from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

NORMAL_SPREAD: Final = 1.4826
"""σ of a normal law over its median absolute deviation: 1 / Φ⁻¹(3/4)."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far from its predecessors a step may be. Widths count σ of the logarithm."""

    window: Annotated[int, Meta(ge=16, le=4096)] = 128
    """Clean steps that make the statistics."""
    warm_up: Annotated[int, Meta(ge=8, le=4096)] = 32
    """Clean steps before anything but non-finite numbers is judged; at most ``window``."""
    sigmas_above: Annotated[float, Meta(gt=0.0, le=100.0)] = 16.0
    """Width upwards. Norms of gradients have a long tail: with 8, two clean steps in a thousand were out."""
    sigmas_below: Annotated[float, Meta(gt=0.0, le=100.0)] = 16.0
    """Width downwards, where there is a lower side."""
    spread_min: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.02
    """Smallest σ: 0.02 is 2 %. A run that hardly varies is not judged by its last digits."""
    proven_max: Annotated[int, Meta(ge=1, le=1000)] = 8
    """Genuine suspects in a row after which the statistics begin anew."""

    def __post_init__(self) -> None:
        if self.warm_up > self.window:
            raise ValueError(f"warm_up {self.warm_up} is over window {self.window}; it takes at most as many steps")


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one finished step."""

    step: int
    loss: float
    gradient_norm: float
    """Before clipping."""
    update: float | None = None
    """‖Δw‖ / ‖w‖ of this step's update; None when it was not measured."""
    learning_rate: float = 1.0
    """Of this step, > 0."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Logarithms of the last clean steps by signal, oldest first; how many suspects were genuine in a row."""

    history: tuple[tuple[float, ...], ...] = ((), (), ())
    proven: int = 0
    judged: int = 0
    """Steps handed in, proofs not counted."""
    suspects: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """``reason`` says for people what was out of its band; empty when ``verdict`` is "ok"."""

    verdict: Literal["ok", "suspect"]
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Nothing unusual."""
        return self.verdict == "ok"


class _Signal(msgspec.Struct, frozen=True):
    name: str
    value: Callable[[Observed], float | None]
    lower_side: bool


def _update(observed: Observed) -> float | None:
    return None if observed.update is None else observed.update / observed.learning_rate


SIGNALS: Final = (
    _Signal("loss", lambda observed: observed.loss, lower_side=False),
    _Signal("gradient norm", lambda observed: observed.gradient_norm, lower_side=True),
    _Signal("update over weights and learning rate", _update, lower_side=True),
)
OK: Final = Verdict("ok")


def step(state: State, config: Config, observed: Observed, *, proven: bool = False) -> tuple[State, Verdict]:
    """Judge a finished step. A suspect one leaves the statistics alone.

    ``proven`` hands in a suspect step again that came out the same when it was repeated: it is taken for clean,
    whatever its numbers are, unless they are not finite.
    """
    reason = _reason(state, config, observed)
    if not proven:
        state = msgspec.structs.replace(state, judged=state.judged + 1, suspects=state.suspects + bool(reason))
        if reason:
            return state, Verdict("suspect", reason)
    elif not _finite(observed):
        return state, Verdict("suspect", reason)
    genuine = state.proven + 1 if proven else 0
    if genuine >= config.proven_max:
        return msgspec.structs.replace(state, history=((),) * len(SIGNALS), proven=0), OK
    history = tuple(
        _appended(past, signal.value(observed), config.window)
        for past, signal in zip(state.history, SIGNALS, strict=True)
    )
    return msgspec.structs.replace(state, history=history, proven=genuine), OK


def _reason(state: State, config: Config, observed: Observed) -> str:
    """Why this step is suspect; empty when it is not."""
    for past, signal in zip(state.history, SIGNALS, strict=True):
        value = signal.value(observed)
        if value is None:
            continue
        if not math.isfinite(value):
            return f"step {observed.step}: {signal.name} is {value:g}"
        if value <= 0.0:
            if signal.lower_side:
                return f"step {observed.step}: {signal.name} is {value:g}, which no step has"
            continue  # A loss may be 0; it has no lower side.
        if len(past) < config.warm_up:
            continue
        middle, spread = _centre(past, config.spread_min)
        high = middle + config.sigmas_above * spread
        low = middle - config.sigmas_below * spread if signal.lower_side else -math.inf
        if not low <= math.log(value) <= high:
            bound, word = (low, "under") if math.log(value) < low else (high, "over")
            return (
                f"step {observed.step}: {signal.name} {value:.4g} is {word} {_exp(bound):.4g} "
                f"(median of {len(past)} clean steps {_exp(middle):.4g})"
            )
    return ""


def _finite(observed: Observed) -> bool:
    values = (signal.value(observed) for signal in SIGNALS)
    return all(value is None or math.isfinite(value) for value in values)


def _appended(past: tuple[float, ...], value: float | None, window: int) -> tuple[float, ...]:
    if value is None or value <= 0.0:
        return past
    return (*past, math.log(value))[-window:]


def _centre(past: tuple[float, ...], spread_min: float) -> tuple[float, float]:
    """Median and σ of logarithms."""
    middle = _median(sorted(past))
    return middle, max(NORMAL_SPREAD * _median(sorted(abs(value - middle) for value in past)), spread_min)


def _median(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def _exp(value: float) -> float:
    """Back from the logarithm, for people; what a float cannot hold is infinite."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf

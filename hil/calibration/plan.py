"""What a calibration does and how long it takes, told before it begins.

A phase is a row: what is driven, and its settings. Seconds of a setting are settling and measuring; building and
warming up a new load comes on top (``BUILD_S``). The order is warm first and quiet last: the whole run is one
heating and cooling curve, and the last phase lets the card cool.
"""

from typing import Final, NamedTuple

SMS_LEAST: Final = 8
"""Least multiprocessors of a green context on Hopper, and their step."""
BUILD_S: Final[dict[str, float]] = {"cpu": 0.6, "cuda": 3.0}
START_S: Final[dict[str, float]] = {"cpu": 6.0, "cuda": 15.0}
"""Time until the load is there: torch has to be loaded, a CUDA context made."""


class Plan(NamedTuple):
    """Settings of every phase; an empty row leaves the phase out. All durations in seconds."""

    idle_s: float
    settle_s: float
    window_s: float
    warm_s: float
    duties: tuple[float, ...]
    batches: tuple[int, ...]
    sms: tuple[int, ...]
    decode_batches: tuple[int, ...]
    decode_duties: tuple[float, ...]
    counter_s: float
    alias_periods_s: tuple[float, ...]
    alias_window_s: float
    steps: int
    step_s: float
    kernels_s: tuple[float, ...]
    stops: int
    cool_s: float


class Line(NamedTuple):
    """One phase for people: what, and about how long in seconds."""

    what: str
    seconds: float


def make(device: str, multiprocessors: int, *, quick: bool) -> Plan:
    """The plan for a device; ``multiprocessors`` of the card (0: none can be partitioned)."""
    cuda = device == "cuda"
    shares = (0.25, 0.5, 0.75) if quick else (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
    sms = sorted({max(SMS_LEAST, round(multiprocessors * share / SMS_LEAST) * SMS_LEAST) for share in shares})
    return Plan(
        idle_s=6.0 if quick else 20.0,
        settle_s=1.0 if quick else 2.0,
        window_s=2.0 if quick else 6.0,
        warm_s=4.0 if quick else 20.0,
        duties=(0.25, 0.5, 0.75) if quick else (0.1, 0.25, 0.4, 0.55, 0.7, 0.85),
        batches=((2, 8) if quick else (1, 2, 4, 8, 16, 32)) if cuda else ((2, 4) if quick else (1, 2, 4, 8, 16)),
        sms=tuple(sms) if multiprocessors else (),
        decode_batches=((1, 64) if quick else (1, 8, 32, 128)) if cuda else ((1, 8) if quick else (1, 4, 16)),
        decode_duties=(0.5,) if quick else (0.25, 0.5, 0.75),
        counter_s=1.0 if quick else 3.0,
        alias_periods_s=(0.1, 1.0) if quick else (0.073, 0.1, 0.17, 1.0),
        alias_window_s=3.0 if quick else 8.0,
        steps=2 if quick else 4,
        step_s=1.5 if quick else 3.0,
        kernels_s=(0.003, 0.03) if quick else (0.001, 0.003, 0.01, 0.03, 0.1),
        stops=8 if quick else 30,
        cool_s=10.0 if quick else 90.0,
    )


def lines(plan: Plan, device: str) -> tuple[Line, ...]:
    """The phases in their order."""
    build_s = BUILD_S[device]
    point_s = plan.settle_s + plan.window_s
    built_s = point_s + build_s
    stop_s = sum(plan.stops * (2.5 * kernel_s + 0.15) + build_s for kernel_s in (*plan.kernels_s, 0.03))
    rows = (
        Line("start of the load", START_S[device]),
        Line("idle", plan.idle_s),
        Line("training, full duty", plan.warm_s + built_s),
        Line(f"training, {len(plan.duties)} duties", len(plan.duties) * point_s),
        Line(f"training, {len(plan.batches)} micro-batches", len(plan.batches) * built_s),
        Line(f"training, {len(plan.sms)} SM partitions", len(plan.sms) * built_s),
        Line(f"decoding, {len(plan.decode_batches)} batches", len(plan.decode_batches) * built_s),
        Line(f"decoding, {len(plan.decode_duties)} duties", len(plan.decode_duties) * point_s),
        Line("energy counter", plan.counter_s + build_s),
        Line(
            f"aliasing, {len(plan.alias_periods_s)} periods",
            len(plan.alias_periods_s) * plan.alias_window_s + build_s,
        ),
        Line(f"steps 0 → 100 → 0 %, {plan.steps} times", plan.steps * 2 * plan.step_s),
        Line(f"stop latency, {len(plan.kernels_s) + 1} lengths", stop_s),
        Line("cooling", plan.cool_s),
    )
    return tuple(line for line in rows if line.seconds > 0.0)

"""Card profile: what one GPU model draws, delivers and conducts, as measured or as assumed.

The bench measures it (``hil calibrate gpu``), the daemon and the planner fly on it, the plant simulates it: one
document between them, so it lives in the library. It is TOML in a file; the type here is the whole format.

Throughput s is relative to the card's maximum, 0 to 1. Below the *knee* a paced card mixes idle time with work at
the knee, above it each unit of work costs more watts than the one before. So the curve is given as points of rising
power and rising throughput whose slope (throughput per watt) never rises:

    (idle, 0) … (knee, s_knee) … (maximum, 1)

and both directions are linear between the points: what lies between two operating points is had by switching
between them. The shipped curve is the reference's invented one (P = 80 + 100 + 100 s + 420 s³ above the knee at
279.19 W), marked "assumed" until a card has been measured. A card of another name than the profile's is flown on
the straight line (``linear``), which promises no more than pacing always gives.

Beside the curve stand the settings that were measured (duty, micro-batch, multiprocessors): the curve is the hull
of their points, and an actuator that picks a setting finds it here.
"""

import bisect
import math
from itertools import pairwise
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

FORMAT: Final = 1
POINTS_MAX: Final = 64
SETTINGS_MAX: Final = 64
CONCAVE_TOLERANCE: Final = 1e-9
"""Relative rise of the slope that still counts as equal: points are decimal."""
PROFILE_BYTES_MAX: Final = 1 << 18

Watts = Annotated[float, Meta(ge=0.0, le=1e5)]


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured operating point: how the card was driven, what it drew and what it delivered.

    ``throughput`` is relative to the best setting of the same work, as on the curve.
    """

    duty: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    """Share of time in kernels."""
    batch: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    """Rows of a micro-batch; 0 is that of the preset."""
    sms: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Multiprocessors of the partition; 0 is the whole card."""
    power_w: Watts
    """Mean board power, W."""
    throughput: Annotated[float, Meta(ge=0.0, le=1.0)]
    """Relative throughput, 0 to 1."""
    power_sigma_w: Watts = 0.0
    throughput_sigma: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    micro_batch_s: Annotated[float, Meta(ge=0.0, le=600.0)] = 0.0
    """Mean time of one micro-batch, s."""


class Stop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stop latency with kernels (micro-batches) of one length: from "stop" to the end of the last one, s."""

    kernel_s: Annotated[float, Meta(ge=0.0, le=600.0)]
    p50_s: Annotated[float, Meta(ge=0.0, le=600.0)]
    worst_s: Annotated[float, Meta(ge=0.0, le=600.0)]
    count: Annotated[int, Meta(ge=1, le=1_000_000)]


class Alias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strict duty cycle seen by the power sensor: its error against the energy counter, and its scatter, W."""

    period_s: Annotated[float, Meta(gt=0.0, le=60.0)]
    bias_w: Annotated[float, Meta(ge=-1e5, le=1e5)]
    scatter_w: Watts


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Power against throughput of one kind of work: equally many points, both strictly rising, slope falling."""

    power_w: Annotated[tuple[Watts, ...], Meta(min_length=2, max_length=POINTS_MAX)]
    """Board power at each point, W; the first is the idle card, the last full duty."""
    throughput: Annotated[tuple[float, ...], Meta(min_length=2, max_length=POINTS_MAX)]
    """Relative throughput at each point, 0 to 1; the first is 0, the last 1."""
    power_sigma_w: Watts = 0.0
    """Standard uncertainty of the powers, W."""
    throughput_sigma: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Standard uncertainty of the throughputs."""
    settings: Annotated[tuple[Setting, ...], Meta(max_length=SETTINGS_MAX)] = ()
    """What was measured, of which the curve is the hull."""

    def __post_init__(self) -> None:
        power, work = self.power_w, self.throughput
        if len(power) != len(work):
            raise ValueError(f"power_w has {len(power)} points, throughput {len(work)}: they must be equally many")
        if work[0] != 0.0 or work[-1] != 1.0:
            raise ValueError(f"throughput runs from {work[0]:g} to {work[-1]:g}: it must run from 0 to 1")
        slopes: list[float] = []
        for index in range(1, len(power)):
            if not (power[index] > power[index - 1] and work[index] > work[index - 1]):
                raise ValueError(f"point {index}: power_w and throughput must both rise from point to point")
            slopes.append((work[index] - work[index - 1]) / (power[index] - power[index - 1]))
        for index, (before, after) in enumerate(pairwise(slopes), start=1):
            if after > before * (1.0 + CONCAVE_TOLERANCE):
                raise ValueError(f"point {index}: throughput per watt rises there; leave out points below the hull")

    @property
    def idle_w(self) -> float:
        """Power of the idle card."""
        return self.power_w[0]

    @property
    def maximum_w(self) -> float:
        """Power at full duty."""
        return self.power_w[-1]

    def rescaled(self, idle_w: float, maximum_w: float) -> "Workload":
        """The same shape between other ends, W; ``maximum_w`` must be over ``idle_w``. Settings are left out.

        For an operator who knows the card's ends better than its profile does.
        """
        if (idle_w, maximum_w) == (self.idle_w, self.maximum_w):
            return self
        scale = (maximum_w - idle_w) / (self.maximum_w - self.idle_w)
        inner = (idle_w + (power_w - self.idle_w) * scale for power_w in self.power_w[1:-1])
        return Workload(
            power_w=(idle_w, *inner, maximum_w),
            throughput=self.throughput,
            power_sigma_w=self.power_sigma_w * scale,
            throughput_sigma=self.throughput_sigma,
        )

    def throughput_at(self, power_w: float) -> float:
        """Relative throughput, 0 to 1, at a mean power in W; clipped to the curve's ends, NaN stays NaN."""
        return _between(power_w, self.power_w, self.throughput)

    def power_at(self, throughput: float) -> float:
        """Mean power in W at a relative throughput; clipped to the curve's ends, NaN stays NaN."""
        return _between(throughput, self.throughput, self.power_w)


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One card model. ``*_sigma`` are standard uncertainties; 0 says that nobody has measured them."""

    format: Literal[1] = 1
    card: Annotated[str, Meta(min_length=1, max_length=96)]
    """Name as the card itself tells it, "NVIDIA H100 80GB HBM3"."""
    also: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=96)], ...], Meta(max_length=16)] = ()
    """Other names of the same model, and of a simulated card that follows this profile."""
    provenance: Literal["assumed", "simulated", "measured"]
    """"assumed": nobody has measured it; "simulated": measured on the bench's simulated card."""
    measured_on: Annotated[str, Meta(max_length=32)] = ""
    """ISO date of the measurement; empty when assumed."""
    how: Annotated[str, Meta(max_length=800)] = ""
    """Driver, clocks, command: what another team needs to repeat it."""
    train: Workload
    """Training, bound by arithmetic."""
    decode: Workload | None = None
    """Batched decoding, bound by memory; without it decoding is taken like training."""
    heat_capacity_j_k: Annotated[float, Meta(gt=0.0, le=1e7)] = 3000.0
    """Card, board and cold plate as one node, J/K."""
    heat_capacity_sigma_j_k: Annotated[float, Meta(ge=0.0, le=1e7)] = 0.0
    conductance_w_k: Annotated[float, Meta(gt=0.0, le=1e4)] = 14.0
    """From that node to what cools it, W/K."""
    conductance_sigma_w_k: Annotated[float, Meta(ge=0.0, le=1e4)] = 0.0
    coolant_degc: Annotated[float, Meta(ge=-100.0, le=150.0)] | None = None
    """Temperature of what cooled it while it was measured."""
    settle_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.25
    """Time from a new set-point to 95 % of the power step, s."""
    stop_latency_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.05
    """99.9th percentile from "stop" to the end of the last kernel in flight, s."""
    stops: Annotated[tuple[Stop, ...], Meta(max_length=SETTINGS_MAX)] = ()
    """Stop latency by kernel length."""
    energy_counter_period_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.1
    """How often the card's energy counter moves, s."""
    aliases: Annotated[tuple[Alias, ...], Meta(max_length=SETTINGS_MAX)] = ()
    """What the power sensor makes of a strict duty cycle, by its period."""

    def fits(self, name: str) -> bool:
        """Whether a card that calls itself ``name`` is of this model."""
        return _plain(name) in map(_plain, (self.card, *self.also))


def reference_workload(idle_w: float = 80.0, maximum_w: float = 700.0, points: int = 16) -> Workload:
    """The reference's curve: a line from idle to the knee, then ``points`` chords of idle + 100 + 100 s + a₃ s³.

    ``maximum_w − idle_w`` must be over 200 W; power-thermal-orbit reference, section 6.2.
    """
    cubic = maximum_w - idle_w - 200.0
    if cubic <= 0.0 or not math.isfinite(cubic):
        raise ValueError(f"idle {idle_w:g} W and maximum {maximum_w:g} W: the curve needs over 200 W between them")
    knee = min(0.95, (100.0 / (2.0 * cubic)) ** (1.0 / 3.0))
    work = [knee + (1.0 - knee) * index / points for index in range(points)] + [1.0]
    # Milliwatts and parts per million: a file of the same curve has the same numbers.
    active = (round(idle_w + 100.0 + 100.0 * s + cubic * s**3, 3) for s in work[:-1])
    return Workload(power_w=(idle_w, *active, maximum_w), throughput=(0.0, *(round(s, 6) for s in work)))


def linear(idle_w: float, maximum_w: float) -> Workload:
    """What pacing gives on any card: throughput in proportion to the power over idle."""
    return Workload(power_w=(idle_w, maximum_w), throughput=(0.0, 1.0))


REFERENCE: Final = Profile(
    card="NVIDIA H100 80GB HBM3",
    also=("NVIDIA H100 SXM5 80GB", "NVIDIA H100", "Simulated GPU (hil)"),
    provenance="assumed",
    how="power-thermal-orbit reference, section 6: an invented curve, to be replaced by `hil calibrate gpu`",
    train=reference_workload(),
)
"""The shipped profile "h100-sxm", and what is flown without a configuration."""


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _between(value: float, xs: tuple[float, ...], ys: tuple[float, ...]) -> float:
    if value != value:
        return value
    if value <= xs[0]:
        return ys[0]
    if value >= xs[-1]:
        return ys[-1]
    index = bisect.bisect_right(xs, value)
    share = (value - xs[index - 1]) / (xs[index] - xs[index - 1])
    return ys[index - 1] + share * (ys[index] - ys[index - 1])

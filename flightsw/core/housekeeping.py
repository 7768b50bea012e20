"""Housekeeping: which groups of parameters are due, and what each parameter reads.

``GETTERS`` is the whole mapping from the dictionary's names to the vehicle's state; a test holds it complete. A
getter returns a float; NaN is "no valid value" and never becomes zero on the way to the ground.

Groups come periodically (their interval is machine time, because the link is), or once on request. A group whose
time has passed while frames were late is sent once, not in a burst.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.dictionary import EVENT_BY_NAME, GROUP_BY_NAME, HOUSEKEEPING, IDENTITY
from flightsw.link.schema import HousekeepingGroup

from .job import Job

if TYPE_CHECKING:
    from .vehicle import Vehicle

NAN: Final = math.nan
SLACK_S: Final = 0.02
"""A group is due this much early, so that a frame that comes a little early does not skip it."""

Getter = Callable[["Vehicle"], float]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Intervals at boot, on the machine clock; 0 disables a group. Bounds are those of the dictionary."""

    fast_interval_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.1
    """Interval of the group "fast"."""
    main_interval_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 1.0
    """Interval of the group "main"."""
    slow_interval_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 10.0
    """Interval of the group "slow"."""

    def __post_init__(self) -> None:
        for group in HOUSEKEEPING:
            value = self.interval_s(group.name)
            if value and not group.interval_min_s <= value <= group.interval_max_s:
                raise ValueError(
                    f"{group.name}_interval_s = {value:g} is not 0 (off) or"
                    f" {group.interval_min_s:g} to {group.interval_max_s:g} s"
                )

    def interval_s(self, group: str) -> float:
        """Configured interval of a group by name."""
        return float(getattr(self, f"{group}_interval_s"))


class Schedule(Struct, frozen=True):
    """One group: whether it comes periodically, how often, when next, and whether one is asked for now."""

    enabled: bool
    interval_s: float
    next_s: float
    requested: bool = False


class State(Struct, frozen=True):
    """Schedules in the order of the dictionary."""

    schedules: tuple[Schedule, ...]


def start(config: Config, now_s: float) -> State:
    """State at boot: every enabled group is due at once."""
    intervals = [(group, config.interval_s(group.name)) for group in HOUSEKEEPING]
    return State(tuple(Schedule(i > 0.0, i or group.interval_s, now_s) for group, i in intervals))


def step(state: State, now_s: float) -> tuple[State, tuple[HousekeepingGroup, ...]]:
    """The groups that are due in this frame."""
    due: list[HousekeepingGroup] = []
    schedules = list(state.schedules)
    for index, schedule in enumerate(schedules):
        ripe = schedule.enabled and now_s >= schedule.next_s - SLACK_S
        if not ripe and not schedule.requested:
            continue
        due.append(HOUSEKEEPING[index])
        next_s = schedule.next_s
        if ripe:
            next_s += schedule.interval_s
            if next_s <= now_s:
                next_s = now_s + schedule.interval_s
        schedules[index] = Schedule(schedule.enabled, schedule.interval_s, next_s)
    return (State(tuple(schedules)) if due else state), tuple(due)


def enable(state: State, name: str, enabled: bool, now_s: float) -> State:
    """Switch periodic generation of a group on or off."""
    return _change(state, name, lambda s: replace(s, enabled=enabled, next_s=now_s))


def request(state: State, name: str) -> State:
    """One report of a group in this frame, enabled or not."""
    return _change(state, name, lambda s: replace(s, requested=True))


def set_interval(state: State, name: str, interval_s: float, now_s: float) -> State:
    """Change a group's interval; the caller has checked it against the group's bounds."""
    return _change(state, name, lambda s: replace(s, interval_s=interval_s, next_s=now_s + interval_s))


def sample(group: HousekeepingGroup, vehicle: "Vehicle", sequence: int) -> list[float]:
    """Values of a group in the dictionary's order."""
    values = [float(vehicle.boot_count), float(sequence), vehicle.sense.world_s]
    values.extend([getter(vehicle) for getter in _GETTERS_BY_SID[group.sid]])
    return values


def _change(state: State, name: str, change: Callable[[Schedule], Schedule]) -> State:
    index = HOUSEKEEPING.index(GROUP_BY_NAME[name])
    schedules = state.schedules
    return State((*schedules[:index], change(schedules[index]), *schedules[index + 1 :]))


def _sensor(field: str) -> Getter:
    """A field of the sensor frame, NaN while the sensors are stale."""

    def read(vehicle: "Vehicle") -> float:
        frame = vehicle.sense.frame
        return float(getattr(frame, field)) if frame is not None and vehicle.sense.fresh else NAN

    return read


def _gpu(field: str) -> Getter:
    """A field of the probe's sample, NaN when unsupported or stale."""

    def read(vehicle: "Vehicle") -> float:
        sample = vehicle.sense.gpu
        value = getattr(sample, field) if sample is not None and vehicle.sense.gpu_fresh else None
        return NAN if value is None else float(value)

    return read


def _job(kind: str, read: Callable[[Job], float]) -> Getter:
    """Of the first configured job of a kind, NaN when there is none."""

    def value(vehicle: "Vehicle") -> float:
        index = vehicle.first_train if kind == "train" else vehicle.first_infer
        return NAN if index is None else read(vehicle.payload.jobs[index])

    return value


def _checkpoint(name: str) -> Getter:
    """Of the first training job's ring, NaN while it has no verified generation."""

    def value(vehicle: "Vehicle") -> float:
        if vehicle.first_train is None:
            return NAN
        ring = vehicle.checkpoint.rings[vehicle.first_train]
        return float(getattr(ring, name)) if ring.generation >= 0 else NAN

    return value


def _checkpoint_age(vehicle: "Vehicle") -> float:
    if vehicle.first_train is None:
        return NAN
    committed_s = vehicle.checkpoint.rings[vehicle.first_train].committed_world_s
    return NAN if committed_s is None else vehicle.sense.world_s - committed_s


def _of_rings(name: str) -> Getter:
    return lambda vehicle: float(sum(getattr(ring, name) for ring in vehicle.checkpoint.rings))


def _stall(vehicle: "Vehicle") -> float:
    return NAN if vehicle.first_train is None else vehicle.checkpoint.rings[vehicle.first_train].stall_s * 1e3


def _cap(vehicle: "Vehicle") -> float:
    cap_w = vehicle.governor.power_cap_w
    return NAN if cap_w is None else cap_w


def _unsupported(vehicle: "Vehicle") -> float:
    sample = vehicle.sense.gpu
    return NAN if sample is None else float(len(sample.unsupported))


def _or_nan(value: int) -> float:
    return NAN if value < 0 else float(value)


def _positive(job: Job, value: float) -> float:
    """A worker's own reading, NaN while there is no worker."""
    return value if job.has_process else NAN


GETTERS: Final[dict[str, Getter]] = {
    "uptime_s": lambda v: v.now_s - v.boot_s,
    "frame_count": lambda v: v.frame_count,
    "frame_jitter_ms": lambda v: v.health.frame_late_s * 1e3,
    "frame_overruns": lambda v: v.health.frames_skipped,
    "time_quality": lambda v: v.sense.quality,
    "mode": lambda v: v.mode.mode,
    "mode_reason": lambda v: EVENT_BY_NAME[v.mode.event].id,
    "contact": lambda v: v.sense.contact,
    "eps.soc_fraction": lambda v: v.eps.soc_fraction,
    "eps.bus_voltage_v": _sensor("bus_voltage_v"),
    "eps.bus_current_a": _sensor("bus_current_a"),
    "eps.battery_voltage_v": _sensor("battery_voltage_v"),
    "eps.battery_current_a": _sensor("battery_current_a"),
    "eps.battery_temp_degc": _sensor("battery_temp_degc"),
    "eps.array_power_w": _sensor("array_power_w"),
    "eps.sun_fraction": _sensor("sun_fraction"),
    "eps.eclipse": lambda v: v.eps.eclipse,
    "eps.arc_remaining_s": lambda v: v.eps.arc_remaining_s,
    "eps.gpu_rail": lambda v: v.eps.rail_on,
    "thermal.gpu_degc": lambda v: v.thermal.gpu_degc,
    "thermal.radiator_degc": lambda v: v.thermal.radiator_degc,
    "gpu.power_w": _gpu("power_w"),
    "gpu.die_degc": _gpu("die_degc"),
    "gpu.memory_degc": _gpu("memory_degc"),
    "gpu.energy_j": _gpu("energy_j"),
    "gpu.utilisation_fraction": _gpu("utilisation_fraction"),
    "gpu.ecc_uncorrected": _gpu("ecc_uncorrected"),
    "gpu.unsupported_fields": _unsupported,
    "governor.power_budget_w": lambda v: v.governor.power_budget_w,
    "governor.limit": lambda v: v.governor.limit,
    "governor.duty": lambda v: v.governor.duty,
    "governor.power_cap_w": _cap,
    "train.state": _job("train", lambda j: j.life),
    "train.step": _job("train", lambda j: j.step),
    "train.loss": _job("train", lambda j: j.loss),
    "train.tokens_per_s": _job("train", lambda j: _positive(j, j.tokens_per_s)),
    "train.micro_batch_ms": _job("train", lambda j: _positive(j, j.micro_batch_s * 1e3)),
    "train.restarts": _job("train", lambda j: j.restarts),
    "infer.state": _job("infer", lambda j: j.life),
    "infer.pending": _job("infer", lambda j: len(j.requests)),
    "infer.replies": _job("infer", lambda j: j.replies),
    "infer.tokens": _job("infer", lambda j: j.tokens_total),
    "infer.generation": _job("infer", lambda j: _or_nan(j.generation)),
    "infer.restarts": _job("infer", lambda j: j.restarts),
    "checkpoint.generation": _checkpoint("generation"),
    "checkpoint.step": _checkpoint("step"),
    "checkpoint.age_s": _checkpoint_age,
    "checkpoint.committed": _of_rings("committed"),
    "checkpoint.rejected": _of_rings("rejected"),
    "checkpoint.stall_ms": _stall,
    "tc.accepted": lambda v: v.commanding.accepted,
    "tc.rejected": lambda v: v.commanding.rejected,
    "tc.in_flight": lambda v: len(v.commanding.in_flight),
    "tm.sent": lambda v: v.recorder.sent,
    "tm.playback": lambda v: v.recorder.playback,
    "tm.dropped": lambda v: v.recorder.dropped,
    "recorder.pending": lambda v: v.recorder.pending,
    "recorder.shed": lambda v: v.recorder.shed,
    "radio.frames_bad": lambda v: v.health.radio_frames_bad + v.commanding.garbage,
    "avionics.frames_bad": lambda v: v.health.avionics_frames_bad,
    "events.suppressed": lambda v: v.events.suppressed,
    "orbit.latitude_deg": _sensor("latitude_deg"),
    "orbit.longitude_deg": _sensor("longitude_deg"),
    "orbit.altitude_km": _sensor("altitude_km"),
    "radiation.proton_flux_cm2_s": _sensor("proton_flux_cm2_s"),
    "daemon.rss_mb": lambda v: v.health.rss_mb,
    "daemon.cpu_fraction": lambda v: v.health.cpu_fraction,
    "daemon.disk_free_mb": lambda v: v.health.disk_free_mb,
    "adapters.restarts": lambda v: sum(a.restarts for a in v.adapters),
    "adapters.failed": lambda v: sum(a.failed for a in v.adapters),
}

_GETTERS_BY_SID: Final = {
    group.sid: tuple(GETTERS[name] for name in group.parameters if name not in IDENTITY) for group in HOUSEKEEPING
}

"""Getters: what each parameter of the dictionary reads in the vehicle.

``GETTERS`` is the whole mapping from names to the vehicle's state; a test holds it complete. A getter returns a
float; NaN is "no valid value" and never becomes zero on the way to the ground. Housekeeping reports what they read,
and the watchpoints watch it.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from flightsw.link.dictionary import EVENT_BY_NAME, FILTERED_GROUPS, RECORDER_GROUPS, RESET_CAUSES
from flightsw.link.schema import FailureCode
from flightsw.link.xid import XID_MILD

from . import planning, recording
from .job import Job
from .lifecycle import Life as JobLife
from .sequence_life import Life
from .sequence_time import ats_next_s

if TYPE_CHECKING:
    from .vehicle import Vehicle

NAN: Final = math.nan
Getter = Callable[["Vehicle"], float]


def _sensor(field: str) -> Getter:
    """A field of the sensor frame as it came, believed or not; NaN while the sensors are stale."""

    def read(vehicle: "Vehicle") -> float:
        frame = vehicle.sense.raw
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
    return NAN if committed_s is None else vehicle.correlation.steady_s - committed_s


def _of_rings(name: str) -> Getter:
    return lambda vehicle: float(sum(getattr(ring, name) for ring in vehicle.checkpoint.rings))


def _stall(vehicle: "Vehicle") -> float:
    return NAN if vehicle.first_train is None else vehicle.checkpoint.rings[vehicle.first_train].stall_s * 1e3


def _cap(vehicle: "Vehicle") -> float:
    cap_w = vehicle.governor.power_cap_w
    return NAN if cap_w is None else cap_w


def _refused(code: FailureCode) -> Getter:
    """Telecommands refused with one code."""
    return lambda vehicle: float(vehicle.commanding.refused.get(code, 0))


def _xid(field: str) -> Getter:
    """Of the card's XID reports, NaN when it has none to give."""

    def read(vehicle: "Vehicle") -> float:
        health = vehicle.gpu_health
        return float(getattr(health, field)) if health.xid_supported else NAN

    return read


def _excess(vehicle: "Vehicle") -> float:
    return _power(vehicle) - vehicle.governor.power_budget_w


def _probe_age(vehicle: "Vehicle") -> float:
    """NaN until the first sample: a probe that never talked is another fact than one that fell silent."""
    sensed = vehicle.sense
    return NAN if sensed.gpu is None else vehicle.now_s - sensed.gpu_received_s


def _xid_grave(vehicle: "Vehicle") -> float:
    health = vehicle.gpu_health
    return float(health.xid != 0 and health.xid not in XID_MILD) if health.xid_supported else NAN


def _unsupported(vehicle: "Vehicle") -> float:
    sample = vehicle.sense.gpu
    return NAN if sample is None else float(len(sample.unsupported))


def _reset_cause(vehicle: "Vehicle") -> float:
    """Of this boot: the last of the record, NaN when there is none."""
    return float(RESET_CAUSES.index(vehicle.resets[-1].cause)) if vehicle.resets else NAN


def _or_nan(value: int) -> float:
    return NAN if value < 0 else float(value)


def _positive(job: Job, value: float) -> float:
    """A worker's own reading, NaN while there is no worker."""
    return value if job.has_process else NAN


def _used(group: int) -> Getter:
    """Room used by a group of the recorder, NaN until the recorder has told it."""

    def read(vehicle: "Vehicle") -> float:
        used = vehicle.recorder.used_bytes
        return used[group] / 1e6 if used else NAN

    return read


def _share(group: int) -> Getter:
    """Share of the quota as the recorder was told, NaN before the first frame."""

    def read(vehicle: "Vehicle") -> float:
        told = vehicle.recording.told
        return NAN if told is None else told.shares[group]

    return read


def _kept(name: str) -> Getter:
    """Part of a group that is recorded, by the filter that was last in force."""
    group = RECORDER_GROUPS.index(name)

    def read(vehicle: "Vehicle") -> float:
        told = vehicle.recording.told_for
        if told is None:
            return NAN
        keep, of = recording.filter_of(vehicle.recording, told, group)
        return keep / of

    return read


_power: Final = _gpu("power_w")

GETTERS: Final[dict[str, Getter]] = {
    "uptime_s": lambda v: v.now_s - v.boot_s,
    "frame_count": lambda v: v.frame_count,
    "frame_jitter_ms": lambda v: v.health.frame_late_s * 1e3,
    "frame_overruns": lambda v: v.health.frames_skipped,
    "time_quality": lambda v: v.correlation.quality,
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
    "gpu.power_average_w": _gpu("power_average_w"),
    "gpu.power_limit_w": _gpu("power_limit_w"),
    "gpu.power_limit_enforced_w": _gpu("power_limit_enforced_w"),
    "gpu.slowdown_margin_k": _gpu("slowdown_margin_k"),
    "governor.power_budget_w": lambda v: v.governor.power_budget_w,
    "governor.limit": lambda v: v.governor.limit,
    "governor.duty": lambda v: v.tracking.duty,
    "governor.power_cap_w": _cap,
    "governor.tracked_power_w": lambda v: v.tracking.power_w,
    "governor.tracking_error_fraction": lambda v: v.tracking.error_fraction,
    "governor.idle_learned_w": lambda v: v.tracking.idle_w,
    "governor.active_learned_w": lambda v: v.tracking.active_w,
    "governor.micro_batch_ms": lambda v: v.tracking.micro_batch_s * 1e3,
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
    "tc.refused_unknown_command": _refused(FailureCode.UNKNOWN_COMMAND),
    "tc.refused_malformed": _refused(FailureCode.MALFORMED),
    "tc.refused_bad_argument": _refused(FailureCode.BAD_ARGUMENT),
    "tc.refused_mode_forbids": _refused(FailureCode.MODE_FORBIDS),
    "tc.refused_not_armed": _refused(FailureCode.NOT_ARMED),
    "tc.refused_busy": _refused(FailureCode.BUSY),
    "tc.in_flight": lambda v: len(v.commanding.in_flight),
    "tm.sent": lambda v: v.recorder.sent,
    "tm.playback": lambda v: v.recorder.playback,
    "tm.dropped": lambda v: v.recorder.dropped,
    "recorder.pending": lambda v: v.recorder.pending,
    "recorder.shed": lambda v: v.recorder.shed,
    "radio.frames_bad": lambda v: v.health.radio_frames_bad + v.commanding.garbage,
    "avionics.frames_bad": lambda v: v.health.avionics_frames_bad,
    "events.suppressed": lambda v: v.events.suppressed,
    "events.filtered": lambda v: v.events.filtered,
    "events.muted": lambda v: v.events.mute_hits,
    "events.throttled": lambda v: v.events.throttled,
    "events.throttled_error": lambda v: v.events.throttled_error,
    "events.throttled_security": lambda v: v.events.throttled_security,
    "tm.deferred": lambda v: v.downlink.deferred,
    "tm.filtered": lambda v: v.downlink.filtered,
    "link.utilisation_fraction": lambda v: v.downlink.utilisation_fraction,
    "recorder.full": lambda v: v.recorder.full,
    "recorder.expired": lambda v: v.recorder.expired,
    "recorder.ring": lambda v: v.recorder.ring,
    **{f"recorder.{name}_mb": _used(code) for code, name in enumerate(RECORDER_GROUPS)},
    **{f"recorder.{name}_share": _share(code) for code, name in enumerate(RECORDER_GROUPS)},
    **{f"recorder.{name}_kept_fraction": _kept(name) for name in FILTERED_GROUPS},
    "orbit.latitude_deg": _sensor("latitude_deg"),
    "orbit.longitude_deg": _sensor("longitude_deg"),
    "orbit.altitude_km": _sensor("altitude_km"),
    "radiation.proton_flux_cm2_s": _sensor("proton_flux_cm2_s"),
    "daemon.rss_mb": lambda v: v.health.rss_mb,
    "daemon.cpu_fraction": lambda v: v.health.cpu_fraction,
    "daemon.disk_free_mb": lambda v: v.health.disk_free_mb,
    "adapters.restarts": lambda v: sum(a.restarts for a in v.adapters),
    "adapters.failed": lambda v: sum(a.failed for a in v.adapters),
    "gpu.ecc_corrected": _gpu("ecc_corrected"),
    "gpu.xid": _xid("xid"),
    "gpu.xid_count": _xid("xid_count"),
    "gpu.throttle_reasons": _gpu("throttle_reasons"),
    "time.uncertainty_s": lambda v: v.correlation.uncertainty_s,
    "time.steps": lambda v: v.correlation.steps,
    "time.rejected": lambda v: v.correlation.rejected,
    "contact.silence_s": lambda v: v.contact_loss.silence_s,
    "parameters.changed": lambda v: v.parameters.changed,
    "parameters.crc32": lambda v: v.parameters.crc32,
    "tables.loads_open": lambda v: len(v.tables.loads),
    "eps.gpu_rail_power_w": _sensor("gpu_rail_power_w"),
    "gpu.age_s": _probe_age,
    "gpu.xid_grave": _xid_grave,
    "governor.excess_w": _excess,
    "planner.state": lambda v: v.planning.status,
    "planner.age_s": lambda v: planning.age_s(v.planning, v.correlation.steady_s),
    "planner.solve_ms": lambda v: v.planning.solve_s * 1e3,
    "planner.fallbacks": lambda v: float(v.planning.fallbacks),
    "train.step_time_ratio": _job("train", lambda j: _positive(j, j.baseline.step_time_ratio)),
    "train.loss_rise": _job("train", lambda j: _positive(j, j.baseline.loss_rise)),
    "checkpoint.failed": _of_rings("failed"),
    "fdir.tripped": lambda v: v.fdir.tripped,
    "fdir.stale": lambda v: v.watch.stale,
    "fdir.level": lambda v: v.fdir.level,
    "fdir.duty_ceiling": lambda v: v.fdir.orders.ceiling,
    "fdir.responses": lambda v: v.fdir.responses,
    "sequence.running": lambda v: v.sequences.count(Life.RUNNING, Life.WAITING),
    "sequence.suspended": lambda v: v.sequences.count(Life.SUSPENDED),
    "sequence.ats_next_s": lambda v: ats_next_s(v.sequences, v.correlation),
    "sequence.dispatched": lambda v: v.sequences.dispatched,
    "sequence.failed": lambda v: v.sequences.failed,
    "sequence.skipped": lambda v: v.sequences.skipped,
    "ladder.daemon_restarts": lambda v: v.ladder.restarts,
    "ladder.quarantined": lambda v: sum(job.life is JobLife.QUARANTINED for job in v.payload.jobs),
    "ladder.unclean_boots": lambda v: v.health.unclean_boots,
    "supervision.late": lambda v: v.supervision.late + sum(job.lates for job in v.payload.jobs),
    "supervision.stuck": lambda v: v.supervision.stuck + sum(job.hangs for job in v.payload.jobs),
    "watchdog.kicks": lambda v: v.health.watchdog_kicks,
    "watchdog.confirmed": lambda v: NAN if v.health.watchdog_confirmed is None else v.health.watchdog_confirmed,
    "reset_cause": _reset_cause,
    "sensors.bad": lambda v: len(v.sense.bad),
    "eps.soc_sigma": lambda v: v.eps.soc_sigma,
    "eps.gauge_soc_fraction": lambda v: v.eps.gauge_soc_fraction,
    "eps.gauge_bias": lambda v: v.eps.battery.gauge_bias,
    "eps.array_estimate_w": lambda v: v.eps.array_power_w,
    "eps.array_sigma_w": lambda v: v.eps.array_sigma_w,
    "eps.battery_full": lambda v: v.eps.battery.full,
    "thermal.gpu_sigma_k": lambda v: v.thermal.gpu_sigma_k,
    "thermal.radiator_sigma_k": lambda v: v.thermal.radiator_sigma_k,
    "thermal.conductance_w_k": lambda v: v.thermal.heat.conductance_w_k,
    "thermal.radiator_capacity_j_k": lambda v: v.thermal.heat.radiator_capacity_j_k,
    "thermal.absorbed_w": lambda v: v.thermal.heat.absorbed_w,
    "thermal.absorbed_sun_w": lambda v: v.thermal.heat.absorbed_sun_w,
    "eps.shed_rung": lambda v: v.shedding.rung,
    "eps.shed_cause": lambda v: v.shedding.cause,
    "eps.latch_excess_w": lambda v: v.latchup.excess_w,
    "eps.latch_ups": lambda v: v.latchup.trips,
    "integrity.level_wanted": lambda v: v.integrity.level,
    "integrity.level": lambda v: NAN if v.integrity.lowest is None else v.integrity.lowest,
    "integrity.held": lambda v: v.integrity.held is not None,
    "integrity.checks": lambda v: v.integrity.totals.checks,
    "integrity.detected": lambda v: v.integrity.totals.detected,
    "integrity.repaired": lambda v: v.integrity.totals.repaired,
    "integrity.recomputed": lambda v: v.integrity.totals.recomputed,
    "integrity.contained": lambda v: v.integrity.totals.contained,
    "integrity.open": lambda v: v.integrity.totals.open,
    "integrity.scrub_passes": lambda v: v.integrity.totals.scrubs,
    "integrity.open_row": lambda v: v.integrity.row,
    "integrity.ecc_recent": lambda v: v.integrity.ecc,
}

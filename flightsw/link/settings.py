"""Parameters that the ground may change in flight, and the image of the table "parameters" (PUS service 20).

A *setting* is one number of the configuration, named like its key: ``eps.soc_safe``. Its range in flight lies within
the range of the configuration, and is narrower where a slip would hurt; ids travel and are never reused. What is not
listed here is changed in the file and by a restart only.

    image = msgpack map {format, name, values}
    values = {name of a setting: number}, only those that shall differ from the file

``check`` runs on the ground when a set is compiled and on board when it is validated. On board the whole
configuration is then built with the set, so that its own rules between keys speak too.

A number of type "bool" is 0 or 1 in a telecommand, and false or true in an image.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from .errors import TableError
from .tables import IMAGE_BYTES_MAX

FORMAT: Final = 1
VALUE_MAX: Final = 1e12
"""Largest magnitude of a value in a telecommand; every setting's own range is far narrower."""

NAME_SHOWN: Final = 60
"""As much of an unknown name as a complaint repeats."""

Number = bool | int | float


class Setting(msgspec.Struct, frozen=True):
    """One row: id, name ("section.key"), type, range in flight (both ends allowed), unit and meaning."""

    id: int
    name: str
    type: Literal["float", "int", "bool"]
    minimum: float
    maximum: float
    unit: str
    text: str


class ParameterSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Image of the table "parameters"."""

    format: Literal[1] = 1
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}$")]
    values: dict[str, Number] = {}


# One line per setting, so that the table can be read as one.
# fmt: off
# ruff: noqa: E501 - the table has one entry per line.
SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(101, "eps.capacity_wh", "float", 1.0, 100_000.0, "Wh", "Battery capacity"),
    Setting(102, "eps.dod_max", "float", 0.05, 0.9, "", "Deepest allowed depth of discharge"),
    Setting(103, "eps.charge_efficiency", "float", 0.5, 1.0, "", "Stored energy per energy into the battery"),
    Setting(104, "eps.discharge_efficiency", "float", 0.5, 1.0, "", "Energy out of the battery per stored energy"),
    Setting(105, "eps.charge_power_max_w", "float", 1.0, 100_000.0, "W", "Charge limit on the bus side"),
    Setting(106, "eps.bus_power_w", "float", 0.0, 10_000.0, "W", "Load of everything but the GPU"),
    Setting(107, "eps.array_power_w", "float", 0.0, 100_000.0, "W", "Array power in full sun; replaces what was measured"),
    Setting(108, "eps.orbit_period_s", "float", 600.0, 1e6, "s", "Orbital period (mission time); replaces what was observed"),
    Setting(109, "eps.eclipse_s", "float", 0.0, 1e6, "s", "Length of the dark arc (mission time); replaces what was observed"),
    Setting(110, "eps.soc_safe", "float", 0.1, 0.95, "", "SAFE under this state of charge"),
    Setting(111, "eps.soc_recovered", "float", 0.1, 1.0, "", "SAFE may end above this state of charge"),
    Setting(112, "eps.bus_undervoltage_v", "float", 1.0, 150.0, "V", "SAFE under this bus voltage"),
    Setting(113, "eps.bus_recovered_v", "float", 1.0, 150.0, "V", "SAFE may end above this bus voltage"),
    Setting(114, "eps.trip_s", "float", 0.0, 10.0, "s", "A power threshold must be passed for this long"),
    Setting(115, "eps.transmitter_power_w", "float", 0.0, 1000.0, "W", "Load of the transmitter while it is on"),
    Setting(201, "thermal.gpu_limit_degc", "float", 20.0, 110.0, "degC", "Limit of the GPU node; SAFE above it"),
    Setting(202, "thermal.radiator_limit_degc", "float", 0.0, 110.0, "degC", "Limit of the radiator node; SAFE above it"),
    Setting(203, "thermal.conductance_w_k", "float", 0.1, 1000.0, "W/K", "Conductance from the GPU node to the radiator"),
    Setting(204, "thermal.clear_k", "float", 0.5, 50.0, "K", "SAFE may end when the node is this far below its limit"),
    Setting(205, "thermal.trip_s", "float", 0.0, 10.0, "s", "A temperature limit must be passed for this long"),
    Setting(301, "governor.gpu_idle_w", "float", 0.0, 2000.0, "W", "Power of the idle card"),
    Setting(302, "governor.gpu_max_w", "float", 1.0, 2000.0, "W", "Power at full duty"),
    Setting(303, "governor.soc_margin", "float", 0.0, 0.5, "", "Margin over the floor of the state of charge"),
    Setting(304, "governor.temp_margin_k", "float", 0.0, 50.0, "K", "Set-point of the GPU node below its limit"),
    Setting(305, "governor.gain_w_k", "float", 0.0, 1000.0, "W/K", "Proportional gain of the temperature loop"),
    Setting(306, "governor.integral_gain_w_kmin", "float", 0.0, 1000.0, "W/(K min)", "Integral gain of the temperature loop"),
    Setting(307, "governor.integral_max_kmin", "float", 0.0, 1000.0, "K min", "Clip of the integrator"),
    Setting(401, "mode.recover_s", "float", 0.0, 86_400.0, "s", "SAFE ends by itself when its cause has been gone for this long"),
    Setting(402, "mode.stale_safe_s", "float", 1.0, 3600.0, "s", "SAFE when no valid sensor frame has come for this long"),
    Setting(403, "mode.loss_of_contact_s", "float", 600.0, 31_536_000.0, "s", "SAFE when no telecommand came for this much mission time"),
    Setting(501, "payload.start_timeout_s", "float", 1.0, 3600.0, "s", "A worker must be ready within this"),
    Setting(502, "payload.stop_timeout_s", "float", 0.5, 600.0, "s", "A worker that was asked to stop is killed after this"),
    Setting(503, "payload.kill_timeout_s", "float", 0.5, 60.0, "s", "A kill without an exit report is repeated after this"),
    Setting(504, "payload.heartbeat_timeout_s", "float", 2.0, 600.0, "s", "A worker without a heartbeat for this long hangs"),
    Setting(505, "payload.hang_timeout_s", "float", 1.0, 600.0, "s", "Time at full duty without progress that makes a hang"),
    Setting(506, "payload.backoff_s", "float", 0.0, 600.0, "s", "Pause before the first restart"),
    Setting(507, "payload.backoff_max_s", "float", 0.0, 3600.0, "s", "Longest pause before a restart outside quarantine"),
    Setting(508, "payload.restarts_max", "int", 0, 100, "", "Restarts within the window; the next failure leads to quarantine"),
    Setting(509, "payload.restart_window_s", "float", 1.0, 86_400.0, "s", "Window of the restart count"),
    Setting(510, "payload.quarantine_retry_s", "float", 1.0, 86_400.0, "s", "Pause between two tries in quarantine"),
    Setting(511, "payload.duty_min", "float", 0.0, 0.5, "", "Smallest duty a worker is given"),
    Setting(512, "payload.duty_step", "float", 0.0, 0.5, "", "A change of duty smaller than this waits for the refresh"),
    Setting(513, "payload.pace_refresh_s", "float", 0.1, 60.0, "s", "The set-point is sent again after this"),
    Setting(601, "checkpoint.interval_world_s", "float", 1.0, 1e7, "s", "Mission time between two checkpoints"),
    Setting(602, "checkpoint.before_eclipse", "bool", 0, 1, "", "Also commit before each forecast eclipse"),
    Setting(603, "checkpoint.eclipse_lead_s", "float", 0.0, 1e5, "s", "How long before the entry (mission time)"),
    Setting(604, "checkpoint.answer_timeout_s", "float", 1.0, 3600.0, "s", "A request for a checkpoint is given up after this"),
    Setting(701, "commanding.arm_window_s", "float", 5.0, 3600.0, "s", "An armed opcode must be used within this"),
    Setting(702, "commanding.in_flight_max", "int", 8, 1024, "", "Commands accepted and not complete"),
    Setting(801, "events.burst", "int", 1, 1000, "", "Reports a source may raise at once"),
    Setting(802, "events.rate_per_s", "float", 0.01, 1000.0, "1/s", "Reports per second a source may raise in the long run"),
    Setting(803, "events.security_burst", "int", 1, 1000, "", "Reserve of each security event at once"),
    Setting(804, "events.security_rate_per_s", "float", 0.01, 1000.0, "1/s", "Reserve of each security event in the long run"),
    Setting(805, "events.severity_min", "int", 0, 4, "", "Least severity reported: 0 DIAGNOSTIC to 4 CRITICAL"),
    Setting(901, "housekeeping.fast_interval_s", "float", 0.0, 60.0, "s", "Interval of the group fast; 0 is off"),
    Setting(902, "housekeeping.main_interval_s", "float", 0.0, 3600.0, "s", "Interval of the group main; 0 is off"),
    Setting(903, "housekeeping.slow_interval_s", "float", 0.0, 3600.0, "s", "Interval of the group slow; 0 is off"),
    Setting(904, "housekeeping.fast_max_interval_s", "float", 0.0, 60.0, "s", "Longest interval of the group fast, reported on change; 0 is periodic"),
    Setting(905, "housekeeping.main_max_interval_s", "float", 0.0, 3600.0, "s", "Longest interval of the group main, reported on change; 0 is periodic"),
    Setting(906, "housekeeping.slow_max_interval_s", "float", 0.0, 3600.0, "s", "Longest interval of the group slow, reported on change; 0 is periodic"),
    Setting(1001, "downlink.rate_bps", "float", 1000.0, 1e9, "bit/s", "Radio rate that is planned with"),
    Setting(1002, "downlink.burst_s", "float", 0.01, 60.0, "s", "Seconds of the rate that may be saved up"),
    Setting(1003, "downlink.fill", "float", 0.05, 1.0, "", "Part of the rate that is used"),
    Setting(1004, "downlink.playback_share", "float", 0.0, 0.9, "", "Part of the rate kept for playback while packets wait"),
    Setting(1701, "recorder.quota_mb", "float", 0.05, 1_000_000.0, "MB", "Size at which the recorder sheds"),
    Setting(1702, "recorder.ack_timeout_s", "float", 0.1, 3600.0, "s", "Time after which a packet is played back again"),
    Setting(1703, "recorder.verification_share", "float", 0.001, 1.0, "", "Part of the quota that the group verification may use"),
    Setting(1704, "recorder.critical_share", "float", 0.001, 1.0, "", "Part of the quota that the group critical may use"),
    Setting(1705, "recorder.event_share", "float", 0.001, 1.0, "", "Part of the quota that the group event may use"),
    Setting(1706, "recorder.reply_share", "float", 0.001, 1.0, "", "Part of the quota that the group reply may use"),
    Setting(1707, "recorder.hk_main_share", "float", 0.001, 1.0, "", "Part of the quota that the group hk_main may use"),
    Setting(1708, "recorder.hk_slow_share", "float", 0.001, 1.0, "", "Part of the quota that the group hk_slow may use"),
    Setting(1709, "recorder.hk_fast_share", "float", 0.001, 1.0, "", "Part of the quota that the group hk_fast may use"),
    Setting(1710, "recorder.verification_max_age_s", "float", 0.0, 1e9, "s", "Age at which packets of the group verification go; 0 is never"),
    Setting(1711, "recorder.critical_max_age_s", "float", 0.0, 1e9, "s", "Age at which packets of the group critical go; 0 is never"),
    Setting(1712, "recorder.event_max_age_s", "float", 0.0, 1e9, "s", "Age at which packets of the group event go; 0 is never"),
    Setting(1713, "recorder.reply_max_age_s", "float", 0.0, 1e9, "s", "Age at which packets of the group reply go; 0 is never"),
    Setting(1714, "recorder.hk_main_max_age_s", "float", 0.0, 1e9, "s", "Age at which packets of the group hk_main go; 0 is never"),
    Setting(1715, "recorder.hk_slow_max_age_s", "float", 0.0, 1e9, "s", "Age at which packets of the group hk_slow go; 0 is never"),
    Setting(1716, "recorder.hk_fast_max_age_s", "float", 0.0, 1e9, "s", "Age at which packets of the group hk_fast go; 0 is never"),
    Setting(1717, "recorder.hk_main_keep", "int", 0, 1000, "", "Packets of the group hk_main that are recorded, of every recorder.hk_main_of"),
    Setting(1718, "recorder.hk_main_of", "int", 1, 1000, "", "See recorder.hk_main_keep"),
    Setting(1719, "recorder.hk_slow_keep", "int", 0, 1000, "", "Packets of the group hk_slow that are recorded, of every recorder.hk_slow_of"),
    Setting(1720, "recorder.hk_slow_of", "int", 1, 1000, "", "See recorder.hk_slow_keep"),
    Setting(1721, "recorder.hk_fast_keep", "int", 0, 1000, "", "Packets of the group hk_fast that are recorded, of every recorder.hk_fast_of"),
    Setting(1722, "recorder.hk_fast_of", "int", 1, 1000, "", "See recorder.hk_fast_keep"),
    Setting(1101, "sense.stale_after_s", "float", 0.2, 60.0, "s", "Sensors are stale without a valid frame for this long"),
    Setting(1102, "sense.gpu_stale_after_s", "float", 0.5, 300.0, "s", "The card's own telemetry is stale after this"),
    Setting(1201, "correlation.tolerance_s", "float", 0.01, 60.0, "s", "A frame whose time is this far off contradicts the correlation"),
    Setting(1202, "correlation.confirm_s", "float", 0.0, 3600.0, "s", "Contradicting frames must agree for this long"),
    Setting(1203, "correlation.freewheel_after_s", "float", 0.2, 600.0, "s", "Without a fitting frame for this long the time is freewheeling"),
    Setting(1204, "correlation.resolution_s", "float", 0.0, 10.0, "s", "Uncertainty of a fresh correlation"),
    Setting(1205, "correlation.drift_ppm", "float", 0.0, 10_000.0, "ppm", "Drift of the machine's clock"),
    Setting(1206, "correlation.uncertainty_max_s", "float", 0.01, 3600.0, "s", "Past this uncertainty absolute commands wait"),
    Setting(1301, "tables.dump_packets_per_frame", "int", 1, 32, "", "Packets of dumps in one frame"),
    Setting(1501, "sequence.dispatches_per_frame_max", "int", 1, 64, "", "Stored commands dispatched in one minor frame"),
    Setting(1502, "sequence.in_flight_max", "int", 1, 512, "", "Stored commands dispatched and not complete"),
    Setting(1503, "sequence.late_max_s", "float", 0.5, 3600.0, "s", "An absolute step later than this is skipped"),
    Setting(1601, "fdir.array_weak_s", "float", 1.0, 86_400.0, "s", "A weak array in full sun is told after this"),
    Setting(1602, "fdir.battery_hot_degc", "float", 20.0, 80.0, "degC", "Highest temperature of the battery; 10 K above it is SAFE"),
    Setting(1603, "fdir.battery_cold_degc", "float", -40.0, 20.0, "degC", "Lowest temperature at which the battery may be charged"),
    Setting(1604, "fdir.die_limit_degc", "float", 40.0, 110.0, "degC", "Highest temperature of the GPU's die"),
    Setting(1605, "fdir.memory_limit_degc", "float", 40.0, 120.0, "degC", "Highest temperature of the GPU's memory"),
    Setting(1606, "fdir.board_power_factor", "float", 1.0, 3.0, "", "Board power over governor.gpu_max_w that is too much"),
    Setting(1607, "fdir.ecc_corrected_per_s", "float", 0.0, 1e6, "1/s", "Corrected ECC errors that a sound card does not have"),
    Setting(1608, "fdir.ecc_uncorrected_max", "float", 1.0, 1e6, "", "Uncorrected ECC errors that ask for a power cycle"),
    Setting(1609, "fdir.probe_silent_s", "float", 2.0, 3600.0, "s", "The probe is silent without a sample for this long"),
    Setting(1610, "fdir.step_time_factor", "float", 1.5, 100.0, "", "A slow training step takes this many times as long"),
    Setting(1611, "fdir.loss_rise", "float", 0.01, 100.0, "", "A diverging loss is this far over its slow mean"),
    Setting(1612, "fdir.frames_bad_per_s", "float", 0.0, 1e6, "1/s", "Unreadable frames on a wire that are told"),
    Setting(1613, "fdir.disk_low_mb", "float", 1.0, 1e9, "MB", "Free space that is low; a fifth of it is full"),
    Setting(1614, "fdir.rss_max_mb", "float", 50.0, 1e6, "MB", "Memory of the daemon that ends in a restart"),
    Setting(1615, "fdir.overruns_per_s", "float", 0.1, 50.0, "1/s", "Minor frames skipped that are too many"),
    Setting(1401, "durable.persist_interval_s", "float", 1.0, 3600.0, "s", "Least time between two writes of what may wait"),
    Setting(1901, "gpu_health.xid_hold_s", "float", 1.0, 86_400.0, "s", "The parameter gpu.xid shows an XID for this long"),
    Setting(2001, "ladder.adapter_failed_s", "float", 1.0, 86_400.0, "s", "A mandatory adapter failed for this long is worth a restart"),
    Setting(2002, "ladder.quarantine_retries", "int", 1, 100, "", "Slow tries that every wanted job must have failed before a restart"),
    Setting(2003, "ladder.restarts_max", "int", 0, 100, "", "Restarts of the daemon by the ladder; the next one is SAFE"),
    Setting(2004, "ladder.good_day_s", "float", 60.0, 31_536_000.0, "s", "Time without trouble after which the count of restarts is 0"),
    Setting(2401, "shedding.derate_depth", "float", 0.05, 0.95, "", "DERATE at this depth between governor and SAFE"),
    Setting(2402, "shedding.budget_depth", "float", 0.05, 0.95, "", "ECLIPSE_BUDGET at this depth"),
    Setting(2403, "shedding.shed_depth", "float", 0.05, 0.95, "", "SHED at this depth"),
    Setting(2404, "shedding.off_depth", "float", 0.05, 0.95, "", "GPU_OFF at this depth"),
    Setting(2405, "shedding.hysteresis_depth", "float", 0.05, 2.0, "", "A rung may be left this much less deep"),
    Setting(2406, "shedding.radiator_room_k", "float", 0.5, 50.0, "K", "Depth 0 of the radiator lies this far under its limit"),
    Setting(2407, "shedding.derate_v", "float", 1.0, 150.0, "V", "DERATE under this bus voltage"),
    Setting(2408, "shedding.budget_v", "float", 1.0, 150.0, "V", "ECLIPSE_BUDGET under this bus voltage"),
    Setting(2409, "shedding.shed_v", "float", 1.0, 150.0, "V", "SHED under this bus voltage"),
    Setting(2410, "shedding.off_v", "float", 1.0, 150.0, "V", "Bus alarm: SHED at once, then GPU_OFF under this voltage"),
    Setting(2411, "shedding.hysteresis_v", "float", 0.05, 20.0, "V", "A rung may be left this far over its voltage"),
    Setting(2412, "shedding.derate_ceiling", "float", 0.05, 0.95, "", "Highest duty at DERATE"),
    Setting(2413, "shedding.hold_s", "float", 0.0, 60.0, "s", "Charge and temperatures must be beyond a limit for this long"),
    Setting(2414, "shedding.alarm_s", "float", 0.0, 10.0, "s", "The bus voltage must be under a limit for this long"),
    Setting(2415, "shedding.stale_off_s", "float", 1.0, 86_400.0, "s", "GPU_OFF when the sensors were silent or in doubt for this long"),
    Setting(2416, "shedding.derate_dwell_s", "float", 0.0, 3600.0, "s", "DERATE is left after this"),
    Setting(2417, "shedding.budget_dwell_s", "float", 0.0, 3600.0, "s", "ECLIPSE_BUDGET is left after this"),
    Setting(2418, "shedding.shed_dwell_s", "float", 0.0, 3600.0, "s", "SHED is left after this"),
    Setting(2419, "shedding.off_dwell_s", "float", 0.0, 3600.0, "s", "GPU_OFF is left after this"),
    Setting(2420, "shedding.safe_after_s", "float", 1.0, 86_400.0, "s", "SAFE when a reading stays at GPU_OFF for this long"),
    Setting(2601, "power_positive.array_worst", "float", 0.1, 1.0, "", "Part of the array that is left in the worst case"),
    Setting(2602, "power_positive.array_end_of_life", "float", 0.1, 1.0, "", "Part of its power that the array gives at the end of life"),
    Setting(2603, "power_positive.eclipse_worst_s", "float", 0.0, 1e6, "s", "Longest eclipse that SAFE must live through"),
    Setting(2604, "power_positive.load_factor", "float", 1.0, 5.0, "", "Bus load in the worst case over eps.bus_power_w"),
    Setting(2605, "power_positive.margin_wh", "float", 0.0, 100_000.0, "Wh", "Least charge that SAFE must gain in an orbit"),
    Setting(2501, "latchup.enabled", "bool", 0, 1, "", "Whether latch-ups are looked for"),
    Setting(2502, "latchup.step_w", "float", 10.0, 1000.0, "W", "Step of power that is a latch-up"),
    Setting(2503, "latchup.grave_w", "float", 20.0, 10_000.0, "W", "A step over this is cut without waiting for a checkpoint"),
    Setting(2504, "latchup.settle_s", "float", 0.0, 30.0, "s", "Power follows a new set-point within this"),
    Setting(2505, "latchup.learn_s", "float", 1.0, 3600.0, "s", "Time constant of the model's error"),
    Setting(2506, "latchup.curve_error", "float", 0.0, 0.5, "", "Error of the card's curve before it is learned"),
    Setting(2507, "latchup.bus_error_w", "float", 0.0, 1000.0, "W", "Error of the bus load before it is learned"),
    Setting(2508, "latchup.checkpoint_s", "float", 0.0, 60.0, "s", "A checkpoint may take this long before the rail is cut"),
    Setting(2509, "latchup.hold_s", "float", 0.5, 600.0, "s", "The rail stays off for this long the first time"),
    Setting(2510, "latchup.good_s", "float", 1.0, 604_800.0, "s", "After this without a latch-up the next is the first again"),
    Setting(2511, "latchup.cycles_max", "int", 1, 100, "", "Cycles in a row; the next latch-up leaves the rail off"),
    Setting(2701, "integrity.level_floor", "int", 1, 3, "", "Level where nothing asks for more: 1 watch, 2 standard, 3 storm"),
    Setting(2702, "integrity.standard_flux_cm2_s", "float", 0.1, 1e6, "1/(cm2 s)", "Standard from this proton flux on"),
    Setting(2703, "integrity.storm_flux_cm2_s", "float", 0.1, 1e6, "1/(cm2 s)", "Storm from this proton flux on"),
    Setting(2704, "integrity.clear_fraction", "float", 0.05, 0.95, "", "A level is left under this part of its threshold"),
    Setting(2705, "integrity.dwell_s", "float", 0.0, 86_400.0, "s", "And after this much mission time there"),
    Setting(2706, "integrity.flux_stale_s", "float", 1.0, 86_400.0, "s", "The flux is unknown without a believable reading for this long"),
    Setting(2707, "integrity.blind_level", "int", 1, 3, "", "Level at least while the flux is unknown: 1 watch, 2 standard, 3 storm"),
    Setting(2708, "integrity.ecc_window_s", "float", 1.0, 604_800.0, "s", "ECC errors are forgotten with this time constant (mission time)"),
    Setting(2709, "integrity.ecc_standard", "float", 0.1, 1e6, "", "Standard from this many corrected ECC errors in that time on"),
    Setting(2710, "integrity.ecc_storm", "float", 0.1, 1e6, "", "Storm from this many on; an uncorrected one counts as much"),
    Setting(2711, "integrity.finding_s", "float", 0.0, 604_800.0, "s", "Storm for this much mission time after a worker found damage"),
    Setting(2712, "integrity.open_window_s", "float", 1.0, 604_800.0, "s", "After this without open damage the next is the first again (mission time)"),
    Setting(2713, "integrity.open_max", "int", 1, 100, "", "Workers in a row with open damage: the card is power-cycled"),
    Setting(2201, "tracking.window_s", "float", 10.0, 600.0, "s", "Length of a measurement of the GPU's mean power"),
    Setting(2202, "tracking.prior_fraction", "float", 0.0, 1.0, "", "Uncertainty of the profile's powers; 0 flies on the profile alone"),
    Setting(2203, "tracking.drift_fraction", "float", 0.0, 0.2, "", "Their change from one window to the next"),
    Setting(2204, "tracking.trim_max", "float", 0.0, 0.9, "", "Largest correction of idle power and slope, as a part of the profile's"),
    Setting(2205, "tracking.mismatch_fraction", "float", 0.02, 1.0, "", "Energy counter and power board differ when they are further apart"),
    Setting(2206, "tracking.ripple_fraction", "float", 0.001, 1.0, "", "Share of a window's mean power that one micro-batch may make"),
)
# fmt: on
SETTING_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
SETTING_BY_ID: Final = {setting.id: setting for setting in SETTINGS}

_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_decoder: Final = msgspec.msgpack.Decoder(ParameterSet)


def encode(parameters: ParameterSet) -> bytes:
    """The image of a set; the same values give the same octets."""
    return _encoder.encode(parameters)


def decode(image: bytes) -> ParameterSet:
    """A checked set from its image; raises ``TableError`` with the first fault and where it is."""
    if len(image) > IMAGE_BYTES_MAX:
        raise TableError(f"image of {len(image)} bytes, at most {IMAGE_BYTES_MAX} are allowed")
    try:
        parameters = _decoder.decode(image)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TableError(f"is no image of parameters: {error}") from None
    check(parameters.values)
    return parameters


def check(values: Mapping[str, Number]) -> None:
    """Names, types and ranges; raises ``TableError`` with the first fault and where it is."""
    for name, value in values.items():
        setting = SETTING_BY_NAME.get(name)
        if setting is None:
            raise TableError(f"{name[:NAME_SHOWN]!r} is no parameter that can be changed in flight")
        if not _is_of(setting, value) or not setting.minimum <= value <= setting.maximum:
            raise TableError(f"{name} = {_shown(value)} is not {describe(setting)}")


def convert(setting: Setting, value: float) -> Number:
    """A number of a telecommand as the setting's type; raises ``TableError``."""
    if math.isfinite(value) and setting.minimum <= value <= setting.maximum:
        if setting.type == "float":
            return value
        if value == int(value):
            return bool(value) if setting.type == "bool" else int(value)
    raise TableError(f"{setting.name} = {value:.12g} is not {describe(setting)}")


def describe(setting: Setting) -> str:
    """What is allowed, in words: "a number from 0.1 to 0.95"."""
    if setting.type == "bool":
        return "true (1) or false (0)"
    kind = "a whole number" if setting.type == "int" else "a number"
    unit = f" {setting.unit}" if setting.unit else ""
    return f"{kind} from {setting.minimum:.12g} to {setting.maximum:.12g}{unit}"


def _is_of(setting: Setting, value: Number) -> bool:
    if setting.type == "bool" or isinstance(value, bool):
        return setting.type == "bool" and isinstance(value, bool)
    return isinstance(value, int) or (setting.type == "float" and math.isfinite(value))


def _shown(value: Number) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.12g}"

"""The dictionary: every telecommand, parameter, housekeeping group and event report, in one typed table.

This is the interface document as code. Ground and bench conform to it; the ICD, the XTCE export, the
command line's completion lists and help texts are generated from it. ``DICTIONARY_HASH`` travels in the boot
event and stands in every archive, so that two sides with different tables notice.

Rules
-----
- Names are ``subsystem.thing_unit``, units last. Ids, opcodes, APIDs and enumeration codes are never reused.
- Housekeeping bodies are msgpack arrays of float64 in the order given here. A parameter is added at the
  end of its group, never in the middle: readers with an older table then still read what they know.
- The first three parameters of each group are ``boot_count``, ``packet_sequence`` and ``world_s``: with the
  APID they identify a packet for store and forward, beyond the 14 bits of the CCSDS sequence count.
"""

# ruff: noqa: E501 - the event table has one entry per line.

import hashlib
from typing import Final

import msgspec

from .schema import (
    Argument,
    ArgumentType,
    EventReport,
    Hazard,
    HousekeepingGroup,
    Limits,
    Mode,
    Parameter,
    Severity,
    Telecommand,
)

# Application process identifiers (11 bits, CCSDS 133.0-B).
APID_TELECOMMAND: Final = 0x001
APID_VERIFICATION: Final = 0x010
APID_EVENT: Final = 0x011
APID_REPLY: Final = 0x012
APID_PING: Final = 0x013
APID_HK_FAST: Final = 0x020
APID_HK_MAIN: Final = 0x021
APID_HK_SLOW: Final = 0x022

# Destination id of the PUS-C telemetry header: in the bench profile it tells live data from playback.
DESTINATION_LIVE: Final = 0
DESTINATION_PLAYBACK: Final = 1

# Downlink priority of everything that is not housekeeping; 0 goes first.
PRIORITY_VERIFICATION: Final = 0
PRIORITY_EVENT: Final = 1
PRIORITY_REPLY: Final = 2

JOB: Final = Argument(name="job", type=ArgumentType.TEXT, minimum=1, maximum=32, text="Job id as configured")
GROUP: Final = Argument(
    name="group", type=ArgumentType.ENUM, choices=("fast", "main", "slow"), text="Housekeeping group"
)
IN_SERVICE: Final = (Mode.NOMINAL, Mode.COMPUTE, Mode.DOWNLINK)

TELECOMMANDS: Final[tuple[Telecommand, ...]] = (
    Telecommand(
        opcode=0x01, name="ping", service=17, subtype=1, text="Ask for one are-you-alive report (PUS 17,2)."
    ),
    Telecommand(
        opcode=0x02,
        name="arm",
        service=8,
        subtype=1,
        text="First of two steps of a hazardous command: arm its opcode for 60 s, once.",
        arguments=(
            Argument(name="opcode", type=ArgumentType.INT, minimum=1, maximum=0xFFFF, text="Opcode to arm"),
        ),
    ),
    Telecommand(
        opcode=0x10,
        name="mode.set",
        service=8,
        subtype=1,
        text="Enter SAFE, or leave it for NOMINAL. COMPUTE and DOWNLINK follow by themselves.",
        arguments=(
            Argument(
                name="mode",
                type=ArgumentType.ENUM,
                choices=("SAFE", "NOMINAL"),
                codes=(Mode.SAFE, Mode.NOMINAL),
                text="Mode to enter",
            ),
        ),
        modes=(Mode.SAFE, Mode.NOMINAL, Mode.COMPUTE, Mode.DOWNLINK),
    ),
    Telecommand(
        opcode=0x20,
        name="job.start",
        service=8,
        subtype=1,
        text="Start a configured job; it resumes from its newest verified checkpoint.",
        arguments=(JOB,),
        modes=IN_SERVICE,
        timeout_s=60.0,
    ),
    Telecommand(
        opcode=0x21,
        name="job.stop",
        service=8,
        subtype=1,
        text="Checkpoint a job, then stop its worker.",
        arguments=(JOB,),
        timeout_s=60.0,
    ),
    Telecommand(
        opcode=0x22,
        name="job.checkpoint",
        service=8,
        subtype=1,
        text="Commit a checkpoint of a training job now.",
        arguments=(JOB,),
        modes=IN_SERVICE,
        timeout_s=60.0,
    ),
    Telecommand(
        opcode=0x23,
        name="job.infer",
        service=8,
        subtype=1,
        text="Generate text with an inference job; the answer comes as a reply packet.",
        arguments=(
            JOB,
            Argument(name="prompt", type=ArgumentType.TEXT, minimum=1, maximum=800, text="Prompt"),
            Argument(
                name="max_tokens",
                type=ArgumentType.INT,
                minimum=1,
                maximum=512,
                default=64,
                text="Tokens to make",
            ),
            Argument(
                name="temperature",
                type=ArgumentType.FLOAT,
                minimum=0.0,
                maximum=2.0,
                default=0.8,
                text="Sampling temperature; 0 is greedy",
            ),
            Argument(
                name="top_k",
                type=ArgumentType.INT,
                minimum=0,
                maximum=1000,
                default=0,
                text="Sample among the k likeliest; 0 is all",
            ),
            Argument(
                name="seed",
                type=ArgumentType.INT,
                minimum=0,
                maximum=2**31 - 1,
                default=0,
                text="Sampling seed",
            ),
        ),
        modes=IN_SERVICE,
        timeout_s=300.0,
    ),
    Telecommand(
        opcode=0x30,
        name="governor.cap",
        service=8,
        subtype=1,
        text="Cap the GPU's power below what the governor would allow; 0 W idles it.",
        arguments=(
            Argument(
                name="power_cap_w", type=ArgumentType.FLOAT, unit="W", minimum=0.0, maximum=2000.0, text="Cap"
            ),
        ),
    ),
    Telecommand(
        opcode=0x31,
        name="gpu.rail",
        service=8,
        subtype=1,
        text="Switch the GPU's power rail. Off kills every worker.",
        arguments=(Argument(name="on", type=ArgumentType.BOOL, text="true is on"),),
        hazard=Hazard.HAZARDOUS,
    ),
    Telecommand(
        opcode=0x40,
        name="hk.enable",
        service=3,
        subtype=5,
        text="Enable periodic generation of a housekeeping group.",
        arguments=(GROUP,),
    ),
    Telecommand(
        opcode=0x41,
        name="hk.disable",
        service=3,
        subtype=6,
        text="Disable periodic generation of a housekeeping group.",
        arguments=(GROUP,),
    ),
    Telecommand(
        opcode=0x42,
        name="hk.request",
        service=3,
        subtype=27,
        text="Ask for one report of a housekeeping group now.",
        arguments=(GROUP,),
    ),
    Telecommand(
        opcode=0x43,
        name="hk.interval",
        service=3,
        subtype=31,
        text="Set the interval of a housekeeping group, within the bounds of the dictionary.",
        arguments=(
            GROUP,
            Argument(
                name="interval_s",
                type=ArgumentType.FLOAT,
                unit="s",
                minimum=0.1,
                maximum=3600.0,
                text="Interval",
            ),
        ),
    ),
    Telecommand(
        opcode=0x50,
        name="event.filter",
        service=5,
        subtype=128,
        text="Set the least severity that is reported. CRITICAL and FATAL always are.",
        arguments=(
            Argument(
                name="severity",
                type=ArgumentType.ENUM,
                choices=tuple(s.name for s in Severity if s <= Severity.CRITICAL),
                text="Least severity reported",
            ),
        ),
    ),
    Telecommand(
        opcode=0x60,
        name="recorder.acknowledge",
        service=15,
        subtype=128,
        text="The ground has archived these packets; the recorder need not send them again.",
        arguments=(
            Argument(name="boot", type=ArgumentType.INT, minimum=1, maximum=2**32 - 1, text="Boot count"),
            Argument(name="apid", type=ArgumentType.INT, minimum=0, maximum=0x7FF, text="APID"),
            Argument(name="first", type=ArgumentType.INT, minimum=0, maximum=2**53, text="First sequence"),
            Argument(name="last", type=ArgumentType.INT, minimum=0, maximum=2**53, text="Last sequence"),
        ),
    ),
    Telecommand(
        opcode=0x70,
        name="daemon.restart",
        service=8,
        subtype=1,
        text="Checkpoint, stop all workers and restart the daemon process.",
        hazard=Hazard.HAZARDOUS,
    ),
)

SOC_LIMITS: Final = Limits(red_low=0.70, yellow_low=0.72)
GPU_TEMP_LIMITS: Final = Limits(yellow_high=79.0, red_high=80.0)
RADIATOR_LIMITS: Final = Limits(yellow_high=58.0, red_high=60.0)
MODES: Final = tuple(m.name for m in Mode)
OFF_ON: Final = ("OFF", "ON")
JOB_STATES: Final = ("OFF", "STARTING", "RUNNING", "STOPPING", "FAILED", "QUARANTINED")
GOVERNOR_LIMITS: Final = ("IDLE", "ENERGY", "THERMAL", "CAP", "MAXIMUM")
TIME_QUALITY: Final = ("UNSYNCHRONISED", "FREEWHEELING", "SYNCHRONISED")

PARAMETERS: Final[tuple[Parameter, ...]] = (
    Parameter(name="boot_count", text="Boots of the daemon since its state directory was made"),
    Parameter(name="packet_sequence", text="Sequence of this packet within boot and APID, not truncated"),
    Parameter(name="world_s", unit="s", text="Mission time at sampling"),
    Parameter(name="uptime_s", unit="s", text="Onboard elapsed time since this boot (machine clock)"),
    Parameter(name="frame_count", text="Minor frames completed since this boot"),
    Parameter(name="frame_jitter_ms", unit="ms", text="Lateness of the last minor frame"),
    Parameter(name="frame_overruns", text="Minor frames skipped because one took too long"),
    Parameter(name="time_quality", states=TIME_QUALITY, text="Quality of the time correlation"),
    Parameter(name="mode", states=MODES, text="Vehicle mode"),
    Parameter(name="mode_reason", text="Event id that caused the present mode; 0 is none"),
    Parameter(name="contact", states=OFF_ON, text="Radio carrier lock"),
    # power
    Parameter(name="eps.soc_fraction", limits=SOC_LIMITS, text="Battery state of charge (fuel gauge)"),
    Parameter(name="eps.bus_voltage_v", unit="V", text="Main bus voltage"),
    Parameter(name="eps.bus_current_a", unit="A", text="Main bus load current"),
    Parameter(name="eps.battery_voltage_v", unit="V", text="Battery terminal voltage"),
    Parameter(name="eps.battery_current_a", unit="A", text="Battery current, positive when charging"),
    Parameter(name="eps.battery_temp_degc", unit="degC", text="Battery temperature"),
    Parameter(name="eps.array_power_w", unit="W", text="Solar array output"),
    Parameter(name="eps.sun_fraction", text="Sun sensor, 0 dark to 1 full sun"),
    Parameter(name="eps.eclipse", states=OFF_ON, text="Eclipse as seen by the sun sensor, or forecast"),
    Parameter(name="eps.arc_remaining_s", unit="s", text="Forecast time to the end of this sunlit or dark arc"),
    Parameter(name="eps.gpu_rail", states=OFF_ON, text="GPU power rail, as switched"),
    # heat
    Parameter(name="thermal.gpu_degc", unit="degC", limits=GPU_TEMP_LIMITS, text="GPU node temperature"),
    Parameter(name="thermal.radiator_degc", unit="degC", limits=RADIATOR_LIMITS, text="Radiator temperature"),
    # GPU, as the probe reads it
    Parameter(name="gpu.power_w", unit="W", text="GPU board power"),
    Parameter(name="gpu.die_degc", unit="degC", text="GPU die temperature as the card reports it"),
    Parameter(name="gpu.memory_degc", unit="degC", text="GPU memory temperature as the card reports it"),
    Parameter(name="gpu.energy_j", unit="J", text="GPU energy counter"),
    Parameter(name="gpu.utilisation_fraction", text="GPU utilisation as the card reports it"),
    Parameter(name="gpu.ecc_uncorrected", text="Uncorrected ECC errors (volatile)"),
    Parameter(name="gpu.unsupported_fields", text="Probe fields this card does not support"),
    # governor
    Parameter(name="governor.power_budget_w", unit="W", text="GPU power the governor allows now"),
    Parameter(name="governor.limit", states=GOVERNOR_LIMITS, text="What binds the governor"),
    Parameter(name="governor.duty", text="Duty set-point over all workers"),
    Parameter(name="governor.power_cap_w", unit="W", text="Operator's cap; NaN is none"),
    # payload
    Parameter(name="train.state", states=JOB_STATES, text="Training job"),
    Parameter(name="train.step", text="Optimiser steps done, over all restarts"),
    Parameter(name="train.loss", text="Training loss of the last step"),
    Parameter(name="train.tokens_per_s", unit="1/s", text="Training throughput over the last heartbeats"),
    Parameter(name="train.micro_batch_ms", unit="ms", text="Longest micro-batch since the last heartbeat"),
    Parameter(name="train.restarts", text="Restarts of the training worker since boot"),
    Parameter(name="infer.state", states=JOB_STATES, text="Inference job"),
    Parameter(name="infer.pending", text="Inference requests not answered yet"),
    Parameter(name="infer.replies", text="Inference replies released since boot"),
    Parameter(name="infer.tokens", text="Tokens generated since boot"),
    Parameter(name="infer.generation", text="Checkpoint generation being served; NaN is none"),
    Parameter(name="infer.restarts", text="Restarts of the inference worker since boot"),
    Parameter(name="checkpoint.generation", text="Newest verified generation; NaN is none"),
    Parameter(name="checkpoint.step", text="Optimiser step of that generation"),
    Parameter(name="checkpoint.age_s", unit="s", text="Mission time since it was committed"),
    Parameter(name="checkpoint.committed", text="Generations committed since boot"),
    Parameter(name="checkpoint.rejected", text="Generations found corrupt or half-written since boot"),
    Parameter(name="checkpoint.stall_ms", unit="ms", text="Training stall of the last checkpoint"),
    # link
    Parameter(name="tc.accepted", text="Telecommands accepted since boot"),
    Parameter(name="tc.rejected", text="Telecommands refused since boot"),
    Parameter(name="tc.in_flight", text="Accepted telecommands not completed yet"),
    Parameter(name="tm.sent", text="Packets handed to the radio since boot"),
    Parameter(name="tm.playback", text="Of these, played back from the recorder"),
    Parameter(name="tm.dropped", text="Packets lost on board because a bounded queue was full"),
    Parameter(name="recorder.pending", text="Recorded packets not acknowledged by the ground"),
    Parameter(name="recorder.shed", text="Packets shed by the recorder's quota, least important first"),
    Parameter(name="radio.frames_bad", text="Frames or packets from the radio that were dropped"),
    Parameter(name="avionics.frames_bad", text="Frames from the avionics wire that were dropped"),
    Parameter(name="events.suppressed", text="Event reports suppressed by rate or filter"),
    # position and environment
    Parameter(name="orbit.latitude_deg", unit="deg", text="Geodetic latitude"),
    Parameter(name="orbit.longitude_deg", unit="deg", text="Longitude, east positive"),
    Parameter(name="orbit.altitude_km", unit="km", text="Altitude"),
    Parameter(name="radiation.proton_flux_cm2_s", unit="1/(cm2 s)", text="Protons above 10 MeV"),
    # health of the daemon itself
    Parameter(name="daemon.rss_mb", unit="MB", text="Resident memory of the daemon"),
    Parameter(name="daemon.cpu_fraction", text="Processor time of the daemon per second of one core"),
    Parameter(name="daemon.disk_free_mb", unit="MB", text="Free space of the state directory"),
    Parameter(name="adapters.restarts", text="Adapter restarts since boot"),
    Parameter(name="adapters.failed", text="Adapters given up as failed"),
)

IDENTITY: Final = ("boot_count", "packet_sequence", "world_s")

HOUSEKEEPING: Final[tuple[HousekeepingGroup, ...]] = (
    HousekeepingGroup(
        sid=1,
        name="fast",
        apid=APID_HK_FAST,
        interval_s=0.1,
        interval_min_s=0.1,
        interval_max_s=60.0,
        priority=5,
        text="Power, heat and pacing at the control rate",
        parameters=(
            *IDENTITY,
            "frame_jitter_ms",
            "mode",
            "eps.soc_fraction",
            "eps.bus_voltage_v",
            "eps.battery_current_a",
            "eps.array_power_w",
            "thermal.gpu_degc",
            "thermal.radiator_degc",
            "gpu.power_w",
            "governor.power_budget_w",
            "governor.duty",
            "train.step",
        ),
    ),
    HousekeepingGroup(
        sid=2,
        name="main",
        apid=APID_HK_MAIN,
        interval_s=1.0,
        interval_min_s=0.1,
        interval_max_s=3600.0,
        priority=3,
        text="What an operator watches",
        parameters=(
            *IDENTITY,
            "uptime_s",
            "time_quality",
            "mode",
            "mode_reason",
            "contact",
            "eps.soc_fraction",
            "eps.bus_voltage_v",
            "eps.bus_current_a",
            "eps.battery_voltage_v",
            "eps.battery_current_a",
            "eps.array_power_w",
            "eps.sun_fraction",
            "eps.eclipse",
            "eps.arc_remaining_s",
            "eps.gpu_rail",
            "thermal.gpu_degc",
            "thermal.radiator_degc",
            "gpu.power_w",
            "gpu.die_degc",
            "gpu.energy_j",
            "gpu.utilisation_fraction",
            "governor.power_budget_w",
            "governor.limit",
            "governor.duty",
            "governor.power_cap_w",
            "train.state",
            "train.step",
            "train.loss",
            "train.tokens_per_s",
            "infer.state",
            "infer.pending",
            "infer.replies",
            "checkpoint.generation",
            "checkpoint.step",
            "checkpoint.age_s",
            "orbit.latitude_deg",
            "orbit.longitude_deg",
            "radiation.proton_flux_cm2_s",
            "recorder.pending",
        ),
    ),
    HousekeepingGroup(
        sid=3,
        name="slow",
        apid=APID_HK_SLOW,
        interval_s=10.0,
        interval_min_s=1.0,
        interval_max_s=3600.0,
        priority=4,
        text="Counters and the daemon's own health",
        parameters=(
            *IDENTITY,
            "uptime_s",
            "frame_count",
            "frame_overruns",
            "eps.battery_temp_degc",
            "gpu.memory_degc",
            "gpu.ecc_uncorrected",
            "gpu.unsupported_fields",
            "train.micro_batch_ms",
            "train.restarts",
            "infer.tokens",
            "infer.generation",
            "infer.restarts",
            "checkpoint.committed",
            "checkpoint.rejected",
            "checkpoint.stall_ms",
            "tc.accepted",
            "tc.rejected",
            "tc.in_flight",
            "tm.sent",
            "tm.playback",
            "tm.dropped",
            "recorder.pending",
            "recorder.shed",
            "radio.frames_bad",
            "avionics.frames_bad",
            "events.suppressed",
            "orbit.altitude_km",
            "daemon.rss_mb",
            "daemon.cpu_fraction",
            "daemon.disk_free_mb",
            "adapters.restarts",
            "adapters.failed",
        ),
    ),
)

_D, _I, _W, _E, _C, _F = Severity


def _event(id: int, name: str, severity: Severity, template: str, text: str) -> EventReport:
    return EventReport(id=id, name=name, severity=severity, template=template, text=text)


# One line per event, so that the table can be read as one.
# fmt: off
EVENTS: Final[tuple[EventReport, ...]] = (
    # 0x01.. the daemon
    _event(0x01, "BOOT", _I, "boot {boot}, cause {cause}, dictionary {dictionary}, configuration {configuration}", "The daemon came up."),
    _event(0x02, "SHUTDOWN", _I, "shutdown: {reason}", "The daemon goes down in an orderly way."),
    _event(0x03, "CRASH_LOOP", _C, "{count} unclean boots within {window_s:g} s: staying in SAFE", "Too many restarts that nobody asked for."),
    _event(0x04, "FRAME_OVERRUN", _W, "minor frame late by {late_ms:.0f} ms, {skipped} skipped", "A minor frame missed its deadline."),
    _event(0x05, "ADAPTER_RESTARTED", _W, "adapter {adapter} restarted ({restarts}): {reason}", "An adapter failed and was restarted."),
    _event(0x06, "ADAPTER_FAILED", _E, "adapter {adapter} given up after {restarts} restarts: {reason}", "An adapter failed too often."),
    _event(0x07, "STORE_FAULT", _E, "store: {reason}", "A durable write or read failed, or a copy was corrupt."),
    _event(0x08, "EVENTS_SUPPRESSED", _W, "{count} event reports suppressed", "Rate limit or filter was active."),
    # 0x10.. mode
    _event(0x10, "MODE_CHANGED", _I, "mode {old} → {new}: {reason}", "The vehicle changed its mode."),
    _event(0x11, "SAFE_ENTERED", _C, "SAFE: {reason}", "The vehicle entered SAFE."),
    _event(0x12, "SENSORS_STALE", _E, "no valid sensor frame for {age_s:.1f} s", "Avionics are silent."),
    _event(0x13, "SENSORS_RECOVERED", _I, "sensor frames are back after {age_s:.1f} s", "Avionics talk again."),
    _event(0x14, "SENSOR_INVALID", _W, "{sensor} reads {value:g}: outside its physical range", "A reading was ignored."),
    # 0x20.. power and heat
    _event(0x20, "ECLIPSE_ENTERED", _I, "eclipse entry, SoC {soc:.3f}", "The sun is gone."),
    _event(0x21, "ECLIPSE_LEFT", _I, "eclipse exit, SoC {soc:.3f}", "The sun is back."),
    _event(0x22, "SOC_LOW", _C, "SoC {soc:.3f} under {limit:.3f}", "The battery is below the SAFE threshold."),
    _event(0x23, "BUS_UNDERVOLTAGE", _C, "bus {voltage_v:.1f} V under {limit_v:.1f} V", "The bus sags."),
    _event(0x24, "GPU_HOT", _C, "GPU node {temp_degc:.1f} degC over {limit_degc:.1f}", "The GPU node is too hot."),
    _event(0x25, "RADIATOR_HOT", _C, "radiator {temp_degc:.1f} degC over {limit_degc:.1f}", "The radiator is too hot."),
    _event(0x26, "GOVERNOR_LIMIT", _D, "governor bound by {limit}, budget {budget_w:.0f} W", "What binds the power budget changed."),
    _event(0x27, "RAIL_SWITCHED", _W, "GPU rail {state}: {reason}", "The GPU's power rail was switched."),
    # 0x30.. payload
    _event(0x30, "JOB_STATE", _I, "job {job}: {old} → {new}: {reason}", "A job changed its state."),
    _event(0x31, "WORKER_READY", _I, "job {job}: pid {pid} on {device}, resumed at step {step}, generation {generation}", "A worker is up; generation −1 is a fresh start."),
    _event(0x32, "WORKER_DIED", _E, "job {job}: worker ended with {returncode}: {reason}", "A worker went down without being asked."),
    _event(0x33, "WORKER_HUNG", _E, "job {job}: no progress for {age_s:.1f} s: killed", "Heartbeats came or not; the work did not advance."),
    _event(0x34, "WORKER_FAULT", _E, "job {job}: {code}: {reason}", "A worker reports a fault of its own."),
    _event(0x35, "WORKER_QUARANTINED", _E, "job {job}: {restarts} restarts in {window_s:g} s, next try in {retry_s:g} s", "A job failed too often and is retried slowly."),
    _event(0x36, "REQUEST_FAILED", _W, "job {job}: request {request}: {reason}", "An inference request was not answered."),
    _event(0x37, "MODEL_SWAPPED", _I, "job {job} serves generation {generation} (step {step})", "Inference took a newer verified checkpoint."),
    # 0x40.. checkpoints
    _event(0x40, "CHECKPOINT_COMMITTED", _I, "job {job}: generation {generation}, step {step}, digest {digest}, stall {stall_ms:.1f} ms", "A checkpoint was written, read back and verified."),
    _event(0x41, "CHECKPOINT_REJECTED", _W, "job {job}: generation {generation}: {reason}", "A corrupt or half-written generation was skipped."),
    _event(0x42, "CHECKPOINT_FAILED", _E, "job {job}: {reason}", "A checkpoint could not be written."),
    # 0x50.. telecommands and link
    _event(0x50, "TC_REFUSED", _W, "telecommand {command} refused: {code}: {reason}", "A command was not accepted."),
    _event(0x51, "TC_FAILED", _W, "telecommand {command} failed: {code}: {reason}", "A command was accepted, then failed."),
    _event(0x52, "TC_GARBAGE", _W, "{count} unreadable units dropped from the radio", "Bytes that are no telecommand."),
    _event(0x53, "CONTACT_START", _I, "acquisition of signal, {pending} packets pending", "A pass begins."),
    _event(0x54, "CONTACT_END", _I, "loss of signal, {pending} packets pending", "A pass ends."),
    _event(0x55, "RECORDER_SHED", _W, "recorder over quota: {count} packets shed", "Least important packets were dropped."),
    _event(0x56, "TM_DROPPED", _W, "{count} packets dropped: {reason}", "A bounded queue was full."),
    # 0x60.. GPU
    _event(0x60, "PROBE_UNSUPPORTED", _I, "probe {source}: {count} unsupported fields: {fields}", "What this card cannot tell."),
    _event(0x61, "PROBE_SILENT", _E, "no GPU telemetry for {age_s:.1f} s", "The probe does not answer."),
    _event(0x62, "PROBE_RECOVERED", _I, "GPU telemetry is back", "The probe answers again."),
)
# fmt: on

TELECOMMAND_BY_OPCODE: Final = {c.opcode: c for c in TELECOMMANDS}
TELECOMMAND_BY_NAME: Final = {c.name: c for c in TELECOMMANDS}
PARAMETER_BY_NAME: Final = {p.name: p for p in PARAMETERS}
GROUP_BY_NAME: Final = {g.name: g for g in HOUSEKEEPING}
GROUP_BY_SID: Final = {g.sid: g for g in HOUSEKEEPING}
EVENT_BY_ID: Final = {e.id: e for e in EVENTS}
EVENT_BY_NAME: Final = {e.name: e for e in EVENTS}

DICTIONARY_HASH: Final = hashlib.sha256(
    msgspec.json.encode([TELECOMMANDS, PARAMETERS, HOUSEKEEPING, EVENTS], order="sorted")
).hexdigest()[:16]

"""The dictionary's event reports: id, name, severity, and the text over the fields that travel.

Ids are never reused. Sixteen ids make a source: one subsystem, with one rate limit (``core.events``).
"""

# ruff: noqa: E501 - the table has one entry per line.

from typing import Final

from .schema import EventReport, Severity

_D, _I, _W, _E, _C, _F = Severity


def _event(
    id: int, name: str, severity: Severity, template: str, text: str, *, security: bool = False
) -> EventReport:
    return EventReport(id=id, name=name, severity=severity, template=template, text=text, security=security)


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
    _event(0x08, "EVENTS_SUPPRESSED", _W, "{count} event reports suppressed, {of_most} of them {most}", "The rate limit of a source was active."),
    _event(0x09, "DURABLE_REFUSED", _E, "durable fact {key} is unusable, defaults stand: {reason}", "What a former boot wrote cannot be read."),
    # 0x10.. mode
    _event(0x10, "MODE_CHANGED", _I, "mode {old} → {new}: {reason}", "The vehicle changed its mode."),
    _event(0x11, "SAFE_ENTERED", _C, "SAFE: {reason}", "The vehicle entered SAFE."),
    _event(0x12, "SENSORS_STALE", _E, "no valid sensor frame for {age_s:.1f} s", "Avionics are silent."),
    _event(0x13, "SENSORS_RECOVERED", _I, "sensor frames are back after {age_s:.1f} s", "Avionics talk again."),
    _event(0x14, "SENSOR_INVALID", _W, "{sensor} reads {value:g}: outside its physical range", "A reading was ignored."),
    _event(0x15, "SENSOR_FROZEN", _W, "{sensor} stands still at {value:g}: not believed", "A noisy sensor gives one value again and again, or a whole frame repeats."),
    _event(0x16, "SENSOR_JUMPED", _W, "{sensor} jumped to {value:g}: not believed", "A reading moved faster than the quantity can."),
    _event(0x17, "SENSOR_CONTRADICTED", _W, "sensors contradict: {check}; not believed: {sensor}", "Two sensors that see the same power do not agree."),
    _event(0x18, "SENSOR_TRUSTED", _I, "{sensor} is believed again after {after}", "The verdict on a sensor was lifted."),
    _event(0x19, "CHARGE_CONTRADICTED", _W, "gauge says {gauge:.3f}, voltage {voltage:.3f}: the lower one is believed", "Fuel gauge and battery voltage do not fit together."),
    # 0x20.. power and heat
    _event(0x20, "ECLIPSE_ENTERED", _I, "eclipse entry, SoC {soc:.3f}", "The sun is gone."),
    _event(0x21, "ECLIPSE_LEFT", _I, "eclipse exit, SoC {soc:.3f}", "The sun is back."),
    _event(0x22, "SOC_LOW", _C, "SoC {soc:.3f} under {limit:.3f}", "The battery is below the SAFE threshold."),
    _event(0x23, "BUS_UNDERVOLTAGE", _C, "bus {voltage_v:.1f} V under {limit_v:.1f} V", "The bus sags."),
    _event(0x24, "GPU_HOT", _C, "GPU node {temp_degc:.1f} degC over {limit_degc:.1f}", "The GPU node is too hot."),
    _event(0x25, "RADIATOR_HOT", _C, "radiator {temp_degc:.1f} degC over {limit_degc:.1f}", "The radiator is too hot."),
    _event(0x26, "GOVERNOR_LIMIT", _D, "governor bound by {limit}, budget {budget_w:.0f} W", "What binds the power budget changed."),
    _event(0x27, "RAIL_SWITCHED", _W, "GPU rail {state}: {reason}", "The GPU's power rail was switched."),
    _event(0x2C, "BATTERY_FULL", _D, "battery full, estimated at {soc:.4f} with sigma {sigma:.4f}", "The battery refuses charge: its state of charge is known."),
    _event(0x2D, "GAUGE_REFUSED", _W, "fuel gauge not believed: it would mean {gauge:.3f}, counted is {soc:.3f}", "The gauge contradicts the counted charge."),
    _event(0x2E, "GAUGE_HEARD", _I, "fuel gauge agrees again after {refused_s:.0f} s of mission time", "The gauge takes part in the estimate again."),
    _event(0x2F, "CHARGE_RESET", _W, "counted charge {soc:.3f} given up, gauge reads {gauge:.3f}", "Gauge and voltage agreed against the counted charge for long."),
    _event(0x2A, "BUS_ALARM", _C, "bus {voltage_v:.1f} V (limit {limit_v:.1f} V), {current_a:.1f} A (limit {limit_a:.1f} A): the payload rests", "The bus is beyond a hard limit; the rail goes when rest does not help."),
    _event(0x2B, "BUS_ALARM_OVER", _I, "the bus is well again, the alarm lasted {duration_s:.1f} s", "The payload may work again."),
    _event(0x28, "PLAN_FALLBACK", _W, "no plan, the closed form governs: {reason}", "The planner's plan was lost or grew too old."),
    _event(0x29, "PLAN_RESUMED", _I, "a plan is followed again", "The planner answers again."),
    _event(0xE3, "POWER_MISMATCH", _W, "GPU power: counter {counter_w:.0f} W, power board {rail_w:.0f} W: the higher one is believed", "The two witnesses of the GPU's power disagree."),
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
    _event(0x50, "TC_REFUSED", _W, "telecommand {command} refused: {code}: {reason}", "A command was not accepted.", security=True),
    _event(0x51, "TC_FAILED", _W, "telecommand {command} failed: {code}: {reason}", "A command was accepted, then failed."),
    _event(0x52, "TC_GARBAGE", _W, "{count} unreadable units dropped from the radio", "Bytes that are no telecommand.", security=True),
    _event(0x53, "CONTACT_START", _I, "acquisition of signal, {pending} packets pending", "A pass begins."),
    _event(0x54, "CONTACT_END", _I, "loss of signal, {pending} packets pending", "A pass ends."),
    _event(0x55, "RECORDER_SHED", _W, "recorder over quota: {count} packets shed", "Least important packets were dropped."),
    _event(0x56, "TM_DROPPED", _W, "{count} packets dropped: {reason}", "A bounded queue was full."),
    _event(0x57, "CONTACT_LOST", _C, "no telecommand for {silence_h:.1f} h of mission time, limit {limit_h:g} h", "The ground is silent for too long."),
    _event(0x58, "CONTACT_REGAINED", _I, "a telecommand came after {silence_h:.1f} h", "The ground is heard again."),
    # 0x60.. GPU
    _event(0x60, "PROBE_UNSUPPORTED", _I, "probe {source}: {count} unsupported fields: {fields}", "What this card cannot tell."),
    _event(0x61, "PROBE_SILENT", _E, "no GPU telemetry for {age_s:.1f} s", "The probe does not answer."),
    _event(0x62, "PROBE_RECOVERED", _I, "GPU telemetry is back", "The probe answers again."),
    _event(0x63, "GPU_XID", _E, "GPU reports XID {xid}: {meaning}", "The driver reports a fault of the card or of what runs on it."),
    _event(0x64, "GPU_XID_LOST", _W, "{count} XID reports of the GPU came too fast to be named", "More XIDs than one sample of the probe keeps."),
    _event(0x65, "GPU_ECC", _E, "{count} new uncorrected ECC errors, {total} since the driver started", "Data on the card was lost."),
    _event(0x66, "GPU_ECC_CORRECTED", _W, "{count} new corrected ECC errors, {total} since the driver started", "The card repaired its memory."),
    _event(0x67, "CARD_MISMATCH", _W, "the card is {card}, the profile of {profile}: the straight line is flown", "The probe reads another card than the profile's."),
    # 0x70.. tables
    _event(0x70, "TABLE_ACTIVATED", _I, "table {table} from {source}: {content}, CRC-32 {crc32}", "A table is in force from now on; the source is ground, store or default."),
    _event(0x71, "TABLE_REJECTED", _E, "stored table {table} is unusable, the default stands: {reason}", "What a former boot stored is refused."),
    _event(0x72, "PARAMETERS_CHANGED", _I, "{count} parameters changed: {changes}", "Values of the configuration changed together."),
    _event(0x73, "TABLES_SET_ASIDE", _E, "crash loop: {count} stored tables are not flown, the defaults stand: {names}", "A table may be what crashes the daemon; the next boot outside a crash loop takes them up again."),
    # 0xD0.. limits
    _event(0xD0, "FDIR_TRIPPED", _W, "actionpoint {action} ({name}, level {level}, time {count}): {response}: {condition}", "A condition held long enough; the response is done in the same frame."),
    _event(0xD1, "FDIR_RELEASED", _I, "actionpoint {action} ({name}) released after {response}", "The condition has been gone for long enough."),
    _event(0xD2, "FDIR_STALE", _W, "{count} watchpoints without valid samples: {names}", "Watchpoints went stale: neither clear nor tripped."),
    # 0x90.. stored sequences
    _event(0x90, "SEQUENCE_STARTED", _I, "{sequence} ({name}) runs from step {step} of {steps}: {by}", "A stored sequence began to run."),
    _event(0x91, "SEQUENCE_WAITING", _I, "{sequence} waits for valid time before step {step}: {by}", "A stored sequence needs the onboard time."),
    _event(0x92, "SEQUENCE_ENDED", _I, "{sequence} ended: {dispatched} dispatched, {failed} failed, {skipped} skipped", "The outcome of its last step is known."),
    _event(0x93, "SEQUENCE_ABORTED", _W, "{sequence} aborted before step {step}: {reason}", "A stored sequence ended before its time."),
    _event(0x94, "SEQUENCE_SUSPENDED", _I, "{sequence} suspended before step {step}", "Its time stands still."),
    _event(0x95, "SEQUENCE_RESUMED", _I, "{sequence} resumed at step {step}", "Its time runs on."),
    _event(0x96, "SEQUENCE_STEP_FAILED", _W, "{sequence} step {step}, {command}: {code}: {reason}", "A stored command was refused, failed, or was not whole."),
    _event(0x97, "SEQUENCE_SKIPPED", _W, "{sequence}: {count} steps from step {step} on skipped, {late_s:.1f} s late", "Absolute steps came too late to be dispatched."),
    _event(0x98, "SEQUENCE_APPENDED", _I, "{sequence}: {added} steps appended, {passed} in the past left out, {steps} in all", "Steps were merged into an absolute sequence."),
    _event(0x99, "SEQUENCE_REFUSED", _W, "{sequence} not started for {by}: {reason}", "A response wanted a sequence that is not loaded or runs already."),
    # 0xA0.. time
    _event(0xA0, "TIME_STEPPED", _W, "time stepped by {step_s:+.3f} s, mission time by {mission_step_s:+.3f} s, warp {warp:g}", "Consistent frames contradicted the time correlation; their time was adopted."),
    _event(0xA1, "TIME_QUALITY", _I, "time {old} → {new}", "The quality of the time correlation changed."),
    # 0xE0.. load shedding and latch-ups
    _event(0xE0, "SHED_RUNG", _W, "load shedding {old} → {new}: {cause}", "The ladder between the governor and SAFE moved."),
    _event(0xE1, "LATCH_UP", _E, "latch-up {count}: the GPU rail draws {excess_w:.0f} W more than commanded, {answer}", "A step of the bus current that no commanded work explains."),
    _event(0xE2, "STRAY_LOAD", _W, "the bus draws {excess_w:.0f} W more than commanded, and not through the GPU rail", "An unknown load; a power cycle of the card would not end it."),
    # 0xF0.. integrity of the work
    _event(0xF0, "INTEGRITY_LEVEL", _I, "integrity level {old} → {new}: {reason}", "The workers look for damage harder, or less hard."),
    _event(0xF1, "INTEGRITY_REPAIRED", _W, "job {job}: damage mended in place ({count} since the last report), newest by {detector} in {where}", "Memory was damaged and holds its old value again."),
    _event(0xF2, "INTEGRITY_RECOMPUTED", _W, "job {job}: wrong results computed again ({count} since the last report), newest by {detector} in {where}", "A result did not pass; computed again it did."),
    _event(0xF3, "INTEGRITY_CONTAINED", _W, "job {job}: damaged work thrown away ({count} since the last report), newest by {detector} in {where}", "A training step or an answer was damaged and is not used."),
    _event(0xF4, "INTEGRITY_OPEN", _E, "job {job}: damage that cannot be mended ({count} since the last report), newest by {detector} in {where}", "The workers are killed and come back from their last verified checkpoint."),
    _event(0xF5, "INTEGRITY_HELD", _I, "integrity level held at {level} {span}", "The operator holds the level, whatever orbit and card ask for."),
    _event(0xF6, "INTEGRITY_RELEASED", _I, "integrity level no longer held at {level}: {reason}", "The level follows orbit and card again."),
    # 0xC0.. recorder
    _event(0xC0, "RECORDER_FULL", _E, "disk full: the recorder goes on within {used_mb:.1f} MB, least important goes first", "Not the quota but the disk is the limit."),
    _event(0xC1, "RECORDER_RECOVERED", _I, "the disk has room again, the recorder holds {used_mb:.1f} MB", "The quota is the limit again."),
    _event(0xC2, "EVENTS_REPLAYED", _I, "{count} events of the ring sent again", "A replay of the ring is done."),
    # 0xB0.. supervision and restarts
    _event(0xB0, "ADAPTER_LATE", _W, "adapter {adapter}: no progress for {idle_s:.1f} s", "An adapter missed 3 of its cycles."),
    _event(0xB1, "ADAPTER_STUCK", _E, "adapter {adapter}: no progress for {idle_s:.1f} s: stuck", "An adapter missed 5 of its cycles; a mandatory one holds the watchdog back."),
    _event(0xB2, "ADAPTER_MOVES", _I, "adapter {adapter} moves again after {idle_s:.1f} s", "An adapter that was late works again."),
    _event(0xB3, "WORKER_LATE", _W, "job {job}: no progress for {age_s:.1f} s", "A worker missed 3 of 5 cycles of its progress; after 5 it is killed."),
    _event(0xB4, "LADDER_RESTART", _C, "the daemon restarts itself ({number} of {of}): {reason}", "Nothing below a restart of the daemon helped."),
    _event(0xB5, "LADDER_EXHAUSTED", _C, "the daemon restarted itself {restarts} times and it did not help: {reason}", "SAFE follows instead of another restart."),
    _event(0xB6, "LADDER_CLEARED", _I, "restart count {restarts} back to 0 after {quiet_h:.1f} h without trouble", "The restart ladder begins anew."),
    _event(0xB7, "RESET_RECORD", _I, "boot {boot}: {cause}, after {uptime_s:.0f} s, mode {mode}, SAFE cause {safe_cause}, TAI {tai_s}, {reason}", "One of the last resets, on request."),
    _event(0xB8, "WATCHDOG_FAULT", _E, "watchdog: {reason}", "A watchdog is missing, does not hear, or its kicks have no effect."),
)
# fmt: on

"""The executive: one minor frame of the vehicle, in a fixed order, with bounded work.

    sense → limits (power, heat) → mode → governor → payload → checkpoint → commanding → housekeeping → downlink

``step`` is pure: the next vehicle and the effects follow from the vehicle, the configuration, the inputs and the
time. Outcomes of effects come back as inputs of a later frame. Subsystems say what happened with ``Event``
values; here they pass the rate limit and become packets.

``accept`` is the second entrance, for one telecommand between two frames: it is checked, numbered and answered at
once, and executed in the next frame.

Supervision. A frame ends with ``KickWatchdog`` only when every mandatory adapter's execution counter moved within
the last ``ADAPTER_FRAMES_MAX`` frames: liveness is progress, not a status. ``SAFE`` implies payload off: payload
runs by permit, and only COMPUTE and DOWNLINK with the rail on permit.

Every event of the dictionary is raised here; what only the shell can see (late frames, adapters, recorder,
unclean boots) reaches this core as inputs.
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.dictionary import DICTIONARY_HASH, EVENT_BY_NAME
from flightsw.link.schema import FailureCode, Stage

from . import (
    checkpoint,
    commanding,
    downlink,
    eps,
    events,
    governor,
    housekeeping,
    mode,
    payload,
    sense,
    thermal,
)
from .commanding import Verification
from .downlink import Packer
from .effects import Actuate, Effect, KickWatchdog, Restart
from .events import Event, Fields
from .execution import DONE, EXECUTIONS, Failure, Outcome, Pong, facts
from .inputs import AdapterStatus, Inputs, Report, RequestReply
from .payload import Permit
from .vehicle import Config, RestartOrder, Supervision, Vehicle

__all__ = ["Config", "Vehicle", "accept", "boot", "shutdown", "step"]

ADAPTER_FRAMES_MAX: Final = 20
"""A mandatory adapter must have executed within this many minor frames for the watchdog to be kicked."""
GARBAGE_INTERVAL_S: Final = 10.0
"""Least machine time between two reports of unreadable bytes."""


class _Frame:
    """What one call collects: effects in order, packets, event state. It lives between two frozen vehicles."""

    def __init__(self, vehicle: Vehicle, config: Config, stamp: downlink.Stamp, now_s: float) -> None:
        self.packer = Packer(vehicle.downlink, stamp)
        self.events = vehicle.events
        self._config = config.events
        self._now_s = now_s

    def take(self, outcomes: "tuple[Outcome | Verification | RequestReply, ...]") -> None:
        """Route what a subsystem said: events through their gates, reports into packets, effects to the shell."""
        for outcome in outcomes:
            match outcome:
                case Event():
                    report = EVENT_BY_NAME[outcome.name]
                    self.events, admitted = events.admit(self.events, self._config, report, self._now_s)
                    if admitted:
                        self.packer.event(outcome)
                case Verification():
                    self.packer.verification(outcome)
                case RequestReply():
                    self.packer.reply(outcome)
                case Pong():
                    self.packer.ping()
                case _:
                    self.packer.effects.append(outcome)


def boot(
    config: Config,
    *,
    boot_count: int,
    cause: str,
    crash_loop: bool,
    config_hash: str,
    now_s: float,
    unclean_boots: int = 0,
    crash_window_s: float = 0.0,
) -> tuple[Vehicle, tuple[Effect, ...]]:
    """The vehicle at boot, and its first event reports.

    ``crash_loop`` boots into SAFE until a telecommand ends it; ``unclean_boots`` within ``crash_window_s`` say
    why in the event.
    """
    kinds = [job.kind for job in config.jobs]
    vehicle = Vehicle(
        boot_count=boot_count,
        boot_s=now_s,
        now_s=now_s,
        frame_count=0,
        first_train=kinds.index("train") if "train" in kinds else None,
        first_infer=kinds.index("infer") if "infer" in kinds else None,
        sense=sense.start(now_s),
        eps=eps.start(config.eps),
        thermal=thermal.State(),
        mode=mode.State(crash_loop=crash_loop),
        governor=governor.start(config.governor),
        payload=payload.start(config.jobs, now_s),
        checkpoint=checkpoint.start(config.jobs),
        commanding=commanding.State(),
        housekeeping=housekeeping.start(config.housekeeping, now_s),
        events=events.start(config.events),
        downlink=downlink.start(now_s),
    )
    fields: Fields = {
        "boot": boot_count,
        "cause": cause,
        "dictionary": DICTIONARY_HASH,
        "configuration": config_hash,
    }
    found = [Event("BOOT", fields)]
    if crash_loop:
        found.append(Event("CRASH_LOOP", {"count": unclean_boots, "window_s": crash_window_s}))
    return _report(vehicle, config, tuple(found), now_s)


def shutdown(vehicle: Vehicle, config: Config, reason: str, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """The last packets before an orderly end.

    No job is wanted from here on: the workers' exits in the frames that follow are as asked, not deaths to mend.
    """
    state = vehicle.payload
    for index in range(len(config.jobs)):
        state = payload.want(state, index, False)
    return _report(replace(vehicle, payload=state), config, (Event("SHUTDOWN", {"reason": reason}),), now_s)


def accept(vehicle: Vehicle, config: Config, packet: bytes, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """Acceptance of one telecommand packet between two frames; it is executed in the next one.

    Any bytes are allowed: what is no telecommand is counted.
    """
    state, outcomes = commanding.accept(vehicle.commanding, config.commanding, packet, vehicle.mode.mode, now_s)
    return _report(replace(vehicle, commanding=state), config, outcomes, now_s)


def step(vehicle: Vehicle, config: Config, inputs: Inputs, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """One minor frame at machine time ``now_s`` (seconds, never backwards)."""
    reports = inputs.reports
    sensed, found = sense.step(vehicle.sense, config.sense, inputs, now_s)
    frame = _Frame(vehicle, config, downlink.stamp(vehicle.boot_count, sensed, now_s), now_s)
    take = frame.take
    if found:
        take(found)
    power, found = eps.step(vehicle.eps, config.eps, sensed, now_s)
    if found:
        take(found)
    heat, found = thermal.step(vehicle.thermal, config.thermal, sensed, now_s)
    if found:
        take(found)
    supervision, found = _supervise(vehicle, inputs, now_s)
    if found:
        take(found)

    vehicle = Vehicle(
        boot_count=vehicle.boot_count,
        boot_s=vehicle.boot_s,
        now_s=now_s,
        frame_count=vehicle.frame_count + 1,
        first_train=vehicle.first_train,
        first_infer=vehicle.first_infer,
        sense=sensed,
        eps=power,
        thermal=heat,
        mode=vehicle.mode,
        governor=vehicle.governor,
        payload=vehicle.payload,
        checkpoint=vehicle.checkpoint,
        commanding=vehicle.commanding,
        housekeeping=vehicle.housekeeping,
        events=vehicle.events,
        downlink=vehicle.downlink,
        supervision=supervision,
        restart=vehicle.restart,
        adapters=inputs.adapters or vehicle.adapters,
        recorder=inputs.recorder,
        health=inputs.health,
    )
    seen = facts(vehicle, config, now_s)
    moded, found = mode.step(vehicle.mode, config.mode, seen, now_s)
    if found:
        take(found)
    shed = mode.sheds_rail(moded, seen) and vehicle.payload.off
    # A rail that follows neither SAFE nor its end follows the operator.
    reason = moded.event if shed or moded.mode is not vehicle.mode.mode else "telecommand"
    power, found = eps.switch_rail(power, shed, reason)
    if found:
        take(found)

    permit = _permit(moded, power, vehicle.restart)
    situation = governor.Situation(
        sensed.world_dt_s,
        power.soc_fraction,
        heat.gpu_degc,
        heat.radiator_degc,
        power.eclipse,
        power.arc_remaining_s,
        power.array_power_w,
        permit is Permit.RUN,
    )
    governed, found = governor.step(vehicle.governor, config.governor, config.eps, config.thermal, situation, now_s)
    if found:
        take(found)
    work, said = payload.step(vehicle.payload, config.payload, config.jobs, permit, governed.duty, reports, now_s)
    if said:
        take(said)
    outlook = checkpoint.Outlook(sensed.world_s, power.eclipse, power.arc_remaining_s)
    rings, asked = checkpoint.step(
        vehicle.checkpoint, config.checkpoint, config.jobs, work, outlook, reports, now_s
    )
    if asked:
        take(asked)
    vehicle = replace(
        vehicle, eps=power, mode=moded, governor=governed, payload=work, checkpoint=rings, events=frame.events
    )

    if inputs.telecommands or vehicle.commanding.in_flight:
        vehicle = _command(vehicle, config, inputs.telecommands, reports, frame, now_s)
    vehicle = _restart(vehicle, frame, now_s)
    vehicle = _report_garbage(vehicle, frame, now_s)
    return _finish(vehicle, config, frame, now_s)


def _finish(vehicle: Vehicle, config: Config, frame: _Frame, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """Housekeeping, downlink, actuators and watchdog: the part of a frame that nothing may be added after."""
    link, played = downlink.step(vehicle.downlink, config.downlink, vehicle.sense.contact, vehicle.recorder, now_s)
    if played:
        frame.take(played)
    frame.events, found = events.step(frame.events, now_s)
    if found:
        frame.take(found)
    packer = frame.packer
    schedule, due = housekeeping.step(vehicle.housekeeping, now_s)
    for group in due:
        packer.housekeeping(group, vehicle)
    packer.effects.append(
        Actuate(
            frame_count=vehicle.frame_count,
            gpu_rail_on=vehicle.eps.rail_on,
            transmitter_on=vehicle.sense.contact or not vehicle.sense.fresh,
        )
    )
    if _adapters_alive(vehicle):
        packer.effects.append(KickWatchdog())
    vehicle = replace(vehicle, events=frame.events, housekeeping=schedule, downlink=packer.closed(link))
    return vehicle, tuple(packer.effects)


def _report(
    vehicle: Vehicle, config: Config, outcomes: tuple[Event | Verification, ...], now_s: float
) -> tuple[Vehicle, tuple[Effect, ...]]:
    """Packets of a call outside the minor frame."""
    stamp = downlink.stamp(vehicle.boot_count, vehicle.sense, now_s)
    frame = _Frame(vehicle, config, stamp, now_s)
    frame.take(outcomes)
    link = frame.packer.closed(vehicle.downlink)
    return replace(vehicle, events=frame.events, downlink=link), tuple(frame.packer.effects)


def _permit(moded: mode.State, power: eps.State, restart: RestartOrder | None) -> Permit:
    if not power.rail_on:
        return Permit.CUT
    return Permit.RUN if moded.payload_permitted and restart is None else Permit.STOP


def _command(
    vehicle: Vehicle,
    config: Config,
    telecommands: tuple[bytes, ...],
    reports: tuple[Report, ...],
    frame: _Frame,
    now_s: float,
) -> Vehicle:
    """End what has ended, begin what was accepted, accept and begin what has come."""
    for command in vehicle.commanding.in_flight:
        vehicle = _advance(vehicle, config, command, reports, frame, now_s)
    for packet in telecommands:
        state, outcomes = commanding.accept(vehicle.commanding, config.commanding, packet, vehicle.mode.mode, now_s)
        frame.take(outcomes)
        vehicle = replace(vehicle, commanding=state)
        for command in state.in_flight:
            if not command.started:
                vehicle = _advance(vehicle, config, command, (), frame, now_s)
    return vehicle


def _advance(
    vehicle: Vehicle,
    config: Config,
    command: commanding.Command,
    reports: tuple[Report, ...],
    frame: _Frame,
    now_s: float,
) -> Vehicle:
    execution = EXECUTIONS[command.spec.name]
    if not command.started:
        # What came before the command began says nothing about it.
        reports = ()
        if vehicle.mode.mode not in command.spec.modes:
            refusal = Failure(FailureCode.MODE_FORBIDS, f"the mode became {vehicle.mode.mode.name} meanwhile")
            return _conclude(vehicle, command, Stage.START, refusal, frame)
        # The filter that a command sets, and the rest of the events so far, are one state.
        vehicle = replace(vehicle, events=frame.events)
        begun = execution.begin(vehicle, config, command, now_s)
        if isinstance(begun, Failure):
            return _conclude(vehicle, command, Stage.START, begun, frame)
        vehicle, outcomes = begun
        frame.events = vehicle.events
        vehicle = _conclude(vehicle, command, Stage.START, DONE, frame)
        frame.take(outcomes)
    ending = DONE if execution.ended is None else execution.ended(vehicle, config, command, reports)
    if ending is None and now_s >= command.deadline_s:
        ending = Failure(FailureCode.TIMEOUT, f"not complete within {command.spec.timeout_s:g} s")
    return vehicle if ending is None else _conclude(vehicle, command, Stage.COMPLETION, ending, frame)


def _conclude(
    vehicle: Vehicle, command: commanding.Command, stage: Stage, ending: Failure, frame: _Frame
) -> Vehicle:
    state, outcomes = commanding.report(vehicle.commanding, command, stage, ending.code, ending.text)
    frame.take(outcomes)
    return replace(vehicle, commanding=state)


def _restart(vehicle: Vehicle, frame: _Frame, now_s: float) -> Vehicle:
    """Ask for the restart once the workers are gone."""
    order = vehicle.restart
    if order is None or order.sent or not (vehicle.payload.off or now_s >= order.deadline_s):
        return vehicle
    frame.packer.effects.append(Restart(order.reason))
    return replace(vehicle, restart=RestartOrder(order.reason, order.deadline_s, True))


def _report_garbage(vehicle: Vehicle, frame: _Frame, now_s: float) -> Vehicle:
    count = vehicle.commanding.garbage + vehicle.health.radio_frames_bad
    memory = vehicle.supervision
    if count <= memory.garbage_reported or now_s - memory.garbage_s < GARBAGE_INTERVAL_S:
        return vehicle
    frame.take((Event("TC_GARBAGE", {"count": count - memory.garbage_reported}),))
    return replace(vehicle, supervision=replace(memory, garbage_reported=count, garbage_s=now_s))


def _supervise(vehicle: Vehicle, inputs: Inputs, now_s: float) -> tuple[Supervision, tuple[Event, ...]]:
    """Watch the adapters and the frame itself; the counters are compared with those of the last frame."""
    found: list[Event] = []
    skipped = inputs.health.frames_skipped - vehicle.health.frames_skipped
    if skipped > 0:
        late_ms = inputs.health.frame_late_s * 1e3
        found.append(Event("FRAME_OVERRUN", {"late_ms": late_ms, "skipped": skipped}))
    memory = vehicle.supervision
    if inputs.adapters is vehicle.adapters or not inputs.adapters:
        return memory, tuple(found)
    before = {adapter.name: adapter for adapter in vehicle.adapters}
    moved = dict(memory.moved)
    for adapter in inputs.adapters:
        found.extend(_adapter_events(before.get(adapter.name), adapter))
        if not adapter.mandatory:
            continue
        frame, executions = moved.get(adapter.name, (vehicle.frame_count, -1))
        if adapter.executions != executions:
            frame = vehicle.frame_count + 1
        moved[adapter.name] = (frame, adapter.executions)
    return replace(memory, moved=moved), tuple(found)


def _adapter_events(before: AdapterStatus | None, now: AdapterStatus) -> tuple[Event, ...]:
    found: tuple[Event, ...] = ()
    if now.restarts > (0 if before is None else before.restarts):
        restarted: Fields = {"adapter": now.name, "restarts": now.restarts, "reason": now.reason}
        found += (Event("ADAPTER_RESTARTED", restarted),)
    if now.failed and not (before is not None and before.failed):
        failed: Fields = {"adapter": now.name, "restarts": now.restarts, "reason": now.reason}
        found += (Event("ADAPTER_FAILED", failed),)
    return found


def _adapters_alive(vehicle: Vehicle) -> bool:
    count = vehicle.frame_count
    return all(count - frame < ADAPTER_FRAMES_MAX for frame, _ in vehicle.supervision.moved.values())

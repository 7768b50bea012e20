"""The executive: one minor frame of the vehicle, in a fixed order, with bounded work.

    sense → correlation → hard limits (power, heat) → supervision → watchpoints → fdir → load protection → mode
          → planning → governor → tracking → payload → checkpoint → integrity → commanding → sequences
          → housekeeping → downlink → durable

``step`` is pure: the next vehicle and the effects follow from the vehicle, the configuration, the inputs and the
time. Outcomes of effects come back as inputs of a later frame. Subsystems say what happened with ``Event``
values; ``frame`` collects them, ``command_driver`` drives the telecommands in flight.

``accept`` is the second entrance, for one telecommand between two frames: it is checked, numbered and answered at
once, and executed in the next frame.

``alarm`` is the third, for every sensor frame on arrival: a bus that collapses parks the workers before the next
minor frame sees it (``bus_alarm``).

A frame ends with ``KickWatchdog`` only when ``supervision`` finds the adapters alive. ``SAFE`` implies payload off:
payload runs by permit, and only COMPUTE and DOWNLINK with the rail on permit.

Every event of the dictionary is raised here; what only the shell can see (late frames, adapters, recorder,
unclean boots) reaches this core as inputs.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from flightsw.link.avionics import SensorFrame
from flightsw.link.dictionary import DICTIONARY_HASH

from . import (
    bus_alarm,
    card,
    checkpoint,
    commanding,
    contact_loss,
    correlation,
    downlink,
    eps,
    events,
    fdir,
    fdir_memory,
    fdir_tables,
    governor,
    gpu_health,
    housekeeping,
    integrity,
    ladder,
    load_protection,
    mode,
    payload,
    planning,
    recording,
    responses,
    sense,
    sequence_driver,
    sequence_durable,
    supervision,
    tables,
    thermal,
    tracking,
    watchpoints,
)
from .command_driver import drive
from .durable import restore
from .durable import step as persist
from .effects import Actuate, Effect, KickWatchdog, RequestPlan, Restart
from .events import Event, Fields
from .execution import facts
from .frame import Frame, report
from .inputs import GpuSample, Inputs, Reset
from .parameter_set import flown
from .payload import Permit
from .sequence_durable import SEQUENCES_KEY
from .table_boot import restore_tables
from .vehicle import Config, RestartOrder, Vehicle, order_restart, start

__all__ = ["Config", "Vehicle", "accept", "alarm", "boot", "shutdown", "step"]


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
    durable: Mapping[str, bytes] = {},
    power_on: bool = True,
    resets: tuple[Reset, ...] = (),
) -> tuple[Vehicle, tuple[Effect, ...]]:
    """The vehicle at boot, and its first event reports.

    ``crash_loop`` boots into SAFE until a telecommand ends it; ``unclean_boots`` within ``crash_window_s`` say
    why in the event. ``durable`` holds what the store has under ``durable.DURABLE_KEYS``; ``power_on`` tells a boot
    of the computer from a warm reset of the daemon; ``resets`` are the last ones of the boot record.
    """
    vehicle = replace(start(config, boot_count, crash_loop, now_s), power_on=power_on, resets=resets)
    vehicle, told = restore(vehicle, durable)
    vehicle, stored = restore_tables(vehicle, config, durable, now_s, crash_loop=crash_loop)
    answer, switched = fdir_memory.restored(vehicle.fdir, durable.get(fdir_memory.KEY))
    vehicle = replace(vehicle, fdir=answer)
    config = flown(vehicle, config)
    state, restored = sequence_durable.restore(
        vehicle.sequences,
        config.sequence,
        durable.get(SEQUENCES_KEY),
        power_on=power_on,
        crash_loop=crash_loop,
    )
    vehicle = replace(vehicle, sequences=state)
    fields: Fields = {
        "boot": boot_count,
        "cause": cause,
        "dictionary": DICTIONARY_HASH,
        "configuration": config_hash,
    }
    found = [Event("BOOT", fields)]
    if crash_loop:
        found.append(Event("CRASH_LOOP", {"count": unclean_boots, "window_s": crash_window_s}))
    return report(vehicle, config, (*found, *told, *stored, *switched, *restored), now_s)


def shutdown(vehicle: Vehicle, config: Config, reason: str, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """The last packets and the durable facts before an orderly end.

    No job is wanted from here on: the workers' exits in the frames that follow are as asked, not deaths to mend.
    """
    config = flown(vehicle, config)
    state = vehicle.payload
    for index in range(len(config.jobs)):
        state = payload.want(state, index, False)
    sequences, positions = sequence_durable.close(vehicle.sequences, now_s)
    vehicle = replace(vehicle, payload=state, sequences=sequences)
    vehicle, written = persist(vehicle, config.durable, now_s, now=True)
    vehicle, effects = report(vehicle, config, (Event("SHUTDOWN", {"reason": reason}),), now_s)
    return vehicle, (*effects, *written, *positions)


def accept(vehicle: Vehicle, config: Config, packet: bytes, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """Acceptance of one telecommand packet between two frames; it is executed in the next one.

    Any bytes are allowed: what is no telecommand is counted.
    """
    config = flown(vehicle, config)
    state, outcomes = commanding.accept(vehicle.commanding, config.commanding, packet, vehicle.mode.mode, now_s)
    return report(replace(vehicle, commanding=state), config, outcomes, now_s)


def alarm(vehicle: Vehicle, config: Config, frame: SensorFrame, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """Judge a sensor frame that arrived between two minor frames; only a bus in trouble has effects.

    The workers' set-points come first among them: they are what the milliseconds are for.
    """
    config = flown(vehicle, config)
    before = vehicle.alarm
    state = bus_alarm.hear(before, config.bus_alarm, config.eps, frame, now_s)
    if state is before:
        return vehicle, ()
    if before.active or not state.active:
        return replace(vehicle, alarm=state), ()
    work, parked = payload.rest(vehicle.payload, config.payload, config.jobs, now_s)
    rings, asked = checkpoint.order_all(vehicle.checkpoint, config.jobs, work, "bus alarm", now_s)
    vehicle = replace(vehicle, alarm=state, payload=work, checkpoint=rings)
    return report(vehicle, config, (*parked, *asked, bus_alarm.raised(config.bus_alarm, config.eps, frame)), now_s)


def step(vehicle: Vehicle, config: Config, inputs: Inputs, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """One minor frame at machine time ``now_s`` (seconds, never backwards).

    ``config`` is that of the file; parameters that were activated in flight come over it (``parameter_set``).
    """
    config = flown(vehicle, config)
    reports = inputs.reports
    sensed, found = sense.step(vehicle.sense, config.sense, inputs, now_s)
    news = sensed.frame if sensed.frame is not vehicle.sense.frame else None
    # A frame that stands still as a whole is not taken, but it came.
    still = news is None and sensed.verdicts is not vehicle.sense.verdicts
    clock, timed = correlation.step(vehicle.correlation, config.correlation, news, now_s)
    frame = Frame(vehicle, config, downlink.stamp(vehicle.boot_count, clock, sensed), now_s)
    take = frame.take
    if found or timed:
        take(found + timed)
    power, found = eps.step(vehicle.eps, config.eps, sensed, clock.steady_s, now_s)
    if found:
        take(found)
    alarmed, found = bus_alarm.step(vehicle.alarm, config.bus_alarm, now_s)
    if found:
        take(found)
    heat, found = thermal.step(
        vehicle.thermal, config.thermal, sensed, clock.steady_s, now_s, config.eps.bus_power_w
    )
    if found:
        take(found)
    reading = sensed.gpu if sensed.gpu is not vehicle.sense.gpu else None
    health, found = gpu_health.step(vehicle.gpu_health, config.gpu_health, reading, now_s)
    if found:
        take(found)
    flown_card, found = card.step(vehicle.card, config.card, reading)
    if found:
        take(found)
    watched, found = supervision.step(
        vehicle.supervision, vehicle.adapters, vehicle.health, now_s - vehicle.now_s, inputs
    )
    if found:
        take(found)
    limit_s, heard = config.mode.loss_of_contact_s, vehicle.commanding.heard
    silence, found = contact_loss.step(vehicle.contact_loss, limit_s, heard, clock.mission_dt_s)
    if found:
        take(found)

    elapsed_s, was_cut = now_s - vehicle.now_s, vehicle.alarm.cut
    vehicle = Vehicle(
        boot_count=vehicle.boot_count,
        boot_s=vehicle.boot_s,
        now_s=now_s,
        frame_count=vehicle.frame_count + 1,
        first_train=vehicle.first_train,
        first_infer=vehicle.first_infer,
        sense=sensed,
        correlation=clock,
        gpu_health=health,
        card=flown_card,
        eps=power,
        alarm=alarmed,
        thermal=heat,
        watch=vehicle.watch,
        fdir=vehicle.fdir,
        limit_tables=vehicle.limit_tables,
        mode=vehicle.mode,
        governor=vehicle.governor,
        planning=vehicle.planning,
        tracking=vehicle.tracking,
        payload=vehicle.payload,
        checkpoint=vehicle.checkpoint,
        commanding=vehicle.commanding,
        housekeeping=vehicle.housekeeping,
        events=vehicle.events,
        downlink=vehicle.downlink,
        recording=vehicle.recording,
        durable=vehicle.durable,
        contact_loss=silence,
        tables=vehicle.tables,
        parameters=vehicle.parameters,
        sequences=vehicle.sequences,
        ladder=vehicle.ladder,
        shedding=vehicle.shedding,
        latchup=vehicle.latchup,
        integrity=vehicle.integrity,
        power_on=vehicle.power_on,
        resets=vehicle.resets,
        supervision=watched,
        restart=vehicle.restart,
        adapters=inputs.adapters or vehicle.adapters,
        recorder=inputs.recorder,
        health=inputs.health,
    )
    vehicle, found = fdir_tables.settled(vehicle, config)
    if found:
        take(found)
    before = vehicle.fdir
    limits = watchpoints.step(vehicle.watch, vehicle, now_s)
    answer, orders, found = fdir.step(vehicle.fdir, limits, vehicle, now_s)
    if found:
        take(found)
    if spent := fdir_memory.changes(before, answer):
        take(spent)
    vehicle = replace(vehicle, watch=limits, fdir=answer)
    if orders.impulses:
        vehicle, done = responses.apply(vehicle, config, orders.impulses, now_s)
        take(done)
    held_off = vehicle.shedding.rail_off
    vehicle, done = load_protection.step(vehicle, config, news is not None, now_s, still)
    if done:
        take(done)
    power, shedding = vehicle.eps, vehicle.shedding
    if vehicle.restart is None:
        vehicle = _climb(vehicle, config, elapsed_s, frame)
    seen = facts(vehicle, config, now_s)
    moded, found = mode.step(vehicle.mode, config.mode, seen, now_s)
    if found:
        take(found)
    by_mode = mode.sheds_rail(moded, seen)
    shed = ((by_mode or shedding.rail_off) and vehicle.payload.off) or shedding.cut or alarmed.cut
    # A rail that follows neither SAFE nor its end, nor the ladder, nor an alarm, follows whoever commanded it.
    reason = moded.event if by_mode or moded.mode is not vehicle.mode.mode else power.rail_by
    if alarmed.cut or was_cut:
        reason = "BUS_ALARM" if alarmed.cut else "BUS_ALARM_OVER"
    elif not by_mode and (shedding.rail_off or held_off):
        reason = "load shedding"
    power, found = eps.switch_rail(power, shed, reason, now_s)
    if found:
        take(found)

    permit = _permit(moded, power, vehicle.restart)
    if shedding.rail_off and permit is Permit.RUN:
        permit = Permit.STOP
    situation = governor.situation(
        power,
        heat,
        config.eps,
        dt_s=clock.mission_dt_s,
        permitted=permit is Permit.RUN and not alarmed.active,
        ceiling=min(orders.ceiling, load_protection.ceiling(vehicle)),
    )
    curve = card.curve(flown_card, config.card, config.governor.gpu_idle_w, config.governor.gpu_max_w)
    world_s = clock.steady_s
    begin = planning.situation_of(power, config.governor, vehicle.governor, situation, heat.heat, curve, world_s)
    planned, found, request = planning.step(
        vehicle.planning,
        config.planning,
        config.eps,
        config.thermal,
        begin,
        inputs.plans,
        now_s,
    )
    if found:
        take(found)
    if request is not None:
        frame.packer.effects.append(RequestPlan(request, config.planning.deadline_s))
    situation = replace(situation, planned_w=planning.planned_power_w(planned, clock.steady_s))
    governed, found = governor.step(vehicle.governor, config.governor, config.eps, config.thermal, situation, now_s)
    if found:
        take(found)
    tracked, found = _track(vehicle, config, governed, sensed, reading, now_s)
    if found:
        take(found)
    work, said = payload.step(
        vehicle.payload, config.payload, config.jobs, permit, tracked.duty, reports, now_s, tracked.micro_batch_s
    )
    if said:
        take(said)
    outlook = checkpoint.Outlook(clock.steady_s, power.eclipse, power.arc_remaining_s)
    rings, asked = checkpoint.step(
        vehicle.checkpoint, config.checkpoint, config.jobs, work, outlook, reports, now_s
    )
    if asked:
        take(asked)
    scene = integrity.Scene(
        None if news is None else news.proton_flux_cm2_s,
        health.corrected_count,
        health.uncorrected_count,
    )
    guarded, ordered = integrity.step(
        vehicle.integrity, config.integrity, config.jobs, work.jobs, scene, reports, clock.elapsed_world_s, now_s
    )
    if ordered:
        take(ordered)
    vehicle = replace(
        vehicle,
        eps=power,
        mode=moded,
        governor=governed,
        planning=planned,
        tracking=tracked,
        payload=work,
        checkpoint=rings,
        integrity=guarded,
        events=frame.events,
    )

    if inputs.telecommands or vehicle.commanding.in_flight:
        vehicle = drive(vehicle, config, inputs.telecommands, reports, frame, now_s)
    if vehicle.tables.dumps:
        open_tables, pieces = tables.step(vehicle.tables, config.tables)
        take(pieces)
        vehicle = replace(vehicle, tables=open_tables)
    if vehicle.sequences.awake or vehicle.commanding.outcomes:
        vehicle = sequence_driver.run(vehicle, config, frame, now_s)
    vehicle = _restart(vehicle, frame, now_s)
    unreadable = vehicle.commanding.garbage + vehicle.health.radio_frames_bad
    watched, found = supervision.garbage(vehicle.supervision, unreadable, now_s)
    if found:
        frame.take(found)
        vehicle = replace(vehicle, supervision=watched)
    return _finish(vehicle, config, frame, now_s)


def _finish(vehicle: Vehicle, config: Config, frame: Frame, now_s: float) -> tuple[Vehicle, tuple[Effect, ...]]:
    """Housekeeping, downlink, actuators, watchdog, durable facts: what closes a frame."""
    restarting = vehicle.restart is not None and vehicle.restart.sent
    link, found = downlink.step(vehicle.downlink, config.downlink, vehicle.sense.contact, vehicle.recorder, now_s)
    if found:
        frame.take(found)
    kept, told = recording.step(vehicle.recording, config.recorder)
    if told:
        frame.take(told)
    frame.events, found = events.step(frame.events, now_s)
    if found:
        frame.take(found)
    packer = frame.packer
    schedule, due = housekeeping.step(vehicle.housekeeping, vehicle, now_s)
    for group in due:
        packer.housekeeping(group, vehicle)
    link, played = downlink.play_back(packer.closed(link))
    packer.effects.extend(played)
    packer.effects.append(
        Actuate(
            frame_count=vehicle.frame_count,
            gpu_rail_on=vehicle.eps.rail_on,
            transmitter_on=vehicle.sense.contact or not vehicle.sense.fresh,
        )
    )
    if supervision.adapters_alive(vehicle.supervision):
        packer.effects.append(KickWatchdog())
    vehicle = replace(vehicle, events=frame.events, housekeeping=schedule, downlink=link, recording=kept)
    vehicle, written = persist(vehicle, config.durable, now_s, now=restarting)
    packer.effects.extend(written)
    return vehicle, tuple(packer.effects)


def _track(
    vehicle: Vehicle,
    config: Config,
    governed: governor.State,
    sensed: sense.State,
    reading: GpuSample | None,
    now_s: float,
) -> tuple[tracking.State, tuple[Event, ...]]:
    """The duty that draws the budget, by what was measured under the set-points up to this frame."""
    frame = sensed.frame
    duty, busy_s, steady = tracking.given(vehicle.payload.jobs)
    rail_w = frame.gpu_rail_power_w if frame is not None and sensed.fresh else tracking.NAN
    seen = tracking.Seen(reading, sensed.gpu_fresh, rail_w, vehicle.eps.rail_on, duty, busy_s, steady)
    card = tracking.Card(config.governor.gpu_idle_w, config.governor.gpu_max_w)
    budget_w, working = governed.power_budget_w, governed.duty > 0.0
    return tracking.step(vehicle.tracking, config.tracking, card, budget_w, working, seen, now_s)


def _permit(moded: mode.State, power: eps.State, restart: RestartOrder | None) -> Permit:
    if not power.rail_on:
        return Permit.CUT
    return Permit.RUN if moded.payload_permitted and restart is None else Permit.STOP


def _climb(vehicle: Vehicle, config: Config, elapsed_s: float, frame: Frame) -> Vehicle:
    """The restart ladder after this frame's faults and their responses."""
    rungs, reason, found = ladder.step(
        vehicle.ladder, config.ladder, vehicle.adapters, vehicle.payload.jobs, elapsed_s
    )
    if found:
        frame.take(found)
    vehicle = replace(vehicle, ladder=rungs)
    return order_restart(vehicle, reason, vehicle.now_s, by_ladder=True) if reason else vehicle


def _restart(vehicle: Vehicle, frame: Frame, now_s: float) -> Vehicle:
    """Ask for the restart once the workers are gone."""
    order = vehicle.restart
    if order is None or order.sent or not (vehicle.payload.off or now_s >= order.deadline_s):
        return vehicle
    frame.packer.effects.append(Restart(order.reason, order.by_ladder))
    return replace(vehicle, restart=replace(order, sent=True))

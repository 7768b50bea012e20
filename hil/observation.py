"""What is seen of a run while it flies, and what is kept of it afterwards.

``view`` is one instant for the display. ``collect`` turns what a run leaves behind into evidence: the truth's log,
the recorder on board, the ground's archive and the counters of the channel. Neither changes the run.
"""

from pathlib import Path

import msgspec

from ground.client import ArchiveReader, GroundError, StationStatus

from .channel import Channel
from .devices import Instrument, SimulatedCard
from .display import View
from .evidence import (
    Archived,
    EventRecord,
    Evidence,
    FaultRecord,
    ReplyRecord,
    TruthLog,
    read_onboard,
)
from .mission import TRAIN
from .operator import Sent
from .preparation import Preparation
from .summary import dark_spans
from .umbilical import Umbilical


def view(
    plan: Preparation,
    phase: str,
    now_s: float,
    *,
    outage: bool,
    umbilical: Umbilical,
    status: StationStatus | None,
    faults: list[FaultRecord],
    twin_step: int | None,
) -> View:
    """One instant of a run: truth from the plant, values from the umbilical, ``status`` from the ground."""
    truth = plan.plant.truth()
    station = next((p for p in plan.forecast.passes if p.start_s <= truth.world_s < p.end_s), None)
    later = next((p for p in plan.forecast.passes if p.start_s > truth.world_s), None)
    return View(
        phase=phase,
        title=plan.scenario.title,
        now_s=now_s,
        world_s=truth.world_s,
        end_s=plan.run[1],
        warp=plan.warp,
        sun_fraction=truth.sun_fraction,
        array_w=truth.array_power_w,
        gpu_w=truth.gpu_rail_power_w,
        rail_on=truth.gpu_rail_on,
        soc=truth.soc_fraction,
        soc_floor=plan.scenario.invariants.soc_floor,
        gpu_degc=truth.gpu_temp_degc,
        gpu_limit_degc=plan.scenario.invariants.gpu_temp_limit_degc,
        radiator_degc=truth.radiator_temp_degc,
        radiator_limit_degc=plan.scenario.invariants.radiator_temp_limit_degc,
        passing=station.station if station else "",
        pass_left_s=station.end_s - truth.world_s if station else 0.0,
        next_pass=later.station if later else "",
        next_pass_s=later.start_s - truth.world_s if later else 0.0,
        outage=outage,
        values=umbilical.values,
        events=list(umbilical.events),
        event_counts=dict(umbilical.event_counts),
        recorded=umbilical.recorded,
        acknowledged=umbilical.acknowledged,
        replies=umbilical.replies,
        status=status,
        faults=[(record.id, record.kind, record.fired) for record in faults],
        twin_step=twin_step,
    )


def collect(
    evidence: Evidence,
    *,
    truth: TruthLog,
    recorder: Path,
    archive: Path,
    sent: list[Sent],
    instrument: Instrument,
    channel: Channel,
) -> None:
    """Complete the evidence; an archive that cannot be read is a fault of the bench."""
    evidence.truth = truth.columns
    evidence.eclipses = dark_spans(evidence.column("world_s"), evidence.column("sun_fraction"))
    evidence.onboard = read_onboard(recorder)
    evidence.commands = [order.record() for order in sent]
    if isinstance(instrument, SimulatedCard):
        evidence.meter_resets = instrument.gpu.meter_resets
    evidence.channel = {
        "down": msgspec.structs.asdict(channel.down.counters),
        "up": msgspec.structs.asdict(channel.up.counters),
    }
    try:
        with ArchiveReader(archive) as reader:
            evidence.archived = read_archive(reader)
    except GroundError as error:
        evidence.health.faults.append(str(error))


def committed_checkpoints(events: list[EventRecord]) -> list[tuple[int, int, str]]:
    """(generation, step, digest) of every checkpoint that training announced as committed."""
    return [
        (int(e.fields.get("generation", -1)), int(e.fields.get("step", -1)), str(e.fields.get("digest", "")))
        for e in events
        if e.name == "CHECKPOINT_COMMITTED" and e.fields.get("job") == TRAIN
    ]


def read_archive(reader: ArchiveReader) -> Archived:
    """The ground's archive as evidence, through its public reader."""
    asked = {row.id: dict(row.arguments) for row in reader.commands()}
    archived = Archived(live=set(), playback=set(), events=[], replies=[])
    for boot, apid, sequence, playback in reader.identities():
        (archived.playback if playback else archived.live).add((boot, apid, sequence))
    archived.events = [
        EventRecord(
            boot=e.boot,
            sequence=e.sequence,
            world_s=e.world_s,
            name=e.name,
            severity=e.severity,
            text=e.text,
            fields={},
        )
        for e in reader.events()
    ]
    archived.replies = [
        ReplyRecord(
            world_s=row.world_s,
            request=row.request,
            prompt=str(asked.get(row.command, {}).get("prompt", "")),
            text=row.text,
            tokens=row.tokens,
            generation=row.generation,
            finish=row.finish,
            arguments=asked.get(row.command, {}),
        )
        for row in reader.replies()
        if row.complete
    ]
    return archived

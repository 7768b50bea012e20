"""Downlink: numbering and building of packets, what is sent live, and the byte budget of playback.

Each packet becomes one ``Telemetry`` effect: the shell records it always and sends it at once when ``live``. Live
means in contact, or blind: when the sensors are silent nobody can tell whether a station listens, and a vehicle
in trouble should be heard.

Numbers. The sequence counts per APID since boot and travels whole in the body; the header carries its low 14
bits. The message counter counts per service and subtype (PUS-C 7.4.3.1).

Budget. A token bucket fills with the radio's rate (machine clock: the radio is hardware, it knows no warp). Live
packets go first and take what they take; what is left plays back the recorder, most important first.
"""

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.bodies import PingBody, ReplyBody, TableBody, VerificationBody, pack_body, split_text
from flightsw.link.codec import pack_housekeeping
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_PING,
    APID_REPLY,
    APID_TABLE,
    APID_VERIFICATION,
    DESTINATION_LIVE,
    PRIORITY_EVENT,
    PRIORITY_REPLY,
    PRIORITY_TABLE,
    PRIORITY_VERIFICATION,
)
from flightsw.link.packet import PACKET_BYTES_MAX, TmPacket, encode_tm
from flightsw.link.schema import FailureCode, HousekeepingGroup, Severity

from . import correlation, events, housekeeping, sense
from .commanding import Verification
from .effects import Announce, Effect, Playback, Telemetry
from .events import Event, Fields
from .inputs import RecorderStatus, RequestReply
from .tables import Piece

if TYPE_CHECKING:
    from .vehicle import Vehicle

FRAMING_BYTES: Final = 8
"""COBS overhead and delimiter of a packet of the longest size, rounded up."""
REPLY_TEXT_BYTES_MAX: Final = 800
"""Text of one reply packet; a longer answer comes in parts."""
SERVICE_VERIFICATION: Final = 1
SERVICE_HOUSEKEEPING: Final = (3, 25)
SERVICE_REPLY: Final = (8, 130)
SERVICE_TABLE: Final = (8, 131)
SERVICE_PING: Final = (17, 2)
EVENT_SERVICES: Final = {
    Severity.DIAGNOSTIC: (5, 1),
    Severity.INFO: (5, 1),
    Severity.WARNING: (5, 2),
    Severity.ERROR: (5, 3),
    Severity.CRITICAL: (5, 4),
    Severity.FATAL: (5, 4),
}


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rate of the radio, as far as the core has to know it."""

    rate_bps: Annotated[float, Meta(ge=100.0, le=1e10)] = 115_200.0
    """Radio rate; the daemon sets it from its radio section."""
    burst_s: Annotated[float, Meta(ge=0.01, le=60.0)] = 0.5
    """Seconds of the rate that may be saved up."""
    fill: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    """Part of the rate that is used."""


class State(Struct, frozen=True, kw_only=True):
    """Numbers of the next packets, the budget in bytes, and what has been reported of contact and recorder."""

    sequences: dict[int, int] = {}
    messages: dict[tuple[int, int], int] = {}
    budget_bytes: float = 0.0
    filled_s: float
    in_contact: bool = False
    recorder: RecorderStatus = RecorderStatus()


class Stamp(Struct, frozen=True):
    """What every packet of one frame carries."""

    boot: int
    world_s: float
    tai_s: float
    quality: int
    live: bool


def start(now_s: float) -> State:
    """State at boot."""
    return State(filled_s=now_s)


def stamp(boot: int, clock: correlation.State, sensed: sense.State) -> Stamp:
    """Time and liveness of packets made at the machine time of ``clock``."""
    return Stamp(boot, clock.world_s, clock.tai_s, clock.quality, sensed.contact or not sensed.fresh)


def step(
    state: State, config: Config, contact: bool, recorder: RecorderStatus, now_s: float
) -> tuple[State, tuple[Playback | Event, ...]]:
    """Contact and recorder events, and the bytes that may be played back in this frame."""
    out: list[Playback | Event] = []
    before = state.recorder
    if contact != state.in_contact:
        out.append(Event("CONTACT_START" if contact else "CONTACT_END", {"pending": recorder.pending}))
    if recorder is not before:
        if recorder.shed > before.shed:
            out.append(Event("RECORDER_SHED", {"count": recorder.shed - before.shed}))
        if recorder.dropped > before.dropped:
            lost: Fields = {"count": recorder.dropped - before.dropped, "reason": "a queue on board was full"}
            out.append(Event("TM_DROPPED", lost))
        if recorder.fault and recorder.fault != before.fault:
            out.append(Event("STORE_FAULT", {"reason": recorder.fault}))
    byte_rate = config.rate_bps / 8.0 * config.fill
    # A slow radio saves up at least two packets, or nothing could ever be played back.
    full = max(byte_rate * config.burst_s, 2.0 * PACKET_BYTES_MAX)
    budget = min(full, state.budget_bytes + (now_s - state.filled_s) * byte_rate)
    if contact and recorder.pending and budget >= PACKET_BYTES_MAX:
        out.append(Playback(int(budget)))
        budget -= int(budget)
    return (
        State(
            sequences=state.sequences,
            messages=state.messages,
            budget_bytes=budget,
            filled_s=now_s,
            in_contact=contact,
            recorder=recorder,
        ),
        tuple(out),
    )


class Packer:
    """Makes the packets of one frame: a builder that lives for one call, between one frozen state and the next."""

    def __init__(self, state: State, stamp: Stamp) -> None:
        self.effects: list[Effect] = []
        self._stamp = stamp
        self._sequences = dict(state.sequences)
        self._messages = dict(state.messages)
        self._live_bytes = 0

    def closed(self, state: State) -> State:
        """The state after the packets made here; live packets are charged, up to a debt of one longest packet."""
        return replace(
            state,
            sequences=self._sequences,
            messages=self._messages,
            budget_bytes=max(-float(PACKET_BYTES_MAX), state.budget_bytes - self._live_bytes),
        )

    def housekeeping(self, group: HousekeepingGroup, vehicle: "Vehicle") -> None:
        """One report of a group, sampled now."""
        sequence = self._sequences.get(group.apid, 0)
        values = housekeeping.sample(group, vehicle, sequence)
        values[2] = self._stamp.world_s
        self._send(group.apid, SERVICE_HOUSEKEEPING, group.priority, pack_housekeeping(group, values))

    def event(self, event: Event) -> None:
        """One event report: for the log here, and for the ground."""
        stamp = self._stamp
        sequence = self._sequences.get(APID_EVENT, 0)
        report, body, text = events.body(event, stamp.boot, sequence, stamp.world_s)
        self.effects.append(Announce(report.severity, report.name, text))
        self._send(APID_EVENT, EVENT_SERVICES[report.severity], PRIORITY_EVENT, pack_body(body))

    def verification(self, report: Verification) -> None:
        """One PUS service 1 report; a failure's subtype is one over the success's."""
        stamp = self._stamp
        body = VerificationBody(
            stamp.boot,
            self._sequences.get(APID_VERIFICATION, 0),
            stamp.world_s,
            report.id,
            report.opcode,
            int(report.stage),
            int(report.code),
            report.text,
        )
        subtype = report.stage + (report.code is not FailureCode.NONE)
        self._send(APID_VERIFICATION, (SERVICE_VERIFICATION, subtype), PRIORITY_VERIFICATION, pack_body(body))

    def reply(self, reply: RequestReply) -> None:
        """The answer to an inference request, in as many packets as its text needs."""
        stamp = self._stamp
        parts = split_text(reply.text, REPLY_TEXT_BYTES_MAX)
        for part, text in enumerate(parts):
            body = ReplyBody(
                boot=stamp.boot,
                seq=self._sequences.get(APID_REPLY, 0),
                t=stamp.world_s,
                job=reply.job,
                request=reply.request,
                id=reply.request,
                text=text,
                tokens=reply.tokens,
                finish=reply.finish,
                generation=reply.generation,
                duration_s=reply.duration_s,
                part=part,
                parts=len(parts),
            )
            self._send(APID_REPLY, SERVICE_REPLY, PRIORITY_REPLY, pack_body(body))

    def table(self, piece: Piece) -> None:
        """One piece of a dumped table."""
        stamp = self._stamp
        body = TableBody(
            stamp.boot,
            self._sequences.get(APID_TABLE, 0),
            stamp.world_s,
            piece.table,
            piece.offset,
            piece.total,
            piece.crc32,
            piece.data,
        )
        self._send(APID_TABLE, SERVICE_TABLE, PRIORITY_TABLE, pack_body(body))

    def ping(self) -> None:
        """One are-you-alive report."""
        stamp = self._stamp
        body = PingBody(stamp.boot, self._sequences.get(APID_PING, 0), stamp.world_s)
        self._send(APID_PING, SERVICE_PING, PRIORITY_REPLY, pack_body(body))

    def _send(self, apid: int, service: tuple[int, int], priority: int, body: bytes) -> None:
        stamp = self._stamp
        sequence = self._sequences.get(apid, 0)
        message = self._messages.get(service, 0)
        self._sequences[apid] = sequence + 1
        self._messages[service] = message + 1
        packet = encode_tm(
            TmPacket(
                apid,
                sequence,
                service[0],
                service[1],
                message,
                DESTINATION_LIVE,
                stamp.quality,
                stamp.tai_s,
                body,
            )
        )
        if stamp.live:
            self._live_bytes += len(packet) + FRAMING_BYTES
        self.effects.append(
            Telemetry(
                apid=apid,
                sequence=sequence,
                priority=priority,
                world_s=stamp.world_s,
                packet=packet,
                live=stamp.live,
            )
        )

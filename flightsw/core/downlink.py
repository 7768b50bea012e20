"""Downlink: numbering and building of packets, what is sent live, and what is left for playback.

Each packet becomes one ``Telemetry`` effect: the shell records it unless the filter of its group says otherwise
(``recording``), and sends it at once when ``live``. Live means in contact, or blind: when the sensors are silent
nobody can tell whether a station listens, and a vehicle in trouble should be heard. Live also means that the link
budget can pay for it (``link_budget``): verification and events go first, housekeeping and replies for which there
is no room are *deferred*, recorded only, and come by playback.

Numbers. The sequence counts per APID since boot and travels whole in the body; the header carries its low 14
bits. The message counter counts per service and subtype (PUS-C 7.4.3.1).

What live packets leave of the budget plays back the recorder, most important first.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from msgspec import Struct
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
    PRIORITY_CRITICAL,
    PRIORITY_EVENT,
    PRIORITY_REPLY,
    PRIORITY_TABLE,
    PRIORITY_VERIFICATION,
)
from flightsw.link.packet import PACKET_BYTES_MAX, TM_BODY_BYTES_MAX, TmPacket, encode_tm
from flightsw.link.schema import FailureCode, HousekeepingGroup, Severity

from . import correlation, events, housekeeping, link_budget, recording, sense
from .commanding import Verification
from .effects import Announce, Effect, Playback, Telemetry
from .events import Event, Fields
from .inputs import RecorderStatus, RequestReply
from .limits import NEVER
from .link_budget import Budget, Config
from .tables import Piece

if TYPE_CHECKING:
    from .vehicle import Vehicle

TM_OVERHEAD_BYTES: Final = PACKET_BYTES_MAX - TM_BODY_BYTES_MAX
"""Headers and checksum of a telemetry packet."""
UTILISATION_WINDOW_S: Final = 10.0
"""Machine time over which the utilisation of the link is measured."""
LOSS_INTERVAL_S: Final = 10.0
"""Least machine time between two reports of packets shed or dropped."""
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


class State(Struct, frozen=True, kw_only=True):
    """Numbers of the next packets, packets offered to each filter, the budget, and what has been reported.

    ``deferred`` counts packets recorded instead of sent live for want of budget, ``filtered`` those that a filter
    kept out of the recorder, both since boot.
    """

    sequences: dict[int, int] = {}
    messages: dict[tuple[int, int], int] = {}
    offered: dict[int, int] = {}
    budget: Budget
    deferred: int = 0
    filtered: int = 0
    in_contact: bool = False
    recorder: RecorderStatus = RecorderStatus()
    shed_reported: int = 0
    dropped_reported: int = 0
    loss_reported_s: float = NEVER
    utilisation_fraction: float = 0.0
    measured_s: float
    measured_bytes: int = 0


class Stamp(Struct, frozen=True):
    """What every packet of one frame carries."""

    boot: int
    world_s: float
    tai_s: float
    quality: int
    live: bool


def start(now_s: float) -> State:
    """State at boot."""
    return State(budget=link_budget.start(now_s), measured_s=now_s)


def stamp(boot: int, clock: correlation.State, sensed: sense.State) -> Stamp:
    """Time and liveness of packets made at the machine time of ``clock``."""
    return Stamp(boot, clock.world_s, clock.tai_s, clock.quality, sensed.contact or not sensed.fresh)


def funded(state: State, config: Config, now_s: float) -> State:
    """The state with the budget of this machine time; ``Packer`` spends it."""
    waiting = state.recorder.pending > 0 or state.recorder.replay_left > 0
    return replace(state, budget=link_budget.filled(state.budget, config, waiting, now_s))


def step(
    state: State, config: Config, contact: bool, recorder: RecorderStatus, now_s: float
) -> tuple[State, tuple[Event, ...]]:
    """Events of contact and recorder, and how much of the link is used."""
    out: list[Event] = []
    before = state.recorder
    if contact != state.in_contact:
        out.append(Event("CONTACT_START" if contact else "CONTACT_END", {"pending": recorder.pending}))
    state = replace(state, in_contact=contact, recorder=recorder)
    if recorder.fault and recorder.fault != before.fault:
        out.append(Event("STORE_FAULT", {"reason": recorder.fault}))
    if recorder.full != before.full:
        used: Fields = {"used_mb": sum(recorder.used_bytes) / 1e6}
        out.append(Event("RECORDER_FULL" if recorder.full else "RECORDER_RECOVERED", used))
    if recorder.replayed != before.replayed:
        out.append(Event("EVENTS_REPLAYED", {"count": recorder.replayed_count}))
    state, lost = _losses(state, recorder, now_s)
    return _measured(state, config, recorder, now_s), (*out, *lost)


def _losses(state: State, recorder: RecorderStatus, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Packets shed and dropped since the last report, at most every ``LOSS_INTERVAL_S``."""
    shed, dropped = recorder.shed - state.shed_reported, recorder.dropped - state.dropped_reported
    if not (shed or dropped) or now_s - state.loss_reported_s < LOSS_INTERVAL_S:
        return state, ()
    out: list[Event] = []
    if shed:
        out.append(Event("RECORDER_SHED", {"count": shed}))
    if dropped:
        out.append(Event("TM_DROPPED", {"count": dropped, "reason": "a queue on board was full"}))
    state = replace(state, shed_reported=recorder.shed, dropped_reported=recorder.dropped, loss_reported_s=now_s)
    return state, tuple(out)


def _measured(state: State, config: Config, recorder: RecorderStatus, now_s: float) -> State:
    """Bytes that the radio took over the last window, as a part of its rate."""
    elapsed_s = now_s - state.measured_s
    if elapsed_s < UTILISATION_WINDOW_S:
        return state
    used = 8.0 * (recorder.sent_bytes - state.measured_bytes) / (elapsed_s * config.rate_bps)
    return replace(state, utilisation_fraction=used, measured_s=now_s, measured_bytes=recorder.sent_bytes)


def play_back(state: State) -> tuple[State, tuple[Playback, ...]]:
    """What live packets left of the budget, for the recorder, when it has something that a station could hear."""
    if not state.in_contact or not (state.recorder.pending or state.recorder.replay_left):
        return state, ()
    budget, octets = link_budget.for_playback(state.budget)
    return replace(state, budget=budget), (Playback(octets),) if octets else ()


class Packer:
    """Makes the packets of one frame: a builder that lives for one call, between one frozen state and the next."""

    def __init__(self, state: State, stamp: Stamp, filters: Mapping[int, recording.Filter] = {}) -> None:
        """``state`` is ``funded``; a group without a filter is recorded whole."""
        self.effects: list[Effect] = []
        self._stamp = stamp
        self._filters = filters
        self._sequences = dict(state.sequences)
        self._messages = dict(state.messages)
        self._offered = dict(state.offered)
        self._budget = state.budget
        self._deferred, self._filtered = state.deferred, state.filtered

    def closed(self, state: State) -> State:
        """The state after the packets made here."""
        return replace(
            state,
            sequences=self._sequences,
            messages=self._messages,
            offered=self._offered,
            budget=self._budget,
            deferred=self._deferred,
            filtered=self._filtered,
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
        priority = PRIORITY_CRITICAL if report.severity >= Severity.CRITICAL else PRIORITY_EVENT
        self._send(APID_EVENT, EVENT_SERVICES[report.severity], priority, pack_body(body), report.severity)

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

    def _send(
        self, apid: int, service: tuple[int, int], priority: int, body: bytes, severity: Severity | None = None
    ) -> None:
        stamp = self._stamp
        group = recording.group_of(apid, priority)
        kept = self._kept(group)
        live = stamp.live and self._paid(len(body) + TM_OVERHEAD_BYTES, priority)
        self._deferred += kept and stamp.live and not live
        if not (kept or live):
            # Nobody would ever see it: it is not made, and takes no number.
            return
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
        self.effects.append(
            Telemetry(
                apid=apid,
                sequence=sequence,
                priority=priority,
                world_s=stamp.world_s,
                packet=packet,
                live=live,
                group=group,
                record=kept,
                severity=severity,
            )
        )

    def _kept(self, group: int) -> bool:
        rule = self._filters.get(group)
        if rule is None:
            return True
        number = self._offered.get(group, 0)
        self._offered[group] = number + 1
        kept = recording.keeps(rule, number)
        self._filtered += not kept
        return kept

    def _paid(self, packet_bytes: int, priority: int) -> bool:
        budget = link_budget.spend(self._budget, packet_bytes, priority)
        if budget is None:
            return False
        self._budget = budget
        return True

"""What travels on the station's control socket, and the records that programs get: one JSON object per line.

A client sends one request and reads lines until one that is final: ``Snapshot``, ``Result``, ``Done`` or
``Refusal``. For ``SendRequest`` a ``StageLine`` comes before, for every verification report. Lines are bounded
by ``LINE_BYTES_MAX`` both ways.
"""

from typing import Final, Literal

import msgspec

from flightsw.link.bodies import Scalar

from .wire import WireStatus

LINE_BYTES_MAX: Final = 1 << 20
REQUEST_BYTES_MAX: Final = 65_536

Wait = Literal["acceptance", "completion"] | None
Level = Literal["", "yellow", "red"]
Outcome = Literal["sent", "accepted", "completed", "refused", "failed", "timeout"]


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Newest value of a parameter. ``value`` is None for "no valid value"; ``text`` is it as an operator reads
    it."""

    value: float | None
    text: str
    unit: str
    level: Level
    world_s: float
    received_utc_s: float
    live: bool


class EventLine(msgspec.Struct, frozen=True, kw_only=True):
    """One event report; ``fields`` are what travelled, ``text`` is them in the words of the dictionary."""

    boot: int
    sequence: int
    world_s: float
    onboard_utc_s: float
    severity: int
    name: str
    text: str
    fields: dict[str, Scalar]
    playback: bool


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A live parameter crossed an operator limit; ``level`` "" means that it came back inside."""

    received_utc_s: float
    world_s: float
    parameter: str
    level: Level
    value: float
    text: str


class StageLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="stage"):
    """One verification report. ``after_s`` is the time since the command was sent, on the station's clock."""

    stage: str
    success: bool
    code: str
    text: str
    world_s: float
    after_s: float


class CommandResult(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """What became of a telecommand. ``code`` and ``text`` say why it was refused or failed.

    ``outcome`` "timeout" means that no report told the outcome in time: it may still be executed.
    """

    id: int
    name: str
    arguments: dict[str, Scalar]
    outcome: Outcome
    code: str = ""
    text: str = ""
    transmissions: int = 0
    stages: tuple[StageLine, ...] = ()

    @property
    def ok(self) -> bool:
        """True when nothing speaks against it: accepted or completed, or only sent when that was all one asked."""
        return self.outcome in ("sent", "accepted", "completed")


class CommandLine(msgspec.Struct, frozen=True, kw_only=True):
    """One followed command in a snapshot. ``progress`` is a word of ``flightsw.link.verification``."""

    id: int
    name: str
    arguments: dict[str, Scalar]
    operator: str
    sent_utc_s: float
    transmissions: int
    progress: str
    overdue: bool
    text: str


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Archived packets of one boot and APID."""

    boot: int
    apid: int
    name: str
    received: int
    first: int
    last: int
    missing: int


class StationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The station at a glance. Packet counts are of this station process, except what ``streams`` says.

    ``contact`` is true when a good packet came within the last seconds. ``units_bad`` counts received units that
    were dropped, by reason. ``dictionary_onboard`` is "" until a boot event told it.
    """

    pid: int
    uptime_s: float
    link: WireStatus
    contact: bool
    silence_s: float | None
    archive: str
    archive_fault: str
    archive_pending: int
    packets_live: int
    packets_playback: int
    duplicates: int
    missing: int
    unarchived: int
    acknowledged: int
    acknowledge_pending: int
    units_bad: dict[str, int]
    commands_open: int
    boot: int | None
    mode: str
    world_s: float | None
    onboard_utc_s: float | None
    dictionary: str
    dictionary_onboard: str
    notices: tuple[str, ...]
    streams: tuple[Stream, ...]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="snapshot"):
    """Everything a display shows."""

    status: StationStatus
    latest: dict[str, Value]
    events: tuple[EventLine, ...]
    alarms: tuple[Alarm, ...]
    commands: tuple[CommandLine, ...]


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done"):
    """The request was carried out and has no other answer."""


class Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """The station did not do it; one line for the operator and the exit code."""

    message: str
    exit_code: int


class SnapshotRequest(msgspec.Struct, frozen=True, tag_field="op", tag="snapshot", forbid_unknown_fields=True):
    """Ask for a ``Snapshot``."""


class StopRequest(msgspec.Struct, frozen=True, tag_field="op", tag="stop", forbid_unknown_fields=True):
    """Ask the station to commit and leave."""


class SendRequest(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="send", forbid_unknown_fields=True
):
    """Send a telecommand by name. ``timeout_s`` None takes the bounds of the dictionary."""

    name: str
    arguments: dict[str, Scalar] = {}
    wait: Wait = "completion"
    timeout_s: float | None = None


Request = SnapshotRequest | StopRequest | SendRequest
Answer = Snapshot | StageLine | CommandResult | Done | Refusal

encode: Final = msgspec.json.Encoder().encode
decode_request: Final = msgspec.json.Decoder(Request).decode
decode_answer: Final = msgspec.json.Decoder(Answer).decode

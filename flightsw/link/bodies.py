"""Packet bodies that are msgpack maps: commands, events, verification, replies and ping.

Every body of telemetry starts with ``boot``, ``seq`` and ``t`` (mission time, ``world_s``): with the APID they
identify a packet in the recorder and in the archive. ``seq`` is the whole per-APID sequence of this boot, of
which the header carries 14 bits.

Reading is strict about types and tolerant about age. A value of a wrong type, an array, an extension type, a
string that is not UTF-8 or bytes after the map are a ``BodyError``. A key that an older reader does not know is
skipped, and keys that came later have defaults. Nothing nested is ever built from wire input, so depth is
bounded by construction; size is bounded by the packet.

Writing telemetry is total: a body that is too large for its packet loses text, never the packet
(``pack_body``). Writing a command is not: an operator is told.
"""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from .errors import BodyError
from .packet import PACKET_BYTES_MAX, TM_BODY_BYTES_MAX
from .schema import FailureCode

Scalar = bool | int | float | str | None
ArgumentValue = Scalar | bytes
Count = Annotated[int, Meta(ge=0)]
"""What msgpack can carry as an unsigned integer, 0 to 2^64 − 1."""

FIELD_CHARACTERS_MAX: Final = 96
"""Text fields of an event that is too large are cut to this first."""
ELLIPSIS: Final = "…"
_BINARY: Final = frozenset((0xC4, 0xC5, 0xC6))
"""First octets of msgpack binary data."""


class CommandBody(msgspec.Struct, frozen=True):
    """A telecommand. ``id`` is unique per command, so that a repeated packet does not run twice."""

    op: Count
    id: Count
    args: dict[str, ArgumentValue] = {}


class _UnreadCommand(msgspec.Struct, frozen=True):
    """A telecommand whose arguments are still msgpack: no decoder takes text and octets in one place."""

    op: Count
    id: Count
    args: dict[str, msgspec.Raw] = {}


class EventBody(msgspec.Struct, frozen=True):
    """An event report: ``id`` of the dictionary, severity code, and the fields of its template."""

    boot: Count
    seq: Count
    t: float
    id: Count
    sev: Count
    fields: dict[str, Scalar] = {}


class VerificationBody(msgspec.Struct, frozen=True):
    """What became of the telecommand ``id``: a ``Stage`` code, and a ``FailureCode`` that is NONE for success."""

    boot: Count
    seq: Count
    t: float
    id: Count
    op: Count
    stage: Count
    code: Count = int(FailureCode.NONE)
    text: str = ""


class ReplyBody(msgspec.Struct, frozen=True):
    """The answer to one inference request, sent by telecommand ``id``.

    ``finish`` is "length", "stop" or "failed"; ``generation`` −1 means that no checkpoint is served. A text that
    does not fit one packet comes in ``parts`` packets, numbered from 0 by ``part`` (``split_text``).
    """

    boot: Count
    seq: Count
    t: float
    job: str
    request: Count
    id: Count
    text: str
    tokens: Count
    finish: str
    generation: int
    duration_s: float
    part: Count = 0
    parts: Count = 1


class TableBody(msgspec.Struct, frozen=True):
    """A piece of a dumped table: octets of the image from ``offset`` on, of ``total`` with this CRC-32."""

    boot: Count
    seq: Count
    t: float
    table: Count
    offset: Count
    total: Count
    crc32: Count
    data: bytes


class PingBody(msgspec.Struct, frozen=True):
    """Are-you-alive report."""

    boot: Count
    seq: Count
    t: float


TelemetryBody = EventBody | VerificationBody | ReplyBody | TableBody | PingBody
Body = TypeVar("Body")

_encoder: Final = msgspec.msgpack.Encoder()
_command: Final = msgspec.msgpack.Decoder(_UnreadCommand)
_arguments: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_scalar: Final = msgspec.msgpack.Decoder(Scalar)
_octets: Final = msgspec.msgpack.Decoder(bytes)
_event: Final = msgspec.msgpack.Decoder(EventBody)
_verification: Final = msgspec.msgpack.Decoder(VerificationBody)
_reply: Final = msgspec.msgpack.Decoder(ReplyBody)
_table: Final = msgspec.msgpack.Decoder(TableBody)
_ping: Final = msgspec.msgpack.Decoder(PingBody)


def pack_body(body: CommandBody | TelemetryBody) -> bytes:
    """Msgpack map of a body. One of telemetry always fits its packet: text that does not is cut, with an "…".

    Text without UTF-8 (lone surrogates, as file names may have) is written with "?". The size of a command is
    checked by ``packet.encode_tc``.
    """
    try:
        octets = _encoder.encode(body)
    except UnicodeEncodeError:
        return pack_body(type(body)(**_clean(msgspec.structs.asdict(body))))
    excess = len(octets) - TM_BODY_BYTES_MAX
    if excess > 0 and isinstance(body, EventBody):
        return _encoder.encode(msgspec.structs.replace(body, fields=_cut_fields(body.fields)))
    if excess > 0 and isinstance(body, VerificationBody | ReplyBody):
        # The length prefix of a shorter text is never longer.
        text = cut_text(body.text, len(body.text.encode()) - excess)
        return _encoder.encode(msgspec.structs.replace(body, text=text))
    return octets


def cut_text(text: str, bytes_max: int) -> str:
    """The text itself, or as much of it as fits ``bytes_max`` octets of UTF-8 with an ellipsis."""
    octets = text.encode(errors="replace")
    if len(octets) <= bytes_max:
        return octets.decode()
    room = max(0, bytes_max - len(ELLIPSIS.encode()))
    return octets[:room].decode(errors="ignore") + ELLIPSIS


def split_text(text: str, bytes_max: int) -> tuple[str, ...]:
    """Pieces of at most ``bytes_max`` (4 or more) octets of UTF-8 each, at least one; joined they are the text."""
    octets = text.encode(errors="replace")
    pieces = []
    start = 0
    while len(octets) - start > bytes_max:
        end = start + bytes_max
        # Octets 0b10xxxxxx continue a character: step back to its first.
        while octets[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(octets[start:end].decode())
        start = end
    pieces.append(octets[start:].decode())
    return tuple(pieces)


def unpack_command(octets: bytes) -> CommandBody:
    """Body of a telecommand; raises ``BodyError``."""
    unread = _decode(_command, octets, "telecommand")
    return CommandBody(unread.op, unread.id, _read(unread.args))


def unpack_arguments(octets: bytes) -> dict[str, ArgumentValue]:
    """Arguments of a stored telecommand; raises ``BodyError``."""
    return _read(_decode(_arguments, octets, "arguments"))


def unpack_event(octets: bytes) -> EventBody:
    """Body of an event report; raises ``BodyError``."""
    return _decode(_event, octets, "event")


def unpack_verification(octets: bytes) -> VerificationBody:
    """Body of a verification report; raises ``BodyError``."""
    return _decode(_verification, octets, "verification")


def unpack_reply(octets: bytes) -> ReplyBody:
    """Body of an inference reply; raises ``BodyError``."""
    return _decode(_reply, octets, "reply")


def unpack_table(octets: bytes) -> TableBody:
    """Body of a piece of a dumped table; raises ``BodyError``."""
    return _decode(_table, octets, "table")


def unpack_ping(octets: bytes) -> PingBody:
    """Body of an are-you-alive report, and the head of any other map of telemetry; raises ``BodyError``."""
    return _decode(_ping, octets, "ping")


def _decode(decoder: msgspec.msgpack.Decoder[Body], octets: bytes, what: str) -> Body:
    if len(octets) > PACKET_BYTES_MAX:
        raise BodyError(f"{what} body of {len(octets)} bytes, at most {PACKET_BYTES_MAX} are allowed")
    try:
        return decoder.decode(octets)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BodyError(f"{what} body: {error}") from None
    except RecursionError:
        raise BodyError(f"{what} body: nested too deeply") from None


def _read(unread: dict[str, msgspec.Raw]) -> dict[str, ArgumentValue]:
    arguments: dict[str, ArgumentValue] = {}
    for name, raw in unread.items():
        octets = bytes(raw)
        if octets[0] in _BINARY:
            arguments[name] = _decode(_octets, octets, "argument")
        else:
            arguments[name] = _decode(_scalar, octets, "argument")
    return arguments


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _cut_fields(fields: dict[str, Any]) -> dict[str, Scalar]:
    """Fields that fit: long texts are cut evenly, then the last fields are dropped."""
    cut: dict[str, Scalar] = {}
    # 128 octets stay for the head of the map.
    room = TM_BODY_BYTES_MAX - 128
    for name, value in fields.items():
        short = cut_text(value, FIELD_CHARACTERS_MAX) if isinstance(value, str) else value
        room -= len(_encoder.encode(name)) + len(_encoder.encode(short))
        if room < 0:
            break
        cut[name] = short
    return cut

"""Image of the status table "fdir_status": what each watchpoint and each actionpoint says now.

    image = msgpack array [format, watchpoints, actionpoints]; each entry is an array in the order of its fields

It can only be dumped (``table.dump fdir_status``). Reading it on the ground raises ``TableError`` for anything
else.
"""

from typing import Annotated, Final, Literal

import msgspec

from .errors import TableError
from .tables import IMAGE_BYTES_MAX


class WatchStatus(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One watchpoint: CLEAR, TRIPPED or STALE; value compared, NaN is none; machine time since it was valid."""

    id: int
    name: str
    result: Annotated[str, msgspec.Meta(pattern="^(CLEAR|TRIPPED|STALE)$")]
    value: float
    age_s: float


class ActionStatus(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One actionpoint: its switch, value of its condition, whether its response stands, how often it tripped."""

    id: int
    name: str
    switch: Literal["active", "passive", "disabled"]
    spent: bool
    condition: Annotated[str, msgspec.Meta(pattern="^(FALSE|UNKNOWN|TRUE)$")]
    tripped: bool
    acting: bool
    count: int


class LimitStatus(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The whole status, in the order of the active tables."""

    format: Literal[1] = 1
    watch: tuple[WatchStatus, ...]
    action: tuple[ActionStatus, ...]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(LimitStatus)


def encode_status(status: LimitStatus) -> bytes:
    """The image."""
    return _encoder.encode(status)


def decode_status(image: bytes) -> LimitStatus:
    """Inverse of ``encode_status``; raises ``TableError``."""
    if len(image) > IMAGE_BYTES_MAX:
        raise TableError(f"image of {len(image)} bytes, at most {IMAGE_BYTES_MAX} are allowed")
    try:
        return _decoder.decode(image)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TableError(f"is no image of fdir_status: {error}") from None

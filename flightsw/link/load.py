"""What the bench says to a load: a process that works a card in a wanted way while the bench measures it.

    bench → load    one ``Order`` a line (JSON) on its standard input; each replaces the one before, also unfinished
    load → bench    one ``Answer`` a line on its standard output: what it is at the start, and one for each order

The load is ``python -m flightsw.gpu.bench_load``; what it finishes it shows in an activity meter (``link.meter``).
End of file on its input ends it.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

LINE_BYTES_MAX: Final = 4096

Work = Literal["rest", "train", "decode", "kernel"]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Do this from now on. A duty that only changes takes effect at once, everything else after a warm-up."""

    id: Annotated[int, Meta(ge=0)]
    work: Work = "rest"
    """"train" is optimiser steps of a GPT, "decode" its tokens one by one, "kernel" matrix products."""
    batch: Annotated[int, Meta(ge=0, le=1 << 16)] = 0
    """Rows of a micro-batch; 0 is the preset's."""
    sms: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Multiprocessors to work on (a green context); 0 is the whole card."""
    duty: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    """Share of time to work."""
    period_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0
    """Strict cycle: work for duty · period, rest for the remainder; 0 paces as a worker does, unit by unit."""
    kernel_s: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    """Length of one unit of "kernel", s."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To the order of the same ``id``, once it is warm; −1 is the greeting."""

    id: int
    ok: bool = True
    reason: str = ""
    """Why not, in one line: out of memory, no green contexts here."""
    device: str = ""
    """"cpu" or "cuda"."""
    card: str = ""
    software: str = ""
    """Versions that matter, for whoever repeats it."""
    multiprocessors: int = 0
    """Of the whole card; 0 where there are none."""
    units_tokens: float = 0.0
    """Tokens that one move of the meter stands for; 0 for kernels."""
    unit_s: float = 0.0
    """Length of one unit at full duty, as warmed up."""


_order: Final[msgspec.json.Decoder[Order]] = msgspec.json.Decoder(Order)
_answer: Final[msgspec.json.Decoder[Answer]] = msgspec.json.Decoder(Answer)


def encode(message: Order | Answer) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode_order(line: bytes) -> Order:
    """A line from the bench; ``msgspec.MsgspecError`` when it is none."""
    return _order.decode(line)


def decode_answer(line: bytes) -> Answer:
    """A line from the load; ``msgspec.MsgspecError`` when it is none."""
    return _answer.decode(line)

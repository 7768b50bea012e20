"""Link budget: how many bytes may go down now, so that all traffic together stays within the radio's rate.

Two token buckets fill on the machine clock (the radio is hardware, it knows no warp).

    total     fills with ``fill`` · rate; everything that is sent is taken from it
    routine   what housekeeping and replies may take of it: while packets wait for playback, ``playback_share`` of
              the rate is kept for these, so that live data cannot starve what is more important. While none
              wait it holds no more than the total, or what urgent packets took would be missing where a long
              packet needs it

What is *urgent* (verification, events) goes first: it is sent even when the total is empty, down to a debt of
one full bucket. A routine packet may make a debt of no more than itself in either bucket, so that neither
playback, which takes all that is left in every frame, nor a shorter packet that is due in the same frame stops
a long one. *Bulk* (housekeeping at the control rate) leaves one longest packet in the bucket, or on a slow
radio the many small ones would never let a long, more important one through. Debt is paid before anything else
is sent: over any time T at most ``fill`` · rate · (T + ``REFILL_MAX_S``) + 2 · full bytes and one packet are
sent, whatever is raised on board.

What is not sent for want of budget is recorded and comes by playback.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from flightsw.link.dictionary import PRIORITY_EVENT
from flightsw.link.packet import PACKET_BYTES_MAX

FRAMING_BYTES: Final = 8
"""COBS overhead and delimiter of a packet of the longest size, rounded up."""
URGENT_PRIORITY: Final = PRIORITY_EVENT
"""Packets up to this priority are urgent."""
BULK_PRIORITY: Final = 5
"""Packets from this priority on are bulk."""
REFILL_MAX_S: Final = 2.0
"""A frame that comes later than this is not paid for the whole of the time it slept."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rate of the radio, as far as the core has to know it."""

    rate_bps: Annotated[float, Meta(ge=100.0, le=1e10)] = 115_200.0
    """Radio rate; the daemon sets it from its radio section."""
    burst_s: Annotated[float, Meta(ge=0.01, le=60.0)] = 0.5
    """Seconds of the rate that may be saved up."""
    fill: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    """Part of the rate that is used."""
    playback_share: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.1
    """Part of this that live housekeeping leaves to playback while packets wait in the recorder."""


class Budget(Struct, frozen=True):
    """What both buckets hold at machine time ``filled_s``; ``total_bytes`` may be in debt."""

    total_bytes: float
    routine_bytes: float
    full_bytes: float
    filled_s: float


def start(now_s: float) -> Budget:
    """Full buckets, of a size that the first ``filled`` sets."""
    return Budget(float("inf"), float("inf"), 2.0 * PACKET_BYTES_MAX, now_s)


def filled(budget: Budget, config: Config, waiting: bool, now_s: float) -> Budget:
    """The budget at ``now_s``; ``waiting`` says that packets wait for playback."""
    byte_rate = config.rate_bps / 8.0 * config.fill
    # A slow radio saves up at least two packets, or nothing could ever be played back.
    full = max(byte_rate * config.burst_s, 2.0 * PACKET_BYTES_MAX)
    # What was left is bounded, what came since is not cut: slow and fast frames get the same rate.
    came = byte_rate * min(now_s - budget.filled_s, REFILL_MAX_S)
    share = 1.0 - config.playback_share if waiting else 1.0
    total = min(full, budget.total_bytes)
    # Playback empties the total on purpose, and its own share is what it leaves to live data then.
    routine = min(full, budget.routine_bytes) if waiting else min(total, budget.routine_bytes)
    return Budget(total + came, routine + came * share, full, now_s)


def spend(budget: Budget, packet_bytes: int, priority: int) -> Budget | None:
    """The budget after one live packet, or None when it cannot be paid and has to wait in the recorder."""
    cost = packet_bytes + FRAMING_BYTES
    urgent = priority <= URGENT_PRIORITY
    if urgent:
        payable = budget.total_bytes > -budget.full_bytes
    else:
        needed = cost + PACKET_BYTES_MAX if priority >= BULK_PRIORITY else 1.0
        payable = budget.total_bytes > 0.0 and needed <= budget.routine_bytes
    if not payable:
        return None
    routine = budget.routine_bytes if urgent else budget.routine_bytes - cost
    return Budget(budget.total_bytes - cost, routine, budget.full_bytes, budget.filled_s)


def for_playback(budget: Budget) -> tuple[Budget, int]:
    """The budget after all that is left went to playback, and how much that is: 0 or at least one packet."""
    if budget.total_bytes < PACKET_BYTES_MAX + FRAMING_BYTES:
        return budget, 0
    octets = int(budget.total_bytes)
    return Budget(budget.total_bytes - octets, budget.routine_bytes, budget.full_bytes, budget.filled_s), octets

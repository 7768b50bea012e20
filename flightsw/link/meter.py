"""The activity meter: sixteen bytes by which a worker shows how busy it is.

A worker maps this file and rewrites it after every micro-batch; the bench reads it and lets a simulated card
draw power by it. It is an instrument beside the daemon's own telemetry, so a daemon that misreports
its load cannot fool the plant. Layout, little-endian: float64 cumulative busy seconds, uint64 finished
micro-batches. Each value is written whole (8 aligned bytes), so a reader never sees a torn number.
"""

from struct import Struct
from typing import Final

METER_LAYOUT: Final = Struct("<dQ")

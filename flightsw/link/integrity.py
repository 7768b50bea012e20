"""Integrity levels: how hard a worker looks for damage, as orbit and operator order it.

The names travel: telecommand, telemetry, event reports and the messages to workers carry them. What a level means
for a worker is a table in ``flightsw.gpu.integrity.levels``.
"""

import enum


class Level(enum.IntEnum):
    """From nothing to everything; a higher level never looks less than a lower one."""

    OFF = 0
    """No check. For measurements on the ground."""
    WATCH = 1
    """Resident state by scrubbing, guards; a sample of the arithmetic."""
    STANDARD = 2
    """Resident state before every use that makes it durable, a larger sample of the arithmetic."""
    STORM = 3
    """Everything, every time: for the belt and for storms."""

"""Integrity levels: how hard a worker looks for damage, as orbit and operator order it, and what that costs.

The names travel: telecommand, telemetry, event reports and the messages to workers carry them. What a level means
for a worker is a table in ``flightsw.gpu.integrity.levels``.

``COSTS`` is the one place where the measured costs stand: the dictionary's texts, and with them the help of the
command line and the interface document, are made from it (``catalogue``).
"""

import enum
from typing import Final

import msgspec


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


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Time that a level takes, as a fraction of the work's own (0.04 is 4 %); None is not measured."""

    training: float | None = None
    inference: float | None = None


COSTS: Final[dict[Level, Cost]] = {
    Level.OFF: Cost(training=0.0, inference=0.0),
    # Its own measurement in training is noise; it does nothing that STANDARD does not do more often.
    Level.WATCH: Cost(training=0.02, inference=0.01),
    Level.STANDARD: Cost(training=0.02, inference=0.03),
    Level.STORM: Cost(training=0.18, inference=0.17),
}
"""Measured against the unprotected work on ``COSTS_MEASURED_ON``; the source is the part ``integrity`` of the
benchmarks. Off is what the others are measured against."""
COSTS_MEASURED_ON: Final = (
    "one core of an Intel Xeon, a GPT 768 wide, 2026-11-30; less on an AMD EPYC; a GPU is not measured"
)
"""Card or processor, and date, of the figures of ``COSTS``; empty while there are none."""

MEANINGS: Final[dict[Level, str]] = {
    Level.OFF: "nothing is checked",
    Level.WATCH: "memory is scrubbed, arithmetic sampled",
    Level.STANDARD: "memory is verified before each update, more arithmetic sampled",
    Level.STORM: "everything is checked, every time",
}
"""Each level in a few words, for operators."""

LEVEL_NAMES: Final = tuple(level.name for level in Level)
"""As telecommands and telemetry show them; messages to workers and the configuration write them in lower case."""
LEVEL_BY_NAME: Final = {level.name.lower(): level for level in Level}
"""Levels by their names in messages and in the configuration."""


def described(level: Level) -> str:
    """A level's meaning and its measured cost: "STORM: everything is checked, every time; cost not measured"."""
    return f"{level.name}: {MEANINGS[level]}; {_cost(COSTS[level])}"


def catalogue() -> str:
    """Every level that checks something with its cost, and what that was measured on, as one text."""
    levels = " · ".join(described(level) for level in Level if level is not Level.OFF)
    return f"{levels} (measured on {COSTS_MEASURED_ON})." if COSTS_MEASURED_ON else f"{levels}."


def _cost(cost: Cost) -> str:
    if cost.training is None and cost.inference is None:
        return "cost not measured"
    if not cost.training and not cost.inference:
        return "costs nothing"
    return f"costs {_percent(cost.training)} of training, {_percent(cost.inference)} of inference"


def _percent(fraction: float | None) -> str:
    return "an unmeasured part" if fraction is None else f"{100.0 * fraction:.2g} %"

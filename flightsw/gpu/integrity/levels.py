"""What each integrity level does: policy as a table.

A *pass* is one forward pass, with its backward pass in training. ``…_every`` counts passes or steps: 1 is every one
of them, 0 none. Which passes are looked at is a matter of count, not of chance, so a run can be repeated.

*State is not sampled*: all of it is verified before every update, at every level but OFF. An update changes every
word, and AdamW is not linear, so a digest cannot be carried over a step: the new one is taken from the new values.
Taken after a step whose start nobody verified, it would seal damage in, the next verification would pass, and no
later checkpoint could be vouched for.

``python -m flightsw.gpu.integrity.levels`` draws the table into ``flightsw/gpu/README.md``.
"""

import sys
from pathlib import Path
from typing import Final

import msgspec

from flightsw.link.integrity import Level


class Vigilance(msgspec.Struct, frozen=True, kw_only=True):
    """One level. All zero is off."""

    checksum_every: int = 0
    """Passes whose matrix products are checked against the sums of their operands, before rounding."""
    repeat_every: int = 0
    """Passes whose other operations (attention, norms, activations) are done twice and compared bit by bit."""
    transit_every: int = 0
    """Passes whose results are digested by the producer and verified by the consumer."""
    scrub_share: float = 0.0
    """Share of busy time that goes into scrubbing resident state, 0 to 1."""
    replay_every: int = 0
    """Optimiser steps, or decoding steps, that are done again as a whole and compared."""
    guards: bool = False
    """Statistics of training: loss, gradient norm, update."""


LEVELS: Final[dict[Level, Vigilance]] = {
    Level.OFF: Vigilance(),
    Level.WATCH: Vigilance(checksum_every=256, transit_every=256, scrub_share=0.002, guards=True),
    Level.STANDARD: Vigilance(
        checksum_every=8, repeat_every=32, transit_every=8, scrub_share=0.01, replay_every=256,
        guards=True,
    ),
    Level.STORM: Vigilance(
        checksum_every=1, repeat_every=1, transit_every=1, scrub_share=0.01, replay_every=64,
        guards=True,
    ),
}  # fmt: skip


def due(count: int, every: int) -> bool:
    """Whether it is the turn of pass or step ``count`` when one of ``every`` has one; of 0 none has."""
    return every > 0 and count % every == 0


README: Final = Path(__file__).parent.parent / "README.md"
MARKS: Final = ("<!-- generated: levels -->\n", "<!-- end of levels -->")
ROWS: Final[tuple[tuple[str, str], ...]] = (
    ("checksum_every", "matrix products checked"),
    ("repeat_every", "other operations done twice"),
    ("transit_every", "results verified on their way"),
    ("scrub_share", "busy time spent on scrubbing"),
    ("replay_every", "steps done again as a whole"),
    ("guards", "guards of training"),
)


def table() -> str:
    """The levels as a Markdown table, OFF left out."""
    levels = [level for level in Level if level is not Level.OFF]
    lines = [f"| | {' | '.join(level.name for level in levels)} |", f"|---|{'---|' * len(levels)}"]
    lines.append(
        f"| state before every update, cache rows and weights before an answer | {' | '.join(['yes'] * 3)} |"
    )
    for field, text in ROWS:
        cells = [_cell(field, getattr(LEVELS[level], field)) for level in levels]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """The README with the table made anew; ``ValueError`` when it lacks the marks."""
    head, found, rest = text.partition(MARKS[0])
    _, closed, tail = rest.partition(MARKS[1])
    if not found or not closed:
        raise ValueError(f"{README} lacks the marks {MARKS[0].strip()} … {MARKS[1]}")
    return f"{head}{MARKS[0]}\n{table()}\n{MARKS[1]}{tail}"


def _cell(field: str, value: float) -> str:
    if field == "scrub_share":
        return f"{100.0 * value:g} %"
    if field == "guards":
        return "yes" if value else "no"
    return {0: "none", 1: "all"}.get(int(value), f"1 in {int(value)}")


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"levels: {README}\n")

"""The ledger's schema, written down once: columns as a table, from which both writers and the manual are made.

A row is one injection. What was planned comes first, then what was seen to happen, then how it ended:

    corrected   somebody noticed, and the result is bit for bit that of the undisturbed run
    detected    somebody noticed, and the result was withheld, recomputed elsewhere or lost
    masked      nobody noticed, and the result is that of the undisturbed run
    silent      nobody noticed, and the result is another

and, independent of it, which *effect* the same fault has on an unprotected run: masked, sdc (another top
token), critical (a loss at least 1 % worse), due (an error or a result that is not finite), hang; see ``judging``.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from .injection import TARGET_NAMES, Fired, Injection
from .shapes import DTYPES, SHAPES
from .streams import origin_of

Outcome = Literal["corrected", "detected", "masked", "silent"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
Effect = Literal["masked", "sdc", "critical", "due", "hang"]
EFFECTS: Final[tuple[Effect, ...]] = get_args(Effect)
SCHEMA: Final = "gpusat-injections/1"
LIST: Final = "+"
"""Joins the items of a list within a cell; no value holds it."""

Kind = Literal["text", "integer", "number", "truth", "list"]
Cell = str | int | float | bool


class Column(msgspec.Struct, frozen=True):
    """One column: ``allowed`` is a closed set of texts, empty is any."""

    name: str
    kind: Kind
    text: str
    allowed: tuple[str, ...] = ()


COLUMNS: Final = (
    Column("id", "text", "seed.index.prior.subject: all that the injection was drawn from"),
    Column("injector", "text", "own, or the package that injected: pytorchfi, mrfi"),
    Column("subject", "text", "program under fire, with the pattern its sites were narrowed by"),
    Column("prior", "text", "shares of the shapes it was drawn with"),
    Column("seed", "integer", "seed of the campaign"),
    Column("index", "integer", "number of the injection under that seed"),
    Column("target", "text", "what was hit", TARGET_NAMES),
    Column("layer", "text", "tensor, or module that ran the operation"),
    Column("operation", "text", "operation whose result was hit; empty for memory"),
    Column(
        "call",
        "integer",
        "which of the operations of that name in the pass, from 0; of memory, before which of all it was hit",
    ),
    Column("occasion", "integer", "pass of the run, from 0"),
    Column("dtype", "text", "of the elements that were hit; before rounding the accumulator's", tuple(DTYPES)),
    Column("shape", "text", "shape of the fault", SHAPES),
    Column("bits", "list", "bits that were flipped, from the least significant; empty for nullify and nan"),
    Column("stride", "integer", "elements between those that were hit; 0 when it is one"),
    Column("words", "integer", "elements that were to be hit"),
    Column("place", "number", "where in the tensor, 0 to 1"),
    Column("where", "text", "what was hit, as the injector saw it"),
    Column("elements", "list", "flat indices that were hit"),
    Column("old", "list", "bits before, hexadecimal"),
    Column("new", "list", "bits after, hexadecimal"),
    Column("words32", "integer", "32-bit words of memory that held damage"),
    Column("level", "text", "integrity level of the protected run"),
    Column("effect", "text", "what the same fault does to an unprotected run", EFFECTS),
    Column("outcome", "text", "how it ended in the protected run", OUTCOMES),
    Column("detectors", "list", "who noticed, in order"),
    Column("repaired", "truth", "memory got its old value back in place"),
    Column("released", "truth", "a result of the run was released and differs from the undisturbed one"),
    Column("latency_passes", "integer", "passes from the hit to the first notice; -1 when nobody noticed"),
    Column("detail", "text", "for people"),
)
NAMES: Final = tuple(column.name for column in COLUMNS)


class LedgerError(ValueError):
    """A ledger, or a row, that cannot be what it says; the text is one line."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How an injection ended, as the campaign judged it; field by field the columns of the same name."""

    outcome: Outcome
    effect: Effect
    level: str
    detectors: tuple[str, ...] = ()
    repaired: bool = False
    released: bool = False
    latency_passes: int = -1
    detail: str = ""


def row_of(injection: Injection, fired: Fired, end: End, injector: str = "own") -> dict[str, Cell]:
    """The row of one injection. Raises ``LedgerError`` when the three contradict each other."""
    if fired.injection != injection.id:
        raise LedgerError(f"injection {injection.id}: the evidence is that of {fired.injection}")
    values: dict[str, Any] = {
        **msgspec.structs.asdict(injection),
        **msgspec.structs.asdict(end),
        "injector": injector,
        "where": fired.where,
        "elements": fired.elements,
        "old": tuple(f"{value:x}" for value in fired.old),
        "new": tuple(f"{value:x}" for value in fired.new),
        "words32": fired.words32,
    }
    row: dict[str, Cell] = {}
    for column in COLUMNS:
        value = values[column.name]
        row[column.name] = LIST.join(map(str, value)) if column.kind == "list" else value
    check(row)
    return row


def check(row: Mapping[str, Any]) -> None:
    """Refuse a row with a missing, mistyped or contradicting cell. Raises ``LedgerError``."""
    name = row.get("id", "?")
    for column in COLUMNS:
        value = row.get(column.name)
        if not isinstance(value, _TYPES[column.kind]) or (isinstance(value, bool) and column.kind != "truth"):
            raise LedgerError(f"injection {name}: {column.name} = {value!r} is no {column.kind}")
        if column.allowed and value not in column.allowed:
            raise LedgerError(
                f"injection {name}: {column.name} = {value!r}; allowed are {', '.join(column.allowed)}"
            )
        if isinstance(value, str) and re.search(r"[\r\n]", value):
            raise LedgerError(f"injection {name}: {column.name} has a line break, a row is one line")
        if isinstance(value, float) and not math.isfinite(value):
            raise LedgerError(f"injection {name}: {column.name} is not finite")
    try:
        origin = origin_of(str(name))
    except ValueError as error:
        raise LedgerError(str(error)) from None
    if (origin.seed, origin.index, origin.prior, origin.subject) != tuple(
        row[key] for key in ("seed", "index", "prior", "subject")
    ):
        raise LedgerError(f"injection {name}: seed, index, prior and subject are not those of its id")
    for wrong, complaint in _CONTRADICTIONS:
        if wrong(row):
            raise LedgerError(f"injection {name}: outcome {row['outcome']}, {complaint}")


_TYPES: Final[dict[Kind, type | tuple[type, ...]]] = {
    "text": str,
    "integer": int,
    "number": (float, int),
    "truth": bool,
    "list": str,
}
_CONTRADICTIONS: Final[tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...]] = (
    (lambda row: row["outcome"] in ("corrected", "detected") and not row["detectors"], "but nobody noticed"),
    (lambda row: row["outcome"] in ("masked", "silent") and bool(row["detectors"]), "but somebody noticed"),
    (lambda row: row["outcome"] in ("corrected", "masked") and row["released"], "but a wrong result was released"),
    (lambda row: row["outcome"] == "silent" and not row["released"], "but no wrong result was released"),
    (lambda row: bool(row["detectors"]) != (row["latency_passes"] >= 0), "and the latency contradicts it"),
)


def manual() -> str:
    """The schema as text for people: one line a column."""
    width = max(map(len, NAMES))
    lines = [f"Schema {SCHEMA}: one row is one injection; lists are joined by {LIST!r}.", ""]
    for column in COLUMNS:
        allowed = f" ({', '.join(column.allowed)})" if column.allowed else ""
        lines.append(f"{column.name:<{width}}  {column.kind:<7}  {column.text}{allowed}")
    return "\n".join(lines) + "\n"

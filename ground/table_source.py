"""Every kind of table between its source and its image: compile, decompile, say in a line what it holds.

One row for each ``Kind`` that can be loaded; how each is written is in ``sequence_source``, ``limit_source`` and
``parameter_source``.
"""

import re
from typing import Final

from flightsw.link import limit_tables, sequence, settings
from flightsw.link.limit_tables import WatchTable
from flightsw.link.sequence import Sequence
from flightsw.link.tables import IMAGE_BYTES_MAX, LOADABLE, TABLE_BY_NAME, Kind, Table

from .errors import ExitCode, GroundError
from .limit_source import actionpoints_text, compile_actionpoints, compile_watchpoints, watchpoints_text
from .moments import duration_text, utc_text
from .names import likely
from .parameter_source import compile_parameters, parameters_text
from .sequence_source import compile_sequence, sequence_text
from .source import Source

NO_WATCHPOINTS: Final = WatchTable(name="none", watchpoints=())
REPORTS: Final = {
    "fdir_status": "ground limits",
    "sequence_status": "ground sequence list",
    "resets": "ground resets",
}
"""Tables that can only be dumped, and which command shows them."""
ARTICLE: Final = {Kind.ABSOLUTE: "an absolute", Kind.RELATIVE: "a relative"}


def find_table(name: str) -> Table:
    """The table of a name in any case, if it has a source; raises ``GroundError`` (usage) with the likely ones."""
    # A sequence may be written without its zero: rts5 is rts05.
    numbered = re.fullmatch(r"rts(\d)", name.casefold())
    table = TABLE_BY_NAME.get(f"rts0{numbered[1]}" if numbered else name.casefold())
    if table is None:
        raise GroundError(f"no table {name!r}{likely(name, TABLE_BY_NAME)}", ExitCode.USAGE)
    if table not in LOADABLE:
        raise GroundError(f"{table.name} is a report and has no source: see {REPORTS[table.name]}", ExitCode.USAGE)
    return table


def compile_image(table: Table, source: Source, watchpoints: WatchTable | None = None) -> bytes:
    """The checked image of a source for this table; raises ``GroundError`` with file and line.

    ``watchpoints`` are those that actionpoints speak of when their source has none.
    """
    match table.kind:
        case Kind.WATCHPOINTS:
            image = limit_tables.encode(compile_watchpoints(source))
        case Kind.ACTIONPOINTS:
            image = limit_tables.encode(compile_actionpoints(source, watchpoints))
        case Kind.PARAMETERS:
            image = settings.encode(compile_parameters(source))
        case _:
            made = compile_sequence(source)
            if Kind(made.kind) is not table.kind:
                raise source.fault(
                    f"{table.name} holds {ARTICLE[table.kind]} sequence, this is {ARTICLE[Kind(made.kind)]} one",
                    *("sequence", "kind"),
                )
            image = sequence.encode(made)
    if len(image) > IMAGE_BYTES_MAX:
        raise source.fault(f"the image has {len(image)} bytes, at most {IMAGE_BYTES_MAX} are allowed")
    return image


def image_text(table: Table, image: bytes, watchpoints: WatchTable | None = None, comment: str = "") -> str:
    """The source of an image; raises ``TableError`` for one that is damaged or of another dictionary.

    ``watchpoints`` are those that actionpoints speak of; without them there is no table of actionpoints.
    """
    match table.kind:
        case Kind.WATCHPOINTS:
            return watchpoints_text(limit_tables.decode_watchpoints(image), comment)
        case Kind.ACTIONPOINTS:
            known = watchpoints or NO_WATCHPOINTS
            return actionpoints_text(limit_tables.decode_actionpoints(image, known), known, comment)
        case Kind.PARAMETERS:
            return parameters_text(settings.decode(image), comment)
        case _:
            return sequence_text(sequence.decode(image), comment)


def summary(table: Table, image: bytes, watchpoints: WatchTable | None = None) -> str:
    """What an image holds, in one line; raises ``TableError``."""
    match table.kind:
        case Kind.WATCHPOINTS:
            watches = limit_tables.decode_watchpoints(image)
            return f"{watches.name!r}: {len(watches.watchpoints)} watchpoints"
        case Kind.ACTIONPOINTS:
            actions = limit_tables.decode_actionpoints(image, watchpoints or NO_WATCHPOINTS)
            active = sum(point.state == "active" for point in actions.actionpoints)
            return f"{actions.name!r}: {len(actions.actionpoints)} actionpoints, {active} active"
        case Kind.PARAMETERS:
            values = settings.decode(image)
            return f"{values.name!r}: {len(values.values)} parameters"
        case _:
            return sequence_summary(sequence.decode(image))


def sequence_summary(made: Sequence) -> str:
    """What a sequence is, in one line."""
    count = f"{len(made.steps)} step{'s' if len(made.steps) > 1 else ''}"
    if made.kind == "absolute":
        span = f"{utc_text(made.steps[0].at_ds)} to {utc_text(made.steps[-1].at_ds)}"
    else:
        least = "at least " if made.reference == "completion" else ""
        span = f"from {made.reference}, {least}{duration_text(sum(step.at_ds for step in made.steps))}"
    wait = ", waits for valid time" if made.wait_for_time and made.kind == "relative" else ""
    return f"{made.name!r}: {made.kind}, {count}, {span}, on failure {made.on_failure}{wait}"

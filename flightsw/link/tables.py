"""Tables that the ground loads: which there are, and the bounds of loading and dumping them.

Every table travels the same way (PUS service 8, ``table.*``): the ground opens a load with size and CRC-32, sends
the image in pieces, has it validated, and activates it. What is active can be dumped. The image is msgpack; its
format belongs to the table's kind (``sequence``, ``limit_tables``, ``settings``), and so does the check, which is
one function for the ground and on board: both refuse for the same reasons in the same words.
"""

from enum import StrEnum, unique
from typing import Final

import msgspec

IMAGE_BYTES_MAX: Final = 131_072
"""Largest image of a table."""
PIECE_BYTES_MAX: Final = 800
"""Most octets of an image in one telecommand or dump packet."""
RELATIVE_SEQUENCES: Final = 64
ABSOLUTE_SEQUENCES: Final = 2


@unique
class Kind(StrEnum):
    """What a table holds, and with it the format of its image; STATUS tables can only be dumped."""

    PARAMETERS = "parameters"
    WATCHPOINTS = "watchpoints"
    ACTIONPOINTS = "actionpoints"
    ABSOLUTE = "absolute"
    RELATIVE = "relative"
    STATUS = "status"


class Table(msgspec.Struct, frozen=True):
    """One table; ``code`` travels, ``name`` is what an operator types and the key under which it is stored."""

    code: int
    name: str
    kind: Kind
    text: str


TABLES: Final[tuple[Table, ...]] = (
    Table(1, "parameters", Kind.PARAMETERS, "Parameters that differ from the configuration file"),
    Table(2, "watchpoints", Kind.WATCHPOINTS, "Limits that are watched"),
    Table(3, "actionpoints", Kind.ACTIONPOINTS, "Responses to watchpoints"),
    Table(10, "fdir_status", Kind.STATUS, "Result of each watchpoint, state and count of each actionpoint"),
    Table(11, "sequence_status", Kind.STATUS, "State, next step and counts of each sequence"),
    Table(12, "resets", Kind.STATUS, "The last resets and what the vehicle did before each"),
    *(
        Table(100 + n, f"ats{n}", Kind.ABSOLUTE, f"Absolute time sequence {n}")
        for n in range(1, ABSOLUTE_SEQUENCES + 1)
    ),
    *(
        Table(200 + n, f"rts{n:02}", Kind.RELATIVE, f"Relative time sequence {n}")
        for n in range(1, RELATIVE_SEQUENCES + 1)
    ),
)
SEQUENCES: Final = tuple(t for t in TABLES if t.kind in (Kind.ABSOLUTE, Kind.RELATIVE))
LOADABLE: Final = tuple(t for t in TABLES if t.kind is not Kind.STATUS)
TABLE_BY_CODE: Final = {table.code: table for table in TABLES}
TABLE_BY_NAME: Final = {table.name: table for table in TABLES}

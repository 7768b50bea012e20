"""The dictionary: every telecommand, parameter, housekeeping group and event report, in one typed table.

This is the interface document as code. Ground and bench conform to it; the ICD, the XTCE export, the
command line's completion lists and help texts are generated from it. ``DICTIONARY_HASH`` travels in the boot
event and stands in every archive, so that two sides with different tables notice.

Rules
-----
- Names are ``subsystem.thing_unit``, units last. Ids, opcodes, APIDs and enumeration codes are never reused.
- Housekeeping bodies are msgpack arrays of float64 in the order given here. A parameter is added at the
  end of its group, never in the middle: readers with an older table then still read what they know.
- The first three parameters of each group are ``boot_count``, ``packet_sequence`` and ``world_s``: with the
  APID they identify a packet for store and forward, beyond the 14 bits of the CCSDS sequence count.
"""

import hashlib
from typing import Final

import msgspec

from .apids import (
    APID_EVENT,
    APID_HK_FAST,
    APID_HK_MAIN,
    APID_HK_SLOW,
    APID_PING,
    APID_REPLY,
    APID_TABLE,
    APID_TELECOMMAND,
    APID_VERIFICATION,
    DESTINATION_LIVE,
    DESTINATION_PLAYBACK,
    FILTERED_GROUPS,
    PRIORITY_CRITICAL,
    PRIORITY_EVENT,
    PRIORITY_REPLY,
    PRIORITY_TABLE,
    PRIORITY_VERIFICATION,
    RECORDER_GROUPS,
)
from .event_reports import EVENTS
from .parameters import (
    CLOCKS,
    GOVERNOR_LIMITS,
    HOUSEKEEPING,
    IDENTITY,
    JOB_STATES,
    PARAMETERS,
    PLANNER_STATES,
    RESET_CAUSES,
    SHED_CAUSES,
    SHED_RUNGS,
    TIME_QUALITY,
)
from .telecommands import TELECOMMANDS

__all__ = [
    "APID_EVENT",
    "APID_HK_FAST",
    "APID_HK_MAIN",
    "APID_HK_SLOW",
    "APID_PING",
    "APID_REPLY",
    "APID_TABLE",
    "APID_TELECOMMAND",
    "APID_VERIFICATION",
    "CLOCKS",
    "DESTINATION_LIVE",
    "DESTINATION_PLAYBACK",
    "DICTIONARY_HASH",
    "EVENTS",
    "EVENT_BY_ID",
    "EVENT_BY_NAME",
    "FILTERED_GROUPS",
    "GOVERNOR_LIMITS",
    "GROUP_BY_NAME",
    "GROUP_BY_SID",
    "HOUSEKEEPING",
    "IDENTITY",
    "JOB_STATES",
    "PARAMETERS",
    "PARAMETER_BY_NAME",
    "PLANNER_STATES",
    "PRIORITY_CRITICAL",
    "PRIORITY_EVENT",
    "PRIORITY_REPLY",
    "PRIORITY_TABLE",
    "PRIORITY_VERIFICATION",
    "RECORDER_GROUPS",
    "RESET_CAUSES",
    "SHED_CAUSES",
    "SHED_RUNGS",
    "TELECOMMANDS",
    "TELECOMMAND_BY_NAME",
    "TELECOMMAND_BY_OPCODE",
    "TIME_QUALITY",
]

TELECOMMAND_BY_OPCODE: Final = {c.opcode: c for c in TELECOMMANDS}
TELECOMMAND_BY_NAME: Final = {c.name: c for c in TELECOMMANDS}
PARAMETER_BY_NAME: Final = {p.name: p for p in PARAMETERS}
GROUP_BY_NAME: Final = {g.name: g for g in HOUSEKEEPING}
GROUP_BY_SID: Final = {g.sid: g for g in HOUSEKEEPING}
EVENT_BY_ID: Final = {e.id: e for e in EVENTS}
EVENT_BY_NAME: Final = {e.name: e for e in EVENTS}

DICTIONARY_HASH: Final = hashlib.sha256(
    msgspec.json.encode([TELECOMMANDS, PARAMETERS, HOUSEKEEPING, EVENTS], order="sorted")
).hexdigest()[:16]

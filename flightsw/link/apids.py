"""Who speaks in a packet, and how important it is: application process identifiers and downlink priorities."""

from typing import Final

# Application process identifiers (11 bits, CCSDS 133.0-B).
APID_TELECOMMAND: Final = 0x001
APID_VERIFICATION: Final = 0x010
APID_EVENT: Final = 0x011
APID_REPLY: Final = 0x012
APID_PING: Final = 0x013
APID_TABLE: Final = 0x014
APID_HK_FAST: Final = 0x020
APID_HK_MAIN: Final = 0x021
APID_HK_SLOW: Final = 0x022

# Destination id of the PUS-C telemetry header: in the bench profile it tells live data from playback.
DESTINATION_LIVE: Final = 0
DESTINATION_PLAYBACK: Final = 1

# Downlink priority of everything that is not housekeeping; 0 goes first.
PRIORITY_VERIFICATION: Final = 0
PRIORITY_CRITICAL: Final = 0
PRIORITY_EVENT: Final = 1
PRIORITY_REPLY: Final = 2
PRIORITY_TABLE: Final = 2

RECORDER_GROUPS: Final = ("verification", "critical", "event", "reply", "hk_main", "hk_slow", "hk_fast")
"""Groups of packets in the recorder; the position is the code, and is never given to another."""
FILTERED_GROUPS: Final = ("hk_main", "hk_slow", "hk_fast")
"""Of these, the ones that a filter may thin out: the next report brings what this one said."""

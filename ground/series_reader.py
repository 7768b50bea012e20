"""Parameters over mission time, read out of the archived housekeeping packets.

A file that another dictionary has written is read as far as both know: a parameter is found by its place in the
group's order, a packet that is shorter or laid out otherwise gives no value.
"""

from struct import Struct
from typing import Final, NamedTuple

from flightsw.link.codec import unpack_housekeeping
from flightsw.link.dictionary import HOUSEKEEPING, PARAMETER_BY_NAME
from flightsw.link.errors import LinkError
from flightsw.link.packet import CRC_BYTES, TM_HEADER_BYTES
from flightsw.link.schema import HousekeepingGroup

from .archive_file import ArchiveFile
from .errors import GroundError

_DOUBLE: Final = Struct(">d")
_VALUES_OFFSET: Final = TM_HEADER_BYTES + 3
"""Octets before the first element: headers, then the array head."""
_ELEMENT_BYTES: Final = 9
_ARRAY_16: Final = 0xDC
_FLOAT_64: Final = 0xCB


class Series(NamedTuple):
    """A parameter over mission time, in seconds and in the parameter's unit; NaN is "no valid value"."""

    world_s: list[float]
    value: list[float]


class SeriesReader(ArchiveFile):
    """Questions about parameters."""

    def parameters(self) -> list[str]:
        """Names of parameters that have packets here."""
        apids = {apid for (apid,) in self._rows("SELECT DISTINCT apid FROM packets")}
        names = [name for group in HOUSEKEEPING if group.apid in apids for name in group.parameters]
        return list(dict.fromkeys(names))

    def series(
        self, name: str, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> Series:
        """A parameter over mission time, from every housekeeping group that carries it.

        Raises ``GroundError`` for a name that is not in the dictionary.
        """
        if name not in PARAMETER_BY_NAME:
            raise GroundError(f"no parameter {name!r}: see ground query --list")
        points: list[tuple[float, float]] = []
        for group in HOUSEKEEPING:
            if name not in group.parameters:
                continue
            index = group.parameters.index(name)
            statement = f"SELECT world_s, packet, id FROM packets WHERE apid = {group.apid}"
            for world_s, packet, _id in self._select(statement, "world_s, id", since, until, last):
                value = _element(packet, index)
                if value is not None and world_s is not None:
                    points.append((world_s, value))
        points.sort(key=lambda point: point[0])
        if last:
            points = points[-last:]
        return Series([world_s for world_s, _ in points], [value for _, value in points])

    def columns(self, group: HousekeepingGroup) -> dict[str, list[float]]:
        """Every value of a housekeeping group by parameter, in the order of mission time; for whole-archive
        sums."""
        columns: dict[str, list[float]] = {name: [] for name in group.parameters}
        for (packet,) in self._rows("SELECT packet FROM packets WHERE apid = ? ORDER BY world_s, id", group.apid):
            try:
                values = unpack_housekeeping(group, packet[TM_HEADER_BYTES:-CRC_BYTES])
            except LinkError:
                continue
            for name, value in values.items():
                columns[name].append(value)
        return columns


def _element(packet: bytes, index: int) -> float | None:
    """One value of a housekeeping packet by its place; None when the packet is shorter or laid out otherwise."""
    offset = _VALUES_OFFSET + _ELEMENT_BYTES * index
    if len(packet) < offset + _ELEMENT_BYTES + CRC_BYTES:
        return None
    if packet[TM_HEADER_BYTES] != _ARRAY_16 or packet[offset] != _FLOAT_64:
        return None
    value: float = _DOUBLE.unpack_from(packet, offset + 1)[0]
    return value

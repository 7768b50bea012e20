"""Tables on board of the spacecraft double: loads in pieces, the one check, activation, dumps.

It keeps what a test asserts on in the open: ``active`` images by name, ``loads`` that are open, and how to lose
telecommands and packets. The real service is flown in ``test_ground_services``.
"""

import zlib
from collections.abc import Callable
from typing import Any

from flightsw.link import limit_tables, sequence, settings
from flightsw.link.errors import TableError
from flightsw.link.limit_tables import ActionTable, WatchTable
from flightsw.link.schema import FailureCode, Telecommand
from flightsw.link.settings import SETTING_BY_ID, ParameterSet
from flightsw.link.tables import PIECE_BYTES_MAX, TABLE_BY_CODE, Kind, Table

Answer = tuple[FailureCode, str]
OK = (FailureCode.NONE, "")
FILED = {"eps.soc_safe": 0.7, "eps.dod_max": 0.3, "checkpoint.before_eclipse": True}


class Load:
    """One open load."""

    def __init__(self, size_bytes: int, crc32: int) -> None:
        self.octets, self.known, self.crc32 = bytearray(size_bytes), bytearray(size_bytes), crc32
        self.validated = False


class TableDouble:
    """Obeys ``table.*`` and ``parameter.*``; ``emit(body fields)`` sends one piece of a dump."""

    def __init__(self, emit: Callable[[int, int, int, int, bytes, bool], None]) -> None:
        self._emit = emit
        self.active: dict[str, bytes] = {
            "watchpoints": limit_tables.encode(WatchTable(name="shipped", watchpoints=())),
            "actionpoints": limit_tables.encode(ActionTable(name="shipped", actionpoints=())),
            "resets": b"\x90",
            "sequence_status": sequence.encode_status(()),
            "parameters": settings.encode(ParameterSet(name="default")),
        }
        self.loads: dict[str, Load] = {}
        self.lose_piece: Callable[[int], bool] = lambda offset: False
        self.verdict: Callable[[str], Answer | None] = lambda name: None
        self.pieces_received = 0

    def obey(self, telecommand: Telecommand, args: dict[str, Any]) -> Answer | None:
        """Outcome of a telecommand on tables, None for any other."""
        if (verdict := self.verdict(telecommand.name)) is not None:
            return verdict
        if telecommand.name.startswith("parameter."):
            return self._parameter(telecommand.name, args)
        if not telecommand.name.startswith("table."):
            return None
        table = TABLE_BY_CODE[args["table"]]
        match telecommand.name:
            case "table.begin":
                self.loads[table.name] = Load(args["size_bytes"], args["crc32"])
                return OK
            case "table.dump":
                return self._dump(table)
            case "table.reset":
                self.active.pop(table.name, None)
                return FailureCode.NONE, f"{table.name} active: default"
        load = self.loads.get(table.name)
        if load is None:
            return FailureCode.NOT_STAGED, f"no load of {table.name} is open; begin one first"
        match telecommand.name:
            case "table.data":
                end = args["offset"] + len(args["data"])
                load.octets[args["offset"] : end] = args["data"]
                load.known[args["offset"] : end] = b"\x01" * len(args["data"])
                self.pieces_received += 1
                return FailureCode.NONE, f"{load.known.count(0)} octets are missing"
            case "table.validate":
                return self._validate(table, load)
            case "table.discard":
                del self.loads[table.name]
                return OK
        if not load.validated:
            return FailureCode.NOT_VALIDATED, f"the load of {table.name} is not validated"
        self.active[table.name] = bytes(self.loads.pop(table.name).octets)
        return FailureCode.NONE, f"{table.name} active"

    def _validate(self, table: Table, load: Load) -> Answer:
        if missing := load.known.count(0):
            return FailureCode.INVALID_TABLE, f"{missing} octets are missing"
        if zlib.crc32(load.octets) != load.crc32:
            return FailureCode.INVALID_TABLE, "CRC"
        image = bytes(load.octets)
        try:
            match table.kind:
                case Kind.WATCHPOINTS:
                    limit_tables.decode_watchpoints(image)
                case Kind.ACTIONPOINTS:
                    known = limit_tables.decode_watchpoints(self.active["watchpoints"])
                    limit_tables.decode_actionpoints(image, known)
                case Kind.PARAMETERS:
                    settings.decode(image)
                case _:
                    sequence.decode(image)
        except TableError as error:
            return FailureCode.INVALID_TABLE, f"{table.name}: {error}"
        load.validated = True
        return FailureCode.NONE, f"{table.name} is valid"

    def _dump(self, table: Table) -> Answer:
        image = self.active.get(table.name, b"")
        for offset in range(0, max(1, len(image)), PIECE_BYTES_MAX):
            data = image[offset : offset + PIECE_BYTES_MAX]
            self._emit(table.code, offset, len(image), zlib.crc32(image), data, not self.lose_piece(offset))
        return FailureCode.NONE, f"{table.name}: {len(image)} octets"

    def _parameter(self, name: str, args: dict[str, Any]) -> Answer:
        setting = SETTING_BY_ID[args["parameter"]]
        filed = FILED.get(setting.name, setting.minimum)
        values = settings.decode(self.active["parameters"]).values
        staged = dict(values)
        if "parameters" in self.loads:
            staged = settings.decode(bytes(self.loads["parameters"].octets)).values
        if name == "parameter.stage":
            try:
                staged[setting.name] = settings.convert(setting, args["value"])
            except TableError as error:
                return FailureCode.BAD_ARGUMENT, str(error)
            image = settings.encode(ParameterSet(name="staged", values=staged))
            load = self.loads["parameters"] = Load(len(image), zlib.crc32(image))
            load.octets[:], load.known[:] = image, b"\x01" * len(image)
        unit = f" {setting.unit}" if setting.unit else ""
        told = f"{setting.name} = {_shown(values.get(setting.name, filed))}{unit}, file {_shown(filed)}"
        if "parameters" in self.loads:
            told += f", staged {_shown(staged.get(setting.name, filed))}"
        return FailureCode.NONE, f"{told}; allowed is {settings.describe(setting)}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.12g}"

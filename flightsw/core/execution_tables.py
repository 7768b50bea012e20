"""Execution of the telecommands on tables and parameters.

Each is complete at once, except a dump, which is complete when its last packet is on its way. What a command found
or did stands in the text of its final report. A refusal changes nothing.

    NOT_STAGED      there is no load of this table           WRONG_STATE   the staged parameters cannot be edited
    NOT_VALIDATED   it has not passed validation             BUSY          too many loads or dumps are open
    INVALID_TABLE   octets, CRC or content are wrong         BAD_ARGUMENT  a piece or a value is out of its bounds
"""

import zlib
from typing import Final

from msgspec.structs import replace

from flightsw.link import settings
from flightsw.link.errors import TableError, TableInUseError
from flightsw.link.schema import FailureCode
from flightsw.link.settings import SETTING_BY_ID
from flightsw.link.tables import TABLE_BY_CODE, Table

from . import parameter_set, tables
from .commanding import Command
from .effects import Persist
from .execution_row import Begun, Execution, Failure, Reports
from .table_handler import Handler, activated
from .table_kinds import handler_of, image_of
from .tables import Load, Phase
from .vehicle import Config, Vehicle


def _table(command: Command) -> Table:
    return TABLE_BY_CODE[command.arguments["table"]]


def _handler(command: Command) -> Handler | Failure:
    handler = handler_of(_table(command))
    return _nobody(command) if handler is None else handler


def _nobody(command: Command) -> Failure:
    return Failure(FailureCode.UNKNOWN_TARGET, f"nothing on board holds table {_table(command).name}")


def _load(vehicle: Vehicle, command: Command) -> Load | Failure:
    name = _table(command).name
    load = tables.load_of(vehicle.tables, name)
    return Failure(FailureCode.NOT_STAGED, f"no load of {name} is open; begin one first") if load is None else load


def _told(text: str) -> Failure:
    """Completion with a text."""
    return Failure(FailureCode.NONE, text)


def _identity(image: bytes) -> str:
    return f"{len(image)} octets, CRC-32 0x{zlib.crc32(image):08X}"


def _begin(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    handler = _handler(command)
    if isinstance(handler, Failure):
        return handler
    a = command.arguments
    state = tables.begin(vehicle.tables, _table(command).name, a["size_bytes"], a["crc32"])
    if state is None:
        names = ", ".join(load.table for load in vehicle.tables.loads)
        return Failure(FailureCode.BUSY, f"loads of {names} are open; activate or discard one first")
    return replace(vehicle, tables=state), ()


def _data(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    load = _load(vehicle, command)
    if isinstance(load, Failure):
        return load
    offset, data = command.arguments["offset"], command.arguments["data"]
    if offset + len(data) > load.size_bytes:
        span = f"octets {offset} to {offset + len(data) - 1}"
        return Failure(
            FailureCode.BAD_ARGUMENT, f"{span} are outside of the announced {load.size_bytes} of {load.table}"
        )
    return replace(vehicle, tables=tables.changed(vehicle.tables, tables.put(load, offset, data))), ()


def _data_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    load = tables.load_of(vehicle.tables, _table(command).name)
    assert load is not None, "begin has put a piece into it"
    return _told(f"{load.missing_bytes} of {load.size_bytes} octets are missing" if load.missing_bytes else "whole")


def _validate(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    load, handler = _load(vehicle, command), _handler(command)
    if isinstance(load, Failure):
        return load
    assert not isinstance(handler, Failure), "begin has asked for it"
    if fault := tables.fault(load):
        return Failure(FailureCode.INVALID_TABLE, f"{load.table}: {fault}")
    try:
        summary = handler.check(vehicle, config, _table(command), load.image)
    except TableError as error:
        return Failure(FailureCode.INVALID_TABLE, f"{load.table}: {error}")
    valid = replace(load, phase=Phase.VALIDATED, summary=summary)
    return replace(vehicle, tables=tables.changed(vehicle.tables, valid)), ()


def _validate_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    load = tables.load_of(vehicle.tables, _table(command).name)
    assert load is not None, "begin has validated it"
    return _told(f"{load.summary}: {_identity(load.image)}")


def _activate(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    load, handler, table = _load(vehicle, command), _handler(command), _table(command)
    if isinstance(load, Failure):
        return load
    assert not isinstance(handler, Failure), "begin has asked for it"
    if load.phase is not Phase.VALIDATED:
        return Failure(FailureCode.NOT_VALIDATED, f"the load of {table.name} is not validated")
    # Memory may have gone bad since, and what the table refers to may have changed.
    if fault := tables.fault(load):
        return Failure(FailureCode.INVALID_TABLE, f"{table.name}: {fault}")
    try:
        vehicle, told = handler.activate(vehicle, config, table, load.image, now_s)
    except TableInUseError as error:
        return Failure(FailureCode.WRONG_STATE, f"{table.name}: {error}")
    except TableError as error:
        return Failure(FailureCode.INVALID_TABLE, f"{table.name}: {error}")
    vehicle = replace(vehicle, tables=tables.closed(vehicle.tables, table.name))
    event = activated(table, load.summary, load.image, "ground")
    return vehicle, (event, *told, Persist(table.name, load.image))


def _image_told(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    image = image_of(vehicle, _table(command))
    assert image is not None, "begin has activated it"
    return _told(f"{_table(command).name} active: {_identity(image)}")


def _discard(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    load = _load(vehicle, command)
    if isinstance(load, Failure):
        return load
    return replace(vehicle, tables=tables.closed(vehicle.tables, load.table)), ()


def _reset(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    handler, table = _handler(command), _table(command)
    if isinstance(handler, Failure):
        return handler
    try:
        vehicle, told = handler.activate(vehicle, config, table, None, now_s)
    except TableError as error:
        return Failure(FailureCode.WRONG_STATE, f"{table.name}: {error}")
    event = activated(table, "default", handler.image(vehicle, table), "default")
    return vehicle, (event, *told, Persist(table.name, b""))


def _dump(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    image = image_of(vehicle, _table(command))
    if image is None:
        return _nobody(command)
    state = tables.dump(vehicle.tables, command.id, _table(command).code, image)
    if state is None:
        return Failure(FailureCode.BUSY, f"{tables.DUMPS_MAX} dumps are under way; send it again later")
    return replace(vehicle, tables=state), ()


def _dump_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    dump = tables.dump_of(vehicle.tables, command.id)
    assert dump is not None, "it stays for the frame after its last packet"
    return _told(f"{_table(command).name}: {_identity(dump.image)}") if dump.done else None


def _stage(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    setting = SETTING_BY_ID[command.arguments["parameter"]]
    try:
        number = settings.convert(setting, command.arguments["value"])
    except TableError as error:
        return Failure(FailureCode.BAD_ARGUMENT, str(error))
    try:
        load = parameter_set.edited(vehicle, config, setting, number)
    except TableError as error:
        return Failure(FailureCode.WRONG_STATE, str(error))
    state = tables.opened(vehicle.tables, load)
    if state is None:
        return Failure(FailureCode.BUSY, f"{tables.LOADS_MAX} loads are open; activate or discard one first")
    return replace(vehicle, tables=state), ()


def _report(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    return vehicle, ()


def _report_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    return _told(parameter_set.told(vehicle, config, SETTING_BY_ID[command.arguments["parameter"]]))


ROWS: Final[dict[str, Execution]] = {
    "table.begin": Execution(_begin),
    "table.data": Execution(_data, _data_ended),
    "table.validate": Execution(_validate, _validate_ended),
    "table.activate": Execution(_activate, _image_told),
    "table.discard": Execution(_discard),
    "table.reset": Execution(_reset, _image_told),
    "table.dump": Execution(_dump, _dump_ended),
    "parameter.stage": Execution(_stage, _report_ended),
    "parameter.report": Execution(_report, _report_ended),
}

"""The dictionary as XTCE 1.2 (OMG, CCSDS 660.1), so that tools which are not ours read our packets.

Housekeeping is described field by field: its msgpack head (24 bits) and the tag octet before each float64 are named
as parameters of their own that a reader passes over. Packets with a map as body have it as one binary parameter.
Commands are described down to their secondary header; their body is in the ICD.

Names follow XTCE's rule (no dots): ``eps.soc_fraction`` is ``eps_soc_fraction``, with the original as an alias.
Enumerations stay numbers with their states in the description: as housekeeping values they may be NaN, "no
valid value", and that is no member of any enumeration.
"""

from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from .dictionary import (
    APID_EVENT,
    APID_PING,
    APID_REPLY,
    APID_TABLE,
    APID_TELECOMMAND,
    APID_VERIFICATION,
    DICTIONARY_HASH,
    HOUSEKEEPING,
    PARAMETERS,
    TELECOMMANDS,
)
from .packet import CRC_BYTES, PRIMARY_HEADER_BYTES, TM_HEADER_BYTES
from .schema import Limits, Parameter, Telecommand

NAMESPACE: Final = "http://www.omg.org/spec/XTCE/20180204"
SCHEMA: Final = "https://www.omg.org/spec/XTCE/20180204/SpaceSystem.xsd"
SYSTEM: Final = "gpusat"

PRIMARY_HEADER: Final = (
    ("PKT_VERSION", 3, "Packet version number, 0"),
    ("PKT_TYPE", 1, "0 is telemetry, 1 is telecommand"),
    ("SEC_HDR_FLAG", 1, "Always 1"),
    ("PKT_APID", 11, "Application process identifier"),
    ("SEQ_FLGS", 2, "3, unsegmented"),
    ("SRC_SEQ_CTR", 14, "Sequence count of the APID, modulo 16384"),
    ("PKT_LEN", 16, "Octets after the primary header, less one"),
)
TM_SECONDARY_HEADER: Final = (
    ("PUS_VERSION", 4, "2 is PUS-C"),
    ("TIME_QUALITY", 4, "Time reference status: 0 unsynchronised, 1 freewheeling, 2 synchronised"),
    ("SERVICE", 8, "PUS service type"),
    ("SUBTYPE", 8, "PUS message subtype"),
    ("MESSAGE_COUNT", 16, "Message type counter"),
    ("DESTINATION", 16, "0 is live, 1 is playback from the recorder"),
    ("TIME_P_FIELD", 8, "CUC preamble, 0x1E: 4 octets of seconds, 2 of fraction, TAI since 1958"),
    ("TIME_SECONDS", 32, "TAI seconds since 1958-01-01"),
    ("TIME_FRACTION", 16, "Fraction of a second in 1/65536"),
)
TC_SECONDARY_HEADER: Final = (
    ("PUS_VERSION", 4, "2 is PUS-C"),
    ("ACK_FLAGS", 4, "8 acceptance, 4 start, 2 progress, 1 completion"),
    ("SERVICE", 8, "PUS service type"),
    ("SUBTYPE", 8, "PUS message subtype"),
    ("SOURCE", 16, "Source identifier"),
)
MSGPACK: Final = (
    ("MSGPACK_HEAD", 24, "Head of the msgpack array: 0xDC and the count"),
    ("MSGPACK_TAG", 8, "Tag of a msgpack float64: 0xCB"),
)
CRC: Final = ("PKT_CRC", 16, "CRC-16/CCITT-FALSE of all that precedes it")
MAP_PACKETS: Final = (
    ("verification", APID_VERIFICATION, "Verification report (PUS 1)"),
    ("event", APID_EVENT, "Event report (PUS 5)"),
    ("reply", APID_REPLY, "Inference reply (8,130)"),
    ("table", APID_TABLE, "Piece of a dumped table (8,131)"),
    ("ping", APID_PING, "Are-you-alive report (17,2)"),
)


def xtce_name(name: str) -> str:
    """A dictionary name as XTCE allows it."""
    return name.replace(".", "_")


def export_xtce() -> str:
    """The whole document, UTF-8 text with its XML declaration."""
    system = Element(
        "xtce:SpaceSystem",
        {
            "xmlns:xtce": NAMESPACE,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": f"{NAMESPACE} {SCHEMA}",
            "name": SYSTEM,
        },
    )
    _text(system, "LongDescription", f"gpusat dictionary {DICTIONARY_HASH}, generated; do not edit")
    _telemetry(_add(system, "TelemetryMetaData"))
    _commands(_add(system, "CommandMetaData"))
    ElementTree.indent(system)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(system, encoding="unicode")}\n'


def _telemetry(metadata: Element) -> None:
    fields = (*PRIMARY_HEADER, *TM_SECONDARY_HEADER, *MSGPACK, CRC)
    types = _add(metadata, "ParameterTypeSet")
    for bits in sorted({bits for _, bits, _ in fields}):
        _integer_type(types, "IntegerParameterType", bits)
    for parameter in PARAMETERS:
        _float_type(types, parameter)
    _body_type(types)

    parameters = _add(metadata, "ParameterSet")
    for name, bits, text in fields:
        _add(parameters, "Parameter", name=name, parameterTypeRef=f"UINT{bits}", shortDescription=text)
    for parameter in PARAMETERS:
        name = xtce_name(parameter.name)
        element = _add(parameters, "Parameter", name=name, parameterTypeRef=f"{name}_type")
        element.set("shortDescription", parameter.text)
        if parameter.states:
            states = ", ".join(f"{code} {state}" for code, state in enumerate(parameter.states))
            _text(element, "LongDescription", f"States: {states}")
        aliases = _add(element, "AliasSet")
        _add(aliases, "Alias", nameSpace=SYSTEM, alias=parameter.name)
    _add(parameters, "Parameter", name="BODY", parameterTypeRef="BODY_type", shortDescription="msgpack map")

    containers = _add(metadata, "ContainerSet")
    _container(containers, "CCSDSPacket", _names(PRIMARY_HEADER), "Space packet", abstract=True)
    _container(
        containers,
        "Telemetry",
        _names(TM_SECONDARY_HEADER),
        "Packet with a PUS-C telemetry header",
        abstract=True,
        base=("CCSDSPacket", "PKT_TYPE", 0),
    )
    for group in HOUSEKEEPING:
        entries = ["MSGPACK_HEAD"]
        for name in group.parameters:
            entries += ["MSGPACK_TAG", xtce_name(name)]
        base = ("Telemetry", "PKT_APID", group.apid)
        _container(containers, f"housekeeping_{group.name}", [*entries, CRC[0]], group.text, base=base)
    for name, apid, text in MAP_PACKETS:
        _container(containers, name, ["BODY", CRC[0]], text, base=("Telemetry", "PKT_APID", apid))


def _commands(metadata: Element) -> None:
    # Version 0, type 1, secondary header 1: five bits that no command changes.
    fields = (*PRIMARY_HEADER[3:], *TC_SECONDARY_HEADER)
    types = _add(metadata, "ArgumentTypeSet")
    for bits in sorted({bits for _, bits, _ in fields}):
        _integer_type(types, "IntegerArgumentType", bits)
    commands = _add(metadata, "MetaCommandSet")
    header = _add(commands, "MetaCommand", name="Telecommand", abstract="true")
    header.set("shortDescription", "Packet with a PUS-C telecommand header; a msgpack map and a CRC-16 follow")
    arguments = _add(header, "ArgumentList")
    for name, bits, text in fields:
        _add(arguments, "Argument", name=name, argumentTypeRef=f"UINT{bits}", shortDescription=text)
    container = _add(header, "CommandContainer", name="Telecommand")
    entries = _add(container, "EntryList")
    _add(entries, "FixedValueEntry", name="PKT_ID", binaryValue="03", sizeInBits="5")
    for name in _names(fields):
        _add(entries, "ArgumentRefEntry", argumentRef=name)
    for command in TELECOMMANDS:
        _command(commands, command)


def _command(commands: Element, command: Telecommand) -> None:
    element = _add(commands, "MetaCommand", name=xtce_name(command.name), shortDescription=command.text)
    names = ", ".join(argument.name for argument in command.arguments)
    _text(element, "LongDescription", f"Opcode 0x{command.opcode:02X}, arguments: {names or 'none'}")
    aliases = _add(element, "AliasSet")
    _add(aliases, "Alias", nameSpace=SYSTEM, alias=command.name)
    base = _add(element, "BaseMetaCommand", metaCommandRef="Telecommand")
    assignments = _add(base, "ArgumentAssignmentList")
    fixed = {
        "PKT_APID": APID_TELECOMMAND,
        "SEQ_FLGS": 3,
        "PUS_VERSION": 2,
        "SERVICE": command.service,
        "SUBTYPE": command.subtype,
    }
    for name, value in fixed.items():
        _add(assignments, "ArgumentAssignment", argumentName=name, argumentValue=str(value))


def _add(parent: Element, tag: str, **attributes: str) -> Element:
    return SubElement(parent, f"xtce:{tag}", attributes)


def _text(parent: Element, tag: str, text: str) -> None:
    _add(parent, tag).text = text


def _names(fields: Iterable[tuple[str, int, str]]) -> list[str]:
    return [name for name, _, _ in fields]


def _integer_type(types: Element, tag: str, bits: int) -> None:
    element = _add(types, tag, name=f"UINT{bits}", signed="false")
    _add(element, "UnitSet")
    _add(element, "IntegerDataEncoding", sizeInBits=str(bits), encoding="unsigned")


def _float_type(types: Element, parameter: Parameter) -> None:
    name = f"{xtce_name(parameter.name)}_type"
    element = _add(types, "FloatParameterType", name=name, sizeInBits="64")
    units = _add(element, "UnitSet")
    if parameter.unit:
        _text(units, "Unit", parameter.unit)
    _add(element, "FloatDataEncoding", sizeInBits="64", encoding="IEEE754_1985")
    if (limits := parameter.limits) is not None:
        _alarms(_add(_add(element, "DefaultAlarm"), "StaticAlarmRanges"), limits)


def _alarms(ranges: Element, limits: Limits) -> None:
    for tag, low, high in (
        ("WarningRange", limits.yellow_low, limits.yellow_high),
        ("CriticalRange", limits.red_low, limits.red_high),
    ):
        bounds = {"minInclusive": low, "maxInclusive": high}
        _add(ranges, tag, **{name: repr(bound) for name, bound in bounds.items() if bound is not None})


def _body_type(types: Element) -> None:
    element = _add(types, "BinaryParameterType", name="BODY_type")
    _add(element, "UnitSet")
    size = _add(_add(element, "BinaryDataEncoding"), "SizeInBits")
    dynamic = _add(size, "DynamicValue")
    _add(dynamic, "ParameterInstanceRef", parameterRef="PKT_LEN")
    overhead = TM_HEADER_BYTES + CRC_BYTES - PRIMARY_HEADER_BYTES - 1
    _add(dynamic, "LinearAdjustment", slope="8", intercept=str(-8 * overhead))


def _container(
    containers: Element,
    name: str,
    entries: Iterable[str],
    text: str,
    *,
    abstract: bool = False,
    base: tuple[str, str, int] | None = None,
) -> None:
    element = _add(containers, "SequenceContainer", name=name, shortDescription=text)
    element.set("abstract", str(abstract).lower())
    entry_list = _add(element, "EntryList")
    for entry in entries:
        _add(entry_list, "ParameterRefEntry", parameterRef=entry)
    if base is not None:
        container, parameter, value = base
        reference = _add(element, "BaseContainer", containerRef=container)
        criteria = _add(reference, "RestrictionCriteria")
        _add(criteria, "Comparison", parameterRef=parameter, value=str(value), useCalibratedValue="false")

"""Rules of the dictionary: nothing twice, nothing unused, every template parses, one hash everywhere."""

import string
import subprocess
import sys

import pytest

from flightsw.link import dictionary
from flightsw.link.arguments import check_argument, describe, enum_codes
from flightsw.link.bodies import EventBody
from flightsw.link.codec import HOUSEKEEPING_VALUES_MAX
from flightsw.link.dictionary import (
    DICTIONARY_HASH,
    EVENTS,
    HOUSEKEEPING,
    IDENTITY,
    PARAMETERS,
    TELECOMMANDS,
)
from flightsw.link.packet import APID_MAX
from flightsw.link.render import event_text
from flightsw.link.schema import ArgumentType, Hazard, Severity

APIDS = {name: value for name, value in vars(dictionary).items() if name.startswith("APID_")}
DEFAULTED = [(c.name, a) for c in TELECOMMANDS for a in c.arguments if a.default is not None]
ARGUMENTS = [(c.name, a) for c in TELECOMMANDS for a in c.arguments]

UNIQUE = {
    "opcodes": [c.opcode for c in TELECOMMANDS],
    "telecommand names": [c.name for c in TELECOMMANDS],
    "parameter names": [p.name for p in PARAMETERS],
    "parameter names without dots": [p.name.replace(".", "_") for p in PARAMETERS],
    "SIDs": [g.sid for g in HOUSEKEEPING],
    "group names": [g.name for g in HOUSEKEEPING],
    "APIDs": list(APIDS.values()),
    "event ids": [e.id for e in EVENTS],
    "event names": [e.name for e in EVENTS],
    **{f"parameters of {g.name}": list(g.parameters) for g in HOUSEKEEPING},
    **{f"arguments of {c.name}": [a.name for a in c.arguments] for c in TELECOMMANDS},
}


@pytest.mark.parametrize("values", UNIQUE.values(), ids=UNIQUE.keys())
def test_nothing_twice(values):
    assert sorted(values) == sorted(set(values))


def test_apids_fit_and_belong():
    assert all(0 < apid < APID_MAX for apid in APIDS.values())
    assert {g.apid for g in HOUSEKEEPING} <= set(APIDS.values())


def test_every_parameter_is_sent_and_every_sent_one_is_described():
    sent = {name for group in HOUSEKEEPING for name in group.parameters}
    assert sent ^ {p.name for p in PARAMETERS} == set()


@pytest.mark.parametrize("group", HOUSEKEEPING, ids=lambda g: g.name)
def test_groups(group):
    assert group.parameters[: len(IDENTITY)] == IDENTITY
    assert len(group.parameters) <= HOUSEKEEPING_VALUES_MAX
    assert group.interval_min_s <= group.interval_s <= group.interval_max_s


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.name)
def test_templates_parse_and_render(event):
    fields = {name: 1.0 for _, name, _, _ in string.Formatter().parse(event.template) if name is not None}
    assert all(name.isidentifier() for name in fields)
    text = event_text(EventBody(1, 2, 3.0, event.id, event.severity, fields))
    assert "?" not in text
    assert event_text(EventBody(1, 2, 3.0, event.id, event.severity, {})).count("}?") == len(fields)


@pytest.mark.parametrize(("command", "argument"), ARGUMENTS, ids=[f"{c}-{a.name}" for c, a in ARGUMENTS])
def test_arguments_are_well_formed(command, argument):
    if argument.type is ArgumentType.ENUM:
        assert enum_codes(argument)
    if argument.type in (ArgumentType.INT, ArgumentType.FLOAT, ArgumentType.TEXT, ArgumentType.BYTES):
        assert argument.minimum is not None, "bound everything"
        assert argument.maximum is not None, "bound everything"
        assert argument.minimum <= argument.maximum
    if argument.default is not None:
        assert check_argument(argument, argument.default) == argument.default
    assert argument.text
    assert describe(argument)


@pytest.mark.parametrize("command", TELECOMMANDS, ids=lambda c: c.name)
def test_telecommands_are_well_formed(command):
    assert 0 < command.opcode <= 0xFFFF
    assert command.modes
    assert command.timeout_s > 0
    assert command.text.endswith(".")


def test_arming_itself_needs_no_arming():
    assert dictionary.TELECOMMAND_BY_NAME["arm"].hazard is Hazard.NONE


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.name)
def test_limits_are_ordered(parameter):
    if (limits := parameter.limits) is None:
        return
    bounds = (limits.red_low, limits.yellow_low, limits.yellow_high, limits.red_high)
    given = [bound for bound in bounds if bound is not None]
    assert given
    assert given == sorted(given)


def test_text_names_its_severity_once():
    assert {e.severity for e in EVENTS} <= set(Severity)


def test_the_hash_is_the_same_in_every_process():
    """String hashing is seeded per process; the dictionary's hash must not be."""
    code = "from flightsw.link.dictionary import DICTIONARY_HASH; print(DICTIONARY_HASH)"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert hashes == {DICTIONARY_HASH}
    assert len(DICTIONARY_HASH) == 16


@pytest.mark.parametrize(
    ("lookup", "table", "key"),
    [
        (dictionary.TELECOMMAND_BY_OPCODE, TELECOMMANDS, "opcode"),
        (dictionary.TELECOMMAND_BY_NAME, TELECOMMANDS, "name"),
        (dictionary.PARAMETER_BY_NAME, PARAMETERS, "name"),
        (dictionary.GROUP_BY_NAME, HOUSEKEEPING, "name"),
        (dictionary.GROUP_BY_SID, HOUSEKEEPING, "sid"),
        (dictionary.EVENT_BY_ID, EVENTS, "id"),
        (dictionary.EVENT_BY_NAME, EVENTS, "name"),
    ],
)
def test_look_ups_are_complete(lookup, table, key):
    assert list(lookup.values()) == list(table)
    assert all(getattr(entry, key) == at for at, entry in lookup.items())

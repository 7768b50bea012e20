"""Sources that operators write: every complaint with its line, and text → image → text → image without a change."""

import json
import re
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link import limit_tables, sequence
from flightsw.link.dictionary import IDENTITY, PARAMETERS, TELECOMMANDS
from flightsw.link.limit_tables import OPERATIONS, Actionpoint, ActionTable, Response, Watchpoint, WatchTable
from flightsw.link.schema import Argument, ArgumentType, Hazard
from flightsw.link.sequence import DELAY_MAX_DS, TAI_MAX_DS, Sequence, make_step
from flightsw.link.tables import TABLE_BY_NAME
from ground import cli
from ground.condition import ConditionError, compile_condition, condition_text
from ground.errors import ExitCode, GroundError
from ground.limit_source import (
    actionpoints_text,
    compile_actionpoints,
    compile_watchpoints,
    watchpoints_text,
)
from ground.moments import duration_ds, duration_text, tai_ds, utc_ds, utc_text
from ground.sequence_source import STEP_KEYS, compile_sequence, sequence_text
from ground.source import Source
from ground.table_source import compile_image, find_table, summary

SEQUENCE = """\
[sequence]
name = "night pass"
kind = "relative"
reference = "dispatch"
on_failure = "abort"
wait_for_time = true

[[step]]
after = "1 min 30 s"
command = "mode.set"
mode = "SAFE"

[[step]]
after = 0.5
command = "arm"
opcode = "gpu.rail"

[[step]]
after = "500 ms"
command = "gpu.rail"
on = false
"""
ABSOLUTE = """\
[sequence]
name = "window"
kind = "absolute"
on_failure = "continue"

[[step]]
at = "2026-11-23T04:00:00Z"
command = "ping"

[[step]]
at = 2026-11-23T04:00:00.5Z
command = "ping"

[[step]]
at_tai = "2026-11-23T04:00:38"
command = "hk.interval"
group = "main"
interval_s = "1 min"
"""


@pytest.fixture
def source(tmp_path):
    def make(text, name="s.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Source(path)

    return make


def complaint(call, *arguments):
    with pytest.raises(GroundError) as caught:
        call(*arguments)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(text, old, new):
    assert text.count(old) == 1, old
    return text.replace(old, new)


# Sequences.


def test_r4_a_relative_sequence(source):
    made = compile_sequence(source(SEQUENCE))
    assert (made.name, made.kind, made.reference, made.on_failure, made.wait_for_time) == (
        *("night pass", "relative", "dispatch", "abort", True),
    )
    assert [step.at_ds for step in made.steps] == [900, 5, 5]
    assert [sequence.command_of(step)[0].name for step in made.steps] == ["mode.set", "arm", "gpu.rail"]
    assert [sequence.command_of(step)[1] for step in made.steps] == [{"mode": 1}, {"opcode": 49}, {"on": False}]


def test_r4_an_absolute_sequence(source):
    made = compile_sequence(source(ABSOLUTE))
    assert (made.reference, made.wait_for_time) == ("dispatch", True)
    # 1,795,406,400 s of Unix time, 378,691,200 s from 1958 to 1970, 37 leap seconds.
    first = (1_795_406_400 + 378_691_200 + 37) * 10
    assert [step.at_ds for step in made.steps] == [first, first + 5, first + 10]
    assert sequence.command_of(made.steps[2])[1]["interval_s"] == 60.0


SEQUENCE_FAULTS = (
    ('kind = "relative"\n', "", 1, r"\[sequence\]: kind is missing"),
    ('kind = "relative"', 'kind = "cron"', 3, r"kind = 'cron': allowed are absolute, relative"),
    ('kind = "relative"', "kind = []", 3, r"kind = \[\]: allowed are absolute, relative"),
    ('name = "night pass"\n', "", 1, r"name is missing"),
    ('name = "night pass"', "name = 3", 2, r"name = 3: expected str, got int"),
    ('name = "night pass"', 'name = "!"', 2, r"name = '!': a name is"),
    ('reference = "dispatch"\n', "", 1, r"reference is missing"),
    ('reference = "dispatch"', 'reference = "start"', 4, r"reference = 'start': allowed are dispatch, completion"),
    ('on_failure = "abort"\n', "", 1, r"on_failure is missing"),
    ('on_failure = "abort"', 'on_failure = "cry"', 5, r"on_failure = 'cry': allowed are abort, continue"),
    ("wait_for_time = true", "wait_for_time = 1", 6, r"wait_for_time = 1: expected bool, got int"),
    ("on_failure", "on_faliure", 5, r"unknown key 'on_faliure'; did you mean on_failure\?"),
    ("[sequence]", "[sequences]", 1, r"a sequence: unknown key 'sequences'; did you mean sequence\?"),
    ("[sequence]", "[[sequence]]", 1, r"sequence must be a table: \[sequence\]"),
    (SEQUENCE[SEQUENCE.index("[[") :], "", 1, r"0 steps, allowed are 1 to 1000"),
    (SEQUENCE[SEQUENCE.index("[[") :], "[step]", 8, r"step must be an array of tables: \[\[step\]\]"),
    ('after = "1 min 30 s"\n', "", 8, r"step 1: no time: a step of a sequence of kind relative has after$"),
    ('after = "1 min 30 s"', 'at = "2026-11-23T04:00:00Z"', 9, r"step 1: at: a step of .* relative has after"),
    ('after = "1 min 30 s"', "after = 1\nat_tai = 1", 10, r"step 1: after and at_tai: a step"),
    ('after = "1 min 30 s"', 'after = "soon"', 9, r"step 1: after = 'soon' is no duration: \"10 s\""),
    ('after = "1 min 30 s"', "after = -1", 9, r"step 1: after = -1 is no duration"),
    ('after = "1 min 30 s"', "after = nan", 9, r"step 1: after = nan is no duration"),
    ('after = "1 min 30 s"', "after = true", 9, r"step 1: after = True is no duration"),
    ("after = 0.5", "after = 0.55", 14, r"step 2: after = 0.55: times are whole tenths of a second"),
    ('after = "500 ms"', 'after = "31 d"', 18, r"step 3: time 2.6784e\+06 s, at most 2.592e\+06 s is allowed"),
    ('command = "mode.set"\n', "", 8, r"step 1: command is missing"),
    ('command = "mode.set"', 'command = "mode.st"', 10, r"step 1: no command 'mode.st'; did you mean mode.set"),
    ('command = "mode.set"', "command = 16", 10, r"step 1: no command 16"),
    ('mode = "SAFE"\n', "", 10, r"step 1: mode.set: argument mode is missing, it is one of SAFE"),
    ('mode = "SAFE"', 'mode = "FAST"', 11, r"step 1: mode.set: mode = 'FAST' is not one of SAFE \(1\)"),
    ('mode = "SAFE"', 'mood = "SAFE"', 11, r"step 1: mode.set: unknown key 'mood'; did you mean mode\?"),
    ('opcode = "gpu.rail"', 'opcode = "gpu.rial"', 16, r"step 2: arm: opcode: no command 'gpu.rial'; did you mean"),
    ('opcode = "gpu.rail"', "opcode = 0", 16, r"step 2: arm: opcode = 0 is not a whole number from 1 to 65535"),
    ('opcode = "gpu.rail"', "opcode = 112", 18, r"step 3: gpu.rail is hazardous: put arm opcode=49"),
    ('after = "500 ms"', 'after = "61 s"', 18, r"step 3: gpu.rail is hazardous: .* at most 60 s before it"),
    ("on = false", "on = 0", 21, r"step 3: gpu.rail: on = 0 is not true or false"),
    ("on = false", "on = [[", 22, r"Invalid value|Unclosed array"),
    ("on = false", "on = [['a'], {b = [1]}]", 21, r"step 3: gpu.rail: on = \[\['a'\]"),
    ("on = false\n", "on = \x00false\n", 21, r"Invalid value \(column 6\)|Illegal|Found"),
)  # fmt: skip
ABSOLUTE_FAULTS = (
    ('kind = "absolute"', 'kind = "absolute"\nreference = "completion"', 4, r"reference = \"completion\": an abs"),
    ('kind = "absolute"', 'kind = "absolute"\nwait_for_time = false', 4, r"wait_for_time = false: an absolute"),
    ('at = "2026-11-23T04:00:00Z"', "after = 1", 7, r"step 1: after: a step of .* kind absolute has at or at_tai"),
    ('"2026-11-23T04:00:00Z"', '"2026-11-23T04:00:00"', 7, r"step 1: at = '2026-11-23T04:00:00' is no UTC moment"),
    ('"2026-11-23T04:00:00Z"', '"2026-02-30T04:00:00Z"', 7, r"step 1: at = .* is no UTC moment"),
    ('"2026-11-23T04:00:00Z"', '"2026-11-23T04:00:61Z"', 7, r"step 1: at = .* is no UTC moment"),
    ('"2026-11-23T04:00:00Z"', "3", 7, r"step 1: at = 3 is no UTC moment"),
    ('"2026-11-23T04:00:00Z"', '"2026-11-23T04:00:00.05Z"', 7, r"step 1: at = .*: times are whole tenths"),
    ('"2026-11-23T04:00:00Z"', '"2094-11-23T04:00:00Z"', 7, r"step 1: at = .*: onboard time spans 1958 to 2094"),
    ('"2026-11-23T04:00:00Z"', '"1957-11-23T04:00:00Z"', 7, r"step 1: at = .*: onboard time spans 1958 to 2094"),
    ('"2026-11-23T04:00:38"', '"2026-11-23T04:00:38Z"', 15, r"step 3: at_tai = .* is no TAI moment"),
    ('"2026-11-23T04:00:38"', "-1", 15, r"step 3: at_tai = -1 is no TAI moment"),
    ('"2026-11-23T04:00:38"', "1e11", 15, r"step 3: at_tai = .*: onboard time spans 1958 to 2094"),
    ('"2026-11-23T04:00:38"', "2_174_097_637.4", 14, r"step 3: earlier than the step before it"),
    ('interval_s = "1 min"', 'interval_s = "1 fortnight"', 18, r"step 3: hk.interval: interval_s = '1 fortnight'"),
    ('interval_s = "1 min"', 'interval_s = "2 h"', 18, r"step 3: hk.interval: interval_s = 7200.0 is not a number"),
)


@pytest.mark.parametrize(
    ("text", "old", "new", "line", "words"),
    [(SEQUENCE, *row) for row in SEQUENCE_FAULTS] + [(ABSOLUTE, *row) for row in ABSOLUTE_FAULTS],
    ids=[f"{row[3]}-{row[1][:30]}" for row in SEQUENCE_FAULTS + ABSOLUTE_FAULTS],
)
def test_r4_every_fault_of_a_sequence_has_its_line(source, tmp_path, text, old, new, line, words):
    said = complaint(lambda: compile_sequence(source(changed(text, old, new))))
    assert re.match(rf"{re.escape(str(tmp_path))}/s\.toml:{line}: .*({words})", said), said


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"[sequence\n", ":1: "),
        (b"a = 1\nb = '\xff'\n", ":2: is not UTF-8 text"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, ":1: nested too deeply"),
        (b"#" * (5 << 20), "over 4194304 bytes"),
        (b"a = 1\na = 2\n", ":2: Cannot overwrite a value"),
        (b"", ":1: [sequence] is missing"),
    ],
)
def test_what_is_no_toml(source, octets, words):
    assert words in complaint(lambda: compile_sequence(source(octets)))


def test_a_file_that_is_not_there(tmp_path):
    assert complaint(Source, tmp_path / "none.toml").endswith("none.toml: No such file or directory")
    assert complaint(Source, tmp_path).endswith("Is a directory")


def test_lines_hold_with_strings_comments_and_brackets(source):
    text = changed(SEQUENCE, "after = 0.5", 'after = """\n[[step]]\\"\nnight = 1""" # [[step]]\r')
    assert ":14: step 2: after = " in complaint(lambda: compile_sequence(source(text)))
    text = changed(SEQUENCE, 'mode = "SAFE"', "mode = [\n  '[[step]]', # one\n  {x = 1},\n]\nmood = 1")
    assert ":15: step 1: mode.set: unknown key 'mood'" in complaint(lambda: compile_sequence(source(text)))


def test_no_argument_is_hidden_by_a_key_of_a_step():
    assert not [c.name for c in TELECOMMANDS for a in c.arguments if a.name in STEP_KEYS]


def values_of(argument: Argument) -> st.SearchStrategy:
    low, high = argument.minimum, argument.maximum
    match argument.type:
        case ArgumentType.BOOL:
            return st.booleans()
        case ArgumentType.INT:
            return st.integers(int(low or 0), int(high if high is not None else 2**53))
        case ArgumentType.FLOAT:
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case ArgumentType.TEXT:
            return st.text(
                st.characters(exclude_categories=["Cs"]), min_size=int(low or 0), max_size=int(high or 9)
            )
        case ArgumentType.BYTES:
            return st.binary(min_size=int(low or 0), max_size=int(high or 9))
    return st.sampled_from(argument.choices)


COMMANDS = [command for command in TELECOMMANDS if command.hazard is not Hazard.HAZARDOUS]


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    absolute = draw(st.booleans())
    times = st.integers(0, TAI_MAX_DS if absolute else DELAY_MAX_DS)
    steps = []
    for at_ds in sorted(draw(st.lists(times, min_size=1, max_size=6))):
        command = draw(st.sampled_from(COMMANDS))
        arguments = {a.name: draw(values_of(a)) for a in command.arguments}
        steps.append(make_step(at_ds, command, arguments))
    return Sequence(
        kind="absolute" if absolute else "relative",
        name=draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}\Z")),
        on_failure=draw(st.sampled_from(("abort", "continue"))),
        reference="dispatch" if absolute else draw(st.sampled_from(("dispatch", "completion"))),
        wait_for_time=absolute or draw(st.booleans()),
        steps=tuple(steps),
    )


@given(sequences())
def test_r4_a_dumped_sequence_is_its_own_source(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("s") / "dump.toml"
    path.write_text(sequence_text(made, "dumped\nfrom rts01"), newline="")
    again = compile_sequence(Source(path))
    assert sequence.encode(again) == sequence.encode(made)
    assert sequence_text(again, "dumped\nfrom rts01") == path.read_text()


# Times.


@pytest.mark.parametrize(
    ("value", "ds"),
    [
        ("0 s", 0), ("10 s", 100), ("10s", 100), ("1 h 30 min", 54_000), ("1 d", 864_000), ("0.1 s", 1), (0.3, 3),
        ("100 ms", 1), (0, 0), (86_400, 864_000), (" 2 min ", 1200), ("1.5 h", 54_000), (2_592_000.0, 25_920_000),
    ],
)  # fmt: skip
def test_r4_durations(value, ds):
    assert duration_ds(value) == ds


@pytest.mark.parametrize(
    "value", ["", "s", "10", "10 m", "-1 s", "1e3 s", "1 s,", -0.1, 0.15, "50 ms", None, [], 1e13]
)
def test_what_is_no_duration(value):
    with pytest.raises(ValueError, match=r"is no duration|whole tenths"):
        duration_ds(value)


@given(st.integers(0, 10 * DELAY_MAX_DS))
def test_a_duration_reads_back(ds):
    assert duration_ds(duration_text(ds)) == ds


@given(st.integers(0, TAI_MAX_DS))
def test_a_moment_reads_back(ds):
    assert utc_ds(utc_text(ds)) == ds
    assert tai_ds(ds / 10) == ds


# Conditions.

IDS = {"gpu.hot": 3, "soc.low": 4, "gpu.die": 5, "not.this": 6}
CONDITIONS = (
    ("gpu.hot", (3,)),
    ("9999", (9999,)),
    ("gpu.hot and soc.low", (3, 4, "and")),
    ("gpu.hot or soc.low and gpu.die", (3, 4, 5, "and", "or")),
    ("(gpu.hot or soc.low) and gpu.die", (3, 4, "or", 5, "and")),
    ("gpu.hot or soc.low or gpu.die", (3, 4, "or", 5, "or")),
    ("gpu.hot or (soc.low or gpu.die)", (3, 4, 5, "or", "or")),
    ("not gpu.hot and soc.low", (3, "not", 4, "and")),
    ("not (gpu.hot and soc.low)", (3, 4, "and", "not")),
    ("not not gpu.hot", (3, "not", "not")),
    ("gpu.hot and not (soc.low or stale(gpu.die))", (3, 4, 5, "stale", "or", "not", "and")),
    ("stale(4)", (4, "stale")),
    ("not.this and not not.this", (6, 6, "not", "and")),
)


@pytest.mark.parametrize(("text", "notation"), CONDITIONS)
def test_r8_conditions(text, notation):
    assert compile_condition(text, IDS) == notation
    names = {id: name for name, id in IDS.items()}
    assert condition_text(notation, names) == text.replace("stale(4)", "stale(soc.low)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "column 1: ends where a watchpoint"),
        ("gpu.hot and", "column 12: ends where a watchpoint"),
        ("and gpu.hot", "column 1: expected a watchpoint, found 'and'"),
        ("gpu.hot soc.low", "column 9: 'soc.low' after the end"),
        ("gpu.hot )", r"column 9: '\)' after the end"),
        ("(gpu.hot", r"column 9: ends where '\)' is expected"),
        ("(gpu.hot soc.low", r"column 10: expected '\)', found 'soc.low'"),
        ("stale gpu.hot", r"column 7: expected '\(', found 'gpu.hot'"),
        ("stale(not gpu.hot)", "column 7: expected a watchpoint, found 'not'"),
        ("stale(gpu.hot or soc.low)", r"column 15: expected '\)', found 'or'"),
        ("gpu.hto", "column 1: no watchpoint 'gpu.hto'; did you mean gpu.hot"),
        ("gpu.hot && soc.low", "column 9: '&' has no meaning here"),
        ("gpu.hot AND soc.low", "column 9: 'AND' after the end"),
        ("12345", "column 1: no watchpoint '12345'"),
        ("(" * 30 + "gpu.hot", "nested more than 20 deep"),
        ("not " * 30 + "gpu.hot", "nested more than 20 deep"),
    ],
)
def test_r8_every_fault_of_a_condition_has_its_column(text, words):
    with pytest.raises(ConditionError, match=words):
        compile_condition(text, IDS)


conditions = st.recursive(
    st.sampled_from([(id,) for id in IDS.values()] + [(id, "stale") for id in IDS.values()] + [(77,)]),
    lambda inner: st.one_of(
        inner.map(lambda c: (*c, "not")),
        st.tuples(inner, inner, st.sampled_from(("and", "or"))).map(lambda t: (*t[0], *t[1], t[2])),
    ),
    max_leaves=8,
).filter(lambda c: len(c) <= limit_tables.TOKENS_MAX)


@given(conditions)
def test_r8_a_condition_reads_back(notation):
    assert compile_condition(condition_text(notation, {id: name for name, id in IDS.items()}), IDS) == notation


def test_a_watchpoint_named_like_an_operation_is_shown_by_its_id():
    assert condition_text((1, 2, "and"), {1: "or", 2: "fine"}) == "1 and fine"


# Limit tables.

LIMITS = """\
[limits]
name = "night"

[[watchpoint]]
id = 3
name = "gpu.hot"
parameter = "thermal.gpu_degc"
quantity = "value"
operator = ">="
trip = 78.0
clear = 74
samples = 3
stale_s = "5 s"

[[watchpoint]]
id = 4
name = "soc.low"
parameter = "eps.soc_fraction"
operator = "<"
trip = 0.72

[[actionpoint]]
id = 7
name = "throttle"
when = "gpu.hot and not stale(soc.low)"
persistence_s = "1 min"
release_s = 5
response = "throttle"
argument = 0.5
level = 2
domain = "thermal"
repeat = "once"
state = "passive"
"""
WATCH_FAULTS = (
    ('name = "night"\n', "", 1, r"\[limits\]: name is missing"),
    ('name = "night"', 'name = "NIGHT"', 2, r"\[limits\]: name = 'NIGHT': a name is a to z first"),
    ('name = "night"', 'nam = "night"', 2, r"\[limits\]: unknown key 'nam'; did you mean name\?"),
    ("[limits]", "[limit]", 1, r"unknown key 'limit'; did you mean limits\?"),
    ("id = 3\n", "", 4, r"watchpoint gpu.hot: id is missing"),
    ("id = 3", "id = 0", 5, r"watchpoint gpu.hot: id = 0: expected int >= 1"),
    ("id = 3", "id = 4", 16, r"watchpoint 4 \(soc.low\): id and name must be unique"),
    ('name = "gpu.hot"', 'name = "GPU"', 6, r"watchpoint GPU: name = 'GPU': a name is a to z first"),
    ('name = "gpu.hot"\n', "", 4, r"watchpoint 1: name is missing"),
    ('"thermal.gpu_degc"', '"thermal.gpu_deg"', 7, r"parameter 'thermal.gpu_deg' is not in .*; did you mean the"),
    ('parameter = "thermal.gpu_degc"\n', "", 4, r"watchpoint gpu.hot: parameter is missing"),
    ('quantity = "value"', 'quantity = "sum"', 8, r"quantity = 'sum': allowed are value, rate"),
    ('operator = ">="', 'operator = "=>"', 9, r"operator = '=>': allowed are <, <=, >, >=, ==, !="),
    ("trip = 78.0", 'trip = "hot"', 10, r"trip = 'hot': expected float, got str"),
    ("trip = 78.0", "trip = inf", 10, r"watchpoint 3 \(gpu.hot\): trip and clear must be finite"),
    ("clear = 74", "clear = 79", 11, r"watchpoint 3 \(gpu.hot\): clear = 79 must be at most trip = 78"),
    ("samples = 3", "samples = 0", 12, r"samples = 0: expected int >= 1"),
    ('stale_s = "5 s"', 'stale_s = "5 sec"', 13, r"stale_s = '5 sec' is no duration"),
    ('stale_s = "5 s"', "stale_s = 0.0", 13, r"stale_s = 0.0: expected float >= 0.1"),
    ("samples", "smaples", 12, r"watchpoint gpu.hot: unknown key 'smaples'; did you mean samples"),
)
ACTION_FAULTS = (
    ("id = 7", "id = 10_000", 23, r"actionpoint throttle: id = 10000: expected int <= 9999"),
    ('name = "throttle"', 'name = ""', 24, r"name = '': a name is"),
    (
        "not stale(soc.low)",
        "not stale(soc.lwo)",
        25,
        r"when: column 23: no watchpoint 'soc.lwo'; did you mean soc.lo",
    ),
    ('when = "gpu.hot and not stale(soc.low)"\n', "", 22, r"actionpoint throttle: when is missing"),
    ("when =", "condition = [3]\nwhen =", 26, r"when and condition: give one of them"),
    ('when = "gpu.hot and not stale(soc.low)"', "when = 3", 25, r"when = 3 is no text"),
    ('when = "gpu.hot and not stale(soc.low)"', "condition = [3, 'and']", 25, r"condition: 'and' lacks a value"),
    (
        'when = "gpu.hot and not stale(soc.low)"',
        "condition = [3.5]",
        25,
        r"condition = \[3.5\]: Expected int | str",
    ),
    (
        'when = "gpu.hot and not stale(soc.low)"',
        'when = "9"',
        25,
        r"actionpoint 7 \(throttle\): condition names watc",
    ),
    (
        '"gpu.hot and not stale(soc.low)"',
        '"' + "3 and " * 11 + '3"',
        25,
        r"when: 23 watchpoints and operations, at most 20 are",
    ),
    ('persistence_s = "1 min"', "persistence_s = -1", 26, r"persistence_s = -1: expected float >= 0.0"),
    ("release_s = 5", "release_s = 1e6", 27, r"release_s = 1000000.0: expected float <= 86400.0"),
    ('response = "throttle"', 'response = "pray"', 28, r"response = 'pray': allowed are report, throttle, check"),
    ("argument = 0.5", "argument = 1.5", 29, r"argument = 1.5: throttle allows 0 to 1"),
    ("level = 2", "level = 10", 30, r"level = 10: expected int <= 9"),
    ('domain = "thermal"', 'domain = "love"', 31, r"domain = 'love': allowed are power, thermal"),
    ('domain = "thermal"\n', "", 22, r"actionpoint throttle: domain is missing"),
    ('repeat = "once"', 'repeat = "twice"', 32, r"repeat = 'twice': allowed are once, repeating"),
    ('state = "passive"', 'state = "asleep"', 33, r"state = 'asleep': allowed are active, passive, disabled"),
    ("level = 2", "leval = 2", 30, r"actionpoint throttle: unknown key 'leval'; did you mean level\?"),
)


def both(given):
    return compile_actionpoints(given, compile_watchpoints(given))


@pytest.mark.parametrize(
    ("compiler", "old", "new", "line", "words"),
    [(compile_watchpoints, *row) for row in WATCH_FAULTS] + [(both, *row) for row in ACTION_FAULTS],
    ids=[f"{row[2]}-{row[1][:30]}" for row in WATCH_FAULTS + ACTION_FAULTS],
)
def test_r8_every_fault_of_a_limit_table_has_its_line(source, tmp_path, compiler, old, new, line, words):
    said = complaint(
        compiler, source(changed(LIMITS, old, new) if LIMITS.count(old) == 1 else LIMITS.replace(old, new, 1))
    )
    assert re.match(rf"{re.escape(str(tmp_path))}/s\.toml:{line}: .*({words})", said), said


def test_r8_a_file_without_the_wanted_table(source):
    only_watch = LIMITS[: LIMITS.index("[[actionpoint]]")]
    only_action = LIMITS[: LIMITS.index("[[watchpoint]]")] + LIMITS[LIMITS.index("[[actionpoint]]") :]
    assert "no [[actionpoint]] in this file" in complaint(compile_actionpoints, source(only_watch), None)
    assert "no [[watchpoint]] in this file" in complaint(compile_watchpoints, source(only_action))
    assert "name theirs with --watchpoints" in complaint(compile_actionpoints, source(only_action), None)
    empty = '\nwatchpoint = []\n[limits]\nname = "none"\n'
    assert compile_watchpoints(source(empty)).watchpoints == ()


names = st.from_regex(r"\A[a-z][a-z0-9_.]{0,39}\Z")
finite = st.floats(-1e9, 1e9)


WATCHED = [parameter.name for parameter in PARAMETERS if parameter.name not in IDENTITY]


@st.composite
def limit_pairs(draw: st.DrawFn) -> tuple[WatchTable, ActionTable]:
    watch_names = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    watches = []
    for id, name in enumerate(watch_names, draw(st.integers(1, 900))):
        operator = draw(st.sampled_from(("<", "<=", ">", ">=", "==", "!=")))
        trip = draw(finite)
        clear = None
        if operator not in ("==", "!=") and draw(st.booleans()):
            clear = draw(st.floats(trip, 1e9) if "<" in operator else st.floats(-1e9, trip))
        watches.append(
            Watchpoint(
                id=id, name=name, parameter=draw(st.sampled_from(WATCHED)),
                quantity=draw(st.sampled_from(("value", "rate"))), operator=operator, trip=trip, clear=clear,
                samples=draw(st.integers(1, 1000)), stale_s=draw(st.floats(2.0, 86_400.0)),
            )
        )  # fmt: skip
    known = [point.id for point in watches]
    actions = []
    for id, name in enumerate(draw(st.lists(names, max_size=4, unique=True)), 1):
        response = draw(st.sampled_from(Response))
        low, high = limit_tables.ARGUMENT_SPAN.get(response, (0.0, 0.0))
        condition = draw(conditions)
        actions.append(
            Actionpoint(
                id=id, name=name,
                condition=tuple(known[t % len(known)] if isinstance(t, int) else t for t in condition),
                persistence_s=draw(st.floats(0.0, 86_400.0)), release_s=draw(st.floats(0.0, 86_400.0)),
                response=response,
                argument=float(draw(st.integers(int(low), int(high)))),
                level=draw(st.integers(1, 9)),
                domain=draw(st.sampled_from(("power", "thermal", "gpu", "link", "storage", "task"))),
                repeat=draw(st.sampled_from(("once", "repeating"))),
                state=draw(st.sampled_from(("active", "passive", "disabled"))),
            )
        )  # fmt: skip
    return WatchTable(name="w", watchpoints=tuple(watches)), ActionTable(name="a", actionpoints=tuple(actions))


@given(limit_pairs())
def test_r8_dumped_limit_tables_are_their_own_sources(tmp_path_factory, pair):
    watches, actions = pair
    folder = tmp_path_factory.mktemp("l")
    (folder / "w.toml").write_text(watchpoints_text(watches, "dumped"), newline="")
    assert limit_tables.encode(compile_watchpoints(Source(folder / "w.toml"))) == limit_tables.encode(watches)
    if actions.actionpoints:
        (folder / "a.toml").write_text(actionpoints_text(actions, watches), newline="")
        again = compile_actionpoints(Source(folder / "a.toml"), watches)
        assert msgspec.structs.asdict(again) == msgspec.structs.asdict(actions)
        assert limit_tables.encode(again) == limit_tables.encode(actions)


# Any table.


def test_tables_by_name(source):
    assert find_table("RTS05").name == "rts05"
    assert find_table("rts5").name == "rts05"
    assert "did you mean rts" in complaint(find_table, "rts65")
    assert complaint(find_table, "resets") == "resets is a report and has no source: see ground resets"
    table = TABLE_BY_NAME["ats1"]
    assert ":3: ats1 holds an absolute sequence, this is a relative one" in complaint(
        compile_image, table, source(SEQUENCE)
    )
    assert "2026-11-23T04:00:00Z to 2026-11-23T04:00:01Z" in summary(table, compile_image(table, source(ABSOLUTE)))
    image = compile_image(TABLE_BY_NAME["rts05"], source(SEQUENCE))
    assert summary(TABLE_BY_NAME["rts05"], image) == (
        "'night pass': relative, 3 steps, from dispatch, 1 min 31 s, on failure abort, waits for valid time"
    )


def test_an_image_that_is_too_large(source):
    head = SEQUENCE[: SEQUENCE.index("[[step]]")]
    step = '[[step]]\nafter = 1\ncommand = "job.infer"\njob = "talk"\nprompt = "{}"\n'.format("x" * 700)
    assert "bytes, at most 131072 are allowed" in complaint(
        compile_image, TABLE_BY_NAME["rts01"], source(head + step * 300)
    )
    assert set(OPERATIONS) == {"and", "or", "not", "stale"}


# The command line, which needs no station for any of this.

EXAMPLES = Path(cli.__file__).parent / "examples"


def test_check_and_compile_on_the_command_line(tmp_path, capsys):
    path, image = tmp_path / "s.toml", tmp_path / "s.image"
    path.write_text(SEQUENCE)
    assert cli.run(["sequence", "check", str(path), "--steps"]) == 0
    shown = capsys.readouterr().out
    assert "ok: 'night pass': relative, 3 steps" in shown
    assert re.search(r"3 +\+0\.5 s +T\+1 min 31 s +gpu\.rail on=false", shown)
    assert cli.run(["sequence", "compile", str(path), "-o", str(image), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == len(image.read_bytes())
    assert told["crc32"] == f"{zlib.crc32(image.read_bytes()):08x}"
    assert sequence.decode(image.read_bytes()).name == told["name"] == "night pass"
    assert cli.run(["sequence", "compile", str(path), "-o", "/proc/nowhere"]) == ExitCode.ERROR
    assert capsys.readouterr().err.startswith("ground: image /proc/nowhere: ")
    path.write_text(changed(SEQUENCE, "mode.set", "mode.st"))
    assert cli.run(["sequence", "check", str(path)]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"ground: {path}:10: step 1: no command 'mode.st'; did you mean mode.set?\n")


def test_check_a_limit_table_on_the_command_line(tmp_path, capsys):
    path, rest = tmp_path / "l.toml", tmp_path / "a.toml"
    path.write_text(LIMITS)
    rest.write_text(LIMITS[: LIMITS.index("[[watchpoint]]")] + LIMITS[LIMITS.index("[[actionpoint]]") :])
    assert cli.run(["table", "check", "watchpoints", str(path)]) == 0
    assert "'night': 2 watchpoints" in capsys.readouterr().out
    assert cli.run(["table", "check", "actionpoints", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"] == "'night': 1 actionpoints, 0 active"
    assert cli.run(["table", "check", "actionpoints", str(rest)]) == ExitCode.USAGE
    assert "name theirs with --watchpoints" in capsys.readouterr().err
    assert cli.run(["table", "check", "actionpoints", str(rest), "--watchpoints", str(path)]) == 0


@pytest.mark.parametrize("name", ["night-pass", "power-on", "warm-reset", "imaging-window"])
def test_every_example_of_a_sequence_compiles_and_reads_back(name, tmp_path, capsys):
    path = EXAMPLES / f"{name}.toml"
    assert cli.run(["sequence", "check", str(path), "--steps"]) == 0
    assert " ok: " in capsys.readouterr().out
    made = compile_sequence(Source(path))
    (tmp_path / path.name).write_text(sequence_text(made))
    assert compile_sequence(Source(tmp_path / path.name)) == made


def test_every_example_is_checked_and_packaged():
    limits = {"watchpoints", "actionpoints"}
    sequences = {"night-pass", "power-on", "warm-reset", "imaging-window"}
    assert {path.stem for path in EXAMPLES.glob("*")} == sequences | limits
    for name in limits:
        options = ["--watchpoints", str(EXAMPLES / "watchpoints.toml")]
        assert cli.run(["table", "check", name, str(EXAMPLES / f"{name}.toml"), *options]) == 0
    setuptools = pytest.importorskip("setuptools", reason="only a build needs it")
    assert "ground.examples" in setuptools.find_namespace_packages(str(EXAMPLES.parents[1]), include=["ground*"])


def test_r23_a_moment_in_a_leap_second():
    inserted = (21_550 * 86_400 + 36) * 10
    assert utc_ds("2016-12-31T23:59:60Z") == inserted
    assert utc_ds("2016-12-31T23:59:60.5Z") == inserted + 5
    assert utc_ds("2017-01-01T00:00:00Z") == inserted + 10
    assert utc_text(inserted + 5) == "2016-12-31T23:59:60.5Z"
    for none in ("2026-12-31T23:59:60Z", "2016-12-31T23:58:60Z", "2016-12-31T23:59:61Z"):
        with pytest.raises(ValueError, match="no UTC moment"):
            utc_ds(none)

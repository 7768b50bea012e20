"""Arguments of telecommands: what is taken, what is refused, and in which words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.arguments import check_arguments, describe, enum_codes, parse_argument_text
from flightsw.link.dictionary import TELECOMMAND_BY_NAME, TELECOMMANDS
from flightsw.link.errors import ArgumentError
from flightsw.link.schema import Argument, ArgumentType, Telecommand

BOOL = Argument(name="on", type=ArgumentType.BOOL, text="")
INT = Argument(name="count", type=ArgumentType.INT, minimum=1, maximum=512, text="")
FREE_INT = Argument(name="offset", type=ArgumentType.INT, text="")
FLOAT = Argument(name="cap", type=ArgumentType.FLOAT, unit="W", minimum=0.0, maximum=2000.0, text="")
FLOAT_FROM = Argument(name="age", type=ArgumentType.FLOAT, unit="s", minimum=0.5, text="")
FLOAT_TO = Argument(name="age", type=ArgumentType.FLOAT, unit="s", maximum=0.5, text="")
TEXT = Argument(name="prompt", type=ArgumentType.TEXT, minimum=1, maximum=5, text="")
BYTES = Argument(name="data", type=ArgumentType.BYTES, minimum=1, maximum=4, text="")
FREE_BYTES = Argument(name="data", type=ArgumentType.BYTES, text="")
FREE_TEXT = Argument(name="note", type=ArgumentType.TEXT, text="")
ENUM = Argument(name="mode", type=ArgumentType.ENUM, choices=("SAFE", "NOMINAL"), codes=(1, 2), text="")
PLAIN_ENUM = Argument(name="group", type=ArgumentType.ENUM, choices=("fast", "main"), text="")


def command(*arguments: Argument) -> Telecommand:
    return Telecommand(opcode=1, name="test.it", service=8, subtype=1, text="", arguments=arguments)


# (argument, value, what goes into the body)
TAKEN = (
    (BYTES, b"\x01\xff", b"\x01\xff"),
    (BYTES, "01fF", b"\x01\xff"),
    (FREE_BYTES, b"", b""),
    (BOOL, True, True),
    (BOOL, False, False),
    (INT, 1, 1),
    (INT, 512, 512),
    (FREE_INT, -(2**60), -(2**60)),
    (FLOAT, 0.0, 0.0),
    (FLOAT, 2000, 2000.0),
    (FLOAT_FROM, 1e300, 1e300),
    (FLOAT_TO, -5.5, -5.5),
    (TEXT, "a", "a"),
    (TEXT, "äöüß€", "äöüß€"),
    (FREE_TEXT, "", ""),
    (ENUM, "SAFE", 1),
    (ENUM, 2, 2),
    (PLAIN_ENUM, "fast", 0),
    (PLAIN_ENUM, 1, 1),
)


@pytest.mark.parametrize(("argument", "value", "checked"), TAKEN)
def test_taken(argument, value, checked):
    result = check_arguments(command(argument), {argument.name: value})
    assert result == {argument.name: checked}
    assert type(result[argument.name]) is type(checked)


# (argument, value, the whole sentence)
REFUSED = (
    (BYTES, b"", "test.it: data = b'' is not octets as hexadecimal, 1 to 4 of them"),
    (
        BYTES,
        bytes(5),
        "test.it: data = b'\\x00\\x00\\x00\\x00\\x00' is not octets as hexadecimal, 1 to 4 of them",
    ),
    (BYTES, "xy", "test.it: data = 'xy' is not octets as hexadecimal, 1 to 4 of them"),
    (BYTES, 5, "test.it: data = 5 is not octets as hexadecimal, 1 to 4 of them"),
    (FREE_BYTES, "0", "test.it: data = '0' is not octets as hexadecimal"),
    (BOOL, 1, "test.it: on = 1 is not true or false"),
    (BOOL, "true", "test.it: on = 'true' is not true or false"),
    (INT, 0, "test.it: count = 0 is not a whole number from 1 to 512"),
    (INT, 513, "test.it: count = 513 is not a whole number from 1 to 512"),
    (INT, True, "test.it: count = True is not a whole number from 1 to 512"),
    (INT, 5.0, "test.it: count = 5.0 is not a whole number from 1 to 512"),
    (INT, "5", "test.it: count = '5' is not a whole number from 1 to 512"),
    (FLOAT, -0.1, "test.it: cap = -0.1 is not a number from 0 to 2000 W"),
    (FLOAT, math.nan, "test.it: cap = nan is not a number from 0 to 2000 W"),
    (FLOAT, math.inf, "test.it: cap = inf is not a number from 0 to 2000 W"),
    (FLOAT, True, "test.it: cap = True is not a number from 0 to 2000 W"),
    (FLOAT_FROM, math.inf, "test.it: age = inf is not a number of at least 0.5 s"),
    (FLOAT_TO, -math.inf, "test.it: age = -inf is not a number of at most 0.5 s"),
    (TEXT, "", "test.it: prompt = '' is not text of 1 to 5 characters"),
    (TEXT, "123456", "test.it: prompt = '123456' is not text of 1 to 5 characters"),
    (TEXT, "\ud800", "test.it: prompt = '\\ud800' is not text of 1 to 5 characters"),
    (TEXT, 5, "test.it: prompt = 5 is not text of 1 to 5 characters"),
    (FREE_TEXT, 5, "test.it: note = 5 is not text"),
    (ENUM, "safe", "test.it: mode = 'safe' is not one of SAFE (1), NOMINAL (2)"),
    (ENUM, 0, "test.it: mode = 0 is not one of SAFE (1), NOMINAL (2)"),
    (ENUM, True, "test.it: mode = True is not one of SAFE (1), NOMINAL (2)"),
    (ENUM, [1], "test.it: mode = [1] is not one of SAFE (1), NOMINAL (2)"),
    (INT, None, "test.it: argument count is missing, it is a whole number from 1 to 512"),
)


@pytest.mark.parametrize(("argument", "value", "sentence"), REFUSED)
def test_refused(argument, value, sentence):
    with pytest.raises(ArgumentError) as refusal:
        check_arguments(command(argument), {argument.name: value})
    assert str(refusal.value) == sentence


def test_missing_and_unknown_names():
    with pytest.raises(ArgumentError, match=r"^job\.start: argument job is missing, it is text"):
        check_arguments(TELECOMMAND_BY_NAME["job.start"], {})
    with pytest.raises(ArgumentError, match=r"^job\.start: unknown argument 'jop', allowed are job$"):
        check_arguments(TELECOMMAND_BY_NAME["job.start"], {"jop": "train"})
    with pytest.raises(ArgumentError, match=r"^ping: unknown argument 'x', allowed are none$"):
        check_arguments(TELECOMMAND_BY_NAME["ping"], {"x": 1})


def test_defaults_and_order_are_the_dictionary_s():
    checked = check_arguments(TELECOMMAND_BY_NAME["job.infer"], {"seed": 5, "prompt": "once", "job": "infer"})
    assert list(checked.items()) == [
        ("job", "infer"),
        ("prompt", "once"),
        ("max_tokens", 64),
        ("temperature", 0.8),
        ("top_k", 0),
        ("seed", 5),
    ]


def test_a_long_bad_value_is_not_repeated_whole():
    with pytest.raises(ArgumentError) as refusal:
        check_arguments(command(TEXT), {"prompt": "x" * 10_000})
    assert len(str(refusal.value)) < 120


@given(
    st.sampled_from(TELECOMMANDS), st.dictionaries(st.text(max_size=12), st.from_type(type).flatmap(st.from_type))
)
def test_anything_is_checked_or_refused_in_one_line(telecommand, arguments):
    checked, sentence = None, ""
    try:
        checked = check_arguments(telecommand, arguments)
    except ArgumentError as refusal:
        sentence = str(refusal)
    assert "\n" not in sentence
    assert sentence or list(checked) == [argument.name for argument in telecommand.arguments]


# (argument, as typed, value)
TYPED = (
    (BOOL, "true", True),
    (BOOL, "ON", True),
    (BOOL, " no ", False),
    (BOOL, "0", False),
    (INT, "12", 12),
    (INT, "0x31", 0x31),
    (FLOAT, "1e3", 1000.0),
    (TEXT, "007", "007"),
    (ENUM, "safe", 1),
    (ENUM, " NOMINAL", 2),
    (ENUM, "2", 2),
    (ENUM, "0x1", 1),
)


@pytest.mark.parametrize(("argument", "text", "value"), TYPED)
def test_typed(argument, text, value):
    assert parse_argument_text(argument, text) == value


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (BOOL, "maybe"),
        (INT, "twelve"),
        (INT, "1.5"),
        (INT, "9" * 5000),
        (FLOAT, "hot"),
        (FLOAT, "nan"),
        (FLOAT, "1e999"),
        (TEXT, ""),
        (ENUM, "DOWN"),
        (ENUM, "7"),
    ],
)
def test_typed_nonsense(argument, text):
    with pytest.raises(ArgumentError, match=rf"^{argument.name} = .* is not {describe(argument).split('(')[0]}"):
        parse_argument_text(argument, text)


def test_every_choice_of_the_dictionary_can_be_typed():
    enums = [a for c in TELECOMMANDS for a in c.arguments if a.type is ArgumentType.ENUM]
    assert enums
    for argument in enums:
        for name, code in enum_codes(argument).items():
            assert parse_argument_text(argument, name.lower()) == code
            assert parse_argument_text(argument, str(code)) == code


@pytest.mark.parametrize(
    ("choices", "codes", "words"),
    [
        (("a", "b"), (), "one of a (0), b (1)"),
        (("x", "rts08", "rts09", "rts10"), (1, 8, 9, 10), "one of x (1), rts08 (8) to rts10 (10)"),
        (("a1", "a2"), (), "one of a1 (0), a2 (1)"),
        (("a1", "a2", "a4"), (), "one of a1 (0), a2 (1), a4 (2)"),
        (("a1", "a2", "a3"), (1, 2, 4), "one of a1 (1), a2 (2), a3 (4)"),
        (("a1", "b2", "c3"), (), "one of a1 (0), b2 (1), c3 (2)"),
        (tuple("abcdefgh"), (), "one of a (0), b (1), c (2), d (3), e (4), f (5), g (6), h (7)"),
        (tuple("abcdefghi"), (), "one of a (0), b (1), c (2), d (3), e (4), f (5), g (6), h (7), … 9 in all"),
    ],
)
def test_choices_are_shown_as_spans_and_not_without_end(choices, codes, words):
    argument = Argument(name="x", type=ArgumentType.ENUM, choices=choices, codes=codes, text="x")
    assert describe(argument) == words
    assert "in all" not in describe(argument, None)

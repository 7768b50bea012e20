"""R4: images of stored command sequences: read back as made, and every field is refused when it is wrong."""

import contextlib
import zlib

import msgspec
import pytest

from flightsw.link import sequence
from flightsw.link.dictionary import TELECOMMAND_BY_NAME
from flightsw.link.errors import ArgumentError, TableError
from flightsw.link.sequence import Sequence, Step, command_of, decode, encode, is_whole, make_step, merged

TAI_DS = 21_000_000_000


def step(at_ds, name="ping", **arguments):
    return make_step(at_ds, TELECOMMAND_BY_NAME[name], arguments)


def relative(*steps, **changes):
    fields = {"kind": "relative", "name": "night", "on_failure": "abort", "reference": "dispatch"}
    return Sequence(**{**fields, "wait_for_time": False, "steps": steps or (step(0),), **changes})


def absolute(*steps, **changes):
    return relative(*steps, **{"kind": "absolute", "wait_for_time": True, **changes})


ARM = step(0, "arm", opcode=0x31)
RAIL = step(100, "gpu.rail", on=False)


@pytest.mark.parametrize(
    "whole",
    [
        relative(step(0), step(15, "mode.set", mode="SAFE")),
        relative(step(5), reference="completion", on_failure="continue", wait_for_time=True),
        relative(ARM, RAIL),
        absolute(step(TAI_DS), step(TAI_DS), step(TAI_DS + 1)),
        relative(*[step(1) for _ in range(sequence.STEPS_MAX)]),
        relative(step(sequence.DELAY_MAX_DS)),
    ],
    ids=["delays", "completion", "armed", "absolute", "longest", "latest"],
)
def test_r4_what_is_made_is_read_back(whole):
    image = encode(whole)
    assert decode(image) == whole
    for each in whole.steps:
        command, arguments = command_of(each)
        assert make_step(each.at_ds, command, arguments) == each


def test_commands_are_stored_as_codes():
    command, arguments = command_of(step(0, "mode.set", mode="SAFE"))
    assert (command.name, arguments) == ("mode.set", {"mode": 1})


def test_a_step_with_refused_arguments_cannot_be_made():
    with pytest.raises(ArgumentError, match="opcode"):
        step(0, "arm", opcode=0)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (relative(steps=()), "0 steps, allowed are 1 to 1000"),
        (relative(*[step(1) for _ in range(1001)]), "1001 steps"),
        (relative(step(0), step(sequence.DELAY_MAX_DS + 1)), "step 2: time 2.592e.06 s, at most"),
        (absolute(step(sequence.TAI_MAX_DS + 1)), "step 1: time"),
        (absolute(step(TAI_DS), step(TAI_DS - 1)), "step 2: earlier than the step before"),
        (absolute(step(TAI_DS), reference="completion"), "reference"),
        (absolute(step(TAI_DS), wait_for_time=False), "wait_for_time"),
        (relative(RAIL), "step 1: gpu.rail is hazardous: put arm opcode=49 at most 60 s before it"),
        (relative(ARM, step(601, "gpu.rail", on=False)), "step 2: gpu.rail is hazardous"),
        (relative(ARM, RAIL, RAIL), "step 3: gpu.rail is hazardous"),
        (relative(msgspec.structs.replace(step(0), crc=1)), "step 1: its CRC does not hold"),
        (relative(step(0), msgspec.structs.replace(step(7), at_ds=8)), "step 2: its CRC does not hold"),
        (relative(name="-"), "name"),
        (relative(kind="sometimes"), "kind"),
        (relative(on_failure="hope"), "on_failure"),
        (relative(reference="whim"), "reference"),
        (relative(wait_for_time=3), "wait_for_time"),
        (relative(format=2), "format"),
    ],
)
def test_r4_every_field_is_refused_when_it_is_wrong(broken, reason):
    with pytest.raises(TableError, match=reason):
        decode(encode(broken))


def _step_of(op, args):
    return Step(0, op, args, zlib.crc32(msgspec.msgpack.encode((0, op, args))))


@pytest.mark.parametrize(
    ("op", "args", "reason"),
    [
        (0x7777, b"\x80", "opcode 0x7777 is not in this dictionary"),
        (0x01, b"\xc1", "ping: arguments body"),
        (0x01, b"\x90", "ping: arguments body"),
        (0x02, msgspec.msgpack.encode({"opcode": 0}), "opcode = 0 is not"),
        (0x02, msgspec.msgpack.encode({"code": 1}), "unknown argument"),
    ],
)
def test_a_command_is_checked_even_when_its_crc_holds(op, args, reason):
    with pytest.raises(TableError, match=f"step 1: .*{reason}"):
        decode(encode(relative(_step_of(op, args))))


@pytest.mark.parametrize("octets", [b"", b"\xc1", b"\x80", b"\x91" * 5000, bytes(200_000)])
def test_no_image(octets):
    with pytest.raises(TableError, match="image"):
        decode(octets)


def test_every_flipped_bit_of_a_step_is_found():
    whole = msgspec.msgpack.encode(step(1234, "governor.cap", power_cap_w=400.0))
    decoder = msgspec.msgpack.Decoder(Step)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            assert not is_whole(decoder.decode(bytes(flipped))), f"bit {bit}"


def test_merging_keeps_time_order_and_the_first_ones_head():
    first = absolute(step(TAI_DS), step(TAI_DS + 20), name="first")
    both = merged(first, absolute(step(TAI_DS + 10), name="second"))
    assert [s.at_ds - TAI_DS for s in both.steps] == [0, 10, 20]
    assert both.name == "first"


def test_merging_is_bounded():
    many = absolute(*[step(TAI_DS) for _ in range(600)])
    with pytest.raises(TableError, match="1200 steps"):
        merged(many, many)

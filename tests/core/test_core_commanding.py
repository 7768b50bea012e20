"""Telecommands: order of checks, codes, idempotence, arming, bounds, verification by acknowledgement flags."""

import pytest
from core_flight import telecommand
from hypothesis import given
from hypothesis import strategies as st

from flightsw.core import commanding
from flightsw.core.commanding import Command, State, Verification
from flightsw.core.events import Event
from flightsw.core.execution import EXECUTIONS
from flightsw.link.bodies import CommandBody, pack_body
from flightsw.link.dictionary import APID_TELECOMMAND, TELECOMMAND_BY_NAME, TELECOMMANDS
from flightsw.link.packet import ACK_ALL, ACK_NONE, TcPacket, encode_tc
from flightsw.link.schema import FailureCode, Mode, Stage

CONFIG = commanding.Config(in_flight_max=4)


def packet(op: int, service: int, subtype: int, body: bytes | None = None, apid: int = APID_TELECOMMAND) -> bytes:
    body = pack_body(CommandBody(op, 77, {})) if body is None else body
    return encode_tc(TcPacket(apid, 0, service, subtype, 1, ACK_ALL, body))


class Desk:
    """Acceptances one after another."""

    def __init__(self, mode: Mode = Mode.COMPUTE) -> None:
        self.state, self.mode, self.now_s = State(), mode, 0.0

    def accept(self, unit: bytes) -> list[Verification]:
        self.state, out = commanding.accept(self.state, CONFIG, unit, self.mode, self.now_s)
        self.events = [o.name for o in out if isinstance(o, Event)]
        return [o for o in out if isinstance(o, Verification)]

    def verdict(self, unit: bytes) -> FailureCode:
        return self.accept(unit)[0].code

    def finish(self, code: FailureCode = FailureCode.NONE) -> list[Verification]:
        command = self.state.in_flight[0]
        self.state, out = commanding.report(self.state, command, Stage.COMPLETION, code, "why")
        return [o for o in out if isinstance(o, Verification)]


@pytest.mark.parametrize(
    ("unit", "mode", "code"),
    [
        (telecommand("ping", 1), Mode.COMPUTE, FailureCode.NONE),
        (packet(0xEE, 8, 1), Mode.COMPUTE, FailureCode.UNKNOWN_COMMAND),
        (packet(0x01, 8, 1), Mode.COMPUTE, FailureCode.MALFORMED),
        (telecommand("job.start", 1), Mode.COMPUTE, FailureCode.BAD_ARGUMENT),
        (telecommand("job.start", 1, job=5), Mode.COMPUTE, FailureCode.BAD_ARGUMENT),
        (telecommand("job.start", 1, job="train", more=1), Mode.COMPUTE, FailureCode.BAD_ARGUMENT),
        (telecommand("governor.cap", 1, power_cap_w=-1.0), Mode.COMPUTE, FailureCode.BAD_ARGUMENT),
        (telecommand("governor.cap", 1, power_cap_w=float("nan")), Mode.COMPUTE, FailureCode.BAD_ARGUMENT),
        (telecommand("job.start", 1, job="train"), Mode.SAFE, FailureCode.MODE_FORBIDS),
        (telecommand("gpu.rail", 1, on=False), Mode.COMPUTE, FailureCode.NOT_ARMED),
        # The order of checks decides which of several mistakes is reported.
        (telecommand("job.start", 1, job=5), Mode.SAFE, FailureCode.BAD_ARGUMENT),
        (telecommand("gpu.rail", 1), Mode.COMPUTE, FailureCode.BAD_ARGUMENT),
    ],
)
def test_checks_in_order(unit: bytes, mode: Mode, code: FailureCode) -> None:
    desk = Desk(mode)
    assert desk.verdict(unit) is code
    accepted = code is FailureCode.NONE
    assert desk.events == ([] if accepted else ["TC_REFUSED"])
    assert (desk.state.accepted, desk.state.rejected, len(desk.state.in_flight)) == (
        accepted,
        not accepted,
        accepted,
    )


@pytest.mark.parametrize(
    "unit",
    [b"", b"\x00" * 20, telecommand("ping", 1)[:-1], telecommand("ping", 1) + b"x", packet(1, 17, 1, apid=2)],
)
def test_garbage_is_counted_and_not_answered(unit: bytes) -> None:
    desk = Desk()
    assert desk.accept(unit) == []
    assert (desk.state.garbage, desk.state.rejected, desk.events) == (1, 0, [])


@pytest.mark.parametrize("body", [b"", b"\x93\x01\x02\x03", b"\x81\xa2op\x01", b"\xc1", b"\x80" * 3])
def test_a_whole_packet_with_a_wrong_body_is_refused(body: bytes) -> None:
    desk = Desk()
    assert desk.accept(packet(1, 17, 1, body)) == []
    assert (desk.state.rejected, desk.events) == (1, ["TC_REFUSED"])


@given(st.binary(max_size=1300))
def test_any_bytes_are_survived(unit: bytes) -> None:
    desk = Desk()
    desk.accept(unit)
    desk.accept(packet(1, 17, 1, unit[:1100]))
    assert desk.state.in_flight == ()


def test_a_repeated_id_is_not_executed_but_answered_again() -> None:
    desk = Desk()
    unit = telecommand("ping", 9)
    first = desk.accept(unit)
    assert desk.accept(unit) == first
    assert (desk.state.accepted, len(desk.state.in_flight)) == (1, 1)
    done = desk.finish()
    assert desk.accept(unit) == done
    assert done[0].stage is Stage.COMPLETION
    assert desk.state.in_flight == ()


def test_a_refusal_is_remembered_but_busy_is_not() -> None:
    desk = Desk()
    refused = telecommand("gpu.rail", 1, on=False)
    assert desk.accept(refused) == desk.accept(refused)
    assert desk.state.rejected == 1
    for number in range(2, 6):
        assert desk.verdict(telecommand("ping", number)) is FailureCode.NONE
    assert desk.verdict(telecommand("ping", 6)) is FailureCode.BUSY
    desk.finish()
    assert desk.verdict(telecommand("ping", 6)) is FailureCode.NONE


def test_history_is_bounded_and_forgets_the_oldest() -> None:
    desk = Desk()
    for number in range(commanding.HISTORY_MAX + 10):
        desk.accept(telecommand("ping", number))
        desk.finish()
    assert len(desk.state.history) == commanding.HISTORY_MAX
    assert set(desk.state.history) == set(range(10, commanding.HISTORY_MAX + 10))


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("flags", range(16))
def test_successes_as_flagged_failures_always(flags: int, failed: bool) -> None:
    desk = Desk()
    accepted = desk.accept(telecommand("ping", 1, ack=flags))
    assert bool(accepted) is bool(flags & 0b1000)
    command = desk.state.in_flight[0]
    desk.state, started = commanding.report(desk.state, command, Stage.START)
    assert bool(started) is bool(flags & 0b0100)
    ended = desk.finish(FailureCode.TIMEOUT if failed else FailureCode.NONE)
    assert bool(ended) is (failed or bool(flags & 0b0001))
    assert desk.state.in_flight == ()


def test_unacknowledged_repeats_stay_silent() -> None:
    desk = Desk()
    unit = telecommand("ping", 1, ack=ACK_NONE)
    assert desk.accept(unit) == desk.accept(unit) == []


@pytest.mark.parametrize(
    ("armed_s", "used_s", "code"),
    [(0.0, 59.9, FailureCode.NONE), (0.0, 60.1, FailureCode.NOT_ARMED), (None, 1.0, FailureCode.NOT_ARMED)],
)
def test_arming_has_a_window(armed_s: float | None, used_s: float, code: FailureCode) -> None:
    desk = Desk()
    if armed_s is not None:
        desk.state = commanding.arm(desk.state, CONFIG, 0x31, armed_s)
    desk.now_s = used_s
    assert desk.verdict(telecommand("gpu.rail", 1, on=False)) is code


def test_arming_is_used_once_and_for_its_own_opcode() -> None:
    desk = Desk()
    desk.state = commanding.arm(desk.state, CONFIG, 0x31, 0.0)
    assert desk.verdict(telecommand("daemon.restart", 1)) is FailureCode.NOT_ARMED
    assert desk.verdict(telecommand("gpu.rail", 2, on=False)) is FailureCode.NONE
    assert desk.verdict(telecommand("gpu.rail", 3, on=False)) is FailureCode.NOT_ARMED


def test_armed_opcodes_are_bounded() -> None:
    state = State()
    for opcode in range(100):
        state = commanding.arm(state, CONFIG, opcode, 0.0)
    assert len(state.armed) == commanding.ARMED_MAX


def test_every_telecommand_has_an_execution() -> None:
    assert set(EXECUTIONS) == {command.name for command in TELECOMMANDS}


def test_deadline_comes_from_the_dictionary() -> None:
    desk = Desk()
    desk.now_s = 5.0
    desk.accept(telecommand("job.start", 1, job="train"))
    command: Command = desk.state.in_flight[0]
    assert command.deadline_s == 5.0 + TELECOMMAND_BY_NAME["job.start"].timeout_s

"""Retransmission, deadlines and refusals as tables; time is an argument."""

import pytest

from flightsw.link.bodies import VerificationBody, unpack_command
from flightsw.link.packet import ACK_NONE, decode_tc
from flightsw.link.schema import FailureCode, Stage
from ground.acknowledgement import Range
from ground.commanding import ACCEPTANCE_S, MARGIN_S, OPEN_MAX, Commander, validate
from ground.errors import ExitCode, GroundError

ID = 77


def submitted(name: str = "ping", timeout_s: float | None = None, **arguments: object) -> Commander:
    commander = Commander()
    telecommand, checked = validate(name, arguments)
    commander.submit(telecommand, checked, id=ID, operator="ann", timeout_s=timeout_s, now_s=100.0, now_utc_s=1.8e9)
    return commander


def report(stage: Stage, code: FailureCode = FailureCode.NONE, text: str = "", id: int = ID) -> VerificationBody:
    return VerificationBody(1, 1, 5.0, id, 1, stage, code, text)


def test_back_off_while_the_wire_is_alive() -> None:
    commander = submitted()
    sent = [now / 10 for now in range(1000, 1300) if commander.due(now / 10, alive=True)]
    assert sent == [100.0, 101.0, 103.0, 107.0, 115.0, 123.0]


def test_silence_holds_repetitions_and_contact_sends_at_once() -> None:
    commander = submitted()
    life = [(100.0, False), (101.5, False), (110.0, False), (112.0, True), (112.5, True), (113.0, True)]
    assert [now for now, alive in life if commander.due(now, alive)] == [100.0, 112.0, 113.0]


@pytest.mark.parametrize("stage", [Stage.ACCEPTANCE, Stage.START, Stage.PROGRESS, Stage.COMPLETION])
def test_any_report_ends_the_repetition(stage: Stage) -> None:
    commander = submitted()
    assert commander.due(100.0, alive=True)
    assert commander.observe(report(stage), 100.5) is not None
    assert not commander.due(200.0, alive=True)


def test_every_transmission_has_the_same_id_and_the_next_count() -> None:
    commander = submitted("job.infer", job="talk", prompt="Once")
    packets = [decode_tc(packet) for now in (100.0, 101.0, 103.0) for _, packet in commander.due(now, alive=True)]
    assert [unpack_command(packet.body).id for packet in packets] == [ID] * 3
    assert [packet.sequence_count for packet in packets] == [1, 2, 3]
    assert unpack_command(packets[0].body).args["max_tokens"] == 64


OUTCOMES = (
    ("nothing", [], "sent"),
    ("accepted", [report(Stage.ACCEPTANCE)], "accepted"),
    ("completed", [report(Stage.ACCEPTANCE), report(Stage.START), report(Stage.COMPLETION)], "completed"),
    ("reordered", [report(Stage.COMPLETION), report(Stage.ACCEPTANCE)], "completed"),
    ("repeated", [report(Stage.ACCEPTANCE)] * 3, "accepted"),
    ("refused", [report(Stage.ACCEPTANCE, FailureCode.NOT_ARMED, "arm it first")], "refused"),
    ("failed", [report(Stage.ACCEPTANCE), report(Stage.COMPLETION, FailureCode.TIMEOUT)], "failed"),
    ("another's", [report(Stage.COMPLETION, id=ID + 1)], "sent"),
)


@pytest.mark.parametrize(
    ("reports", "outcome"), [case[1:] for case in OUTCOMES], ids=[case[0] for case in OUTCOMES]
)
def test_outcome(reports: list[VerificationBody], outcome: str) -> None:
    commander = submitted()
    news = [commander.observe(r, 101.0) for r in reports]
    assert commander.outcome(ID) == outcome
    result = commander.result(ID)
    assert result.ok == (outcome in ("sent", "accepted", "completed"))
    assert len(result.stages) == sum(line is not None for line in news) <= len(set(map(str, reports)))


DEADLINES = (
    ("no report", None, None, 100.0 + ACCEPTANCE_S),
    ("accepted, then silence", None, 110.0, 110.0 + 300.0 + MARGIN_S),
    ("the operator's timeout, no report", 3.0, None, 103.0),
    ("the operator's timeout, accepted", 20.0, 110.0, 120.0),
)


@pytest.mark.parametrize(
    ("timeout_s", "accepted_s", "deadline_s"), [case[1:] for case in DEADLINES], ids=[case[0] for case in DEADLINES]
)
def test_deadline(timeout_s: float | None, accepted_s: float | None, deadline_s: float) -> None:
    commander = submitted("job.infer", timeout_s, job="talk", prompt="Once")
    if accepted_s is not None:
        commander.observe(report(Stage.ACCEPTANCE), accepted_s)
    assert not commander.overdue(deadline_s - 0.01)
    assert [outgoing.id for outgoing in commander.overdue(deadline_s)] == [ID]
    assert commander.outcome(ID) == "timeout"
    assert commander.open_count == 0
    assert not commander.due(deadline_s + 1.0, alive=True)
    # The truth may still arrive.
    commander.observe(report(Stage.COMPLETION), deadline_s + 5.0)
    assert commander.outcome(ID) == "completed"


BAD = (
    ("unknown", "job.fly", {}, "no telecommand 'job.fly'"),
    ("missing", "job.start", {}, "argument job is missing"),
    ("extra", "ping", {"speed": 1}, "unknown argument 'speed'"),
    ("type", "gpu.rail", {"on": "maybe"}, "true or false"),
    ("bool for a number", "governor.cap", {"power_cap_w": True}, "a number"),
    ("range", "governor.cap", {"power_cap_w": 5000.0}, "from 0 to 2000 W"),
    ("nan", "governor.cap", {"power_cap_w": float("nan")}, "from 0 to 2000 W"),
    ("too long for a packet", "job.infer", {"job": "talk", "prompt": "é" * 800}, "bytes"),
)


@pytest.mark.parametrize(("name", "arguments", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_arguments_are_refused_on_the_ground(name: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(GroundError, match=words) as caught:
        validate(name, arguments)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in str(caught.value)


def test_too_many_open_commands() -> None:
    commander = submitted()
    telecommand, checked = validate("ping", {})
    for id in range(1000, 1000 + OPEN_MAX - 1):
        commander.submit(telecommand, checked, id=id, operator="ann", timeout_s=None, now_s=100.0, now_utc_s=0.0)
    with pytest.raises(GroundError, match="waiting for an answer"):
        commander.submit(telecommand, checked, id=9, operator="ann", timeout_s=None, now_s=100.0, now_utc_s=0.0)


def test_history_is_bounded_and_keeps_what_is_open() -> None:
    commander = submitted()
    telecommand, checked = validate("ping", {})
    for id in range(1000, 2000):
        commander.submit(telecommand, checked, id=id, operator="ann", timeout_s=None, now_s=100.0, now_utc_s=0.0)
        commander.observe(report(Stage.COMPLETION, id=id), 100.0)
    assert commander.outcome(ID) == "sent"
    assert len(commander.lines(5000)) <= 256


def test_acknowledgement_asks_for_no_reports() -> None:
    packet = decode_tc(Commander().acknowledgement(Range(3, 0x21, 10, 20), id=5))
    body = unpack_command(packet.body)
    assert packet.ack_flags == ACK_NONE
    assert (packet.service, packet.subtype, body.id) == (15, 128, 5)
    assert body.args == {"boot": 3, "apid": 0x21, "first": 10, "last": 20}

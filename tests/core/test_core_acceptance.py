"""R1 and R2: the order of acceptance with a code, a counter and an event each; one final report per command."""

import pytest
from core_flight import Flight, telecommand

from flightsw.core import commanding, executive
from flightsw.core.commanding import State, Verification
from flightsw.core.effects import Telemetry
from flightsw.core.getters import GETTERS
from flightsw.core.inputs import RequestReply
from flightsw.core.job import JobConfig
from flightsw.link.bodies import CommandBody, VerificationBody, pack_body
from flightsw.link.codec import decode_telemetry
from flightsw.link.dictionary import APID_TELECOMMAND, APID_VERIFICATION, PARAMETERS, TELECOMMANDS
from flightsw.link.packet import ACK_ALL, TcPacket, encode_tc
from flightsw.link.schema import FailureCode, Mode, Stage

CONFIG = commanding.Config(in_flight_max=1)
BUSY = telecommand("job.start", 1, job="train")


def wrong(opcode: int, service: int = 8, number: int = 50, **arguments: object) -> bytes:
    body = pack_body(CommandBody(opcode, number, arguments))
    return encode_tc(TcPacket(APID_TELECOMMAND, number, service, 1, 1, ACK_ALL, body))


# One telecommand a check, in the order of the checks; each has every later mistake as well, as far as it can.
REFUSALS = {
    FailureCode.UNKNOWN_COMMAND: (wrong(0xEE, 99, job=5), Mode.SAFE),
    FailureCode.MALFORMED: (wrong(0x31, 99, job=5), Mode.SAFE),
    FailureCode.BAD_ARGUMENT: (telecommand("gpu.rail", 50, on="perhaps"), Mode.SAFE),
    FailureCode.MODE_FORBIDS: (telecommand("job.start", 50, job="train"), Mode.SAFE),
    FailureCode.NOT_ARMED: (telecommand("gpu.rail", 50, on=False), Mode.COMPUTE),
    FailureCode.BUSY: (telecommand("ping", 50), Mode.COMPUTE),
}


@pytest.mark.parametrize(("code", "case"), REFUSALS.items(), ids=[code.name for code in REFUSALS])
def test_r1_each_check_has_its_code_its_counter_and_its_event(code: FailureCode, case: tuple[bytes, Mode]) -> None:
    unit, mode = case
    full, _ = commanding.accept(State(), CONFIG, BUSY, Mode.COMPUTE, 0.0)
    state, (report, event) = commanding.accept(full, CONFIG, unit, mode, 0.0)
    assert isinstance(report, Verification)
    assert (report.stage, report.code) == (Stage.ACCEPTANCE, code)
    assert (event.name, event.fields["code"]) == ("TC_REFUSED", code.name)
    assert (state.refused, state.rejected) == ({int(code): 1}, 1)
    assert (state.accepted, state.in_flight) == (full.accepted, full.in_flight), "a refusal changes nothing else"


def test_r1_every_code_of_acceptance_is_a_parameter_that_counts() -> None:
    flight = Flight(executive.Config(jobs=(JobConfig(id="train", kind="train"),)))
    flight.fly(5.0)
    flight.frame(
        telecommand("gpu.rail", 1, on=False), wrong(0xEE, number=2), telecommand("hk.request", 3, group=99)
    )
    names = {f"tc.refused_{code.name.lower()}" for code in REFUSALS}
    assert {p.name for p in PARAMETERS if p.name.startswith("tc.refused_")} == names
    counted = {name: GETTERS[name](flight.vehicle) for name in names}
    assert {name for name, count in counted.items() if count == 1.0} == {
        "tc.refused_not_armed", "tc.refused_unknown_command", "tc.refused_bad_argument",
    }  # fmt: skip
    assert GETTERS["tc.rejected"](flight.vehicle) == sum(counted.values()) == 3.0


def test_r2_a_telecommand_has_five_seconds_unless_its_row_says_more() -> None:
    assert {command.timeout_s for command in TELECOMMANDS} >= {5.0}
    assert all(command.timeout_s >= 5.0 for command in TELECOMMANDS)


class Silent(Flight):
    """A flight whose inference worker answers only when it is told to."""

    def reports(self, number: int) -> list[tuple[Stage, FailureCode]]:
        found = []
        for effect in self.effects:
            if isinstance(effect, Telemetry) and effect.apid == APID_VERIFICATION:
                body = decode_telemetry(effect.packet).body
                assert isinstance(body, VerificationBody)
                if body.id == number:
                    found.append((Stage(body.stage), FailureCode(body.code)))
        return found


def test_r2_a_late_answer_changes_no_final_report_and_an_unknown_one_is_discarded() -> None:
    jobs = (JobConfig(id="infer", kind="infer"),)
    flight = Silent(executive.Config(jobs=jobs))
    flight.fly(10.0)
    timeout_s = next(command.timeout_s for command in TELECOMMANDS if command.name == "job.infer")
    flight.frame(telecommand("governor.cap", 8, power_cap_w=0.0))
    flight.frame(telecommand("job.infer", 9, job="infer", prompt="to be"))
    flight.fly(timeout_s + 1.0)
    ended = [(Stage.ACCEPTANCE, FailureCode.NONE), (Stage.START, FailureCode.NONE)]
    assert flight.reports(9) == [*ended, (Stage.COMPLETION, FailureCode.TIMEOUT)]
    late, unknown = (
        RequestReply(job="infer", request=n, text="be", tokens=1, finish="length", generation=1, duration_s=1.0)
        for n in (9, 77)
    )
    flight.frame(reports=(late, unknown))
    flight.fly(1.0)
    assert flight.reports(9) == [*ended, (Stage.COMPLETION, FailureCode.TIMEOUT)]
    assert flight.reports(77) == []
    assert flight.vehicle.payload.jobs[0].replies == 1, (
        "the late answer still reaches the ground, the other does not"
    )

"""R4: orders and images of stored sequences: what each state allows, refusals with their codes, loading, append."""

import msgspec
import pytest
from core_flight import telecommand
from core_sequences import Bird, absolute, after, at, flying, mark, relative, start, training
from msgspec.structs import replace

from flightsw.core.sequence_life import ON_THE_WAY, TRANSITIONS, Life, Trigger
from flightsw.core.tables import IDLE, Phase, opened, whole
from flightsw.link.dictionary import TELECOMMAND_BY_NAME, TELECOMMANDS
from flightsw.link.errors import TableError
from flightsw.link.schema import FailureCode
from flightsw.link.sequence import decode, decode_status, encode
from flightsw.link.tables import ABSOLUTE_SEQUENCES, RELATIVE_SEQUENCES, SEQUENCES, TABLE_BY_NAME

F = FailureCode
ORDERS = {
    "start": Trigger.START,
    "suspend": Trigger.SUSPEND,
    "resume": Trigger.RESUME,
    "step": Trigger.STEP,
    "abort": Trigger.ABORT,
    "append": Trigger.APPEND,
}


def staged(bird: Bird, name: str, image: bytes, phase: Phase = Phase.VALIDATED) -> None:
    """An open load of a table, as ``table.validate`` leaves it."""
    loads = opened(IDLE, replace(whole(name, image), phase=phase))
    bird.vehicle = replace(bird.vehicle, tables=loads)


def in_life(life: Life, name: str = "ats1") -> Bird:
    """A satellite with one sequence in this state, and a validated addition for it."""
    bird = Bird() if life is Life.WAITING else flying()
    image = absolute(at(1000.0, **mark(1)), at(1001.0, **mark(2)))
    if life is not Life.EMPTY:
        bird.load(name, image)
    if life in ON_THE_WAY:
        start(bird, name)
    if life is Life.SUSPENDED:
        bird.frame(telecommand("sequence.suspend", 2, sequence=name))
    assert bird.slot(name).life is life
    staged(bird, name, encode(absolute(at(1000.5, **mark(3)))))
    return bird


@pytest.mark.parametrize("life", Life, ids=lambda life: life.name)
@pytest.mark.parametrize("order", ORDERS)
def test_r4_each_order_in_each_state(order: str, life: Life) -> None:
    """The table of transitions decides; what it does not know is WRONG_STATE and changes nothing."""
    bird = in_life(life)
    before = bird.slot("ats1")
    bird.frame(telecommand(f"sequence.{order}", 7, sequence="ats1"))
    code, text = bird.verdicts(7)[-1]
    wanted = TRANSITIONS.get((life, ORDERS[order]))
    if wanted is None:
        assert code is F.WRONG_STATE
        possible = " or ".join(each.name for each in Life if (each, ORDERS[order]) in TRANSITIONS)
        assert text == f"ats1 is {life.name}; {order} is possible in {possible}"
        assert bird.slot("ats1") == before
    else:
        assert code is F.NONE
        assert bird.slot("ats1").life is wanted


def test_r4_the_table_of_transitions_is_complete_and_every_state_can_be_left() -> None:
    reached = {Life.EMPTY}
    while True:
        more = reached | {target for (life, _), target in TRANSITIONS.items() if life in reached}
        if more == reached:
            break
        reached = more
    assert reached == set(Life)
    assert {trigger for _, trigger in TRANSITIONS} == set(Trigger)
    for life in ON_THE_WAY:
        assert TRANSITIONS[life, Trigger.ABORT] is Life.LOADED
        assert (life, Trigger.LOAD) not in TRANSITIONS
        assert (life, Trigger.START) not in TRANSITIONS


def test_r4_as_many_sequences_as_required() -> None:
    assert (RELATIVE_SEQUENCES, ABSOLUTE_SEQUENCES) == (64, 2)
    spec = TELECOMMAND_BY_NAME["sequence.start"].arguments[0]
    assert spec.choices == tuple(table.name for table in SEQUENCES)


SPECS = [spec for spec in TELECOMMANDS if spec.name.startswith("sequence.")]
BAD = {
    "missing": ({}, "argument sequence is missing"),
    "unknown name": ({"sequence": "rts65"}, "sequence = 'rts65' is not one of"),
    "code of another table": ({"sequence": 1}, "sequence = 1 is not one of"),
    "type": ({"sequence": True}, "sequence = True is not one of"),
    "unknown argument": ({"sequence": 101, "force": 1}, "unknown argument 'force'"),
}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("case", BAD)
def test_r4_bad_arguments_are_refused_and_change_nothing(spec: object, case: str) -> None:
    bird = in_life(Life.SUSPENDED)
    before, loads = bird.vehicle.sequences, bird.vehicle.tables
    arguments, reason = BAD[case]
    bird.frame(telecommand(spec.name, 9, **arguments))
    code, text = bird.verdicts(9)[-1]
    assert code is F.BAD_ARGUMENT
    assert reason in text
    assert bird.vehicle.sequences.slots == before.slots
    assert bird.vehicle.tables == loads


def test_append_is_for_absolute_sequences_only() -> None:
    bird = in_life(Life.RUNNING)
    bird.frame(telecommand("sequence.append", 9, sequence=201))
    assert bird.verdicts(9)[-1][0] is F.BAD_ARGUMENT


@pytest.mark.parametrize("reference", ["dispatch", "completion"])
def test_r4_time_stands_still_while_suspended(reference: str) -> None:
    bird = flying()
    steps = [after(1.0, **mark(1)), after(2.0, **mark(2)), after(2.0, **mark(3))]
    bird.load("rts05", relative(*steps, reference=reference))
    start(bird, "rts05")
    began_s = bird.world_s
    bird.fly(1.5)
    bird.frame(telecommand("sequence.suspend", 5, sequence="rts05"))
    held_s = bird.world_s
    bird.fly(20.0)
    bird.frame(telecommand("sequence.resume", 6, sequence="rts05"))
    pause_s = bird.world_s - held_s
    bird.fly(5.0)
    expected = [began_s + 1.0, began_s + 3.0 + pause_s, began_s + 5.0 + pause_s]
    assert [world_s for world_s, _ in bird.acted] == pytest.approx(expected, abs=0.01)
    assert bird.names() == ["STARTED", "SUSPENDED", "RESUMED", "ENDED"]


def test_r4_single_steps_of_a_relative_sequence() -> None:
    """Each order dispatches one step; after the resume, the delay of the next one counts from the resume."""
    bird = flying()
    bird.load("rts05", relative(*[after(5.0, **mark(n)) for n in range(4)]))
    start(bird, "rts05")
    bird.frame(telecommand("sequence.suspend", 5, sequence="rts05"))
    for n in range(2):
        bird.fly(3.0)
        bird.frame(telecommand("sequence.step", 10 + n, sequence="rts05"))
        bird.frame()
        assert bird.numbers == list(range(n + 1))
        assert bird.verdicts(10 + n) == [(F.NONE, "")] * 3
    bird.frame(telecommand("sequence.resume", 6, sequence="rts05"))
    resumed_s = bird.world_s
    bird.fly(12.0)
    assert [world_s for world_s, _ in bird.acted[2:]] == pytest.approx(
        [resumed_s + 5.0, resumed_s + 10.0], abs=0.01
    )


def test_r4_a_single_step_waits_for_the_outcome_of_the_one_before() -> None:
    bird = training()
    bird.load(
        "rts05", relative(after(9.0, "job.checkpoint", job="train"), after(9.0, **mark(1)), reference="completion")
    )
    start(bird, "rts05")
    bird.frame(telecommand("sequence.suspend", 5, sequence="rts05"))
    bird.frame(telecommand("sequence.step", 6, sequence="rts05"))
    bird.frame()
    assert len(bird.vehicle.commanding.in_flight) == 1
    bird.frame(telecommand("sequence.step", 7, sequence="rts05"))
    assert bird.verdicts(7)[-1] == (F.BUSY, "step 1 of rts05 is not complete")


def test_r4_no_step_is_ordered_when_none_is_left() -> None:
    bird = training()
    bird.load("rts05", relative(after(0.0, "job.checkpoint", job="train")))
    start(bird, "rts05")
    bird.frame(telecommand("sequence.suspend", 5, sequence="rts05"))
    bird.frame(telecommand("sequence.step", 7, sequence="rts05"))
    assert bird.verdicts(7)[-1] == (F.WRONG_STATE, "rts05 has no step left; the outcome of a step is awaited")


@pytest.mark.parametrize("order", ["resume", "abort"])
def test_r4_an_ordered_step_that_is_overtaken_fails(order: str) -> None:
    bird = flying()
    bird.load("rts05", relative(after(9.0, **mark(1)), after(9.0, **mark(2))))
    start(bird, "rts05")
    bird.frame(telecommand("sequence.suspend", 5, sequence="rts05"))
    bird.frame(
        telecommand("sequence.step", 7, sequence="rts05"), telecommand(f"sequence.{order}", 8, sequence="rts05")
    )
    bird.frame()
    state = {"resume": "RUNNING", "abort": "LOADED"}[order]
    assert bird.verdicts(7)[-1] == (F.EXECUTION_FAILED, f"rts05 is {state} meanwhile")
    assert bird.numbers == []


def test_r4_an_ordered_step_that_finds_no_room_is_forgotten_with_its_command() -> None:
    """The desk of stored commands is full until the telecommand runs out of time; nothing happens after that."""
    bird = training()
    bird.load("rts05", relative(after(9.0, **mark(1)), after(9.0, **mark(2))))
    bird.load(
        "rts06", relative(*[after(0.0, "job.checkpoint", job="train") for _ in range(16)], on_failure="continue")
    )
    start(bird, "rts05", "rts06")
    bird.frame(telecommand("sequence.suspend", 5, sequence="rts05"))
    bird.fly(0.5)
    assert len(bird.vehicle.commanding.in_flight) == 16
    bird.frame(telecommand("sequence.step", 7, sequence="rts05"))
    bird.fly(70.0)
    assert bird.verdicts(7)[-1] == (F.TIMEOUT, "not complete within 5 s")
    assert bird.numbers == []
    assert bird.slot("rts05").life is Life.SUSPENDED


def test_suspended_while_waiting_resumes_into_waiting() -> None:
    bird = Bird()
    bird.load("rts05", relative(after(1.0, **mark(1)), wait_for_time=True))
    start(bird, "rts05")
    bird.frame(telecommand("sequence.suspend", 5, sequence="rts05"))
    bird.frame(telecommand("sequence.resume", 6, sequence="rts05"))
    assert bird.slot("rts05").life is Life.WAITING
    bird.frame(telecommand("sequence.suspend", 7, sequence="rts05"))
    bird.fly(5.0)
    bird.frame(telecommand("sequence.resume", 8, sequence="rts05"))
    resumed_s = bird.world_s
    assert bird.slot("rts05").life is Life.RUNNING
    bird.fly(2.0)
    assert bird.acted == [(pytest.approx(resumed_s + 1.0), 1)]


def test_r4_a_sequence_suspends_and_aborts_itself() -> None:
    bird = flying()
    for order, life in (("suspend", Life.SUSPENDED), ("abort", Life.LOADED)):
        bird.load("rts05", relative(after(0.0, f"sequence.{order}", sequence="rts05"), after(0.0, **mark(1))))
        start(bird, "rts05")
        bird.fly(1.0)
        assert bird.slot("rts05").life is life
        assert bird.slot("rts05").pending == ()
        if life is Life.SUSPENDED:
            bird.frame(telecommand("sequence.abort", 9, sequence="rts05"))
    assert bird.numbers == []


# Images and the table service.


@pytest.mark.parametrize(
    ("name", "image"), [("ats1", relative(after(0.0, "ping"))), ("rts01", absolute(at(9.0, "ping")))]
)
def test_r4_an_image_of_the_other_kind_is_refused(name: str, image: object) -> None:
    bird = flying()
    loads = opened(IDLE, whole(name, encode(image)))
    bird.vehicle = replace(bird.vehicle, tables=loads)
    bird.frame(telecommand("table.validate", 5, table=name))
    code, text = bird.verdicts(5)[-1]
    assert code is F.INVALID_TABLE
    assert "is of kind" in text
    assert bird.slot(name).life is Life.EMPTY


@pytest.mark.parametrize("order", ["table.activate", "table.reset"])
@pytest.mark.parametrize("life", sorted(ON_THE_WAY), ids=lambda life: life.name)
def test_r4_nothing_is_loaded_into_a_slot_that_is_under_way(order: str, life: Life) -> None:
    bird = in_life(life)
    before = bird.slot("ats1")
    bird.frame(telecommand(order, 5, table="ats1"))
    code, text = bird.verdicts(5)[-1]
    assert code is F.WRONG_STATE
    assert text.startswith(f"ats1: ats1 is {life.name};")
    assert bird.slot("ats1") == before


def test_r4_load_dump_and_reset() -> None:
    bird = in_life(Life.LOADED)
    image = encode(absolute(at(500.0, **mark(1)), name="night pass"))
    staged(bird, "ats1", image, Phase.STAGED)
    bird.frame(telecommand("table.validate", 5, table="ats1"))
    assert bird.verdicts(5)[-1][1].startswith("night pass, 1 step, on failure abort: ")
    bird.frame(telecommand("table.activate", 6, table="ats1"))
    assert bird.verdicts(6)[-1][0] is F.NONE
    assert bird.stored["ats1"] == image
    assert bird.vehicle.sequences.slots[0].flown.name == "night pass"
    bird.frame(telecommand("table.reset", 7, table="ats1"))
    assert bird.verdicts(7)[-1][0] is F.NONE
    assert bird.slot("ats1").life is Life.EMPTY
    bird.frame(telecommand("table.reset", 8, table="ats1"))
    assert bird.slot("ats1").life is Life.EMPTY


def test_r4_status_of_sequences() -> None:
    from flightsw.core.sequence_tables import image, status

    bird = flying()
    bird.load("ats1", absolute(at(8.0, **mark(1)), at(900.0, **mark(2)), name="plan"))
    bird.load("rts07", relative(after(0.0, "job.stop", job="x"), after(99.0, "ping"), on_failure="continue"))
    start(bird, "ats1", "rts07")
    bird.fly(6.0)
    rows = decode_status(status(bird.vehicle, TABLE_BY_NAME["sequence_status"]))
    assert [msgspec.structs.astuple(row) for row in rows] == [
        ("ats1", "plan", "RUNNING", 1, 2, 0, 1, 0, 0),
        ("rts07", "r", "RUNNING", 1, 2, 0, 1, 1, 0),
    ]
    assert image(bird.vehicle, TABLE_BY_NAME["rts01"]) == b""
    assert decode(image(bird.vehicle, TABLE_BY_NAME["ats1"])).name == "plan"
    bird.frame(telecommand("table.dump", 5, table="sequence_status"))
    bird.fly(0.3)
    assert bird.verdicts(5)[-1][0] is F.NONE
    with pytest.raises(TableError, match="is no status"):
        decode_status(b"\xc1")


# Append.


def appended(bird: Bird, *steps: object, command: int = 5, **changes: object) -> tuple[FailureCode, str]:
    """Append steps to ats1 and tell what came of it."""
    staged(bird, "ats1", encode(absolute(*steps, **changes)))
    bird.frame(telecommand("sequence.append", command, sequence="ats1"))
    return bird.verdicts(command)[-1]


def test_r4_append_merges_by_time_and_keeps_the_position() -> None:
    bird = flying()
    bird.load("ats1", absolute(at(6.0, **mark(1)), at(10.0, **mark(4)), at(14.0, **mark(6))))
    start(bird, "ats1")
    bird.fly(3.0)
    assert bird.numbers == [1]
    code, _ = appended(
        bird, at(3.0, **mark(91)), at(6.5, **mark(92)), at(8.0, **mark(2)), at(10.0, **mark(5)), at(20.0, **mark(7))
    )
    assert code is F.NONE
    assert bird.vehicle.tables == IDLE
    assert [step.at_ds for step in decode(bird.stored["ats1"]).steps] == [
        step.at_ds for step in bird.slot("ats1").flown.steps
    ]
    bird.fly(20.0)
    assert bird.acted == [
        (pytest.approx(world_s, abs=0.06), number)
        for world_s, number in ((6.0, 1), (8.0, 2), (10.0, 4), (10.0, 5), (14.0, 6), (20.0, 7))
    ]
    fields = dict(bird.events())["SEQUENCE_APPENDED"]
    assert fields == {"sequence": "ats1", "added": 3, "passed": 2, "steps": 6}
    assert bird.vehicle.sequences.skipped == 2
    assert "SKIPPED" not in bird.names()


def test_r4_append_for_ever() -> None:
    """A sequence is prolonged fifty times by a hundred steps: passed steps make room."""
    bird = flying(frame_s=1.0)
    bird.load("ats1", absolute(*[at(10.0 + n, **mark(n)) for n in range(100)]))
    start(bird, "ats1")
    for batch in range(1, 51):
        bird.fly(95.0)
        first_s = 10.0 + 100.0 * batch
        steps = [at(first_s + n, **mark(100 * batch + n)) for n in range(100)]
        assert appended(bird, *steps, command=1000 + batch)[0] is F.NONE
        bird.fly(4.0)
        assert len(bird.slot("ats1").flown.steps) <= 220
    bird.fly(200.0)
    assert bird.numbers == list(range(5100))


def test_r4_append_keeps_what_arming_needs() -> None:
    """The arming step has passed, its hazardous step has not: it stays in the image; older ones go."""
    bird = flying()
    rail_on = at(60.0, "gpu.rail", on=True)
    steps = [at(5.0, **mark(1)), at(6.0, **mark(2)), at(6.5, "arm", opcode=0x31), at(8.0, **mark(3)), rail_on]
    bird.load("ats1", absolute(*steps))
    start(bird, "ats1")
    bird.fly(5.0)
    assert appended(bird, at(61.0, **mark(4)))[0] is F.NONE
    assert steps[2] in bird.slot("ats1").flown.steps
    bird.fly(60.0)
    assert bird.numbers == [1, 2, 3, 4]
    assert bird.vehicle.sequences.failed == 0


def test_r4_append_drops_no_arming_from_before_a_hazardous_step_that_it_keeps() -> None:
    """An arming and its hazardous step have passed: cut between them, the merged image would be refused."""
    bird = flying()
    rail_on = at(7.0, "gpu.rail", on=True)
    steps = [at(5.0, **mark(1)), at(6.0, "arm", opcode=0x31), rail_on, at(7.5, **mark(2)), at(100.0, **mark(3))]
    bird.load("ats1", absolute(*steps))
    start(bird, "ats1")
    bird.fly(5.0)
    assert appended(bird, at(101.0, **mark(4)))[0] is F.NONE
    # The hazardous step is past and nothing later needs the arming: both are gone.
    assert [step.op for step in bird.slot("ats1").flown.steps] == [steps[3].op] * 3
    assert bird.slot("ats1").index == 1
    bird = flying()
    bird.load("ats1", absolute(*steps[:3], at(100.0, **mark(3))))
    start(bird, "ats1")
    bird.fly(5.0)
    assert appended(bird, at(101.0, **mark(4)))[0] is F.NONE
    assert [step.op for step in bird.slot("ats1").flown.steps][:3] == [step.op for step in steps[:3]]


def test_r4_append_keeps_the_arming_of_a_passed_hazardous_step_that_it_keeps() -> None:
    """A passed hazardous step lies in the window of the next one and stays: so does its own, older arming."""
    bird = flying(frame_s=1.0)
    steps = [
        at(10.0, **mark(1)),
        at(80.0, "arm", opcode=0x31),
        at(120.0, "gpu.rail", on=True),
        at(130.0, "arm", opcode=0x31),
        at(140.0, **mark(2)),
        at(180.0, "gpu.rail", on=True),
    ]
    bird.load("ats1", absolute(*steps))
    start(bird, "ats1")
    bird.fly(150.0 - bird.world_s)
    assert appended(bird, at(200.0, **mark(3))) == (F.NONE, "")
    assert [step.at_ds for step in bird.slot("ats1").flown.steps[:-1]] == [step.at_ds for step in steps[1:]]
    bird.fly(60.0)
    assert bird.numbers == [1, 2, 3]
    assert bird.vehicle.sequences.failed == 0


APPEND_REFUSALS = {
    "no load": (None, F.NOT_STAGED, "no load of ats1 is open"),
    "not validated": (Phase.STAGED, F.NOT_VALIDATED, "the load of ats1 is not validated"),
}


@pytest.mark.parametrize("case", APPEND_REFUSALS)
def test_r4_append_without_a_validated_load(case: str) -> None:
    bird = in_life(Life.RUNNING)
    before = bird.slot("ats1")
    phase, code, text = APPEND_REFUSALS[case]
    bird.vehicle = replace(bird.vehicle, tables=IDLE)
    if phase is not None:
        staged(bird, "ats1", encode(absolute(at(2000.0, **mark(1)))), phase)
    bird.frame(telecommand("sequence.append", 5, sequence="ats1"))
    found = bird.verdicts(5)[-1]
    assert found[0] is code
    assert found[1].startswith(text)
    assert bird.slot("ats1") == before


def test_r4_append_refuses_what_went_bad_what_is_past_and_what_does_not_fit() -> None:
    bird = in_life(Life.RUNNING)
    before = bird.slot("ats1")
    load = bird.vehicle.tables.loads[0]
    spoiled = replace(load, image=load.image[:-1] + bytes([load.image[-1] ^ 1]))
    bird.vehicle = replace(bird.vehicle, tables=opened(IDLE, spoiled))
    bird.frame(telecommand("sequence.append", 5, sequence="ats1"))
    assert bird.verdicts(5)[-1][0] is F.INVALID_TABLE
    code, text = appended(bird, at(1.0, **mark(1)), at(2.0, **mark(2)), command=6)
    assert (code, text) == (F.EXECUTION_FAILED, "all 2 steps lie in the past; nothing is appended")
    code, text = appended(bird, *[at(3000.0 + n, **mark(1)) for n in range(999)], command=7)
    assert (code, text) == (F.INVALID_TABLE, "merged: 1001 steps, allowed are 1 to 1000")
    bird.spoil("ats1", 1, op=0x2001)
    code, text = appended(bird, at(3000.0, **mark(1)), command=8)
    assert code is F.INVALID_TABLE
    assert "its CRC does not hold" in text
    assert replace(bird.slot("ats1"), sequence=before.sequence) == before
    assert len(bird.vehicle.tables.loads) == 1


def test_append_while_an_outcome_is_awaited_keeps_its_step() -> None:
    bird = training()
    checkpoint = at(bird.world_s + 1.0, "job.checkpoint", job="train")
    steps = [at(bird.world_s + 0.5, **mark(1)), checkpoint, at(bird.world_s + 2.0, **mark(2)), at(300.0, **mark(3))]
    bird.load("ats1", absolute(*steps, on_failure="continue"))
    start(bird, "ats1")
    bird.fly(3.0)
    assert appended(bird, at(200.0, **mark(4)))[0] is F.NONE
    assert bird.slot("ats1").pending[0].step == 1
    assert bird.slot("ats1").flown.steps[0] == checkpoint
    bird.fly(70.0)
    assert dict(bird.events())["SEQUENCE_STEP_FAILED"]["command"] == "job.checkpoint"


def test_append_without_valid_time_looks_at_the_position_only() -> None:
    bird = in_life(Life.WAITING)
    assert appended(bird, at(1.0, **mark(1)))[0] is F.NONE
    assert bird.slot("ats1").flown.steps[0].at_ds == at(1.0, "ping").at_ds

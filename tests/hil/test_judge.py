"""The judge: every check is seen to be green once and to turn red when its fact is spoiled."""

import math
from collections.abc import Callable

import msgspec
import pytest
from hil_evidence import event, evidence

from hil.evidence import Evidence, TwinRecord
from hil.judge import judge
from hil.verdict import EXIT_CODES, Outcome

PASS, FAIL, INVALID = Outcome.PASS, Outcome.FAIL, Outcome.INVALID
INCONCLUSIVE, NOT_APPLICABLE = Outcome.INCONCLUSIVE, Outcome.NOT_APPLICABLE


def spoil_soc(e: Evidence) -> None:
    e.truth["soc_fraction"][300] = 0.6999


def spoil_gpu(e: Evidence) -> None:
    e.truth["gpu_temp_degc"][300] = 80.01


def lose_an_ecc_report(e: Evidence) -> None:
    e.onboard.events = [event for event in e.onboard.events if event.fields.get("count") != 1]


def report_another_xid(e: Evidence) -> None:
    next(event for event in e.onboard.events if event.name == "GPU_XID").fields["xid"] = 63


def spoil_radiator(e: Evidence) -> None:
    e.truth["radiator_temp_degc"][300] = 60.01


def nan_soc(e: Evidence) -> None:
    e.truth["soc_fraction"][300] = math.nan


def no_truth(e: Evidence) -> None:
    e.truth = {}
    e.faults = []


def lose_acknowledged(e: Evidence) -> None:
    e.archived.playback.discard((1, 0x21, 60))


def acknowledge_nothing(e: Evidence) -> None:
    e.onboard.acknowledged.clear()


def unreadable_recorder(e: Evidence) -> None:
    e.onboard.unreadable = 1


def other_weights(e: Evidence) -> None:
    e.twin.compared[1] = (1, 60, "bb", "ff")


def nothing_compared(e: Evidence) -> None:
    e.twin = TwinRecord(flown=True, compared=[], missing=[])


def twin_too_short(e: Evidence) -> None:
    e.twin.missing.append((2, 90, "cc"))


def too_few_compared(e: Evidence) -> None:
    del e.twin.compared[1]


def no_throttling(e: Evidence) -> None:
    e.truth["gpu_power_w"] = [600.0] * len(e.truth["world_s"])


def no_dark_samples(e: Evidence) -> None:
    e.truth["sun_fraction"] = [1.0] * len(e.truth["world_s"])


def no_training(e: Evidence) -> None:
    times, states = e.onboard.series["train.state"]
    e.onboard.series["train.state"] = (times, [0.0] * len(states))


def no_replies(e: Evidence) -> None:
    e.archived.replies.clear()


def failed_reply(e: Evidence) -> None:
    e.archived.replies[0] = msgspec.structs.replace(e.archived.replies[0], finish="failed")


def daemon_died(e: Evidence) -> None:
    e.daemon_died = "flightd ended with signal SIGKILL"


def slipped(e: Evidence) -> None:
    e.health.slip_s = 20.0


def broken_instrument(e: Evidence) -> None:
    e.health.faults.append("the power meter gave no reading")


def cut_short(e: Evidence) -> None:
    e.flown_until_s = 3000.0


def interrupted(e: Evidence) -> None:
    e.interrupted = True


def kill_did_not_fire(e: Evidence) -> None:
    e.faults[0].fired = False


def never_ready_again(e: Evidence) -> None:
    e.onboard.events = [x for x in e.onboard.events if x.name != "WORKER_READY"]


def training_stood_still(e: Evidence) -> None:
    times, _ = e.onboard.series["train.step"]
    e.onboard.series["train.step"] = (times, [40.0] * len(times))


def flip_not_rejected(e: Evidence) -> None:
    e.onboard.events = [x for x in e.onboard.events if x.name != "CHECKPOINT_REJECTED"]


def flip_of_another_generation_rejected(e: Evidence) -> None:
    flip_not_rejected(e)
    e.onboard.events.append(event(3010.0, "CHECKPOINT_REJECTED", job="train", generation=4))


def flipped_generation_restored(e: Evidence) -> None:
    e.onboard.events = [
        event(3300.0, "WORKER_READY", job="train", generation=5, step=80) if x.world_s == 3300.0 else x
        for x in e.onboard.events
    ]


def outage_not_played_back(e: Evidence) -> None:
    e.faults[2].evidence["lost"].append((1, 0x21, 5000))


def repair_not_told(e: Evidence) -> None:
    e.onboard.events = [x for x in e.onboard.events if x.name != "INTEGRITY_REPAIRED"]


def repair_of_another_job(e: Evidence) -> None:
    next(x for x in e.onboard.events if x.name == "INTEGRITY_REPAIRED").fields["job"] = "train"


def repair_before_the_flip(e: Evidence) -> None:
    e.faults[7].fired_s = 700.0


def repair_not_seen(e: Evidence) -> None:
    del e.faults[7].evidence["restored_s"]


def damage_not_repaired(e: Evidence) -> None:
    repair_not_told(e)
    e.onboard.events.append(event(640.0, "INTEGRITY_OPEN", 3, job="infer", count=1, detector="digest", where="x"))


def weight_did_not_fire(e: Evidence) -> None:
    e.faults[7].fired = False


def another_answer(e: Evidence) -> None:
    e.answers[0] = msgspec.structs.replace(e.answers[0], text="g(x):\n")


def answer_not_compared(e: Evidence) -> None:
    e.answers.clear()


def answer_without_a_twin(e: Evidence) -> None:
    e.answers_detail = "generation 2 is no longer in the ring"


CASES = [
    ("soc_floor", spoil_soc, FAIL),
    ("soc_floor", nan_soc, INCONCLUSIVE),
    ("soc_floor", no_truth, INCONCLUSIVE),
    ("gpu_temperature", spoil_gpu, FAIL),
    ("radiator_temperature", spoil_radiator, FAIL),
    ("acknowledged_loss", lose_acknowledged, FAIL),
    ("acknowledged_loss", acknowledge_nothing, INCONCLUSIVE),
    ("acknowledged_loss", unreadable_recorder, INCONCLUSIVE),
    ("twin_digest", other_weights, FAIL),
    ("twin_digest", nothing_compared, INCONCLUSIVE),
    ("twin_digest", twin_too_short, INCONCLUSIVE),
    ("twin_digest", too_few_compared, INCONCLUSIVE),
    ("throttling", no_throttling, FAIL),
    ("throttling", no_dark_samples, INCONCLUSIVE),
    ("throttling", no_training, INCONCLUSIVE),
    ("inference_replies", no_replies, FAIL),
    ("inference_replies", failed_reply, FAIL),
    ("daemon_alive", daemon_died, FAIL),
    ("bench_health", slipped, INVALID),
    ("bench_health", broken_instrument, INVALID),
    ("flown_to_the_end", cut_short, INCONCLUSIVE),
    ("flown_to_the_end", interrupted, INCONCLUSIVE),
    ("fault.kill", kill_did_not_fire, INVALID),
    ("fault.kill", never_ready_again, FAIL),
    ("fault.kill", training_stood_still, FAIL),
    ("fault.flip", flip_not_rejected, FAIL),
    ("fault.flip", flip_of_another_generation_rejected, FAIL),
    ("fault.flip", flipped_generation_restored, FAIL),
    ("fault.outage", outage_not_played_back, FAIL),
    ("fault.radiator", spoil_gpu, FAIL),
    ("fault.gauge", spoil_soc, FAIL),
    ("fault.ecc", lose_an_ecc_report, FAIL),
    ("fault.xid", report_another_xid, FAIL),
    ("fault.weight", repair_not_told, FAIL),
    ("fault.weight", repair_of_another_job, FAIL),
    ("fault.weight", repair_before_the_flip, FAIL),
    ("fault.weight", repair_not_seen, FAIL),
    ("fault.weight", damage_not_repaired, FAIL),
    ("fault.weight", weight_did_not_fire, INVALID),
    ("answers_twin", another_answer, FAIL),
    ("answers_twin", answer_not_compared, INCONCLUSIVE),
    ("answers_twin", answer_without_a_twin, INCONCLUSIVE),
]


def test_a_good_run_passes_with_every_check_put_to_the_test() -> None:
    verdict = judge(evidence())
    assert {check.id: check.outcome for check in verdict.checks if check.outcome is not PASS} == {}
    assert (verdict.outcome, verdict.exit_code) == (PASS, 0)


@pytest.mark.parametrize(("check", "spoil", "expected"), CASES, ids=[f"{c[0]}-{c[1].__name__}" for c in CASES])
def test_each_check_goes_red(check: str, spoil: Callable[[Evidence], None], expected: Outcome) -> None:
    spoiled = evidence()
    spoil(spoiled)
    verdict = judge(spoiled)
    assert {c.id: c.outcome for c in verdict.checks}[check] is expected
    assert verdict.outcome is not PASS
    assert verdict.exit_code == EXIT_CODES[verdict.outcome] > 0


def test_every_check_has_a_case_in_which_it_goes_red() -> None:
    assert {check.id for check in judge(evidence()).checks} == {row[0] for row in CASES}


def test_an_orbit_without_eclipse_and_passes_is_not_a_failure() -> None:
    run = evidence()
    run.passes, run.eclipses = [], []
    run.onboard.acknowledged = set()
    run.archived.replies, run.answers = [], []
    for record in run.faults:
        record.not_applicable = "needs pass 1, this run has 0 passes"
    verdict = judge(run)
    outcomes = {check.id: check.outcome for check in verdict.checks}
    assert {id for id, outcome in outcomes.items() if outcome is NOT_APPLICABLE} == {
        "acknowledged_loss", "throttling", "inference_replies",
        "fault.kill", "fault.flip", "fault.outage", "fault.radiator", "fault.gauge",
            "fault.ecc", "fault.xid", "fault.weight", "answers_twin",
    }  # fmt: skip
    assert verdict.outcome is PASS
    assert {record.outcome for record in run.faults} == {"not_applicable"}


@pytest.mark.parametrize(
    ("ended_s", "recorded", "outcome", "expected"),
    [
        (5300.0, True, "waiting", NOT_APPLICABLE),
        (5300.0, False, "lost", FAIL),
        (1000.0, True, "lost", FAIL),
    ],
    ids=["no later pass", "not even on board", "a pass came and it was not played back"],
)
def test_an_outage_needs_a_later_pass(ended_s: float, recorded: bool, outcome: str, expected: Outcome) -> None:
    run = evidence()
    lost = (1, 0x21, 110 if recorded else 9999)
    run.faults[2].evidence["lost"] = [lost]
    run.faults[2].ended_s = ended_s
    checks = {check.id: check.outcome for check in judge(run).checks}
    assert (run.faults[2].outcome, checks["fault.outage"]) == (outcome, expected)


def cut_short(e: Evidence) -> None:
    e.flown_until_s -= 1000.0


def by_the_operator(e: Evidence) -> None:
    e.interrupted = True


def by_the_daemon(e: Evidence) -> None:
    cut_short(e)
    daemon_died(e)


@pytest.mark.parametrize(
    ("check", "spoil", "end", "expected"),
    [
        ("fault.kill", never_ready_again, cut_short, INCONCLUSIVE),
        ("fault.kill", never_ready_again, by_the_operator, INCONCLUSIVE),
        ("fault.kill", never_ready_again, by_the_daemon, FAIL),
        ("fault.kill", kill_did_not_fire, cut_short, INVALID),
        ("fault.flip", never_ready_again, cut_short, INCONCLUSIVE),
        ("fault.flip", flipped_generation_restored, cut_short, FAIL),
        ("fault.ecc", lose_an_ecc_report, cut_short, INCONCLUSIVE),
        ("fault.weight", repair_not_seen, cut_short, INCONCLUSIVE),
        ("fault.radiator", spoil_gpu, cut_short, FAIL),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_may_have_been_to_come_when_a_flight_was_cut_short_is_no_failure(
    check: str, spoil: Callable[[Evidence], None], end: Callable[[Evidence], None], expected: Outcome
) -> None:
    run = evidence()
    spoil(run)
    end(run)
    assert {c.id: c.outcome for c in judge(run).checks}[check] is expected


def test_a_broken_limit_stands_over_a_fault_that_did_not_fire() -> None:
    run = evidence()
    spoil_soc(run)
    kill_did_not_fire(run)
    assert judge(run).outcome is FAIL


def test_outcomes_of_faults_are_words_of_the_summary() -> None:
    run = evidence()
    judge(run)
    assert {record.id: record.outcome for record in run.faults} == {
        "kill": "recovered", "flip": "rejected", "outage": "played_back",
        "radiator": "contained", "gauge": "contained", "ecc": "reported", "xid": "reported",
        "weight": "repaired",
    }  # fmt: skip


def test_margins_are_what_is_left() -> None:
    checks = {check.id: check for check in judge(evidence()).checks}
    assert checks["gpu_temperature"].margin == pytest.approx(5.0)
    assert checks["soc_floor"].margin == pytest.approx(0.0209, abs=1e-3)

"""The mode machine: every row of its table, one owner of SAFE, and no state outside the table."""

import itertools

import pytest

from flightsw.core import mode
from flightsw.core.limits import NEVER
from flightsw.core.mode import CAUSES, Facts, State
from flightsw.link.dictionary import EVENT_BY_NAME
from flightsw.link.schema import Mode

CONFIG = mode.Config(recover_s=10.0)
OK = Facts(ready=True)
BOOT, SAFE, NOMINAL, COMPUTE, DOWNLINK = Mode


def in_mode(m: Mode, **fields: object) -> State:
    return State(mode=m, **fields)


@pytest.mark.parametrize(
    ("before", "facts", "after", "event"),
    [
        (in_mode(BOOT), Facts(), BOOT, "BOOT"),
        (in_mode(BOOT), OK, NOMINAL, "BOOT"),
        (in_mode(BOOT, resume="crash_loop"), OK, SAFE, "CRASH_LOOP"),
        # A SAFE that outlived a restart: the same cause, and the event that had led into it.
        (in_mode(BOOT, resume="soc_low", resume_event="SOC_LOW"), OK, SAFE, "SOC_LOW"),
        (in_mode(BOOT, resume="command", resume_event="CRASH_LOOP"), Facts(gpu_hot=True), SAFE, "CRASH_LOOP"),
        (in_mode(COMPUTE), Facts(contact_lost=True, jobs_wanted=True), SAFE, "CONTACT_LOST"),
        (in_mode(SAFE, cause="loss_of_contact", requested=NOMINAL), OK, NOMINAL, "MODE_CHANGED"),
        (in_mode(BOOT), Facts(blind=True), SAFE, "SENSORS_STALE"),
        (in_mode(NOMINAL), Facts(ready=True, jobs_wanted=True), COMPUTE, "JOB_STATE"),
        (in_mode(NOMINAL), Facts(ready=True, contact=True), DOWNLINK, "CONTACT_START"),
        (in_mode(COMPUTE), Facts(ready=True, jobs_wanted=True, contact=True), DOWNLINK, "CONTACT_START"),
        (in_mode(COMPUTE), OK, NOMINAL, "JOB_STATE"),
        (in_mode(DOWNLINK), Facts(ready=True, jobs_wanted=True), COMPUTE, "CONTACT_END"),
        (in_mode(DOWNLINK), OK, NOMINAL, "CONTACT_END"),
        (in_mode(COMPUTE), Facts(soc_low=True, jobs_wanted=True), SAFE, "SOC_LOW"),
        (in_mode(DOWNLINK), Facts(undervoltage=True, contact=True), SAFE, "BUS_UNDERVOLTAGE"),
        (in_mode(COMPUTE), Facts(gpu_hot=True), SAFE, "GPU_HOT"),
        (in_mode(NOMINAL), Facts(radiator_hot=True), SAFE, "RADIATOR_HOT"),
        (in_mode(COMPUTE), Facts(blind=True), SAFE, "SENSORS_STALE"),
        (in_mode(COMPUTE, requested=SAFE), Facts(ready=True, jobs_wanted=True), SAFE, "SAFE_ENTERED"),
        # SAFE has an owner: contact and wishes of jobs do not end it.
        (in_mode(SAFE, cause="command"), Facts(ready=True, contact=True, jobs_wanted=True), SAFE, "BOOT"),
        (in_mode(SAFE, cause="command", requested=NOMINAL), OK, NOMINAL, "MODE_CHANGED"),
        (in_mode(SAFE, cause="crash_loop", requested=NOMINAL), OK, NOMINAL, "MODE_CHANGED"),
        (in_mode(SAFE, cause="command", requested=NOMINAL), Facts(soc_low=True), SAFE, "BOOT"),
        (in_mode(SAFE, cause="soc_low", requested=SAFE), Facts(soc_low=True), SAFE, "SAFE_ENTERED"),
    ],
)
def test_table(before: State, facts: Facts, after: Mode, event: str) -> None:
    state, _ = mode.step(before, CONFIG, facts, 0.0)
    assert (state.mode, state.event, state.requested) == (after, event, None)


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_exit_rule_of_each_cause(cause: str) -> None:
    """R13: automatic causes end when gone for ``recover_s`` without a break; the others never by themselves."""
    state = in_mode(SAFE, cause=cause)
    fact = CAUSES[cause].fact
    automatic = CAUSES[cause].automatic
    assert automatic is (cause not in ("command", "crash_loop", "restart_ladder", "loss_of_contact", "limit"))
    for tick in range(400):
        now_s = tick * 0.1
        # Gone from 1 s on, back for a moment at 6 s.
        bad = {fact: "x"} if fact is not None and (now_s < 1.0 or 6.0 <= now_s < 6.05) else {}
        state, _ = mode.step(state, CONFIG, Facts(ready=True, **bad), now_s)
        if state.mode is NOMINAL:
            break
    if not automatic:
        assert state.mode is SAFE
    else:
        assert now_s == pytest.approx(16.1)


def test_another_active_cause_holds_safe() -> None:
    state = in_mode(SAFE, cause="gpu_hot")
    for tick in range(300):
        state, _ = mode.step(state, CONFIG, Facts(ready=True, soc_low=True), tick * 0.1)
    assert state.mode is SAFE


def test_an_operator_takes_over_safe() -> None:
    state, _ = mode.step(in_mode(SAFE, cause="soc_low", requested=SAFE), CONFIG, OK, 0.0)
    for tick in range(300):
        state, _ = mode.step(state, CONFIG, OK, tick * 0.1)
    assert (state.mode, state.cause) == (SAFE, "command")


def test_change_is_reported_with_its_reason() -> None:
    _, found = mode.step(in_mode(COMPUTE), CONFIG, Facts(gpu_hot=True), 0.0)
    assert [(e.name, e.fields["reason"]) for e in found] == [
        ("MODE_CHANGED", "GPU over-temperature"),
        ("SAFE_ENTERED", "GPU over-temperature"),
    ]


@pytest.mark.parametrize(
    ("cause", "facts", "shed"),
    [
        ("soc_low", OK, True),
        ("gpu_hot", OK, True),
        ("blind", OK, False),
        ("command", OK, False),
        ("command", Facts(soc_low=True), True),
    ],
)
def test_power_and_heat_shed_the_rail(cause: str, facts: Facts, shed: bool) -> None:
    assert mode.sheds_rail(in_mode(SAFE, cause=cause), facts) is shed
    assert not mode.sheds_rail(in_mode(NOMINAL), facts)


def test_every_state_is_reachable_and_every_event_exists() -> None:
    """Walk the whole machine: all facts × all requests from every state found, until nothing new appears."""
    names = Facts.__struct_fields__
    all_facts = [
        Facts(**dict(zip(names, bits, strict=True))) for bits in itertools.product((False, True), repeat=len(names))
    ]
    frontier = [State(), *(State(resume=cause) for cause in CAUSES)]
    seen = {(s.mode, s.cause) for s in frontier}
    while frontier:
        state = frontier.pop()
        # No cause has gone outside of SAFE: that is held below.
        since_s = (NEVER, 0.0) if state.mode is SAFE else (NEVER,)
        for requested, gone_s in itertools.product((None, SAFE, NOMINAL), since_s):
            tried = State(
                mode=state.mode, cause=state.cause, resume=state.resume, requested=requested, gone_s=gone_s
            )
            for facts in all_facts:
                new, _ = mode.step(tried, CONFIG, facts, 100.0)
                assert new.event in EVENT_BY_NAME
                assert (new.cause is not None) is (new.mode is SAFE)
                assert new.requested is None
                assert new.mode is SAFE or new.gone_s == NEVER
                if new.mode is not SAFE and state.mode is SAFE:
                    assert not mode.active_causes(facts)
                if (new.mode, new.cause) not in seen:
                    seen.add((new.mode, new.cause))
                    frontier.append(new)
    assert seen == {(m, None) for m in Mode if m is not SAFE} | {(SAFE, cause) for cause in CAUSES}

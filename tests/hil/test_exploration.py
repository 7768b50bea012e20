"""Exhaustive exploration: what it proves holds in small walks, and each of its checkers has been seen to fail.

The whole proof is ``hil explore``; the walks here are small ones that still have limits, telecommands, boots and
the tables of limits. The mutants plant one bug each in the core.
"""

import json

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from flightsw.core import executive, fdir, fdir_table, mode, payload, worker_reports
from flightsw.core.lifecycle import LIFECYCLE, Action, Life, Trigger
from flightsw.core.mode import PAYLOAD_MODES
from flightsw.core.payload import Permit
from flightsw.link.limit_tables import Response
from flightsw.link.schema import Mode
from hil import exploration, exploration_model
from hil.cli import app
from hil.exploration import explore
from hil.exploration_model import after, configuration, essence, fresh, said
from hil.exploration_report import ExploreReport, lines
from hil.exploration_rules import least_share, power_of
from hil.exploration_walks import ACTIONS, LONG_S, ORDERS, WALKS, WORLDS, Choice, Walk, choices

SMALL = Walk(
    name="small",
    kind="train",
    retries=True,
    hard=("soc low",),
    worlds=("good", "silent"),
    orders=("SAFE", "NOMINAL", "start", "rail off", "rail on"),
)
FEW = replace(SMALL, name="few", orders=("SAFE", "NOMINAL"))
"""Less than half of its transitions: enough for a bug that shows without an order about job or rail."""
LIMITS = replace(
    SMALL,
    name="limits",
    orders=("NOMINAL", "rail on", "start"),
    responses=frozenset((Response.PAUSE, Response.KILL)),
)


def proved(*walks: Walk) -> ExploreReport:
    return explore(walks or (SMALL,))


def test_a_small_walk_is_proved() -> None:
    """(a) SAFE means payload off and power positive, (b) every fault is answered, (c) every SAFE ends, (d) no dead
    states."""
    report = proved(SMALL)
    assert report.violations == (), "\n".join(lines(report))
    assert report.states > 200
    assert report.transitions > 4000
    (walk,) = report.walks
    assert walk.faults_tried > 300
    assert walk.exits_tried > 100
    assert walk.samples > 3


def test_walks_reach_every_mode_cause_and_life() -> None:
    """Seen from the table of walks: worlds, telecommands and limits of all of them together."""
    assert {world for walk in WALKS for world in (*walk.worlds, *walk.hard)} == set(WORLDS)
    assert {order for walk in WALKS for order in walk.orders} == set(ORDERS)
    ordered = {response for walk in WALKS for response in walk.responses}
    assert ordered == {point.response for point in ACTIONS if point.response in (*fdir.STANDING, *ordered)}


def test_every_shipped_limit_has_its_like_in_a_walk() -> None:
    """A response that a shipped table orders is one that the walks trip in every state."""
    _, actions = fdir_table.shipped(executive.Config())
    explored = {response for walk in WALKS for response in walk.responses} | {Response.SEQUENCE}
    assert {point.response for point in actions.actionpoints} <= explored


def test_essence_is_hashable_and_of_the_first_boot() -> None:
    node = fresh(SMALL, configuration(SMALL))
    assert hash(essence(node)) == hash(essence(node))
    assert essence(node)[0] is Mode.BOOT
    assert set(choices(SMALL)) == set(Life)


def test_power_in_safe_is_counted_over_an_orbit() -> None:
    config = configuration(SMALL)
    power = power_of(config)
    assert power.positive == {False: True, True: True}
    # 150 W over 3600 s of sun and 2100 s of shadow at 0.95 each way, from 1200 W.
    assert least_share(config, 150.0) == pytest.approx(150.0 * (3600.0 + 2100.0 / 0.9025) / (1200.0 * 3600.0))
    assert least_share(config, 2000.0) == float("inf")


def _forget_stop(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(LIFECYCLE, (Life.RUNNING, Trigger.STOP))


def _stop_keeps_starting(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(LIFECYCLE, (Life.STARTING, Trigger.STOP), (Life.STARTING, Action.STOP))


def _safe_permits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mode, "PAYLOAD_MODES", PAYLOAD_MODES | {Mode.SAFE})


def _rail_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(executive, "_permit", lambda m, p, r: Permit.RUN if m.payload_permitted else Permit.STOP)


def _rail_not_shed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mode, "sheds_rail", lambda state, facts: False)


def _no_hang_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(payload, "checked_for_hang", lambda job, *rest: job)


def _blind_is_fine(patch: pytest.MonkeyPatch) -> None:
    awake = {m: tuple(row for row in rows if row.cause != "blind") for m, rows in mode._ROWS.items()}
    patch.setattr(mode, "_ROWS", awake)


def _safe_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mode, "_recovery", lambda state, config, facts, now_s: (state, False))


def _command_ends_by_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(mode.CAUSES, "command", replace(mode.CAUSES["command"], automatic=True))


def _no_retry(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(LIFECYCLE, (Life.FAILED, Trigger.RETRY))


def _safe_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(executive, "restore", lambda vehicle, payloads: (vehicle, ()))


def _stop_is_a_death(patch: pytest.MonkeyPatch) -> None:
    told = worker_reports.told
    patch.setattr(
        payload,
        "told",
        lambda job, *rest: told(replace(job, broken="old grudge") if job.has_process else job, *rest),
    )


def _pause_is_ignored(patch: pytest.MonkeyPatch) -> None:
    step = fdir.step

    def lenient(*arguments):
        state, orders, found = step(*arguments)
        return state, replace(orders, ceiling=1.0), found

    patch.setattr(fdir, "step", lenient)


def _safe_is_a_trap(patch: pytest.MonkeyPatch) -> None:
    _safe_for_ever(patch)
    kept = tuple(row for row in mode._ROWS[Mode.SAFE] if row.target is Mode.SAFE)
    patch.setitem(mode._ROWS, Mode.SAFE, kept)


def _hungry_card(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(exploration_model.SECTIONS, "governor", {"gpu_idle_w": 500.0})


MUTANTS = [
    (_forget_stop, SMALL, "with a job RUNNING"),
    (_stop_keeps_starting, SMALL, "with a job STARTING"),
    (_safe_permits, SMALL, "SAFE with a job"),
    (_rail_is_ignored, SMALL, "without its rail"),
    (_rail_not_shed, SMALL, "leaves the rail on"),
    (_no_hang_check, FEW, "no heartbeat: not answered"),
    (_blind_is_fine, FEW, "sensors silent: not answered"),
    (_safe_for_ever, FEW, "does not end though its cause is gone"),
    (_command_ends_by_itself, SMALL, "SAFE by command ended without a telecommand"),
    (_no_retry, FEW, "worker died, and may run: not answered"),
    (_safe_is_a_trap, FEW, "dead state"),
    (_safe_is_forgotten, FEW, "computer died: not answered"),
    (_stop_is_a_death, SMALL, "asked to stop and went is reported as dead"),
    (_pause_is_ignored, LIMITS, "pause (gpu): not answered"),
    (_hungry_card, SMALL, "SAFE draws 570 W"),
]


@pytest.mark.parametrize(("plant", "walk", "says"), MUTANTS, ids=[m[0].__name__ for m in MUTANTS])
def test_a_planted_bug_is_found_with_the_shortest_way_to_it(plant, walk, says, monkeypatch) -> None:
    plant(monkeypatch)
    report = proved(walk)
    found = [violation for violation in report.violations if says in violation.rule]
    assert found, "\n".join(lines(report))
    assert found[0].trace[0] == "first boot"
    assert not report.ok
    assert lines(report)[-1] == "verdict   NOT PROVED"


def test_an_abstraction_that_forgets_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "SAMPLE_EVERY", 7)
    monkeypatch.setattr(exploration, "essence", lambda node: (*essence(node)[:8], *essence(node)[13:-2]))
    assert any("two vehicles of one essence" in violation.rule for violation in proved(SMALL).violations)


def test_too_many_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "STATES_MAX", 10)
    with pytest.raises(RuntimeError, match="over 10 states"):
        proved(SMALL)


def test_command_reports_and_has_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    small = proved(FEW)
    monkeypatch.setattr(exploration, "explore", lambda progress: replace(small, rows_missed=()))
    result = CliRunner().invoke(app, ["explore"])
    assert result.exit_code == 0, result.output
    assert "verdict   PROVED" in result.output
    monkeypatch.setattr(exploration, "explore", lambda progress: replace(small, rows_missed=("job: X",)))
    result = CliRunner().invoke(app, ["explore", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["rows_missed"] == ["job: X"]


def test_a_job_that_was_stopped_and_started_anew_owes_nothing_to_its_last_failure() -> None:
    """A hang, then stopped and started by the operator: the new worker that goes when asked is no casualty."""
    walk, long = WALKS[0], Choice(frame_s=LONG_S)
    config = configuration(walk)
    node, events = fresh(walk, config), []
    ready, order = Choice(report="ready"), lambda name: Choice(order=name, then="good")
    hung = (Choice(), Choice(), ready, long, order("SAFE"), Choice(report="killed"))
    mended = (order("stop"), order("NOMINAL"), order("start"), Choice(), ready)
    for choice in (*hung, *mended, order("SAFE"), Choice(report="done")):
        moments = after(node, config, choice)
        node = moments[-1].node
        events += [name for moment in moments for name, _ in said(moment.effects)]
    assert events.count("WORKER_READY") == 2
    assert events.count("WORKER_DIED") == 1
    assert node.vehicle.payload.jobs[0].life is Life.OFF

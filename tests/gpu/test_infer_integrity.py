"""Damage while answers are computed: every reply is the undisturbed answer or says that it failed.

Each injection serves a handful of requests on a fresh server over a sharp little model, hits one target once at a
moment drawn from the seed, and holds every reply against the undisturbed twin's. The same faults with the gate off
must let wrong answers out, or the tests would prove nothing.
"""

import pytest

from flightsw.gpu.workloads import model_watch
from flightsw.gpu.workloads.model_watch import ModelWatch
from flightsw.gpu.workloads.sequence import Sequence
from tests.gpu.answer_faults import OPERATIONS, RESIDENT, outcomes
from tests.gpu.serving_rig import REQUESTS, Bench, undisturbed, without_waiting


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


@pytest.fixture(scope="module")
def expected() -> tuple[str, ...]:
    return undisturbed()


TARGETS = (*RESIDENT, *OPERATIONS, "draws")


def expected_level(target: str) -> str:
    return "standard" if target in RESIDENT else "storm"


@pytest.mark.parametrize("target", TARGETS)
def test_no_tainted_answer_is_released(target: str, expected: tuple[str, ...]) -> None:
    count = 24 if target in RESIDENT else 16  # 208 in all; thousands are the campaign's.
    found = outcomes(target, expected_level(target), count, expected)
    assert found["tainted"] == 0, found
    assert found["fired"] >= count - 4, found
    assert found["right"] == len(REQUESTS) * count, f"one hit is mended, and the answer is right: {found}"
    assert found["detected"] >= (count // 2 if target in RESIDENT else 4), found


@pytest.mark.parametrize("target", TARGETS)
def test_with_the_gate_off_wrong_answers_get_out(target: str, expected: tuple[str, ...]) -> None:
    found = outcomes(target, "off", 12, expected, tainted_max=2)
    assert found["tainted"] >= 2, found


MUTANTS = {
    "released before the weights were looked at": ("weight", ModelWatch, "clean_since", lambda watch, mark: True),
    "row not verified": ("cache", ModelWatch, "row", lambda watch, row, length: ""),
    "host memory not sealed": ("generator", Sequence, "flaw", lambda sequence, prompt: ""),
    "any run will do": ("products", model_watch, "agreed", lambda runs, wanted: True),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_gate_with_a_hole_lets_wrong_answers_out(
    name: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, owner, attribute, hole = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, hole)
    assert outcomes(target, expected_level(target), 10, expected, tainted_max=1)["tainted"] > 0


def test_a_sound_run_reports_checks_and_no_finding(expected: tuple[str, ...]) -> None:
    for level in ("off", "watch", "standard", "storm"):
        bench = Bench(level)
        bench.serve()
        assert tuple(reply.text for reply in bench.answers) == expected, "a level changes no answer"
        report = bench.report
        assert (report.level, report.detected, report.checks > 0) == (level, 0, level != "off")

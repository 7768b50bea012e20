"""The bench flies the card profile of its scenario: the simulated card has the ends of the daemon's curve."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from flightsw.config import load
from flightsw.link.card import REFERENCE
from flightsw.shell.card_profile import render
from hil import devices, scenario
from hil.preparation import BenchError, Options, Preparation

SMALL = replace(REFERENCE, card="Small card", train=REFERENCE.train.rescaled(30.0, 350.0))


def prepared(folder: Path, profile: str | None) -> Preparation:
    flown = scenario.load("demo")
    if profile is not None:
        flown = replace(flown, mission={**flown.mission, "card": {"profile": profile}})
    return Preparation(Options(scenario=flown, out=folder / "out", device="cpu"), lambda line: None)


def test_daemon_and_simulated_card_fly_one_profile(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(render(SMALL))
    plan = prepared(tmp_path, str(tmp_path / "small.toml"))
    plan.make_folder()
    core = load(plan.write_mission((), "none", "none", "pynvml")).core
    model = devices.model_of(plan.card)
    assert (model.idle_w, model.maximum_w) == (core.governor.gpu_idle_w, core.governor.gpu_max_w) == (30.0, 350.0)
    assert core.card == plan.card == SMALL


def test_without_one_both_fly_the_shipped_profile(tmp_path: Path) -> None:
    plan = prepared(tmp_path, None)
    plan.make_folder()
    assert load(plan.write_mission((), "none", "none", "pynvml")).core.card == plan.card == REFERENCE


@pytest.mark.parametrize(("profile", "line"), [("h200", "allowed are h100-sxm"), ("no.toml", "cannot be read")])
def test_a_profile_that_is_none_ends_the_preparation(tmp_path: Path, profile: str, line: str) -> None:
    with pytest.raises(BenchError, match=line):
        prepared(tmp_path, profile)

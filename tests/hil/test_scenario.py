"""Scenarios: what is allowed, what each mistake reads like, and when things happen."""

from pathlib import Path

import pytest

from hil import scenario
from hil.scenario import FAULT_KINDS, Scenario, ScenarioError, Unavailable, When, parse, resolve

HEAD = 'schema = "hil/1"\nname = "test"\ntitle = "A test"\n'
FAULT = '[[faults]]\nid = "f"\nkind = "worker_kill"\n'
RUN, PASSES, ECLIPSES = (0.0, 6000.0), [(900.0, 1400.0), (4800.0, 5200.0)], [(2000.0, 4000.0)]


@pytest.mark.parametrize("name", scenario.names())
def test_every_shipped_scenario_loads_under_its_own_name(name: str) -> None:
    assert scenario.load(name).name == name


def test_the_scenarios_that_were_promised_are_there() -> None:
    assert set(scenario.names()) >= {
        "demo", "worker_kill", "corrupt_checkpoint", "radiator_degrade", "radio_outage", "battery_bias",
    }  # fmt: skip


def test_every_kind_of_fault_is_flown_by_some_scenario() -> None:
    flown = {fault.kind for name in scenario.names() for fault in scenario.load(name).faults}
    assert flown == set(FAULT_KINDS)


def test_defaults_make_a_scenario_of_a_name_and_a_title() -> None:
    made = parse(HEAD, "x.toml")
    assert (made.warp, made.link, made.invariants.soc_floor) == (48.0, "pty", 0.70)


FLIP = '[[faults]]\nid = "f"\nkind = "weight_flip"\n'
COMPLAINTS = [
    (FLIP, ["faults[0].job = 'train'", "those of a training job move with every step", "'infer'"]),
    (FLIP + 'job = "infer"\n[payload]\ninfer = false', ["weight_flip needs payload.infer = true"]),
    (FAULT + "bit = 3", ["faults[0].bit = 3: worker_kill has none, only weight_flip"]),
    ("warp = 1000", ["x.toml: warp: 1000", "from 1 to 100"]),
    ('warp = "fast"', ['warp: "fast"', "a number"]),
    ('link = "usb"', ['link: "usb"', '"pty", "udp"']),
    ("wrap = 10", ["wrap: unknown key", "warp"]),
    ("[radio]\nloss_fraction = 2", ["radio.loss_fraction: 2", "from 0 to 1"]),
    ("[radio]\nlos = 1", ["radio.los: unknown key"]),
    (FAULT.replace("worker_kill", "melt"), ['faults[0].kind: "melt"', "radio_outage"]),
    (FAULT + 'when = { anchor = "moon" }', ['faults[0].when.anchor: "moon"', "eclipse"]),
    (FAULT + FAULT, ["'f'", "unique"]),
    (FAULT + "magnitude = 0.5", ["faults[0].magnitude", "has none"]),
    (FAULT.replace("worker_kill", "battery_bias") + "magnitude = 0.9", ["battery_bias takes -0.2 to 0.2"]),
    (FAULT + "xid = 48", ["faults[0].xid = 48: worker_kill has none, only gpu_xid"]),
    (FAULT + "count = 2", ["faults[0].count = 2: worker_kill has none, only gpu_ecc"]),
    (FAULT + 'ecc = "corrected"', ["faults[0].ecc = corrected: worker_kill has none, only gpu_ecc"]),
    (FAULT.replace("worker_kill", "gpu_xid"), ["faults[0].xid: gpu_xid needs one"]),
    (FAULT.replace("worker_kill", "gpu_xid") + "xid = 70000", ["faults[0].xid: 70000"]),
    (FAULT.replace("worker_kill", "gpu_ecc") + "count = 0", ["faults[0].count: 0"]),
    (FAULT.replace("worker_kill", "gpu_ecc") + 'ecc = "both"', ['faults[0].ecc: "both"', '"corrected"']),
    (FAULT.replace("worker_kill", "radiator_degrade"), ["radiator_degrade takes 0.01 to 0.9"]),
    ('[[telecommands]]\nid = "t"\nsend = "job.strat"', ["telecommands[0].send", "job.start"]),
    ("warp =", ["not TOML"]),
    ("[mission.eps]\ncapacity_wh = [1]", ["mission"]),
]


@pytest.mark.parametrize(("text", "parts"), COMPLAINTS, ids=[row[0].replace("\n", " ")[-40:] for row in COMPLAINTS])
def test_a_mistake_is_one_line_with_file_key_and_what_is_allowed(text: str, parts: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(HEAD + text, "x.toml")
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in ["x.toml", *parts]), line


def test_two_mistakes_are_two_lines() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(HEAD + 'warp = 0\nlink = "usb"', "x.toml")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("missing", ["schema", "name", "title"])
def test_what_is_required_is_named(missing: str) -> None:
    text = "\n".join(line for line in HEAD.splitlines() if not line.startswith(missing))
    with pytest.raises(ScenarioError, match=f"x.toml: {missing}: is missing"):
        parse(text, "x.toml")


@pytest.mark.parametrize("name", ["nosuch", "no/such.toml"])
def test_a_scenario_that_is_not_there(name: str) -> None:
    with pytest.raises(ScenarioError, match=r"demo|No such file"):
        scenario.load(name)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="UTF-8"):
        scenario.load(str(tmp_path / "x.toml"))


INSTANTS = [
    (When(), [0.0]),
    (When(offset_s=100.0), [100.0]),
    (When(fraction=0.5), [3000.0]),
    (When(anchor="pass", number=2, fraction=0.5), [5000.0]),
    (When(anchor="each_pass", offset_s=20.0), [920.0, 4820.0]),
    (When(anchor="eclipse", offset_s=-60.0), [1940.0]),
]


@pytest.mark.parametrize(("when", "expected"), INSTANTS)
def test_instants(when: When, expected: list[float]) -> None:
    assert resolve(when, 1, "fault.x", RUN, PASSES, ECLIPSES) == expected


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        (When(anchor="pass", number=3), "needs pass 3, this run has 2 passes"),
        (When(anchor="eclipse", number=2), "needs eclipse 2, this run has 1 eclipses"),
    ],
)
def test_an_orbit_that_does_not_offer_it_makes_it_not_applicable(when: When, reason: str) -> None:
    assert resolve(when, 1, "fault.x", RUN, PASSES, ECLIPSES) == Unavailable(reason)


def test_each_pass_of_an_orbit_without_passes() -> None:
    assert isinstance(resolve(When(anchor="each_pass"), 1, "x", RUN, [], []), Unavailable)


def test_a_drawn_instant_depends_on_seed_and_name_only() -> None:
    when = When(offset_s=100.0, spread_s=50.0)

    def draw(seed: int, name: str) -> list[float] | Unavailable:
        return resolve(when, seed, name, RUN, PASSES, ECLIPSES)

    assert draw(1, "fault.a") == draw(1, "fault.a")
    assert draw(1, "fault.a") != draw(2, "fault.a")
    assert draw(1, "fault.a") != draw(1, "fault.b")
    drawn = [draw(seed, "fault.a") for seed in range(200)]
    assert all(isinstance(d, list) and 100.0 <= d[0] <= 150.0 for d in drawn)


def test_demo_meets_the_issue() -> None:
    demo: Scenario = scenario.load("demo")
    assert demo.duration_orbits >= 1.0
    assert {f.kind for f in demo.faults} >= {"worker_kill", "checkpoint_flip", "radio_outage"}
    assert {t.send for t in demo.telecommands} >= {"job.infer", "job.checkpoint"}
    assert demo.invariants.throttling
    assert demo.invariants.twin

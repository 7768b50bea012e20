"""Plan documents and flight configurations: what is read, and one clear line for each mistake."""

import tomllib

import msgspec
import pytest

from flightsw import config
from flightsw.link.card import Profile, Workload, reference_workload
from hil.mission import toml_value
from hil.plant.orbit import CircularOrbit
from hil.plant.plant import Plant
from hil.preflight import plan, verdict
from hil.preflight.beliefs import SHARED, elements_of
from hil.preflight.document import EXAMPLE, PlanError, load, parse

HEAD = 'schema = "plan/1"\n'


def profile_text(profile: Profile) -> str:
    """A profile as TOML."""
    tables = msgspec.to_builtins(profile)
    lines = [
        f"{key} = {toml_value(value)}" for key, value in tables.items() if isinstance(value, str | int | float)
    ]
    for name in ("train", "decode"):
        if tables[name] is not None:
            lines.append(f"[{name}]")
            lines += [f"{k} = {list(v) if isinstance(v, tuple) else v}" for k, v in tables[name].items()]
    return "\n".join(lines) + "\n"


def small_card(**changes) -> Profile:
    made = Profile(
        card="Small Card", provenance="assumed", train=reference_workload(60.0, 400.0),
        decode=Workload(power_w=(60.0, 150.0, 300.0), throughput=(0.0, 0.7, 1.0)),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[plant]\norbit = "nowhere"\n', ["orbit 'nowhere'", "leo_550"]),
        ("[plant.elements]\naltitude_km = 100.0\n", ["plant.elements.altitude_km", "from 250 to 1200"]),
        ("[plant.elements]\ninclination_deg = -3.0\n", ["plant.elements.inclination_deg"]),
        ("[plant.thermal]\narea_m2 = -1.0\n", ["plant.thermal.area_m2", "-1.0 is refused"]),
        ("[plant.eps]\narray_area_m2 = -3.0\n", ["plant.eps.array_area_m2", "from 0.01"]),
        ("[plant.eps]\narray_area_m2 = nan\n", ["plant.eps.array_area_m2"]),
        ('[plant]\nstations = ["atlantis"]\n', ["station 'atlantis'"]),
        ('[card]\nprofile = "nope"\n', ["card.profile = 'nope'", "no such profile"]),
        ('[card]\nprofile = "absent.toml"\n', ["absent.toml"]),
        ("[horizon]\ndays = 8.0\n", ["horizon.days = 8", "7 days"]),
        ("[horizon]\norbits = 200.0\n", ["horizon of 200.0 orbits", "forecast reaches 7 days, 105 orbits"]),
        ("[horizon]\norbits = 100.0\nstep_s = 30.0\n", ["at most 12000 are planned", "horizon.step_s"]),
        ("[horizon]\norbits = 1.0\ndays = 1.0\n", ["horizon: orbits and days", "keep one"]),
        ("[wanted]\ntrain_steps = 5.0\n", ["wanted.train_steps needs throughput.steps_per_s"]),
        ("[wanted]\ntokens = 5.0\n", ["wanted.tokens needs throughput.tokens_per_s"]),
        ("[wanted]\ncompute_share = 1.5\n", ["wanted.compute_share"]),
        ("[downlink]\nrate_bps = -1.0\n", ["downlink.rate_bps", "over 0"]),
        ("[downlink]\nspeed = 2.0\n", ["downlink.speed: unknown key"]),
        ("[limits]\ngpu_power_max_w = 70.0\n", ["limits.gpu_power_max_w = 70", "idle card draws 80 W"]),
        ("[limits]\ndod_max = 1.0\n", ["limits.dod_max"]),
        ("[weather]\n", ["weather: unknown key"]),
        ("x = \n", ["not TOML"]),
        ('flight = "absent.toml"\n', ["absent.toml: No such file"]),
    ],
    ids=lambda value: value.strip().replace("\n", " ") if isinstance(value, str) else "",
)
def test_a_bad_document_is_one_line(text, words):
    with pytest.raises(PlanError) as caught:
        plan.make(parse(HEAD + text, "plan.toml"))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_every_mistake_has_its_line():
    with pytest.raises(PlanError) as caught:
        parse(HEAD + "[plant.eps]\ncapacity_wh = 'big'\n[limits]\ndod = 0.3\n", "plan.toml")
    assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()] == [
        "plant.eps.capacity_wh",
        "limits.dod",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[eps]\norbit_period_s = 600.0\n", ["eps.orbit_period_s = 600", "5378 to 6573"]),
        ("[eps]\norbit_period_s = 5700.0\neclipse_s = 3000.0\n", ["eps.eclipse_s = 3000", "2143 s at most"]),
        ("[eps]\ncapacity_wh = -5.0\n", ["eps.capacity_wh", "from 1 to"]),
        ('[eps]\narray_power_w = "x"\n', ["eps.array_power_w", "a number"]),
        ("[eps]\narray_power_w = -20.0\n", ["eps.array_power_w", "from 0.01"]),
        ("[eps]\ndod_max = 2.0\n", ["limits.dod_max"]),
        ("[thermal]\nconductance_w_k = -5.0\n", ["thermal.conductance_w_k", "from 0.1"]),
        ("[governor]\ngpu_idle_w = 650.0\n", ["governor", "over 200 W"]),
    ],
)
def test_a_bad_flight_configuration_is_one_line(text, words):
    with pytest.raises(PlanError) as caught:
        parse(text, "mission.toml")
    message = str(caught.value)
    assert message.startswith("mission.toml: ")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_profile_of_another_card_is_refused(tmp_path):
    (tmp_path / "small.toml").write_text(profile_text(small_card()))
    text = HEAD + '[card]\nprofile = "small.toml"\nname = "NVIDIA H100 80GB HBM3"\n'
    with pytest.raises(PlanError, match=r"profile of 'Small Card', but card\.name = 'NVIDIA H100 80GB HBM3'"):
        parse(text, "plan.toml", tmp_path)
    assert parse(text.replace("NVIDIA H100 80GB HBM3", "Small Card"), "plan.toml", tmp_path).workload.idle_w == 60.0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text.replace('card = "Small Card"\n', ""), "card"),
        (lambda text: text.replace("[60.0, ", "[-60.0, ", 1), "train.power_w"),
        (lambda text: text + "colour = 'red'\n", "colour"),
        (lambda text: text.replace("0.7", "0.1"), "throughput per watt rises"),
    ],
)
def test_a_broken_profile_is_refused(tmp_path, spoil, words):
    (tmp_path / "small.toml").write_text(spoil(profile_text(small_card())))
    with pytest.raises(PlanError, match=words):
        parse(HEAD + '[card]\nprofile = "small.toml"\n', "plan.toml", tmp_path)


def test_the_workload_chooses_the_curve(tmp_path):
    (tmp_path / "small.toml").write_text(profile_text(small_card()))
    text = HEAD + '[card]\nprofile = "small.toml"\nworkload = "decode"\n'
    assert parse(text, "plan.toml", tmp_path).workload.maximum_w == 300.0
    (tmp_path / "small.toml").write_text(profile_text(small_card(decode=None)))
    assert parse(text, "plan.toml", tmp_path).workload.maximum_w == 400.0


def test_the_shipped_example_fits():
    found = verdict.judge(plan.make(load(EXAMPLE)))
    assert found.fits, found.verdict
    assert {check.id for check in found.checks} >= {"compute_share", "train_steps", "downlink"}


def test_the_shipped_flight_configuration_is_planned_with_what_it_believes():
    believed = tomllib.loads(config.EXAMPLE.read_text())
    mission = load(config.EXAMPLE)
    document = mission.document
    values = {"eps": document.plant.eps, "thermal": document.plant.thermal, "limits": document.limits}
    shared = [(place, key) for key, place in SHARED.items() if key[1] in believed[key[0]] and place[0] in values]
    assert len(shared) >= 9
    for (part, name), (section, key) in shared:
        assert getattr(values[part], name) == believed[section][key], (section, key)
    plant = Plant(document.plant)
    assert plant.geometry.orbit.period_s == pytest.approx(believed["eps"]["orbit_period_s"], abs=0.01)
    (eclipse,) = plant.forecast(plant.geometry.orbit.period_s).eclipses
    assert eclipse.duration_s == pytest.approx(believed["eps"]["eclipse_s"], abs=5.0)
    found = verdict.judge(plan.make(mission))
    assert found.fits
    assert any("made up" in note for note in found.notes)


def test_a_document_may_name_a_flight_configuration(tmp_path):
    (tmp_path / "mission.toml").write_text(
        "[eps]\ncapacity_wh = 900.0\narray_power_w = 800.0\n[thermal]\ngpu_limit_degc = 70.0\n"
        "[governor]\ngpu_idle_w = 60.0\n[radio]\nrate_bps = 9600\n"
    )
    mission = parse(HEAD + 'flight = "mission.toml"\n[downlink]\n', "plan.toml", tmp_path)
    assert mission.document.plant.orbit == "leo_550"
    assert mission.document.plant.eps.capacity_wh == 900.0
    assert mission.document.limits.gpu_degc == 70.0
    assert mission.document.downlink is not None
    assert mission.document.downlink.rate_bps == 9600.0
    assert mission.workload.idle_w == 60.0
    assert Plant(mission.document.plant).truth().array_power_w == pytest.approx(800.0, rel=0.02)


def test_believed_heat_and_card_are_planned_with(tmp_path):
    (tmp_path / "small.toml").write_text(profile_text(small_card()))
    text = (
        "[thermal]\nradiator_area_m2 = 0.9\ngpu_capacity_j_k = 2500.0\nabsorbed_w_m2 = 70.0\n"
        'absorbed_sun_w_m2 = 25.0\n[card]\nprofile = "small.toml"\n'
    )
    mission = parse(text, "mission.toml", tmp_path)
    thermal = mission.document.plant.thermal
    assert (thermal.area_m2, thermal.gpu_heat_capacity_j_k, thermal.environment) == (0.9, 2500.0, "reference")
    assert (thermal.reference_ir_w_m2, thermal.reference_sun_w_m2) == (70.0, 25.0)
    assert mission.profile is not None
    assert mission.profile.card == "Small Card"


@pytest.mark.parametrize(("period_s", "eclipse_s"), [(5700.0, 2100.0), (5500.0, 600.0), (6400.0, 1800.0)])
def test_a_period_and_an_eclipse_make_an_orbit(period_s, eclipse_s):
    elements = elements_of(period_s, eclipse_s)
    assert CircularOrbit("", elements).period_s == pytest.approx(period_s, abs=1e-3)


def test_no_eclipse_makes_an_orbit_in_the_sun():
    text = "[eps]\norbit_period_s = 6300.0\neclipse_s = 0.0\n"
    assert Plant(parse(text, "mission.toml").document.plant).forecast(6300.0).eclipses == ()

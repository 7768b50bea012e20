"""Parameter sets as operators write them: every complaint with its line, and round trips."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link import settings
from flightsw.link.settings import SETTINGS, ParameterSet, Setting
from flightsw.link.tables import TABLE_BY_NAME
from ground import cli
from ground.errors import ExitCode, GroundError
from ground.names import likely
from ground.parameter_source import compile_parameters, parameters_text
from ground.source import Source
from ground.table_source import compile_image, image_text, summary

SET = """\
# comment
[parameters]
name = "night"
"eps.soc_safe" = 0.72
thermal.gpu_limit_degc = 79
checkpoint.interval_world_s = "20 min"
payload.restarts_max = 5
"""
FAULTS = (
    ("[parameters]", "[parameter]", 2, r"a parameter set: unknown key 'parameter'; did you mean parameters\?"),
    (SET, "", 1, r"\[parameters\] is missing"),
    ('name = "night"', "name = 3", 3, r"\[parameters\]: name = 3: expected str, got int"),
    ('name = "night"', 'name = "!"', 3, r"\[parameters\]: name = '!': a name is letters, digits"),
    ('"eps.soc_safe" = 0.72', '"eps.soc_saf" = 0.72', 4, r"no parameter 'eps.soc_saf' .*; did you mean eps.soc_s"),
    ('"eps.soc_safe" = 0.72', '"eps.soc_safe" = 0.99', 4, r"eps.soc_safe = 0.99 is not a number from 0.1 to 0.95"),
    ('"eps.soc_safe" = 0.72', '"eps.soc_safe" = nan', 4, r"eps.soc_safe = nan is not a number"),
    ('"eps.soc_safe" = 0.72', '"eps.soc_safe" = true', 4, r"eps.soc_safe = true is not a number"),
    ('"eps.soc_safe" = 0.72', '"eps.soc_safe" = "low"', 4, r"eps.soc_safe = 'low' is not a number"),
    ('"eps.soc_safe" = 0.72', f'"eps.soc_safe" = 1{"0" * 400}', 4, r"eps.soc_safe = 1000+… is not a number"),
    ('"eps.soc_safe" = 0.72', "[parameters.eps]\nsoc_safe = 2.0", 5, r"eps.soc_safe = 2 is not a number"),
    ('"eps.soc_safe" = 0.72', "eps.soc.x = 0.72", 4, r"no parameter 'eps.soc'"),
    ('"eps.soc_safe" = 0.72', '"eps.soc_safe" = 0.7\neps.soc_safe = 0.7', 5, r"eps.soc_safe is given twice"),
    ('"20 min"', '"20 minutes"', 6, r"checkpoint.interval_world_s = '20 minutes' is no duration"),
    ('"20 min"', '"0 s"', 6, r"checkpoint.interval_world_s = 0 is not a number from 1 to 10000000 s"),
    ("restarts_max = 5", "restarts_max = 5.5", 7, r"payload.restarts_max = 5.5 is not a whole number"),
    ("payload.restarts_max = 5", "checkpoint.before_eclipse = 1", 7, r"before_eclipse = 1 is not true \(1\)"),
    ("payload.restarts_max = 5", "payload = 5", 7, r"no parameter 'payload'"),
)  # fmt: skip


@pytest.fixture
def source(tmp_path):
    def make(text):
        (tmp_path / "p.toml").write_text(text)
        return Source(tmp_path / "p.toml")

    return make


def test_r7_a_set_however_its_names_are_written(source):
    assert compile_parameters(source(SET)) == ParameterSet(
        name="night",
        values={
            "eps.soc_safe": 0.72, "thermal.gpu_limit_degc": 79, "checkpoint.interval_world_s": 1200.0,
            "payload.restarts_max": 5,
        },
    )  # fmt: skip
    assert compile_parameters(source("[parameters]\n")) == ParameterSet(name="unnamed")
    assert compile_parameters(source("[parameters.eps]\nsoc_safe = 0.7\n")).values == {"eps.soc_safe": 0.7}


@pytest.mark.parametrize(("old", "new", "line", "words"), FAULTS, ids=[row[3][:40] for row in FAULTS])
def test_r7_every_fault_of_a_set_has_its_line(source, tmp_path, old, new, line, words):
    assert SET.count(old) == 1
    with pytest.raises(GroundError) as caught:
        compile_parameters(source(SET.replace(old, new)))
    assert caught.value.exit_code == ExitCode.USAGE
    assert re.match(rf"{re.escape(str(tmp_path))}/p\.toml:{line}: .*({words})", str(caught.value)), str(
        caught.value
    )


def value_of(setting: Setting) -> st.SearchStrategy:
    if setting.type == "bool":
        return st.booleans()
    if setting.type == "int":
        return st.integers(int(setting.minimum), int(setting.maximum))
    return st.floats(setting.minimum, setting.maximum)


@given(st.data())
def test_r7_a_dumped_set_is_its_own_source(tmp_path_factory, data):
    chosen = data.draw(st.lists(st.sampled_from(SETTINGS), unique=True, max_size=6))
    made = ParameterSet(name="any set", values={s.name: data.draw(value_of(s)) for s in chosen})
    path = tmp_path_factory.mktemp("p") / "p.toml"
    path.write_text(parameters_text(made, "dumped"))
    assert settings.encode(compile_parameters(Source(path))) == settings.encode(made)


def test_r7_a_set_as_a_table(source, capsys):
    table, given_ = TABLE_BY_NAME["parameters"], source(SET)
    image = compile_image(table, given_)
    assert summary(table, image) == "'night': 4 parameters"
    assert compile_image(table, source(image_text(table, image))) == image
    assert cli.run(["table", "check", "parameters", str(given_.path)]) == 0
    assert "'night': 4 parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "known", "end"),
    [
        ("rts5", ("rts15", "rts05", "ats1"), "; did you mean rts15 or rts05?"),
        ("SAFE", ("safe", "nominal"), "; did you mean safe?"),
        ("zebra", ("a", "b"), "; allowed are a, b"),
        ("zebra", [f"name{n}" for n in range(13)], ""),
        ("zebra", (), ""),
        ("aaa", ["aaab", "aaac", "aaad", "aaae"], "; did you mean aaab or aaac or aaad?"),
    ],
)
def test_likely_names(name, known, end):
    assert likely(name, known) == end

"""The configuration: what it makes of a good file, and the one line it has for each mistake."""

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw import config
from flightsw.config import ConfigurationError, MissionConfig, load
from flightsw.gpu.protocol import InferSpec, TrainSpec
from flightsw.shell import example
from flightsw.shell.typed_toml import allowed, convertible

JOBS = """
[[jobs]]
kind = "train"
id = "gpt"
corpus = "texts/corpus.txt"

[[jobs]]
kind = "infer"
id = "chat"
model = "job:gpt"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mission.toml"
    path.write_text(text)
    return path


def complaints(folder: Path, text: str, *overrides: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        load(path, overrides)
    assert all("\n" not in line and len(line) < 600 for line in caught.value.lines)
    return [line.replace(str(path), "mission.toml") for line in caught.value.lines]


# (text, the one line)
MISTAKES = (
    ("[eps]\ncapacity = 5", "mission.toml: eps.capacity: unknown key; did you mean 'capacity_wh'?"),
    ("[epps]\n", "mission.toml: epps: unknown section; did you mean 'eps'?"),
    ("[frame]\nrate_hz = 400", "mission.toml: frame.rate_hz = 400 is refused; allowed is a number from 0.5 to 50"),
    ("[frame]\nrate_hz = nan", "mission.toml: frame.rate_hz = nan is refused; allowed is a number from 0.5 to 50"),
    (
        "[frame]\nrate_hz = 'ten'",
        'mission.toml: frame.rate_hz = "ten" is refused; allowed is a number from 0.5 to 50',
    ),
    ("frame = 10", "mission.toml: frame = 10 is no table; write [frame] and its keys below it"),
    (
        "[eps]\ndod_max = 1.0",
        "mission.toml: eps.dod_max = 1.0 is refused; allowed is a number over 0 and under 1",
    ),
    (
        "[log]\nlevel = 'loud'",
        'mission.toml: log.level = "loud" is refused; allowed is one of "debug", "error", "info", "warning"',
    ),
    ("[log]\nbackups = 2.5", "mission.toml: log.backups = 2.5 is refused; allowed is a whole number from 1 to 100"),
    (
        "[worker]\ncommand = 'python'",
        'mission.toml: worker.command = "python" is refused; allowed is a list, each a text',
    ),
    (
        "[radio]\nendpoint = 'tcp:1.2.3.4:5'",
        "mission.toml: radio.endpoint = 'tcp:1.2.3.4:5' is no endpoint; write serial:PATH[@BAUD],"
        " udp:BIND_HOST:BIND_PORT/PEER_HOST:PEER_PORT or none",
    ),
    ("[downlink]\nrate_bps = 5000", "mission.toml: downlink.rate_bps is set by radio.rate_bps; remove it here"),
    (
        "[governor]\ngpu_idle_w = 700",
        "mission.toml: governor = gpu_max_w = 700 must be over gpu_idle_w = 700",
    ),
    (
        "[card]\nprofile = 'h100'",
        "card profile 'h100': no such name; allowed are h100-sxm, or the path of a .toml file",
    ),
    (
        "[actuators]\npower_limit_min_w = 300\npower_limit_max_w = 200",
        "mission.toml: actuators = power_limit_max_w = 200 is under power_limit_min_w = 300",
    ),
    (
        "[actuators]\npower_limit_w = 100\npower_limit_min_w = 300",
        "mission.toml: actuators = power_limit_w = 100 is outside power_limit_min_w to power_limit_max_w,"
        " 300 to inf",
    ),
    (
        "[actuators]\nnvpmodel_mode = 99",
        "mission.toml: actuators.nvpmodel_mode = 99 is refused; allowed is a whole number from -1 to 31",
    ),
    ("jobs = 3", "mission.toml: jobs = 3 is no list of tables; write [[jobs]] above each job"),
    ("[[jobs]]\nid = 'a'", 'mission.toml: jobs.a.kind is missing; allowed is one of "train", "infer"'),
    (
        "[[jobs]]\nkind = 'mine'",
        'mission.toml: jobs.0.kind = "mine" is refused; allowed is one of "train", "infer"',
    ),
    (
        "[[jobs]]\nkind='train'\nid='a'\n[[jobs]]\nkind='train'\nid='a'",
        'mission.toml: jobs.a.id = "a" is taken by another job; ids are unique',
    ),
    (
        "[[jobs]]\nkind='train'\nid='gpt'\n[[jobs]]\nkind='infer'\nmodel='job:gtp'",
        "mission.toml: jobs.infer.model = \"job:gtp\" names no training job; did you mean 'gpt'?",
    ),
    (
        "[[jobs]]\nkind='infer'",
        'mission.toml: jobs.infer.model = "job:train" names no training job; there is no training job',
    ),
    (
        "[[jobs]]\nkind='infer'\nmodel='gemma'",
        'mission.toml: jobs.infer.model = "gemma" is refused; allowed is "job:ID" or "hf:PATH"',
    ),
    (
        "[[jobs]]\nkind='train'\ngenerations=3",
        "mission.toml: jobs.0.generations = 3 is refused; allowed is a whole number from 4 to 64",
    ),
)


@pytest.mark.parametrize(("text", "line"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_one_line_for_a_mistake(tmp_path: Path, text: str, line: str) -> None:
    assert complaints(tmp_path, text) == [line]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[eps]\narray_power_w = 100",
            "mission.toml: SAFE is not power positive: 88 W with the GPU off, 72 W of array",
        ),
        ("[eps]\nsoc_safe = 0.73", "mission.toml: eps.soc_safe = 0.73 is over the governor's own floor"),
        ("[shedding]\noff_v = 20", "mission.toml: shedding.off_v = 20 must be over eps.bus_undervoltage_v = 22"),
    ],
)
def test_a_rule_between_two_sections_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    (found,) = complaints(tmp_path, text)
    assert found.startswith(line)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    lines = complaints(tmp_path, "[frame]\nrate_hz = 0\n[eps]\nfoo = 1\n[nope]\nx = 1\n[[jobs]]\nkind = 'x'")
    assert [line.split(" ")[1].rstrip(":") for line in lines] == ["frame.rate_hz", "eps.foo", "nope", "jobs.0.kind"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"[frame\n", "is no TOML: Expected ']'"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"x" * (config.CONFIGURATION_BYTES_MAX + 1), "bytes, at most"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, raw: bytes, text: str) -> None:
    path = tmp_path / "mission.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=str(path)) as caught:
        load(path)
    assert text in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        load(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("frame.rate_hz=99", "--set: frame.rate_hz = 99 is refused; allowed is a number from 0.5 to 50"),
        ("frame.rate=5", "--set: frame.rate: unknown key; did you mean 'rate_hz'?"),
        ("rate_hz=5", "--set 'rate_hz=5': write --set section.key=value, for jobs jobs.ID.key=value"),
        ("frame.rate_hz", "--set 'frame.rate_hz': write --set section.key=value, for jobs jobs.ID.key=value"),
        ("jobs.gtp.seed=5", "--set 'jobs.gtp.seed=5': no job 'gtp'; did you mean 'gpt'?"),
        (
            "jobs.gpt.seed=-5",
            "--set: jobs.gpt.seed = -5 is refused; allowed is a whole number from 0 and under 2_147_483_648",
        ),
        (
            "jobs.gpt.integrity=strom",
            '--set: jobs.gpt.integrity = "strom" is refused; allowed is one of "auto", "off", "standard", "storm",'
            ' "watch"',
        ),
        (
            "integrity.storm_flux_cm2_s=5",
            "mission.toml: integrity = storm_flux_cm2_s = 5 is under standard_flux_cm2_s = 10: storm begins where"
            " standard is already left",
        ),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, line: str) -> None:
    assert complaints(tmp_path, JOBS, override) == [line]


def test_overrides_reach_sections_and_jobs(tmp_path: Path) -> None:
    mission = load(
        write(tmp_path, JOBS),
        ["frame.rate_hz=5", "radio.endpoint=udp:127.0.0.1:1/127.0.0.1:2", "jobs.gpt.seed=7", "eps.capacity_wh=500"],
    )
    assert mission.frame.rate_hz == 5.0
    assert mission.radio.endpoint == "udp:127.0.0.1:1/127.0.0.1:2"
    assert mission.jobs[0].seed == 7  # type: ignore[union-attr]
    assert mission.core.eps.capacity_wh == 500.0


def test_paths_are_relative_to_the_file_and_jobs_are_completed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    mission = load(write(tmp_path, JOBS + "[[jobs]]\nkind='infer'\nid='llm'\nmodel='hf:models'\n"))
    train, chat, llm = mission.jobs
    assert mission.state_dir == tmp_path / "state"
    assert isinstance(train, TrainSpec)
    assert train.corpus == str(tmp_path / "texts/corpus.txt")
    assert train.checkpoint_dir == str(tmp_path / "state/checkpoints/gpt")
    assert (train.meter, train.journal) == ("", "")
    assert isinstance(chat, InferSpec)
    assert chat.checkpoint_dir == train.checkpoint_dir
    assert isinstance(llm, InferSpec)
    assert llm.model == f"hf:{tmp_path / 'models'}"


def test_one_fact_reaches_the_core_once(tmp_path: Path) -> None:
    mission = load(write(tmp_path, "[radio]\nrate_bps = 9600\n" + JOBS))
    assert mission.core.downlink.rate_bps == 9600.0
    assert [(j.id, j.kind, j.share) for j in mission.core.jobs] == [("gpt", "train", 1.0), ("chat", "infer", 0.5)]


def test_a_jobs_integrity_level_reaches_its_worker_and_the_core(tmp_path: Path) -> None:
    mission = load(write(tmp_path, JOBS), ["jobs.gpt.integrity=storm"])
    assert [job.integrity for job in mission.jobs] == ["storm", "auto"]
    assert [job.integrity for job in mission.core.jobs] == ["storm", "auto"]


def test_hash_is_of_the_values_and_not_of_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = load(write(tmp_path / "a", JOBS)), load(write(tmp_path / "b", JOBS))
    assert first.config_hash == second.config_hash
    assert len(first.config_hash) == 16
    assert load(write(tmp_path / "a", JOBS), ["frame.rate_hz=10"]).config_hash == first.config_hash
    assert load(write(tmp_path / "a", JOBS), ["frame.rate_hz=9"]).config_hash != first.config_hash
    assert load(write(tmp_path / "a", JOBS), ["jobs.gpt.seed=9"]).config_hash != first.config_hash


def test_an_empty_file_flies(tmp_path: Path) -> None:
    mission = load(write(tmp_path, ""))
    assert isinstance(mission, MissionConfig)
    assert mission.jobs == ()


def test_example_is_rendered_from_the_types() -> None:
    """When this fails after a change of a Config: python -m flightsw.shell.example > flightsw/mission.toml."""
    assert config.EXAMPLE.read_text() == example.render()


def test_example_loads_and_equals_the_defaults(tmp_path: Path) -> None:
    shown = load(write(tmp_path, config.EXAMPLE.read_text()))
    empty = load(write(tmp_path, ""))
    for name in config.sections():
        owner = "core" if name not in msgspec.structs.asdict(empty) else None
        left, right = (getattr(m.core if owner else m, name) for m in (shown, empty))
        assert left == right, name


def test_every_field_has_its_docstring() -> None:
    kinds = [*config.sections().values(), TrainSpec, InferSpec]
    missing = [
        f"{kind.__module__}.{f.name}"
        for kind in kinds
        for f in msgspec.structs.fields(kind)
        if f.name not in example.docs(kind)
    ]
    assert missing == []


LEAVES = {
    f"{name}.{f.name}": f.type for name, kind in config.sections().items() for f in msgspec.structs.fields(kind)
}


@given(st.sampled_from(sorted(LEAVES)), st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none()))
def test_no_value_of_any_key_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    verdict = convertible(value, LEAVES[key])
    assert isinstance(verdict, bool)
    assert allowed(LEAVES[key])
    if isinstance(value, float) and not math.isfinite(value):
        assert not verdict


CARD = """
format = 1
card = "Card of this test"
provenance = "measured"
[train]
power_w = [40.0, 200.0, 500.0]
throughput = [0.0, 0.6, 1.0]
"""


def test_the_profile_gives_the_curve_and_the_ends_of_the_governor(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(CARD)
    mission = load(write(tmp_path, "[card]\nprofile = 'card.toml'"))
    core = mission.core
    assert (core.card.card, core.card.train.power_w) == ("Card of this test", (40.0, 200.0, 500.0))
    assert (core.governor.gpu_idle_w, core.governor.gpu_max_w) == (40.0, 500.0)
    # A narrower card than the default's idle power: the file's key stands beside the profile's, not the default's.
    said = load(write(tmp_path, "[card]\nprofile = 'card.toml'\n[governor]\ngpu_max_w = 60.0")).core.governor
    assert (said.gpu_idle_w, said.gpu_max_w) == (40.0, 60.0)
    assert load(write(tmp_path, "")).core.card.card == "NVIDIA H100 80GB HBM3"


def test_the_hash_covers_what_the_profile_says_not_where_it_lies(tmp_path: Path) -> None:
    hashes = []
    for text in (CARD, CARD.replace("0.6", "0.7")):
        (tmp_path / "card.toml").write_text(text)
        hashes.append(load(write(tmp_path, "[card]\nprofile = 'card.toml'")).config_hash)
    assert hashes[0] != hashes[1]


def test_a_malformed_profile_is_told_with_path_and_field(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(CARD.replace("0.6", "0.1"))
    path = tmp_path / "card.toml"
    assert complaints(tmp_path, "[card]\nprofile = 'card.toml'") == [
        f"{path}: train: point 1: throughput per watt rises there; leave out points below the hull"
    ]

"""The table of actuators and the size of pieces; looking at the table changes nothing."""

import json
import math
import subprocess
import sys
from pathlib import Path

import file_nvml
import msgspec
import pytest

from flightsw.gpu.actuators import table
from flightsw.gpu.actuators.pieces import PIECES_MAX, pieces_for
from flightsw.gpu.protocol import SetterSpec


@pytest.mark.parametrize(
    ("whole_s", "bound_s", "sequences", "pieces"),
    [
        (0.25, 0.0, 64, 1),
        (0.25, -1.0, 64, 1),
        (0.25, 0.25, 64, 1),
        (0.25, 0.1, 64, 3),
        (0.25, 0.1, 2, 2),
        (0.25, 0.001, 64, PIECES_MAX),
        (0.25, 0.1, 1, 1),
        (0.0, 0.1, 64, 1),
        (math.nan, 0.1, 64, 1),
        (0.25, math.nan, 64, 1),
    ],
)
def test_pieces(whole_s: float, bound_s: float, sequences: int, pieces: int) -> None:
    assert pieces_for(whole_s, bound_s, sequences) == pieces


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetterSpec:
    monkeypatch.setenv("FILE_NVML", str(tmp_path / "card.json"))
    (tmp_path / "card.json").write_text(json.dumps(file_nvml.FRESH))
    return SetterSpec(saved_file=str(tmp_path / "saved"), nvml_module="file_nvml", nvpmodel_program="/no/such")


def told(spec: SetterSpec) -> dict[str, str]:
    return {row.name: row.check(spec) for row in table.ACTUATORS}


def test_why_each_is_not_available(spec: SetterSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    reasons = told(spec)
    assert (reasons["pacing"], reasons["micro-batch"], reasons["rail switch"]) == ("", "", "")
    assert reasons["power limit"] == reasons["clock lock"] == table.OFF
    assert reasons["nvpmodel"] == "there is no program /no/such"
    wanted = msgspec.structs.replace(spec, power_limit_w=300.0, clock_lock_mhz=900, nvpmodel_program="sh")
    assert (told(wanted)["power limit"], told(wanted)["clock lock"], told(wanted)["nvpmodel"]) == (
        "",
        "",
        table.OFF,
    )
    assert told(msgspec.structs.replace(wanted, nvpmodel_mode=1))["nvpmodel"] == ""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in told(wanted)["power limit"]
    file_nvml._store({**file_nvml.FRESH, "fail": {"nvmlDeviceGetMaxClockInfo": 3}})
    assert "does not offer it" in told(wanted)["clock lock"]
    file_nvml._store({**file_nvml.FRESH, "fail": {"nvmlInit": 9}})
    assert "nvmlInit" in told(wanted)["power limit"]
    assert json.loads(file_nvml.path().read_text())["calls"] == []


def test_without_pytorch(spec: SetterSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert told(spec)["SM partition"] == "PyTorch is not installed"


@pytest.mark.process
def test_flightd_prints_it(tmp_path: Path) -> None:
    config = tmp_path / "mission.toml"
    config.write_text("[probe]\nnvml_module = 'no_such_module'\n")
    done = subprocess.run(
        [sys.executable, "-m", "flightsw", "--config", str(config), "--actuators"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:13].strip() for line in lines if not line.startswith(" ")] == [r.name for r in table.ACTUATORS]
    assert "not available: no NVML module 'no_such_module'" in done.stdout
    assert list(tmp_path.iterdir()) == [config], "looking makes no state directory"

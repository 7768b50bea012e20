"""The command `hil plan`: status, files, JSON, and Ctrl-C, which stops a solver too."""

import json
import os
import signal
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from hil.cli import app
from hil.preflight import plan
from hil.preflight.document import EXAMPLE, parse
from hil.preflight.horizon import Steps
from hil.preflight.programme import build, solve

HEAD = 'schema = "plan/1"\n'
PNG = b"\x89PNG"


def hil(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def written(folder, text):
    path = folder / "mission.toml"
    path.write_text(HEAD + text)
    return path


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("", 0, "fits: 0."),
        ("[wanted]\ncompute_share = 0.9\n", 1, "does not fit: radiator binds for"),
        ("[plant.thermal]\narea_m2 = -1.0\n", 2, "plant.thermal.area_m2"),
        ('[plant]\norbit = "nowhere"\n', 2, "hil: orbit 'nowhere'"),
    ],
)
def test_the_status_says_whether_it_fits(tmp_path, text, status, words):
    result = hil(written(tmp_path, text))
    assert result.exit_code == status
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_nothing_to_plan_is_wrong_use():
    result = hil()
    assert result.exit_code == 2
    assert "--example" in result.output


def test_the_example_can_be_printed_and_read(tmp_path):
    result = hil("--example")
    assert result.exit_code == 0
    assert result.output == EXAMPLE.read_text()


def test_json_is_all_there_is_on_standard_output(tmp_path):
    result = hil(written(tmp_path, ""), "--json", "--out", tmp_path / "out")
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "out" / "plan.json").read_text())
    assert (tmp_path / "out" / "plan.png").read_bytes().startswith(PNG)
    assert len(found["trajectory"]["gpu_power_w"]) == found["solver"]["steps"]
    assert found["fits"] is True


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = hil(written(tmp_path, ""), "--out", tmp_path / "file" / "out")
    assert result.exit_code == 2
    assert "Not a directory" in result.output


def test_an_interrupted_plan_writes_nothing(tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(plan, "plan_steps", interrupted)
    result = hil(written(tmp_path, ""), "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert not (tmp_path / "out").exists()


def test_ctrl_c_stops_the_solver():
    count = 95 * 30
    sunlit = (np.arange(count) % 95 < 60).astype(float)
    steps = Steps(
        start_s=0.0, period_s=5700.0, dt_s=np.full(count, 60.0), array_w=1200.0 * sunlit,
        absorbed_w=90.0 + 28.0 * sunlit, bus_w=np.full(count, 60.0), sunlit=sunlit, contact=np.zeros(count),
        eclipses=(),
    )  # fmt: skip
    programme = build(plan.case_of(parse(HEAD, "plan.toml"), steps), np.full(count, 310.0))
    before = threading.active_count()
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solve(programme)
    timer.join()
    assert threading.active_count() == before, "a process that ends beside a running solver is aborted"

"""``hil calibrate gpu`` on a processor: a real load, the simulated card, whole files or none, clear refusals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flightsw.link.load import Order
from flightsw.shell.card_profile import load_profile
from hil import devices
from hil.calibration import cards, run
from hil.calibration import plan as plans
from hil.calibration.load import Load, LoadError
from hil.calibration.plan import Plan
from hil.cli import main
from tests.background import Child

HIL = (sys.executable, "-c", "from hil.cli import main; main()")
TINY = Plan(
    idle_s=0.4, settle_s=0.2, window_s=0.6, warm_s=0.2, duties=(0.5,), batches=(2,), sms=(), decode_batches=(2,),
    decode_duties=(), counter_s=0.3, alias_periods_s=(0.1,), alias_window_s=0.4, steps=1, step_s=0.9,
    kernels_s=(0.005,), stops=3, cool_s=0.5,
)  # fmt: skip


def session(**changes: object) -> run.Session:
    told: list[object] = []
    return run.Session(
        "cpu",
        quick=True,
        planned=lambda card, lines: told.append(card),
        tell=told.append,
        **{"plan": TINY, "preset": "micro", **changes},
    )


@pytest.mark.process
def test_a_whole_calibration_of_the_simulated_card(tmp_path: Path) -> None:
    found, outcome, account = session().run()
    profile = outcome.profile
    # What is simulated says so, whatever else is asked of it.
    assert (profile.card, profile.provenance) == ("Simulated GPU (hil)", "simulated")
    assert profile.train.idle_w == pytest.approx(80.0, abs=3.0)
    assert profile.train.maximum_w > 300.0
    assert len(profile.train.settings) == 3
    assert profile.decode is not None
    assert len(found.stops) == 2
    assert all(0.0 <= latency_s < 5.0 for stop in found.stops for latency_s in stop.latencies_s)
    assert found.readings
    files = run.write(tmp_path / "out", found, outcome, account)
    assert {path.name for path in files} >= {
        "profile.toml",
        "calibration.json",
        "power.svg",
        "step.svg",
        "stop.svg",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in files}, (
        "nothing else is left"
    )
    assert load_profile(str(tmp_path / "out" / "profile.toml")) == profile
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["profile"]["provenance"] == "simulated"

    # A disk that refuses in the middle leaves what was there.
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "power.svg").unlink()
    (tmp_path / "out" / "power.svg").mkdir()
    with pytest.raises(OSError, match=r"power\.svg"):
        run.write(tmp_path / "out", found, outcome, account | {"changed": True})
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert after == {name: content for name, content in before.items() if name != "power.svg"}


def test_a_simulated_card_counts_energy_while_its_thread_waits_for_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    monkeypatch.setattr(cards, "STEP_S", 3600.0)
    card = cards.SimulatedCard(tmp_path, tmp_path / "meter")
    try:
        eventually(lambda: len(card.meter.history) >= 6, 30, "six readings")
        first, *_, last = list(card.meter.history)
    finally:
        card.close()
    assert (last.energy_j - first.energy_j) / (last.taken_s - first.taken_s) == pytest.approx(80.0, rel=0.2)


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HIL, "calibrate", "gpu", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


REFUSED = {
    "a device that there is not": (("--device", "tpu"), "--device tpu: unknown; allowed are auto, cpu, cuda"),
    "cuda without a card": (("--device", "cuda"), "device cuda: "),
}


@pytest.mark.process
@pytest.mark.parametrize(("arguments", "line"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_line(
    tmp_path: Path,
    arguments: tuple[str, ...],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    if "cuda" in arguments and devices.choose("auto").device == "cuda":
        pytest.skip("there is a card here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hil", "calibrate", "gpu", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert line in told.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_calibration_writes_nothing_and_ends_its_load(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Child(
        [*HIL, "calibrate", "gpu", "--quick", "--device", "cpu"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if "idle" in line and line.startswith("["):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(number)
        out, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert out == ""
    assert rest.splitlines()[-1] == "hil: interrupted: nothing was written"
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
    assert children
    assert not any(os.path.exists(f"/proc/{child}") for child in children)
    # The minutes are told before they pass.
    assert any("min" in line for line in told[:1])


LOADS = {
    "ends at once": ("import sys; sys.exit('no such thing')", "the load ended with status 1: no such thing"),
    "talks nonsense": ("print('hello', flush=True); input()", "the load talks nonsense"),
    "another device": (
        "import sys; open(sys.argv[2], 'wb').write(bytes(16));"
        'print(\'{"id": -1, "device": "cuda"}\', flush=True); input()',
        "the load works on 'cuda', not on 'cpu'",
    ),
}


@pytest.mark.process
@pytest.mark.parametrize(("program", "line"), LOADS.values(), ids=LOADS)
def test_a_load_that_is_none_is_told_in_one_line(program: str, line: str) -> None:
    with pytest.raises((LoadError, devices.DeviceError)) as caught:
        session(command=(sys.executable, "-c", program), preset="").run()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.process
def test_a_load_that_dies_at_work_is_told(tmp_path: Path) -> None:
    with Load(tmp_path, "cpu", preset="micro") as load:
        os.kill(load.pid, signal.SIGKILL)
        with pytest.raises(LoadError, match="status -9"):
            load.order(Order(id=0, work="train"))


# (device, multiprocessors, quick, seconds at most)
MINUTES = (
    ("cuda", 132, False, 600.0),
    ("cuda", 132, True, 150.0),
    ("cpu", 0, False, 600.0),
    ("cpu", 0, True, 120.0),
)


@pytest.mark.parametrize(("device", "multiprocessors", "quick", "most_s"), MINUTES)
def test_the_plan_fits_in_ten_minutes(device: str, multiprocessors: int, quick: bool, most_s: float) -> None:
    plan = plans.make(device, multiprocessors, quick=quick)
    lines = plans.lines(plan, device)
    assert 30.0 < sum(line.seconds for line in lines) <= most_s
    assert all(sms % plans.SMS_LEAST == 0 and 0 < sms < multiprocessors for sms in plan.sms)
    assert bool(plan.sms) is (multiprocessors > 0)


@pytest.mark.gpu
@pytest.mark.process
def test_a_real_card_is_measured(tmp_path: Path) -> None:
    if devices.choose("auto").device != "cuda":
        pytest.skip("no CUDA device here")
    done = command("--device", "cuda", "--quick", "--json", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    profile = load_profile(str(tmp_path / "out" / "profile.toml"))
    assert profile.provenance == "measured"
    assert "Simulated" not in profile.card
    assert profile.train.maximum_w > 1.5 * profile.train.idle_w
    assert profile.heat_capacity_sigma_j_k > 0.0

"""The probe as a process, and its choice of source: NVML with power, Jetson, NVML with anything, none."""

import os
import subprocess
import sys
from collections.abc import Iterator
from math import isnan
from pathlib import Path

import msgspec
import pytest

from flightsw.gpu.channel import ORPHAN_STATUS
from flightsw.gpu.probe import select
from flightsw.gpu.protocol import (
    Fault,
    FromChild,
    Pace,
    ProbeSpec,
    Sample,
    Stop,
    TrainSpec,
    decode_from_child,
    encode,
)
from hil.instruments.card_state import ENVIRONMENT, CardFile, CardState
from tests.background import END_MAX_S, Child

POWER_ONLY = """
class NVMLError(Exception):
    def __init__(self, value): self.value = value
def nvmlInit(): pass
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetPowerUsage(handle): return 123456
"""
UTILISATION_ONLY = POWER_ONLY.replace("nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates").replace(
    "return 123456", "return type('Rates', (), {'gpu': 50})()"
)
NOTHING = POWER_ONLY.replace("nvmlDeviceGetPowerUsage", "unused")
NO_LIBRARY = POWER_ONLY.replace("def nvmlInit(): pass", "def nvmlInit(): raise NVMLError(12)")
NO_DRIVER = POWER_ONLY.replace("def nvmlInit(): pass", "def nvmlInit(): raise NVMLError(9)")
# The card falls off the bus at the third reading, for good.
LOST_LATER = POWER_ONLY.replace(
    "return 123456", "\n    count.append(0)\n    if len(count) > 2: raise NVMLError(15)\n    return 99000"
).replace("def nvmlInit", "count = []\ndef nvmlInit")
BROKEN = "raise RuntimeError('half an installation')"

JETSON = {"class/devfreq/17000000.gpu/device/load": "500\n"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Write a module of the test's own and return its name; importable here and in child processes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def write(source: str) -> str:
        name = f"card_{abs(hash((request.node.name, source)))}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


CHOICES = {
    # case: module source, Jetson there?, chosen source, power there?
    "NVML gives power": (POWER_ONLY, True, "nvml", True),
    "NVML without power on a Jetson": (UTILISATION_ONLY, True, "jetson", False),
    "NVML without power elsewhere": (UTILISATION_ONLY, False, "nvml", False),
    "NVML that offers nothing": (NOTHING, False, "none", False),
    "no library on a Jetson": (NO_LIBRARY, True, "jetson", False),
    "no library": (NO_LIBRARY, False, "none", False),
    "broken module": (BROKEN, False, "none", False),
    "library, but the driver is down": (NO_DRIVER, False, "nvml", False),
}


@pytest.mark.parametrize(("source", "jetson", "chosen", "power"), CHOICES.values(), ids=CHOICES)
def test_auto(module, tmp_path: Path, source: str, jetson: bool, chosen: str, power: bool) -> None:
    for name, content in JETSON.items() if jetson else ():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    reader = select(ProbeSpec(nvml_module=module(source)), tmp_path, now_s=0.0)
    sample = reader.read(0, now_s=0.0)
    reader.close()
    assert sample.source == chosen
    assert (sample.power_w is not None and not isnan(sample.power_w)) == power


def messages(process: subprocess.Popen[bytes]) -> Iterator[FromChild]:
    assert process.stdout is not None
    while prefix := process.stdout.read(4):
        yield decode_from_child(process.stdout.read(int.from_bytes(prefix, "little")))


def start(first: bytes) -> subprocess.Popen[bytes]:
    process = Child([sys.executable, "-m", "flightsw.gpu.probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(first)
    process.stdin.flush()
    return process


@pytest.mark.process
@pytest.mark.parametrize("farewell", ["end of file", "stop"])
def test_samples_until_the_daemon_ends(module, farewell: str) -> None:
    with start(encode(ProbeSpec(source="nvml", nvml_module=module(POWER_ONLY), interval_s=0.05))) as process:
        stream = messages(process)
        samples = [next(stream) for _ in range(3)]
        process.stdin.write(encode(Pace(duty=0.5)))
        if farewell == "stop":
            process.stdin.write(encode(Stop()))
            process.stdin.flush()
        else:
            process.stdin.close()
        rest = list(stream)
        assert process.wait(END_MAX_S) == 0
    assert [sample.sequence for sample in samples] == [0, 1, 2]
    assert {sample.power_w for sample in samples} == {123.456}
    assert len(rest) < 100


@pytest.mark.process
def test_survives_the_loss_of_its_card(module) -> None:
    with start(encode(ProbeSpec(source="nvml", nvml_module=module(LOST_LATER), interval_s=0.05))) as process:
        stream = messages(process)
        got = [next(stream) for _ in range(8)]
        process.stdin.close()
        list(stream)
        assert process.wait(END_MAX_S) == 0
    faults = [message for message in got if isinstance(message, Fault)]
    samples = [message for message in got if isinstance(message, Sample)]
    assert [fault.code for fault in faults] == ["gpu_lost"], "told once, not at every reading"
    assert [isnan(sample.power_w) for sample in samples] == [False, False, True, True, True, True, True]


@pytest.mark.process
def test_a_job_specification_is_refused_in_one_clear_line() -> None:
    with start(encode(TrainSpec())) as process:
        (fault,) = messages(process)
        assert process.wait(END_MAX_S) == 1
    assert fault == Fault(code="spec", reason="the first message is TrainSpec, not a ProbeSpec")


@pytest.mark.process
@pytest.mark.parametrize("garbage", [b"\x03\x00\x00\x00abc", b"\xff\xff\xff\xff", b"\x09", b""], ids=repr)
def test_garbage_and_end_of_file_start_nothing(garbage: bytes) -> None:
    with start(garbage) as process:
        process.stdin.close()
        assert list(messages(process)) == []
        assert process.wait(END_MAX_S) == 0


@pytest.mark.process
def test_ends_when_nobody_reads(module) -> None:
    with start(encode(ProbeSpec(source="none", interval_s=0.05))) as process:
        next(messages(process))
        process.stdout.close()
        assert process.wait(END_MAX_S) == 0


@pytest.mark.process
def test_a_hung_reading_does_not_outlive_the_daemon(module, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    hangs = POWER_ONLY.replace(
        "return 123456", f"open({str(begun)!r}, 'w').close(); import threading; threading.Event().wait()"
    )
    with start(encode(ProbeSpec(source="nvml", nvml_module=module(hangs)))) as process:
        begun.read_text()  # Until a reading hangs: one that has not begun would end in order.
        process.stdin.close()
        assert process.wait(END_MAX_S) == ORPHAN_STATUS


def test_torch_stays_out() -> None:
    code = "import sys, flightsw.gpu.probe; print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


@pytest.mark.process
def test_reads_the_benchs_simulated_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "card"
    monkeypatch.setenv(ENVIRONMENT, str(file))
    card = CardFile(file, create=True)
    state = CardState(
        powered=True, power_w=412.5, die_degc=61.0, memory_degc=70.0, energy_j=9e4, utilisation_fraction=0.5,
        ecc_corrected=4, ecc_uncorrected=1, throttle_reasons=1, xids=(13,), xid_count=1,
    )  # fmt: skip
    card.write(state)
    with start(encode(ProbeSpec(nvml_module="hil.instruments.nvml_sim", interval_s=0.05))) as process:
        stream = messages(process)
        first = next(stream)
        # The card's last words: it falls off the bus, and this is told although it no longer answers.
        card.write(msgspec.structs.replace(state, powered=False, xids=(13, 63, 79), xid_count=3))
        last = next(message for message in stream if isinstance(message, Sample) and message.xid_count == 2)
        fault = next(message for message in stream if isinstance(message, Fault))
        card.write(msgspec.structs.replace(state, power_w=80.0, xids=(13, 63, 79), xid_count=3))
        back = next(message for message in stream if isinstance(message, Sample) and message.power_w == 80.0)
        process.stdin.close()
        list(stream)
        assert process.wait(END_MAX_S) == 0
    card.close()
    assert [reading.kind for reading in first.readings] == ["instant", "average", "energy"]
    assert msgspec.structs.replace(first, sequence=0, readings=()) == Sample(
        power_average_w=412.5, power_limit_w=700.0, power_limit_enforced_w=700.0, slowdown_margin_k=29.0,
        sequence=0, source="nvml", card="Simulated GPU (hil)", power_w=412.5, die_degc=61.0, memory_degc=70.0,
        energy_j=9e4, utilisation_fraction=0.5, ecc_corrected=4, ecc_uncorrected=1, throttle_reasons=1, xid_count=0,
    )  # fmt: skip
    assert last.xids == (63, 79)
    assert last.power_w is not None
    assert isnan(last.power_w)
    assert (back.xids, back.xid_count) == ((63, 79), 2), "number and count outlive the session"
    assert "lost" in fault.reason
    assert back.unsupported == ()

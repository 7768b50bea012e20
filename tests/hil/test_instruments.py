"""Instruments: busy time to watts, the card's state file, NVML's stand-in under the daemon's own reader."""

import math
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from flightsw.gpu.meter import Meter as WorkerMeter
from flightsw.gpu.nvml import NvmlReader
from hil.devices import SimulatedCard
from hil.instruments import nvml_sim
from hil.instruments.card_health import CardHealth
from hil.instruments.card_state import ENVIRONMENT, FILE_BYTES, CardFile, CardState
from hil.instruments.gpu_sim import GpuModel, SimulatedGpu
from hil.instruments.nvml_meter import STALE_S, NvmlMeter
from hil.plant.plant import Plant

TICK_S = 0.05
STATE = CardState(
    powered=True,
    power_w=431.25,
    die_degc=61.6,
    memory_degc=67.2,
    energy_j=12_345.678,
    utilisation_fraction=0.43,
    ecc_corrected=41,
    ecc_uncorrected=2,
    throttle_reasons=0x20,
    xids=(13, 48, 63),
    xid_count=11,
)


def settle(gpu: SimulatedGpu, meters: list[WorkerMeter], busy_share: list[float], seconds: float) -> float:
    """Run with each worker busy for its share; micro-batches of 0.1 s, as a meter shows them."""
    owed = [0.0] * len(meters)
    for _ in range(round(seconds / TICK_S)):
        for index, meter in enumerate(meters):
            owed[index] += busy_share[index] * TICK_S
            if owed[index] >= 0.1:
                meter.add(0.1)
                owed[index] -= 0.1
        gpu.step(TICK_S, rail_on=True)
    return gpu.power_w


def rig(tmp_path: Path, count: int = 1) -> tuple[SimulatedGpu, list[WorkerMeter]]:
    paths = [tmp_path / f"meter-{n}" for n in range(count)]
    meters = [WorkerMeter(str(path)) for path in paths]
    gpu = SimulatedGpu(paths, GpuModel(idle_w=80.0, maximum_w=700.0))
    gpu.step(TICK_S, rail_on=True)
    return gpu, meters


@pytest.mark.parametrize("duty", [0.0, 0.25, 0.5, 0.9])
def test_mean_power_is_linear_in_duty(tmp_path: Path, duty: float) -> None:
    gpu, meters = rig(tmp_path)
    settle(gpu, meters, [duty], 5.0)
    before_j = gpu.energy_j
    settle(gpu, meters, [duty], 20.0)
    assert (gpu.energy_j - before_j) / 20.0 == pytest.approx(80.0 + duty * 620.0, abs=8.0)


def test_two_workers_add_up_to_at_most_the_whole_card(tmp_path: Path) -> None:
    gpu, meters = rig(tmp_path, 2)
    assert settle(gpu, meters, [0.3, 0.0], 10.0) < 400.0
    assert settle(gpu, meters, [0.9, 0.9], 10.0) == pytest.approx(700.0, abs=15.0)


def test_a_throttled_card_cools_within_a_micro_batch(tmp_path: Path) -> None:
    gpu, meters = rig(tmp_path, 2)
    settle(gpu, meters, [0.9, 0.9], 10.0)
    assert settle(gpu, meters, [0.0, 0.0], 1.5) < 90.0


def test_a_meter_that_starts_again_is_a_restart_not_negative_work(tmp_path: Path) -> None:
    gpu, (meter,) = rig(tmp_path)
    settle(gpu, [meter], [0.5], 5.0)
    (tmp_path / "meter-0").write_bytes(b"\0" * 16)
    for _ in range(100):
        assert gpu.step(TICK_S, rail_on=True) >= 80.0
    assert gpu.meter_resets == 1


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 16], ids=["empty", "short", "NaN"])
def test_a_meter_that_is_none_draws_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meter").write_bytes(content)
    gpu = SimulatedGpu([tmp_path / "meter", tmp_path / "missing"], GpuModel())
    assert [gpu.step(TICK_S, rail_on=True) for _ in range(20)][-1] == pytest.approx(80.0)


def test_without_the_rail_there_is_no_power(tmp_path: Path) -> None:
    gpu, meters = rig(tmp_path)
    settle(gpu, meters, [1.0], 3.0)
    assert gpu.step(TICK_S, rail_on=False) == 0.0


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardFile]:
    file = CardFile(tmp_path / "card", create=True)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "card"))
    yield file
    nvml_sim.nvmlShutdown()
    file.close()


def test_state_file_round_trip(card: CardFile, tmp_path: Path) -> None:
    card.write(STATE)
    reader = CardFile(tmp_path / "card", create=False)
    assert reader.read() == STATE
    reader.close()


def test_a_torn_record_is_no_reading(card: CardFile, tmp_path: Path) -> None:
    card.write(STATE)
    path = tmp_path / "card"
    whole = bytearray(path.read_bytes())
    whole[10] ^= 1
    path.write_bytes(whole)
    assert card.read() is None
    assert len(whole) == FILE_BYTES


def _write_many(path: str, count: int) -> None:
    file = CardFile(Path(path), create=True)
    for number in range(count):
        file.write(CardState(powered=True, power_w=number, die_degc=number, memory_degc=number,
                             energy_j=number, utilisation_fraction=0.5))  # fmt: skip


def test_a_reader_never_sees_two_states_mixed(card: CardFile, tmp_path: Path) -> None:
    card.write(STATE)
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_write_many, args=(str(tmp_path / "card"), 20_000))
    writer.start()
    seen = set()
    while writer.is_alive():
        state = card.read()
        if state is not None and state != STATE:
            assert state.power_w == state.die_degc == state.memory_degc == state.energy_j
            seen.add(state.power_w)
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 3


def test_the_daemons_reader_reads_the_simulated_card(card: CardFile) -> None:
    card.write(STATE)
    reader = NvmlReader("hil.instruments.nvml_sim", 0)
    reader.open()
    sample = reader.read(1, now_s=0.0)
    assert sample.unsupported == ()
    assert (sample.power_w, sample.die_degc, sample.memory_degc) == (pytest.approx(431.25), 62.0, 67.0)
    assert sample.energy_j == pytest.approx(12_345.678)
    assert (sample.utilisation_fraction, sample.ecc_uncorrected) == (pytest.approx(0.43), 2)
    assert (sample.ecc_corrected, sample.throttle_reasons) == (41, 0x20)
    assert (sample.xids, sample.xid_count) == ((), 0), "what was reported before is not told"


def test_the_daemons_reader_is_told_every_xid_in_order(card: CardFile) -> None:
    health = CardHealth()

    def show() -> None:
        card.write(msgspec.structs.replace(STATE, xids=health.xids, xid_count=health.xid_count))

    health.xid(31)
    show()
    reader = NvmlReader("hil.instruments.nvml_sim", 0)
    reader.open()
    assert reader.read(1, now_s=0.0).xid_count == 0
    for number in (48, 63, 45):
        health.xid(number)
    show()
    assert reader.read(2, now_s=0.1).xids == (48, 63, 45)
    for number in range(100, 120):
        health.xid(number)
    show()
    last = reader.read(3, now_s=0.2)
    assert last.xids == tuple(range(112, 120)), "the simulated card keeps the newest"
    assert last.xid_count == 3 + 8
    reader.close()


def test_the_health_of_a_simulated_card() -> None:
    health = CardHealth()
    health.ecc("corrected", 5)
    health.ecc("uncorrected", 2)
    health.xid(79)
    assert (health.ecc_corrected, health.ecc_uncorrected, health.lost) == (5, 2, True)
    health.rail(True)
    assert health.lost, "only a power cycle brings it back"
    health.rail(False)
    health.rail(True)
    assert (health.ecc_corrected, health.ecc_uncorrected, health.lost) == (0, 0, False)
    assert (health.xids, health.xid_count) == ((79,), 1)
    for number in (0, -1, 65_536):
        with pytest.raises(ValueError, match="1 to 65535"):
            health.xid(number)


def test_a_card_off_the_bus_shows_no_power_until_its_rail_is_cycled(tmp_path: Path) -> None:
    simulated = SimulatedCard(tmp_path / "state", [])
    reader = CardFile(tmp_path / "state", create=False)
    truth = Plant().truth()

    def shown(rail_on: bool) -> CardState:
        simulated.show(msgspec.structs.replace(truth, gpu_rail_on=rail_on))
        state = reader.read()
        assert state is not None
        return state

    assert shown(True).powered
    assert shown(True).throttle_reasons == 1, "an idle card"
    simulated.health.xid(79)
    simulated.health.ecc("uncorrected", 3)
    lost = shown(True)
    assert (lost.powered, lost.xids, lost.ecc_uncorrected) == (False, (79,), 3)
    assert not shown(False).powered
    back = shown(True)
    assert (back.powered, back.ecc_uncorrected, back.xid_count) == (True, 0, 1)
    reader.close()
    simulated.close()


def test_a_card_without_power_is_lost_and_comes_back(card: CardFile) -> None:
    card.write(STATE)
    reader = NvmlReader("hil.instruments.nvml_sim", 0)
    reader.open()
    card.write(CardState(powered=False, power_w=0.0, die_degc=20.0, memory_degc=20.0, energy_j=0.0,
                         utilisation_fraction=0.0))  # fmt: skip
    lost = reader.read(1, now_s=0.0)
    assert lost.power_w is not None
    assert math.isnan(lost.power_w)
    assert "lost" in reader.fault
    card.write(STATE)
    assert reader.read(2, now_s=100.0).power_w == pytest.approx(431.25)


NVML_CALLS = [
    ("nvmlDeviceGetPowerUsage", (), 431_250),
    ("nvmlDeviceGetTemperature", (nvml_sim.NVML_TEMPERATURE_GPU,), 62),
    ("nvmlDeviceGetTotalEnergyConsumption", (), 12_345_678),
    ("nvmlDeviceGetName", (), nvml_sim.NAME),
]


@pytest.mark.parametrize(("function", "arguments", "expected"), NVML_CALLS, ids=[row[0] for row in NVML_CALLS])
def test_nvml_units(card: CardFile, function: str, arguments: tuple[Any, ...], expected: Any) -> None:
    card.write(STATE)
    nvml_sim.nvmlInit()
    handle = nvml_sim.nvmlDeviceGetHandleByIndex(0)
    assert getattr(nvml_sim, function)(handle, *arguments) == expected


def test_constants_are_those_of_pynvml() -> None:
    import pynvml

    names = [name for name in vars(nvml_sim) if name.startswith(("NVML_", "nvmlEventType"))]
    assert {n: getattr(nvml_sim, n) for n in names} == {n: getattr(pynvml, n) for n in names}


@pytest.mark.parametrize(
    ("provoke", "code"),
    [
        (lambda: nvml_sim.nvmlDeviceGetHandleByIndex(0), nvml_sim.NVML_ERROR_UNINITIALIZED),
        (
            lambda: (nvml_sim.nvmlInit(), nvml_sim.nvmlDeviceGetHandleByIndex(3)),
            nvml_sim.NVML_ERROR_INVALID_ARGUMENT,
        ),
        (
            lambda: (nvml_sim.nvmlInit(), nvml_sim.nvmlDeviceGetTotalEccErrors(nvml_sim.Handle(0), 0, 1)),
            nvml_sim.NVML_ERROR_NOT_SUPPORTED,
        ),
        (
            lambda: (nvml_sim.nvmlInit(), nvml_sim.nvmlDeviceGetTotalEccErrors(nvml_sim.Handle(0), 7, 0)),
            nvml_sim.NVML_ERROR_INVALID_ARGUMENT,
        ),
        (
            lambda: (
                nvml_sim.nvmlInit(),
                nvml_sim.nvmlDeviceRegisterEvents(nvml_sim.Handle(0), 0x10, nvml_sim.nvmlEventSetCreate()),
            ),
            nvml_sim.NVML_ERROR_NOT_SUPPORTED,
        ),
        (
            lambda: (nvml_sim.nvmlInit(), nvml_sim.nvmlEventSetWait_v2(nvml_sim.nvmlEventSetCreate(), 0)),
            nvml_sim.NVML_ERROR_TIMEOUT,
        ),
    ],
    ids=["before init", "no such card", "unsupported count", "no such count", "other events", "nothing registered"],
)
def test_nvml_errors(card: CardFile, provoke: Any, code: int) -> None:
    card.write(STATE)
    with pytest.raises(nvml_sim.NVMLError) as caught:
        provoke()
    assert caught.value.value == code


def test_nvml_without_a_bench_has_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(nvml_sim.NVMLError) as caught:
        nvml_sim.nvmlInit()
    assert caught.value.value == nvml_sim.NVML_ERROR_DRIVER_NOT_LOADED


def test_the_benchs_own_meter_reads_and_goes_stale(card: CardFile, eventually: Any) -> None:
    card.write(STATE)
    meter = NvmlMeter(nvml_sim)
    try:
        got: list[Any] = []
        eventually(lambda: got.append(meter.reading(0.0)) or got[-1] is not None, 5, "a reading")
        assert got[-1].power_w == pytest.approx(431.25)
        assert meter.reading(got[-1].taken_s + 2 * STALE_S) is None or meter.reading(1e12) is None
        card.write(CardState(powered=False, power_w=0.0, die_degc=0.0, memory_degc=0.0, energy_j=0.0,
                             utilisation_fraction=0.0))  # fmt: skip
        eventually(lambda: meter.failures > 0, 5, "a failure that is counted")
        assert "lost" in meter.fault
    finally:
        meter.close()


def test_the_meter_falls_back_to_the_average_power(card: CardFile, eventually: Any) -> None:
    card.write(STATE)
    unsupported = [nvml_sim.FieldValue(186, nvml_sim.NVML_ERROR_NOT_SUPPORTED, 1, nvml_sim.Value())]
    module = SimpleNamespace(**{**vars(nvml_sim), "nvmlDeviceGetFieldValues": lambda handle, ids: unsupported})
    meter = NvmlMeter(module)  # type: ignore[arg-type]
    try:
        eventually(lambda: meter.reading(0.0) is not None, 5, "a reading")
        assert meter.reading(0.0).power_w == pytest.approx(431.25)  # type: ignore[union-attr]
    finally:
        meter.close()


def test_the_meter_keeps_what_it_read_and_tells_about_the_card(card: CardFile, eventually: Any) -> None:
    card.write(STATE)
    told = {
        "nvmlSystemGetDriverVersion": lambda: b"580.1",
        "nvmlDeviceGetPowerManagementLimitConstraints": lambda handle: [200_000, 700_000],
    }
    meter = NvmlMeter(SimpleNamespace(**{**vars(nvml_sim), **told}), keep=5)  # type: ignore[arg-type]
    try:
        eventually(lambda: len(meter.history) == 5, 5, "a full history")
        assert [reading.energy_j for reading in list(meter.history)] == pytest.approx([12_345.678] * 5)
        assert meter.energy_j() == pytest.approx(12_345.678)
        assert meter.about() == {
            "driver": "580.1",
            "power limit": "700000 mW",
            "limits allowed": "200000 to 700000 mW",
            "margin to slowdown": f"{nvml_sim.SLOWDOWN_DEGC - STATE.die_degc:.0f} K",
        }
        card.write(msgspec.structs.replace(STATE, powered=False))
        assert meter.energy_j() is None
    finally:
        meter.close()

"""NVML field by field: a number, "unsupported" and "failed" are three things, and a lost card comes back."""

import itertools
import sys
from collections.abc import Callable
from math import isnan, nan
from types import ModuleType, SimpleNamespace

import pytest

from flightsw.gpu.nvml import (
    FIELD_NAMES,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    XIDS_KEPT,
    XIDS_PER_READ_MAX,
    NvmlReader,
)

NOT_SUPPORTED, NO_PERMISSION, TIMEOUT, FUNCTION_NOT_FOUND, LOST, UNKNOWN, NO_DATA = 3, 4, 10, 13, 15, 999, 21
POWER_INSTANT, POWER_AVERAGE, MEMORY_TEMP, ENERGY_FIELD, ECC_CORRECTED_FIELD, ECC_FIELD = 186, 185, 82, 83, 3, 4


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


def raising(code: int) -> Callable[..., object]:
    def call(*_: object) -> object:
        raise NVMLError(code)

    return call


def field_value(value: float, value_type: int = 1, code: int = 0) -> SimpleNamespace:
    member = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}[value_type]
    return SimpleNamespace(nvmlReturn=code, valueType=value_type, value=SimpleNamespace(**{member: value}))


def card(fields: dict[int, SimpleNamespace] | None = None, **functions: object) -> ModuleType:
    """A healthy card, except for what is given; a function given as None is missing."""
    answers = {
        POWER_INSTANT: field_value(351_200),
        POWER_AVERAGE: field_value(349_000),
        MEMORY_TEMP: field_value(66),
    } | (fields or {})
    unsupported = field_value(0, code=NOT_SUPPORTED)
    module = ModuleType("card")
    healthy: dict[str, object] = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: f"handle {index}",
        "nvmlDeviceGetPowerUsage": lambda handle: 348_000,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 58,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 7_500_250,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=83, memory=21),
        "nvmlDeviceGetTotalEccErrors": lambda handle, error_type, counter: 2 if error_type else 40,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x24,
        "nvmlDeviceGetPowerManagementLimit": lambda handle: 650_000,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 600_000,
        "nvmlDeviceGetMarginTemperature": lambda handle: 31,
        "nvmlEventSetCreate": lambda: "set",
        "nvmlDeviceRegisterEvents": lambda handle, kinds, events: None,
        "nvmlEventSetWait_v2": raising(TIMEOUT),
        "nvmlEventSetFree": lambda events: None,
        "nvmlDeviceGetFieldValues": lambda handle, ids: [answers.get(ids[0], unsupported)],
    }
    for name, value in (healthy | functions).items():
        if value is not None:
            setattr(module, name, value)
    return module


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Callable[..., NvmlReader]:
    def make(module: ModuleType, **options: Callable[[], float]) -> NvmlReader:
        monkeypatch.setitem(sys.modules, "card", module)
        return NvmlReader("card", 0, **options)

    return make


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (lambda handle: "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
        (lambda handle: b"Old driver", "Old driver"),
        (lambda handle: "x" * 500, "x" * 96),
        (raising(NOT_SUPPORTED), ""),
        (raising(UNKNOWN), ""),
        (None, ""),
    ],
    ids=["text", "bytes", "long", "not supported", "failed", "no such function"],
)
def test_the_card_tells_its_name_or_none(reader, answer, name: str) -> None:
    assert reader(card(nvmlDeviceGetName=answer)).read(1, now_s=0.0).card == name


def test_a_card_that_is_lost_while_it_tells_its_name(reader) -> None:
    lost = reader(card(nvmlDeviceGetName=raising(LOST)))
    assert isnan(lost.read(1, now_s=0.0).power_w)
    assert "nvmlDeviceGetName" in lost.fault


def test_units_are_converted_once(reader) -> None:
    sample = reader(card()).read(7, now_s=0.0)
    assert (sample.sequence, sample.source, sample.unsupported) == (7, "nvml", ())
    assert sample.power_w == pytest.approx(351.2)
    assert sample.energy_j == pytest.approx(7500.25)
    assert (sample.die_degc, sample.memory_degc) == (58.0, 66.0)
    assert sample.utilisation_fraction == pytest.approx(0.83)
    assert (sample.ecc_corrected, sample.ecc_uncorrected) == (40, 2)
    assert sample.throttle_reasons == 0x24
    assert (sample.xids, sample.xid_count) == ((), 0)


def test_each_power_says_what_it_is_and_how_old(reader) -> None:
    stamped = SimpleNamespace(**vars(field_value(351_200)), timestamp=1_700_000_000_000_000)
    one = reader(card({POWER_INSTANT: stamped}), unix_s=lambda: 1_700_000_000.25)
    one.read(0, now_s=10.0)
    sample = one.read(1, now_s=12.0)
    assert [(reading.kind, reading.value, reading.window_s) for reading in sample.readings] == [
        ("instant", pytest.approx(351.2), 0.025),
        ("average", 349.0, 1.0),
        ("energy", 7500.25, 0.0),
    ]
    instant, average, energy = sample.readings
    assert instant.age_s == pytest.approx(0.25)
    assert isnan(average.age_s), "this driver does not say"
    assert energy.age_s == pytest.approx(2.0), "as old as its last move"
    assert (sample.power_average_w, sample.power_limit_w, sample.power_limit_enforced_w) == (349.0, 650.0, 600.0)
    assert sample.slowdown_margin_k == 31.0


def test_the_older_power_call_is_an_average(reader) -> None:
    sample = reader(card({POWER_INSTANT: field_value(0, code=2), POWER_AVERAGE: field_value(0, code=2)})).read(
        0, 0.0
    )
    assert next((r.kind, r.value) for r in sample.readings) == ("average", 348.0)
    assert sample.unsupported == ("power_average_w",)


def test_a_stamp_from_the_future_is_no_negative_age(reader) -> None:
    stamped = SimpleNamespace(**vars(field_value(351_200)), timestamp=2_000_000_000_000_000)
    sample = reader(card({POWER_INSTANT: stamped}), unix_s=lambda: 1_700_000_000.0).read(0, now_s=0.0)
    assert sample.readings[0].age_s == 0.0


# case: module, field, expected value (None is unsupported, NaN failed)
CASES = {
    "instant power missing: average": (card({POWER_INSTANT: field_value(0, code=2)}), "power_w", 348.0),
    "no field values at all": (card(nvmlDeviceGetFieldValues=None), "power_w", 348.0),
    "power not supported": (
        card({POWER_INSTANT: field_value(0, code=NOT_SUPPORTED)}, nvmlDeviceGetPowerUsage=raising(NOT_SUPPORTED)),
        "power_w",
        None,
    ),
    "power fails once: no jump to the average": (
        card({POWER_INSTANT: field_value(0, code=NO_DATA)}),
        "power_w",
        nan,
    ),
    "zero watts is no reading": (card({POWER_INSTANT: field_value(0)}), "power_w", nan),
    "power sentinel: next source": (card({POWER_INSTANT: field_value(0xFFFFFFFF)}), "power_w", 348.0),
    "memory temperature sentinel": (card({MEMORY_TEMP: field_value(0xFFFFFFFF)}), "memory_degc", None),
    "memory temperature signed": (card({MEMORY_TEMP: field_value(-11, value_type=5)}), "memory_degc", -11.0),
    "memory temperature unknown type": (
        card({MEMORY_TEMP: SimpleNamespace(nvmlReturn=0, valueType=99, value=None)}),
        "memory_degc",
        nan,
    ),
    "empty answer": (card(nvmlDeviceGetFieldValues=lambda h, ids: []), "memory_degc", nan),
    "die temperature impossible": (card(nvmlDeviceGetTemperature=lambda h, s: 255), "die_degc", nan),
    "die temperature by the newer call": (
        card(
            nvmlDeviceGetTemperature=raising(FUNCTION_NOT_FOUND),
            nvmlDeviceGetTemperatureV1=lambda h, s: 41,
        ),
        "die_degc",
        41.0,
    ),
    "a freezing card": (card(nvmlDeviceGetTemperature=lambda h, s: -1), "die_degc", -1.0),
    "energy function missing": (card(nvmlDeviceGetTotalEnergyConsumption=None), "energy_j", None),
    "energy by field": (
        card({ENERGY_FIELD: field_value(9_000, 3)}, nvmlDeviceGetTotalEnergyConsumption=raising(NOT_SUPPORTED)),
        "energy_j",
        9.0,
    ),
    "energy sentinel": (card(nvmlDeviceGetTotalEnergyConsumption=lambda h: 2**64 - 1), "energy_j", None),
    "32 ones are an energy": (
        card(nvmlDeviceGetTotalEnergyConsumption=lambda h: 2**32 - 1),
        "energy_j",
        4294967.295,
    ),
    "utilisation over 100 %": (
        card(nvmlDeviceGetUtilizationRates=lambda h: SimpleNamespace(gpu=104)),
        "utilisation_fraction",
        nan,
    ),
    "utilisation without its member": (
        card(nvmlDeviceGetUtilizationRates=lambda h: SimpleNamespace()),
        "utilisation_fraction",
        nan,
    ),
    "ECC off": (card(nvmlDeviceGetTotalEccErrors=raising(NOT_SUPPORTED)), "ecc_uncorrected", None),
    "ECC by field": (
        card({ECC_FIELD: field_value(5, 3)}, nvmlDeviceGetTotalEccErrors=raising(NOT_SUPPORTED)),
        "ecc_uncorrected",
        5,
    ),
    "corrected ECC by field": (
        card({ECC_CORRECTED_FIELD: field_value(7, 3)}, nvmlDeviceGetTotalEccErrors=raising(NOT_SUPPORTED)),
        "ecc_corrected",
        7,
    ),
    "corrected ECC sentinel": (card(nvmlDeviceGetTotalEccErrors=lambda *_: 2**64 - 1), "ecc_corrected", None),
    "throttle reasons by the older call": (
        card(
            nvmlDeviceGetCurrentClocksEventReasons=None,
            nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x8,
        ),
        "throttle_reasons",
        8,
    ),
    "throttle reasons unsupported": (
        card(nvmlDeviceGetCurrentClocksEventReasons=raising(NOT_SUPPORTED)),
        "throttle_reasons",
        None,
    ),
    "no permission": (card(nvmlDeviceGetTotalEccErrors=raising(NO_PERMISSION)), "ecc_uncorrected", None),
    "a call raises something odd": (card(nvmlDeviceGetTemperature=lambda h, s: 1 / 0), "die_degc", nan),
    "a call returns text": (card(nvmlDeviceGetTemperature=lambda h, s: "hot"), "die_degc", nan),
}


@pytest.mark.parametrize(("module", "name", "expected"), CASES.values(), ids=CASES)
def test_one_field(reader, module: ModuleType, name: str, expected: float | None) -> None:
    sample = reader(module).read(0, now_s=0.0)
    value = getattr(sample, name)
    assert (name in sample.unsupported) == (expected is None)
    if expected is None or not isnan(expected):
        assert value == (expected if expected is None else pytest.approx(expected))
    else:
        assert isnan(value)
    others = [getattr(sample, other) for other in ("die_degc", "energy_j", "power_w") if other != name]
    assert any(other is not None and not isnan(other) for other in others), "one bad field spoils no other"


FAILED_COUNTS = {
    "ecc_corrected": {"nvmlDeviceGetTotalEccErrors": raising(UNKNOWN)},
    "ecc_uncorrected": {"nvmlDeviceGetTotalEccErrors": lambda *_: -1},
    "throttle_reasons": {"nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 2**40},
    "xid_count": {"nvmlDeviceRegisterEvents": raising(UNKNOWN)},
}


@pytest.mark.parametrize(("name", "broken"), FAILED_COUNTS.items(), ids=FAILED_COUNTS)
def test_a_failed_count_is_neither_unsupported_nor_zero(reader, name: str, broken: dict[str, object]) -> None:
    one = reader(card(**broken))
    sample = one.read(0, now_s=0.0)
    assert getattr(sample, name) is None
    assert sample.unsupported == ()
    assert one.fault == ""


class Listener:
    """An event queue as NVML has it: told from registration on, one report a call, then TIMEOUT."""

    def __init__(self) -> None:
        self.queue: list[object] = []
        self.registered: list[tuple[object, ...]] = []
        self.freed: list[object] = []
        self.waited_ms: set[int] = set()

    def calls(self) -> dict[str, object]:
        return {
            "nvmlDeviceRegisterEvents": lambda *arguments: self.registered.append(arguments),
            "nvmlEventSetWait_v2": self.wait,
            "nvmlEventSetFree": self.freed.append,
        }

    def xid(self, *numbers: int) -> None:
        self.queue += [SimpleNamespace(eventType=8, eventData=number) for number in numbers]

    def wait(self, events: object, timeout_ms: int) -> object:
        self.waited_ms.add(timeout_ms)
        if not self.queue:
            raise NVMLError(TIMEOUT)
        return self.queue.pop(0)


def test_xids_are_fetched_without_waiting_and_registered_for_once(reader) -> None:
    listener = Listener()
    one = reader(card(**listener.calls()))
    assert one.read(0, now_s=0.0).xid_count == 0
    listener.xid(48, 63, 45)
    three = one.read(1, now_s=0.2)
    assert (three.xids, three.xid_count) == ((48, 63, 45), 3)
    assert one.read(2, now_s=0.4).xid_count == 3
    assert listener.registered == [("handle 0", 8, "set")]
    assert listener.waited_ms == {0}
    one.close()
    assert listener.freed == ["set"]


def test_a_sample_keeps_the_newest_xids_and_counts_them_all(reader) -> None:
    listener = Listener()
    one = reader(card(**listener.calls()))
    listener.xid(*range(1, 71))
    first = one.read(0, now_s=0.0)
    assert (first.xid_count, first.xids) == (XIDS_PER_READ_MAX, tuple(range(57, 65)))
    assert len(first.xids) == XIDS_KEPT
    rest = one.read(1, now_s=0.2)
    assert (rest.xid_count, rest.xids) == (70, tuple(range(63, 71)))


def test_other_events_are_no_xids(reader) -> None:
    listener = Listener()
    one = reader(card(**listener.calls()))
    listener.queue = [SimpleNamespace(eventType=0x10, eventData=99), SimpleNamespace(eventType=8, eventData=31)]
    assert one.read(0, now_s=0.0).xids == (31,)


@pytest.mark.parametrize(
    "answer",
    [SimpleNamespace(), None, SimpleNamespace(eventType="x"), SimpleNamespace(eventType=8, eventData="hot")],
)
def test_an_event_of_an_unknown_shape_is_a_failed_reading(reader, answer: object) -> None:
    one = reader(card(nvmlEventSetWait_v2=lambda events, timeout_ms: answer))
    sample = one.read(0, now_s=0.0)
    assert sample.xid_count is None
    assert sample.unsupported == ()
    assert sample.power_w == pytest.approx(351.2), "it spoils no other field"


@pytest.mark.parametrize(
    "lacking",
    [
        {"nvmlEventSetCreate": None},
        {"nvmlEventSetCreate": raising(NOT_SUPPORTED)},
        {"nvmlDeviceRegisterEvents": raising(NOT_SUPPORTED)},
        {"nvmlDeviceRegisterEvents": raising(NO_PERMISSION)},
        {"nvmlEventSetWait_v2": None},
    ],
)
def test_a_card_without_xid_events_says_so(reader, lacking: dict[str, object]) -> None:
    one = reader(card(**lacking))
    for tick in range(3):
        sample = one.read(tick, now_s=0.2 * tick)
        assert (sample.unsupported, sample.xid_count) == (("xid",), None)
    assert one.fault == ""


def test_the_last_words_of_a_card_are_kept_when_it_is_lost(reader) -> None:
    listener = Listener()
    module = card(**listener.calls())
    one = reader(module)
    one.read(0, now_s=0.0)
    listener.xid(79)
    module.nvmlDeviceGetFieldValues = raising(LOST)
    lost = one.read(1, now_s=0.2)
    assert (lost.xids, lost.xid_count) == ((79,), 1)
    assert isnan(lost.power_w)
    assert listener.freed == ["set"]
    module.nvmlEventSetWait_v2 = raising(LOST)
    assert one.read(2, now_s=0.2 + RETRY_FIRST_S).xid_count == 1
    assert "nvmlEventSetWait_v2" in one.fault
    module.nvmlEventSetFree = raising(UNKNOWN)
    one.close()


def test_constants_of_the_module_win(reader) -> None:
    asked: list[int] = []
    module = card(NVML_TEMPERATURE_GPU=17, nvmlDeviceGetTemperature=lambda h, s: asked.append(s) or 50)
    reader(module).read(0, now_s=0.0)
    assert asked == [17]


def test_lost_card_gives_nan_and_comes_back(reader) -> None:
    module = card(nvmlDeviceGetTotalEccErrors=raising(NOT_SUPPORTED))
    healthy_power, healthy_init = module.nvmlDeviceGetFieldValues, module.nvmlInit
    one = reader(module)
    one.read(0, now_s=0.0)

    module.nvmlDeviceGetFieldValues = raising(LOST)
    module.nvmlInit = raising(9)
    lost = one.read(1, now_s=1.0)
    assert all(isnan(v) for v in (lost.power_w, lost.die_degc, lost.memory_degc, lost.energy_j))
    assert lost.unsupported == ("ecc_corrected", "ecc_uncorrected"), (
        "what was unsupported stays so, what was lost is NaN"
    )
    assert one.fault

    module.nvmlDeviceGetFieldValues, module.nvmlInit = healthy_power, healthy_init
    assert isnan(one.read(2, now_s=1.0 + 0.9 * RETRY_FIRST_S).power_w), "not asked before the back-off is over"
    back = one.read(3, now_s=1.0 + RETRY_FIRST_S)
    assert back.power_w == pytest.approx(351.2)
    assert one.fault == ""


def test_back_off_doubles_to_its_bound(reader) -> None:
    tries: list[float] = []
    now_s = 0.0
    module = card()

    def init() -> None:
        tries.append(now_s)
        raise NVMLError(9)

    module.nvmlInit = init
    one = reader(module)
    for tick in range(1000):
        now_s = 0.2 * tick
        sample = one.read(tick, now_s)
        assert sample.unsupported == (), "a card that never answered is not known to lack anything"
    gaps = [round(b - a, 6) for a, b in itertools.pairwise(tries)]
    assert gaps[:6] == pytest.approx([1, 2, 4, 8, 16, 30], abs=0.21)
    assert max(gaps) <= RETRY_MAX_S + 0.21


def test_a_card_that_answers_every_call_with_unknown_is_lost(reader) -> None:
    calls = {
        name: raising(UNKNOWN)
        for name in (
            "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature",
            "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTotalEccErrors",
            "nvmlDeviceGetCurrentClocksEventReasons", "nvmlEventSetWait_v2", "nvmlDeviceGetPowerManagementLimit",
            "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetMarginTemperature",
        )
    }  # fmt: skip
    one = reader(card(**calls))
    one.read(0, now_s=0.0)
    assert "no field" in one.fault


def test_a_card_that_offers_nothing_is_no_fault(reader) -> None:
    nothing = {name: None for name in vars(card()) if name.startswith(("nvmlDeviceGet", "nvmlEventSet"))}
    one = reader(card(**(nothing | {"nvmlDeviceGetHandleByIndex": lambda index: index})))
    assert one.read(0, now_s=0.0).unsupported == FIELD_NAMES
    assert one.fault == ""


def test_missing_module_is_one_clear_reason() -> None:
    one = NvmlReader("no_such_nvml_module", 0)
    one.read(0, now_s=0.0)
    assert "no_such_nvml_module" in one.fault

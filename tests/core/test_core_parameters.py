"""R7: parameters in flight: several change in one frame or none, and the whole configuration is checked."""

import zlib

import msgspec
import pytest
from core_flight import telecommand
from core_tables import Operator, parameters
from msgspec.structs import replace

from flightsw.core import eps, executive, parameter_set
from flightsw.core.job import JobConfig
from flightsw.core.parameter_set import CHANGES_TOLD, flown
from flightsw.core.vehicle import start
from flightsw.link.codec import HousekeepingBody, decode_telemetry
from flightsw.link.dictionary import APID_HK_SLOW
from flightsw.link.schema import FailureCode, Mode
from flightsw.link.settings import SETTINGS, Setting

CONFIG = executive.Config(jobs=(JobConfig(id="train", kind="train"),))
F = FailureCode


@pytest.fixture
def desk() -> Operator:
    return Operator(CONFIG)


def put_in_force(desk: Operator) -> tuple[FailureCode, str]:
    code, text = desk.send("table.validate", table="parameters")
    return (code, text) if code else desk.send("table.activate", table="parameters")


def other(setting: Setting) -> bool | int | float:
    """A value of a setting that differs from the file's and goes with the rest of the file."""
    value = parameter_set.value_of(CONFIG, setting)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1 if value > setting.minimum else value + 1
    for factor in (1.01, 0.99):
        number = value * factor if value else 0.01 * setting.maximum
        if setting.minimum <= number <= setting.maximum:
            try:
                parameter_set.build(CONFIG, {setting.name: number})
            except Exception:
                continue
            return number
    raise AssertionError(setting)


def test_r7_several_values_change_in_one_frame_or_none(desk: Operator) -> None:
    """soc_safe alone would go over soc_recovered: only together they are allowed, and only together they act."""
    assert desk.send("parameter.stage", parameter="eps.soc_safe", value=0.75)[0] is F.NONE
    before = desk.vehicle.parameters
    code, text = put_in_force(desk)
    assert (code, text) == (F.INVALID_TABLE, "parameters: soc_recovered = 0.74 must be over soc_safe = 0.75")
    assert desk.vehicle.parameters is before
    assert desk.send("parameter.stage", parameter="eps.soc_recovered", value=0.8)[0] is F.NONE
    code, text = put_in_force(desk)
    assert code is F.INVALID_TABLE
    assert "eps.soc_safe = 0.75 is over the governor's own floor" in text
    assert desk.send("parameter.stage", parameter="eps.dod_max", value=0.2)[0] is F.NONE
    assert flown(desk.vehicle, CONFIG) is CONFIG
    desk.send("table.validate", table="parameters")
    seen = []
    desk.frame(telecommand("table.activate", 999, table="parameters"))
    for _ in range(2):
        power = flown(desk.vehicle, CONFIG).eps
        seen.append((power.soc_safe, power.soc_recovered, power.dod_max))
        desk.frame()
    assert seen == [(0.75, 0.8, 0.2)] * 2


def test_r7_the_flown_value_is_what_the_vehicle_acts_on(desk: Operator) -> None:
    desk.sensor_changes["soc_fraction"] = 0.72
    desk.fly(5.0)
    assert desk.vehicle.mode.mode is not Mode.SAFE
    desk.use("parameters", parameters(eps__soc_safe=0.73, eps__soc_recovered=0.78, eps__dod_max=0.2))
    # A batch of the charge filter refuses the gauge; from then on what it reads counts.
    desk.fly(12.0)
    assert desk.vehicle.mode.event == "SOC_LOW"
    (event,) = [fields for _, name, fields in desk.events() if name == "SOC_LOW"]
    assert event["limit"] == 0.73


def test_every_entrance_of_the_executive_flies_the_active_configuration(desk: Operator) -> None:
    desk.use("parameters", parameters(commanding__in_flight_max=8, durable__persist_interval_s=1.0))
    for number in range(8):
        packet = telecommand("job.checkpoint", 700 + number, job="train")
        desk.vehicle, _ = executive.accept(desk.vehicle, CONFIG, packet, desk.now_s)
    desk.vehicle, effects = executive.accept(desk.vehicle, CONFIG, telecommand("ping", 999), desk.now_s)
    assert desk.vehicle.commanding.history.get(999) is None
    desk._execute(effects)
    assert "8 commands are in flight" in str(desk.events("TC_REFUSED"))
    vehicle, effects = executive.shutdown(desk.vehicle, CONFIG, "test", desk.now_s)
    assert effects
    assert vehicle.parameters is desk.vehicle.parameters


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_each_setting_is_staged_reported_activated_stored_and_reset(setting: Setting) -> None:
    desk = Operator(CONFIG)
    filed, number = parameter_set.value_of(CONFIG, setting), other(setting)
    code, text = desk.send("parameter.stage", parameter=setting.name, value=float(number))
    assert code is F.NONE
    assert f", staged {parameter_set.shown(number)};" in text
    assert parameter_set.value_of(flown(desk.vehicle, CONFIG), setting) == filed
    assert put_in_force(desk)[0] is F.NONE
    assert parameter_set.value_of(flown(desk.vehicle, CONFIG), setting) == number
    ((_, _, fields),) = desk.events("PARAMETERS_CHANGED")
    change = f"{setting.name}: {parameter_set.shown(filed)} → {parameter_set.shown(number)}"
    assert fields == {"count": 1, "changes": change}
    code, text = desk.send("parameter.report", parameter=setting.name)
    assert text.startswith(f"{setting.name} = {parameter_set.shown(number)}")
    assert f", file {parameter_set.shown(filed)};" in text
    assert setting.unit in text
    desk.reboot()
    assert parameter_set.value_of(flown(desk.vehicle, CONFIG), setting) == number
    assert desk.send("table.reset", table="parameters")[0] is F.NONE
    assert parameter_set.value_of(flown(desk.vehicle, CONFIG), setting) == filed
    assert desk.vehicle.parameters.changed == 0


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_r7_each_setting_refuses_values_out_of_range(setting: Setting) -> None:
    desk = Operator(CONFIG)
    for value in (setting.minimum - 1.0, setting.maximum + max(1.0, setting.maximum)):
        code, text = desk.send("parameter.stage", parameter=setting.name, value=value)
        assert code is F.BAD_ARGUMENT
        assert setting.name in text
    assert desk.vehicle.tables.loads == ()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_a_boot_on_stored_parameters_is_a_boot_on_such_a_file(setting: Setting) -> None:
    """What subsystems take from the configuration at boot is the active one's, whichever way it came."""
    values = {setting.name: other(setting)}
    stored, _ = executive.boot(
        CONFIG, boot_count=1, cause="", crash_loop=False, config_hash="", now_s=5.0,
        durable={"parameters": parameters(**{setting.name.replace(".", "__"): values[setting.name]})},
    )  # fmt: skip
    filed = start(parameter_set.build(CONFIG, values), 1, False, 5.0)
    for name in ("sense", "correlation", "eps", "thermal", "mode", "payload", "housekeeping", "checkpoint"):
        assert getattr(stored, name) == getattr(filed, name), name
    assert stored.events.severity_min == filed.events.severity_min


def test_what_was_observed_stands_until_its_own_parameter_changes(desk: Operator) -> None:
    observed = replace(desk.vehicle.eps, period_s=5555.0, eclipse_s=2222.0)
    desk.vehicle = replace(desk.vehicle, eps=observed)
    desk.use("parameters", parameters(eps__capacity_wh=650.0))
    assert (desk.vehicle.eps.period_s, desk.vehicle.eps.eclipse_s) == (5555.0, 2222.0)
    desk.use("parameters", parameters(eps__capacity_wh=650.0, eps__orbit_period_s=6000.0))
    assert (desk.vehicle.eps.period_s, desk.vehicle.eps.eclipse_s) == (6000.0, CONFIG.eps.eclipse_s)


def test_housekeeping_follows_its_intervals(desk: Operator) -> None:
    desk.use("parameters", parameters(housekeeping__fast_interval_s=0.0, housekeeping__slow_interval_s=2.0))
    fast, _, slow = desk.vehicle.housekeeping.schedules
    assert (fast.enabled, slow.enabled, slow.interval_s) == (False, True, 2.0)
    desk.use("parameters", parameters(housekeeping__fast_interval_s=0.5))
    fast, _, slow = desk.vehicle.housekeeping.schedules
    assert (fast.enabled, fast.interval_s, slow.interval_s) == (True, 0.5, CONFIG.housekeeping.slow_interval_s)
    code, text = desk.load("parameters", parameters(housekeeping__slow_interval_s=0.5))
    assert code is F.INVALID_TABLE
    assert "slow_interval_s = 0.5 is not 0 (off) or" in text


def test_the_event_names_some_changes_and_counts_all(desk: Operator) -> None:
    values = {s.name.replace(".", "__"): other(s) for s in SETTINGS if s.name.startswith("payload.")}
    desk.use("parameters", parameters(**values))
    ((_, _, fields),) = desk.events("PARAMETERS_CHANGED")
    assert fields["count"] == len(values) > CHANGES_TOLD
    changed = parameter_set.HANDLER.image(desk.vehicle, parameter_set.TABLE)
    assert changed == parameters(**values)
    desk.effects.clear()
    desk.use("parameters", parameters(**values))
    assert desk.events("PARAMETERS_CHANGED") == []


def test_staging_begins_as_the_active_set_and_forgets_what_the_file_says(desk: Operator) -> None:
    desk.use("parameters", parameters("winter", mode__recover_s=30.0, eps__bus_power_w=70.0))
    desk.send("parameter.stage", parameter="payload.restarts_max", value=5)
    desk.send("parameter.stage", parameter="mode.recover_s", value=CONFIG.mode.recover_s)
    assert put_in_force(desk)[0] is F.NONE
    assert desk.vehicle.parameters.values == {"eps.bus_power_w": 70.0, "payload.restarts_max": 5}
    assert desk.vehicle.parameters.name == "winter"
    assert desk.vehicle.parameters.changed == 2


def test_staging_edits_what_the_ground_has_loaded_but_no_half_of_it(desk: Operator) -> None:
    image = parameters("summer", mode__recover_s=30.0)
    desk.send("table.begin", table="parameters", size_bytes=len(image), crc32=zlib.crc32(image))
    code, text = desk.send("parameter.stage", parameter="eps.bus_power_w", value=70.0)
    assert code is F.WRONG_STATE
    assert "cannot be edited" in text
    assert "octets are missing" in text
    assert "staged set not whole" in desk.send("parameter.report", parameter="eps.bus_power_w")[1]
    desk.send("table.data", table="parameters", offset=0, data=image)
    assert desk.send("table.validate", table="parameters")[0] is F.NONE
    assert desk.send("parameter.stage", parameter="eps.bus_power_w", value=70.0)[0] is F.NONE
    assert desk.send("table.activate", table="parameters")[0] is F.NOT_VALIDATED
    assert put_in_force(desk)[0] is F.NONE
    assert desk.vehicle.parameters.values == {"eps.bus_power_w": 70.0, "mode.recover_s": 30.0}
    assert desk.vehicle.parameters.name == "summer"


def test_a_load_that_is_no_set_cannot_be_edited(desk: Operator) -> None:
    desk.send("table.begin", table="parameters", size_bytes=1, crc32=zlib.crc32(b"\xc1"))
    desk.send("table.data", table="parameters", offset=0, data=b"\xc1")
    code, text = desk.send("parameter.stage", parameter="eps.bus_power_w", value=70.0)
    assert code is F.WRONG_STATE
    assert "is no image of parameters" in text


def test_a_set_may_repeat_what_the_file_says(desk: Operator) -> None:
    desk.use("parameters", parameters(eps__bus_power_w=CONFIG.eps.bus_power_w, eps__capacity_wh=650))
    assert desk.vehicle.parameters.changed == 1
    assert type(flown(desk.vehicle, CONFIG).eps.capacity_wh) is float


def test_commands_of_one_frame_see_each_other(desk: Operator) -> None:
    """Reset and stage in one frame: the staged set is measured against the file, not against what was flown."""
    desk.use("parameters", parameters(mode__recover_s=30.0))
    desk.frame(
        telecommand("table.reset", 901, table="parameters"),
        telecommand("parameter.stage", 902, parameter="mode.recover_s", value=30.0),
        telecommand("table.validate", 903, table="parameters"),
        telecommand("table.activate", 904, table="parameters"),
    )
    assert desk.vehicle.parameters.values == {"mode.recover_s": 30.0}
    assert flown(desk.vehicle, CONFIG).mode.recover_s == 30.0
    assert desk.vehicle.parameters.changed == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (parameters(eps__soc_safe=0.6)[:-1], "is no image of parameters"),
        (parameters(eps__soc_safe=0.6) + b"\x00", "is no image of parameters"),
        (msgspec.msgpack.encode({"format": 2, "name": "x", "values": {}}), "is no image of parameters"),
        (parameters(eps__soc_sage=0.6), "'eps.soc_sage' is no parameter"),
        (parameters(eps__soc_safe=5.0), "eps.soc_safe = 5 is not a number from 0.1 to 0.95"),
        (parameters(eps__soc_safe=0.8), "must be over soc_safe"),
        (b"\xff" * 300, "is no image of parameters"),
    ],
)
def test_r7_stored_parameters_that_are_refused_leave_the_file_and_an_event(
    desk: Operator, payload: bytes, reason: str
) -> None:
    desk.store["parameters"] = payload
    (told,) = [e for e in desk.reboot() if e.startswith("TABLE")]
    assert told.startswith("TABLE_REJECTED stored table parameters is unusable, the default stands: ")
    assert reason in told
    assert flown(desk.vehicle, CONFIG) is CONFIG
    desk.fly(1.0)
    desk.use("parameters", parameters(eps__soc_safe=0.6))


def test_r7_a_file_that_contradicts_the_stored_set_wins(desk: Operator) -> None:
    desk.use("parameters", parameters(eps__soc_recovered=0.7015))
    desk.config = replace(CONFIG, eps=eps.Config(soc_safe=0.702))
    (told,) = [e for e in desk.reboot() if e.startswith("TABLE")]
    assert "soc_recovered = 0.7015 must be over soc_safe = 0.702" in told
    desk.config = CONFIG
    (told, _) = [e for e in desk.reboot() if e.startswith(("TABLE", "PARAMETERS"))]
    assert told.startswith("TABLE_ACTIVATED table parameters from store")


def test_telemetry_tells_how_many_differ_and_which_set_is_active(desk: Operator) -> None:
    image = parameters(mode__recover_s=30.0, eps__bus_power_w=70.0)
    desk.use("parameters", image)
    desk.send("table.begin", table="parameters", size_bytes=5, crc32=0)
    desk.effects.clear()
    desk.send("hk.request", group="slow")
    (packet,) = [e.packet for e in desk.effects if getattr(e, "apid", None) == APID_HK_SLOW]
    body = decode_telemetry(packet).body
    assert isinstance(body, HousekeepingBody)
    values = body.values
    assert values["parameters.changed"] == 2
    assert values["parameters.crc32"] == zlib.crc32(image)
    assert values["tables.loads_open"] == 1


def test_nothing_is_built_in_an_ordinary_frame(desk: Operator) -> None:
    desk.use("parameters", parameters(mode__recover_s=30.0))
    before = desk.vehicle
    desk.fly(2.0)
    assert desk.vehicle.parameters is before.parameters
    assert desk.vehicle.tables is before.tables

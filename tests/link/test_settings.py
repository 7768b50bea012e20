"""R7: parameters are typed and ranged: every kind of bad value is refused, and the refusal says what is allowed."""

import contextlib
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link import settings
from flightsw.link.dictionary import TELECOMMAND_BY_NAME
from flightsw.link.errors import TableError
from flightsw.link.settings import SETTING_BY_NAME, SETTINGS, ParameterSet, Setting
from flightsw.link.tables import IMAGE_BYTES_MAX

BY_NAME = {"ids": lambda s: s.name, "argvalues": SETTINGS, "argnames": "setting"}


def image(values: object = None, **changes: object) -> bytes:
    """An image that need not be allowed."""
    fields = {"format": 1, "name": "bad", "values": {} if values is None else values}
    return msgspec.msgpack.encode({**fields, **changes})


def middle(setting: Setting) -> bool | int | float:
    """A value inside of the range, of the type."""
    if setting.type == "bool":
        return True
    value = (setting.minimum + setting.maximum) / 2
    return int(value) if setting.type == "int" else value


def bad_values(setting: Setting) -> list[object]:
    """One of each kind of what a setting may not be."""
    if setting.type == "bool":
        return [0, 1, 2, 1.0, -1, math.nan, "true", None]
    found: list[object] = [
        math.nextafter(setting.minimum, -math.inf) if setting.type == "float" else int(setting.minimum) - 1,
        math.nextafter(setting.maximum, math.inf) if setting.type == "float" else int(setting.maximum) + 1,
        math.nan, math.inf, -math.inf, True, "1", None, b"1", [1],
    ]  # fmt: skip
    return [*found, setting.minimum + 0.5] if setting.type == "int" else found


@pytest.mark.parametrize(**BY_NAME)
def test_r7_each_setting_refuses_what_it_may_not_be(setting: Setting) -> None:
    for value in bad_values(setting):
        with pytest.raises(TableError) as refusal:
            settings.decode(image({setting.name: value}))
        if isinstance(value, int | float):
            assert str(refusal.value).startswith(f"{setting.name} = ")
            assert settings.describe(setting) in str(refusal.value)


@pytest.mark.parametrize(**BY_NAME)
def test_each_setting_takes_its_ends_and_what_lies_between(setting: Setting) -> None:
    kind = {"bool": bool, "int": int, "float": float}[setting.type]
    for number in (setting.minimum, setting.maximum, middle(setting)):
        value = settings.convert(setting, float(number))
        assert type(value) is kind
        assert settings.decode(image({setting.name: value})).values == {setting.name: value}


@pytest.mark.parametrize(**BY_NAME)
def test_r7_each_setting_refuses_bad_numbers_of_a_telecommand(setting: Setting) -> None:
    bad = [setting.minimum - 1.0, setting.maximum * 1.5 + 2.0, math.nan, math.inf, -math.inf]
    if setting.type != "float":
        bad.append(setting.minimum + 0.5)
    for value in bad:
        with pytest.raises(TableError, match=setting.name):
            settings.convert(setting, value)


def test_whole_numbers_are_numbers_too() -> None:
    assert settings.decode(image({"eps.bus_power_w": 75})).values == {"eps.bus_power_w": 75}


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "is no image of parameters"),
        (b"\xc1", "is no image of parameters"),
        (image()[:-1], "is no image of parameters"),
        (image() + b"\x00", "is no image of parameters"),
        (image(format=2), "format"),
        (image(name=""), "name"),
        (image(name="x" * 41), "name"),
        (image(name=3), "name"),
        (image(extra=1), "extra"),
        (image([1, 2]), "values"),
        (image({1: 2}), "values"),
        (msgspec.msgpack.encode({"format": 1, "values": {}}), "name"),
        (image({"eps.soc_unsafe": 0.5}), "'eps.soc_unsafe' is no parameter that can be changed in flight"),
        (image({"eps.eclipse_entry_s": 0.5}), "is no parameter that can be changed in flight"),
        (image({"x" * 5000: 0.5}), "is no parameter"),
        (bytes(IMAGE_BYTES_MAX + 1), f"at most {IMAGE_BYTES_MAX} are allowed"),
        (b"\x81" * 100_000, "is no image of parameters"),
    ],
)
def test_r7_images_that_are_none(octets: bytes, why: str) -> None:
    with pytest.raises(TableError) as refusal:
        settings.decode(octets)
    assert why in str(refusal.value)
    assert len(str(refusal.value)) < 300


SETS = st.sets(st.sampled_from([s.name for s in SETTINGS])).map(
    lambda names: ParameterSet(name="any", values={name: middle(SETTING_BY_NAME[name]) for name in names})
)


@given(SETS)
def test_round_trip_and_one_image_for_one_set(parameters: ParameterSet) -> None:
    octets = settings.encode(parameters)
    assert settings.decode(octets) == parameters
    backwards = dict(reversed(parameters.values.items()))
    assert settings.encode(ParameterSet(name="any", values=backwards)) == octets
    assert len(octets) < IMAGE_BYTES_MAX


@given(st.binary(max_size=200))
def test_any_octets_are_an_image_or_a_refusal(octets: bytes) -> None:
    try:
        parameters = settings.decode(octets)
    except TableError:
        return
    settings.check(parameters.values)


def test_r7_every_cut_and_every_flip_of_an_image_is_a_set_or_a_refusal() -> None:
    whole = settings.encode(ParameterSet(name="all", values={s.name: middle(s) for s in SETTINGS}))
    for at in range(len(whole)):
        with pytest.raises(TableError):
            settings.decode(whole[:at])
        flipped = whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :]
        with contextlib.suppress(TableError):
            settings.check(settings.decode(flipped).values)


def test_every_setting_has_a_code_in_the_telecommands() -> None:
    for name in ("parameter.stage", "parameter.report"):
        argument = TELECOMMAND_BY_NAME[name].arguments[0]
        assert dict(zip(argument.choices, argument.codes, strict=True)) == {s.name: s.id for s in SETTINGS}

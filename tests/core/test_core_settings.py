"""R7: the table of settings is held against the configuration: real fields, their types, ranges within theirs."""

import msgspec
import pytest
from msgspec import inspect

from flightsw.core import parameter_set
from flightsw.core.executive import Config
from flightsw.link.settings import SETTINGS, Setting

KINDS = {inspect.FloatType: "float", inspect.IntType: "int", inspect.BoolType: "bool"}


def fields() -> dict[str, inspect.Type]:
    """Every number of the core's sections: name of the setting it could be, and its type."""
    found = {}
    for section in msgspec.structs.fields(Config):
        if not (isinstance(section.type, type) and issubclass(section.type, msgspec.Struct)):
            continue
        for key in msgspec.structs.fields(section.type):
            kind = inspect.type_info(key.type)
            if not isinstance(kind, inspect.StrType | inspect.CollectionType | inspect.LiteralType):
                found[f"{section.name}.{key.name}"] = kind
    return found


FIELDS = fields()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_r7_setting_names_a_field_of_its_type_within_its_range(setting: Setting) -> None:
    kind = FIELDS[setting.name]
    assert KINDS[type(kind)] == setting.type
    assert setting.minimum < setting.maximum
    if setting.type == "bool":
        assert (setting.minimum, setting.maximum) == (0, 1)
        return
    assert isinstance(kind, inspect.FloatType | inspect.IntType)
    low, high = kind.ge, kind.le
    assert setting.minimum >= low if low is not None else setting.minimum > kind.gt
    assert setting.maximum <= high if high is not None else setting.maximum < kind.lt


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_the_default_lies_within_the_range_in_flight(setting: Setting) -> None:
    assert setting.minimum <= parameter_set.value_of(Config(), setting) <= setting.maximum


def test_ids_are_unique_and_a_hundred_belongs_to_one_section() -> None:
    assert len({s.id for s in SETTINGS}) == len({s.name for s in SETTINGS}) == len(SETTINGS)
    sections = {(s.id // 100, s.name.split(".")[0]) for s in SETTINGS}
    assert len(sections) == len({hundred for hundred, _ in sections}) == len({name for _, name in sections})

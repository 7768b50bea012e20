"""R8: tables of watchpoints and actionpoints: read back as made, and every field is refused when it is wrong."""

import math

import msgspec
import pytest

from flightsw.link.errors import TableError
from flightsw.link.limit_tables import (
    ENTRIES_MAX,
    Actionpoint,
    ActionTable,
    Response,
    Watchpoint,
    WatchTable,
    decode_actionpoints,
    decode_watchpoints,
    encode,
)


def watch(**changes):
    fields = {"id": 1, "name": "gpu.hot", "parameter": "gpu.die_degc", "operator": ">", "trip": 80.0}
    return Watchpoint(**{**fields, **changes})


def act(**changes):
    fields = {"id": 1, "name": "gpu.cool", "condition": (1,), "response": Response.PAUSE, "domain": "thermal"}
    return Actionpoint(**{**fields, **changes})


def watches(*entries, **changes):
    return WatchTable(**{"name": "flight", "watchpoints": entries, **changes})


def acts(*entries, **changes):
    return ActionTable(**{"name": "flight", "actionpoints": entries, **changes})


KNOWN = watches(watch(), watch(id=2, name="soc.low", parameter="eps.soc_fraction", operator="<", trip=0.72))


def test_r8_at_least_176_of_each_fit():
    many = watches(*[watch(id=n, name=f"w{n}", clear=78.0) for n in range(1, ENTRIES_MAX + 1)])
    assert ENTRIES_MAX >= 176
    assert decode_watchpoints(encode(many)) == many
    actions = acts(*[act(id=n, name=f"a{n}", condition=(n,)) for n in range(1, ENTRIES_MAX + 1)])
    assert decode_actionpoints(encode(actions), many) == actions


@pytest.mark.parametrize(
    "condition",
    [(1,), (1, 2, "and"), (1, "stale"), (1, 2, "stale", "or"), (1, "not", 2, "and"), (1, "stale", "not")],
)
def test_conditions(condition):
    table = acts(act(condition=condition))
    assert decode_actionpoints(encode(table), KNOWN) == table


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (watch(id=0), "id"),
        (watch(name="Gpu"), "name"),
        (watch(parameter="gpu.mood"), "parameter 'gpu.mood' is not in this dictionary"),
        (watch(quantity="sum"), "quantity"),
        (watch(operator="~"), "operator"),
        (watch(trip=math.nan), "finite"),
        (watch(clear=math.inf), "finite"),
        (watch(clear=81.0), "clear = 81 must be at most trip = 80"),
        (watch(operator="<", clear=79.0), "clear = 79 must be at least trip = 80"),
        (watch(operator="==", clear=80.0), "clear has no meaning"),
        (watch(samples=0), "samples"),
        (watch(samples=1001), "samples"),
        (watch(stale_s=0.0), "stale_s"),
        (watch(parameter="packet_sequence"), "parameter 'packet_sequence' names a packet"),
        (watch(quantity="rate", stale_s=1.9), "stale_s = 1.9: a rate needs at least 2"),
    ],
)
def test_r8_every_field_of_a_watchpoint(broken, reason):
    with pytest.raises(TableError, match=reason):
        decode_watchpoints(encode(watches(broken)))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (act(id=0), "id"),
        (act(name="-"), "name"),
        (act(condition=()), "condition"),
        (act(condition=(1,) * 21), "condition"),
        (act(condition=(3,)), "watchpoint 3, which is not in the table"),
        (act(condition=(1, "xor")), "condition knows"),
        (act(condition=(1, "and")), "'and' lacks a value"),
        (act(condition=("not",)), "'not' lacks a value"),
        (act(condition=(1, "not", "stale")), "right after a watchpoint"),
        (act(condition=(1, 2)), "leaves 2 values"),
        (act(persistence_s=-1.0), "persistence_s"),
        (act(release_s=1e6), "release_s"),
        (act(response="pray"), "response"),
        (act(argument=0.5), "argument = 0.5: pause allows 0, it takes none"),
        (act(argument=math.nan), "argument = nan"),
        (act(response=Response.THROTTLE, argument=1.1), "throttle allows 0 to 1"),
        (act(response=Response.SEQUENCE, argument=65.0), "sequence allows 1 to 64"),
        (act(response=Response.SEQUENCE, argument=1.5), "no number of a sequence"),
        (act(response=Response.POWER_CYCLE), "power_cycle allows 1 to 3600"),
        (act(level=0), "level"),
        (act(level=10), "level"),
        (act(domain="love"), "domain"),
        (act(repeat="twice"), "repeat"),
        (act(state="asleep"), "state"),
    ],
)
def test_r8_every_field_of_an_actionpoint(broken, reason):
    with pytest.raises(TableError, match=reason):
        decode_actionpoints(encode(acts(broken)), KNOWN)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (watches(watch(), watch(name="other")), "unique"),
        (watches(watch(), watch(id=2)), "unique"),
        (watches(*[watch(id=n, name=f"w{n}") for n in range(1, ENTRIES_MAX + 2)]), "257 watchpoints, at most 256"),
        (watches(format=2), "format"),
        (watches(name=""), "name"),
    ],
)
def test_r8_the_table_itself(broken, reason):
    with pytest.raises(TableError, match=reason):
        decode_watchpoints(encode(broken))


@pytest.mark.parametrize("octets", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"name": "x"}), bytes(200_000)])
def test_no_image(octets):
    with pytest.raises(TableError, match="image"):
        decode_watchpoints(octets)
    with pytest.raises(TableError, match="image"):
        decode_actionpoints(octets, KNOWN)


def test_an_unknown_field_is_no_field():
    image = msgspec.msgpack.encode({**msgspec.to_builtins(watches(watch())), "colour": "red"})
    with pytest.raises(TableError, match="colour"):
        decode_watchpoints(image)

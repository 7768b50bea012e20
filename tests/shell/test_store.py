"""The two-copy store: whatever happens to one copy, the value survives or its loss is told."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.shell.store import PAYLOAD_BYTES_MAX, Store, write_durably

OLD, NEW = b"the value before", b"the value now, and longer"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    assert store.save("boot", OLD) == ""
    assert store.save("boot", NEW) == ""
    return store


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped bit": flip,
    "torn": lambda p: p.write_bytes(p.read_bytes()[:-3]),
    "empty": lambda p: p.write_bytes(b""),
    "stale tail": lambda p: p.write_bytes(p.read_bytes() + b"tail"),
    "zeros": lambda p: p.write_bytes(bytes(len(p.read_bytes()))),
    "huge": lambda p: os.truncate(p, PAYLOAD_BYTES_MAX * 2),
    "a directory": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("name", ["boot.a", "boot.b"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_one_bad_copy_is_told_and_the_other_serves(store: Store, tmp_path: Path, name: str, damage: str) -> None:
    DAMAGE[damage](tmp_path / name)
    loaded = store.load("boot")
    assert loaded.payload == NEW
    assert len(loaded.faults) == 1
    assert name in loaded.faults[0]


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "a directory"])
def test_saving_heals_a_bad_copy(store: Store, tmp_path: Path, damage: str) -> None:
    DAMAGE[damage](tmp_path / "boot.a")
    assert store.save("boot", b"third") == ""
    assert store.load("boot") == Store(tmp_path).load("boot")
    assert (store.load("boot").payload, store.load("boot").faults) == (b"third", ())


def test_both_copies_bad_is_no_value_and_two_faults(store: Store, tmp_path: Path) -> None:
    flip(tmp_path / "boot.a")
    flip(tmp_path / "boot.b")
    loaded = store.load("boot")
    assert loaded.payload is None
    assert len(loaded.faults) == 2


def test_never_saved_is_no_value_and_no_fault(tmp_path: Path) -> None:
    assert Store(tmp_path).load("boot").payload is None
    assert Store(tmp_path).load("boot").faults == ()


def test_a_copy_under_another_key_is_no_copy(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"boot.{name}").rename(tmp_path / f"mode.{name}")
    assert store.load("mode").payload is None


def test_the_newer_version_wins_when_a_save_stopped_half_way(store: Store, tmp_path: Path) -> None:
    before = (tmp_path / "boot.a").read_bytes()
    store.save("boot", b"newest")
    (tmp_path / "boot.a").write_bytes(before)
    assert store.load("boot").payload == b"newest"


@pytest.mark.parametrize(
    ("key", "payload"), [("../boot", b""), ("", b""), ("a.b", b""), ("boot", bytes(PAYLOAD_BYTES_MAX + 1))]
)
def test_refused_keys_and_sizes(tmp_path: Path, key: str, payload: bytes) -> None:
    assert "refused" in Store(tmp_path).save(key, payload)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_a_reason_not_an_exception(tmp_path: Path) -> None:
    reason = Store(tmp_path / "gone").save("boot", b"x")
    assert "boot.a: No such file or directory" in reason
    assert "boot.b" in reason


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match="target"):
        write_durably(tmp_path / "target", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


@given(st.binary(max_size=300), st.data())
def test_any_single_damage_is_seen(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("store")
    store = Store(directory)
    store.save("k", payload)
    copy = directory / "k.a"
    whole = copy.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    bad = bytearray(whole)
    bad[position] ^= data.draw(st.integers(1, 255))
    copy.write_bytes(data.draw(st.sampled_from([bytes(bad), whole[:position]])))
    (directory / "k.b").unlink()
    assert store.load("k").payload is None
    assert len(store.load("k").faults) == 1

"""The activity meter as its reader, the bench, sees it."""

import struct

import pytest

from flightsw.gpu.meter import Meter
from flightsw.link.meter import METER_LAYOUT


def test_the_file_follows_every_micro_batch(tmp_path):
    path = tmp_path / "meter"
    meter = Meter(str(path))
    for count, total_s in ((1, 0.25), (2, 0.5), (3, 0.75)):
        meter.add(0.25)
        assert METER_LAYOUT.unpack(path.read_bytes()) == (total_s, count)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (b"", (0.5, 1)),
        (b"\0\0", (0.5, 1)),
        (struct.pack("<dQ", 12.25, 40), (12.75, 41)),
        (struct.pack("<dQ", float("nan"), 40), (0.5, 41)),
        (struct.pack("<dQ", 1.0, 2**64 - 1), (1.5, 0)),
    ],
    ids=["new", "short", "goes on", "not a number", "wraps"],
)
def test_a_restarted_worker_goes_on(tmp_path, before, expected):
    path = tmp_path / "meter"
    path.write_bytes(before)
    Meter(str(path)).add(0.5)
    assert METER_LAYOUT.unpack(path.read_bytes()[:16]) == expected


def test_without_a_file_it_only_counts():
    meter = Meter()
    meter.add(0.5)
    meter.add(1.5)
    assert (meter.busy_s, meter.micro_batches) == (2.0, 2)


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Meter(str(tmp_path / "no" / "meter"))

"""Endpoints in text, and the activity meter's layout."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.endpoint import GRAMMAR, SerialEndpoint, UdpEndpoint, parse_endpoint
from flightsw.link.meter import METER_LAYOUT

TAKEN = (
    ("none", None),
    ("serial:/dev/ttyUSB0", SerialEndpoint("/dev/ttyUSB0", 115_200)),
    ("serial:/dev/pts/3@9600", SerialEndpoint("/dev/pts/3", 9600)),
    ("udp:127.0.0.1:5001/127.0.0.1:5002", UdpEndpoint("127.0.0.1", 5001, "127.0.0.1", 5002)),
    ("udp:0.0.0.0:0/station:5002", UdpEndpoint("0.0.0.0", 0, "station", 5002)),
)
REFUSED = (
    "",
    "None",
    "/dev/ttyUSB0",
    "serial:",
    "serial:/dev/ttyUSB0@fast",
    "serial:/dev/a@b@9600",
    "udp:127.0.0.1:5001",
    "udp:127.0.0.1:65536/127.0.0.1:5002",
    "udp:127.0.0.1:5001/127.0.0.1:65536",
    "udp:127.0.0.1:5001/127.0.0.1:0",
    "tcp:127.0.0.1:5001/127.0.0.1:5002",
)


@pytest.mark.parametrize(("text", "endpoint"), TAKEN)
def test_taken(text, endpoint):
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize("endpoint", [row[1] for row in TAKEN if row[1] is not None], ids=str)
def test_text_round_trip(endpoint):
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize("text", REFUSED)
def test_refused_with_the_grammar(text):
    with pytest.raises(ValueError, match="is no endpoint; write") as refusal:
        parse_endpoint(text)
    assert GRAMMAR in str(refusal.value)


@given(st.text())
def test_any_text_is_an_endpoint_or_a_value_error(text):
    try:
        endpoint = parse_endpoint(text)
    except ValueError:
        return
    assert endpoint is None or parse_endpoint(str(endpoint)) == endpoint


def test_meter_layout_is_two_aligned_numbers():
    assert METER_LAYOUT.size == 16
    assert METER_LAYOUT.unpack(METER_LAYOUT.pack(1.5, 7)) == (1.5, 7)

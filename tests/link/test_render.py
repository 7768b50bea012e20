"""Event texts: the template's words, fields of another age, and nothing a terminal would obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.bodies import EventBody
from flightsw.link.dictionary import EVENTS
from flightsw.link.render import event_text, printable


def event(id: int, **fields: object) -> EventBody:
    return EventBody(1, 2, 3.0, id, 1, fields)


# (event, text)
TEXTS = (
    (event(0x02, reason="asked"), "shutdown: asked"),
    (event(0x04, late_ms=123.6, skipped=2), "minor frame late by 124 ms, 2 skipped"),
    (event(0x04, late_ms="much", skipped=None), "minor frame late by much ms, None skipped"),
    (event(0x04, skipped=1), "minor frame late by {late_ms}? ms, 1 skipped"),
    (event(0x62, surplus=1), "GPU telemetry is back"),
    (event(0x7777, a=1, b="x"), "event 0x7777 is not in this dictionary: a=1, b=x"),
    (event(0x7777), "event 0x7777 is not in this dictionary: no fields"),
    (event(0x02, reason="{0.__class__}"), "shutdown: {0.__class__}"),
    (event(0x02, reason="a\x1b[2Jb\nc"), "shutdown: a\\x1b[2Jb\\nc"),
)


@pytest.mark.parametrize(("body", "text"), TEXTS)
def test_texts(body, text):
    assert event_text(body) == text


scalars = st.booleans() | st.integers() | st.floats() | st.text() | st.none()
names = st.sampled_from(["reason", "job", "step", "late_ms", "soc", "limit", "count"]) | st.text()


@given(st.sampled_from(EVENTS).map(lambda e: e.id) | st.integers(0, 2**64 - 1), st.dictionaries(names, scalars))
def test_rendering_never_fails_and_stays_on_one_line(id, fields):
    assert event_text(EventBody(1, 2, 3.0, id, 1, fields)).isprintable()


def test_printable_text_is_left_alone():
    assert printable("mode BOOT → SAFE, 4 °C") == "mode BOOT → SAFE, 4 °C"

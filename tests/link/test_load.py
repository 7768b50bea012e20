"""Orders to a load and its answers: one line each, and what is none is refused."""

import msgspec
import pytest

from flightsw.link import load
from flightsw.link.load import Answer, Order

ORDER = Order(id=7, work="kernel", batch=3, sms=64, duty=0.25, period_s=0.1, kernel_s=0.01)
ANSWER = Answer(
    id=7, ok=False, reason="out of memory", device="cuda", card="Card", software="torch", multiprocessors=132,
    units_tokens=512.0, unit_s=0.02,
)  # fmt: skip


def test_one_line_each_way() -> None:
    for line in (load.encode(ORDER), load.encode(ANSWER)):
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert len(line) < load.LINE_BYTES_MAX
    assert load.decode_order(load.encode(ORDER)) == ORDER
    assert load.decode_answer(load.encode(ANSWER)) == ANSWER


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"nonsense",
        b'{"id": -1}',
        b'{"id": 1, "work": "mine"}',
        b'{"id": 1, "duty": 1.5}',
        b'{"id": 1, "x": 1}',
    ],
)
def test_what_is_no_order(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        load.decode_order(line)


def test_what_is_no_answer() -> None:
    with pytest.raises(msgspec.MsgspecError):
        load.decode_answer(b'{"id": "first"}')

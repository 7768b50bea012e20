"""The radio channel: serialisation, delay, loss, carrier, outage and bounds, on a virtual clock."""

import random

import pytest

from hil.channel import Channel, ChannelConfig, Direction

BYTES = 1000
RATE_BPS = 8000.0  # One unit of 1,000 bytes is on air for exactly one second.


def direction(*, loss: float = 0.0, queue_bytes: int = 10_000, delay_s: float = 0.25) -> Direction:
    return Direction(RATE_BPS, delay_s, loss, queue_bytes, random.Random(1))


def unit(number: int) -> bytes:
    return bytes([number]) * BYTES


def test_units_leave_at_the_rate_and_arrive_after_the_delay() -> None:
    link = direction()
    assert link.offer(unit(1), 10.0)
    assert link.offer(unit(2), 10.0)
    arrivals = {
        now_s: list(link.poll(now_s, locked=True, outage=False)) for now_s in (10.9, 11.0, 11.2, 11.25, 12.2, 12.25)
    }
    assert arrivals == {10.9: [], 11.0: [], 11.2: [], 11.25: [unit(1)], 12.2: [], 12.25: [unit(2)]}


def test_an_idle_transmitter_does_not_save_up_time() -> None:
    link = direction(delay_s=0.0)
    link.offer(unit(1), 0.0)
    assert list(link.poll(50.0, locked=True, outage=False)) == [unit(1)]
    link.offer(unit(2), 50.0)
    assert list(link.poll(50.5, locked=True, outage=False)) == []
    assert link.due_s() == 51.0


@pytest.mark.parametrize(
    ("locked", "outage", "loss", "counter"),
    [
        (False, False, 0.0, "lost_no_carrier"),
        (True, True, 0.0, "lost_outage"),
        (True, False, 1.0, "lost_noise"),
        (True, False, 0.0, "delivered"),
    ],
)
def test_fate_of_a_unit(locked: bool, outage: bool, loss: float, counter: str) -> None:
    link = direction(loss=loss, delay_s=0.0)
    link.offer(unit(1), 0.0)
    arrived = list(link.poll(5.0, locked=locked, outage=outage))
    assert bool(arrived) == (counter == "delivered")
    assert getattr(link.counters, counter) == 1
    assert link.counters.delivered + link.counters.lost == link.counters.offered == 1


def test_an_outage_names_what_it_took_once() -> None:
    link = direction()
    link.offer(unit(7), 0.0)
    list(link.poll(2.0, locked=True, outage=True))
    assert link.take_lost_units() == [unit(7)]
    assert link.take_lost_units() == []


def test_the_queue_is_bounded_and_counts_what_it_drops() -> None:
    link = direction(queue_bytes=2500)
    assert [link.offer(unit(n), 0.0) for n in range(4)] == [True, True, False, False]
    assert link.counters.dropped_queue_full == 2
    assert link.offer(unit(9), 1.0), "room again once a unit has left"


def test_loss_has_the_rate_that_was_asked_for_and_the_seed_decides() -> None:
    def fates(seed: int) -> list[bool]:
        link = Direction(1e9, 0.0, 0.1, 10_000_000, random.Random(seed))
        return [
            link.offer(b"x" * 100, float(n)) and bool(list(link.poll(n + 0.5, locked=True, outage=False)))
            for n in range(4000)
        ]

    assert fates(1) == fates(1)
    assert fates(1) != fates(2)
    assert 0.88 < sum(fates(1)) / 4000 < 0.92


def test_an_outage_hits_both_directions_and_leaves_the_carrier() -> None:
    channel = Channel(ChannelConfig(delay_s=0.0), random.Random(1), random.Random(2))
    channel.locked = channel.outage = True
    channel.down.offer(b"down", 0.0)
    channel.up.offer(b"up", 0.0)
    assert [*channel.downlink(9.0), *channel.uplink(9.0)] == []
    assert (channel.down.counters.lost_outage, channel.up.counters.lost_outage, channel.locked) == (1, 1, True)
    assert channel.due_s() == float("inf")

"""R6: the link budget: urgent first, the total capped, nothing starved, utilisation measured."""

import msgspec
import pytest
from core_flight import Flight, telecommand

from flightsw.core import downlink, executive, housekeeping, link_budget, recording
from flightsw.core.effects import Playback, Telemetry
from flightsw.core.events import Event
from flightsw.core.inputs import Inputs, RecorderStatus, RequestReply
from flightsw.core.link_budget import FRAMING_BYTES
from flightsw.link.codec import HousekeepingBody, decode_telemetry
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_HK_FAST,
    APID_HK_MAIN,
    APID_HK_SLOW,
    APID_VERIFICATION,
    TIME_QUALITY,
)
from flightsw.link.packet import PACKET_BYTES_MAX

CONTACT = downlink.Stamp(1, 5.0, 6.0, 2, True)
CALM = RecorderStatus()
BACKLOG = RecorderStatus(pending=1000)


class Link:
    """A downlink that is asked to send so much in each frame; counts what went which way."""

    def __init__(self, rate_bps: float, frame_s: float = 0.1, status: RecorderStatus = BACKLOG) -> None:
        self.config = link_budget.Config(rate_bps=rate_bps)
        self.state, self.frame_s, self.status = downlink.start(0.0), frame_s, status
        self.now_s = 0.0
        self.bytes = {"urgent": 0, "routine": 0, "playback": 0}

    def frame(self, urgent: int = 0, routine: int = 0, contact: bool = True) -> None:
        """One frame with so many events and replies of about 200 bytes."""
        self.now_s += self.frame_s
        stamp = msgspec.structs.replace(CONTACT, live=contact)
        packer = downlink.Packer(downlink.funded(self.state, self.config, self.now_s), stamp)
        for _ in range(urgent):
            packer.event(Event("SHUTDOWN", {"reason": "x" * 120}))
        for _ in range(routine):
            packer.reply(
                RequestReply(
                    job="i", request=1, text="y" * 60, tokens=1, finish="stop", generation=1, duration_s=1.0
                )
            )
        state, _ = downlink.step(self.state, self.config, contact, self.status, self.now_s)
        state, played = downlink.play_back(packer.closed(state))
        self.state = state
        self.bytes["playback"] += sum(effect.budget_bytes for effect in played)
        for effect in packer.effects:
            if isinstance(effect, Telemetry) and effect.live:
                kind = "urgent" if effect.apid == APID_EVENT else "routine"
                self.bytes[kind] += len(effect.packet) + FRAMING_BYTES

    def rates(self, seconds: float, **load: int) -> dict[str, float]:
        """Bytes per second of each kind, over so many seconds under a load per frame."""
        for _ in range(round(seconds / self.frame_s)):
            self.frame(**load)
        return {kind: octets / seconds for kind, octets in self.bytes.items()}


@pytest.mark.parametrize("frame_s", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("rate_bps", [1_200.0, 9_600.0, 115_200.0, 2_000_000.0])
@pytest.mark.parametrize("load", [{}, {"urgent": 3}, {"routine": 30}, {"urgent": 100, "routine": 100}])
def test_r6_the_total_is_capped_at_the_link_budget(rate_bps: float, frame_s: float, load: dict[str, int]) -> None:
    link = Link(rate_bps, frame_s)
    rates = link.rates(20.0, **load)
    byte_rate = rate_bps / 8.0 * link.config.fill
    full = max(byte_rate * link.config.burst_s, 2.0 * PACKET_BYTES_MAX)
    slack = 2.0 * full + link_budget.REFILL_MAX_S * byte_rate + PACKET_BYTES_MAX + FRAMING_BYTES
    assert sum(rates.values()) * 20.0 <= byte_rate * 20.0 + slack


@pytest.mark.parametrize(
    ("rate_bps", "load", "kind", "rate"),
    [
        (115_200.0, {}, "playback", 12_960.0),
        (1_200.0, {}, "playback", 135.0),  # slow, but not never
        (115_200.0, {"routine": 100}, "routine", 0.9 * 12_960.0),
        (115_200.0, {"routine": 100}, "playback", 0.1 * 12_960.0),  # live alone would fill the radio
        (1_200.0, {"routine": 5}, "playback", 13.5),
        (115_200.0, {"urgent": 100}, "urgent", 12_960.0),
        (115_200.0, {"urgent": 100, "routine": 100}, "routine", 0.0),  # urgent goes first
    ],
)
def test_r6_who_gets_what(rate_bps: float, load: dict[str, int], kind: str, rate: float) -> None:
    link = Link(rate_bps)
    link.rates(200.0)  # What was saved up at the start is gone.
    link.bytes = dict.fromkeys(link.bytes, 0)
    assert link.rates(200.0, **load)[kind] == pytest.approx(rate, rel=0.08, abs=40.0)


def test_r6_slow_and_fast_frames_get_the_same_rate() -> None:
    rates = [Link(115_200.0, frame_s).rates(60.0)["playback"] for frame_s in (0.1, 1.0)]
    assert rates[0] == pytest.approx(rates[1], rel=0.05)


def test_without_a_backlog_routine_may_use_everything() -> None:
    link = Link(115_200.0, status=CALM)
    link.rates(100.0)
    link.bytes = dict.fromkeys(link.bytes, 0)
    assert link.rates(100.0, routine=100)["routine"] == pytest.approx(12_960.0, rel=0.05)


@pytest.mark.parametrize(("status", "contact"), [(CALM, True), (BACKLOG, False)])
def test_no_playback_without_need_or_contact(status: RecorderStatus, contact: bool) -> None:
    link = Link(115_200.0, status=status)
    for _ in range(100):
        link.frame(contact=contact)
    assert link.bytes["playback"] == 0


def test_a_replay_alone_is_reason_for_playback() -> None:
    assert Link(115_200.0, status=RecorderStatus(replay_left=3)).rates(1.0)["playback"] > 0


def test_r6_a_long_pause_is_not_paid_for() -> None:
    config = link_budget.Config()
    budget = link_budget.filled(link_budget.start(0.0), config, True, 0.1)
    budget, _ = link_budget.for_playback(budget)
    late = link_budget.filled(budget, config, True, 3600.0)
    assert late.total_bytes <= link_budget.REFILL_MAX_S * 12_960.0 + 1.0


def pages(flight: Flight) -> dict[int, list[Telemetry]]:
    """Telemetry effects by APID."""
    found: dict[int, list[Telemetry]] = {}
    for effect in flight.effects:
        if isinstance(effect, Telemetry):
            found.setdefault(effect.apid, []).append(effect)
    return found


def test_r6_housekeeping_over_budget_is_recorded_and_what_is_urgent_is_sent() -> None:
    config = executive.Config(downlink=link_budget.Config(rate_bps=4_800.0))
    flight = Flight(config, passes=((0.0, 5700.0),))
    for number in range(6):
        flight.frame(telecommand("ping", 100 + number))
        flight.fly(1.0)
    flight.fly(30.0)
    by_apid = pages(flight)
    fast = by_apid[APID_HK_FAST]
    assert all(effect.live for effect in by_apid[APID_VERIFICATION] + by_apid[APID_EVENT])
    assert any(effect.live for effect in fast)
    deferred = [e for effects in by_apid.values() for e in effects if not e.live]
    assert len(deferred) == flight.vehicle.downlink.deferred > 100
    assert all(effect.record for effect in deferred)
    # Numbers go on over deferred packets: the ground gets them by playback.
    assert [e.sequence for e in fast] == list(range(len(fast)))


def test_r6_many_small_packets_do_not_stop_a_long_one() -> None:
    """Housekeeping at the control rate alone would fill this radio; the groups that matter more come through."""
    config = executive.Config(
        downlink=link_budget.Config(rate_bps=9_600.0), housekeeping=housekeeping.Config(slow_interval_s=5.0)
    )
    flight = Flight(config, passes=((0.0, 5700.0),))
    flight.fly(60.0)
    by_apid = pages(flight)
    assert all(e.live for e in by_apid[APID_HK_SLOW] + by_apid[APID_HK_MAIN])
    assert 20 < sum(e.live for e in by_apid[APID_HK_FAST]) < 400


def test_r6_what_urgent_packets_took_is_not_lent_to_bulk() -> None:
    """The events of a minute, 2,400 bytes of them, are no debt that a long packet meets later."""
    config = link_budget.Config(rate_bps=9_600.0)
    budget, long_ones = link_budget.start(0.0), []
    for frame in range(1, 601):
        budget = link_budget.filled(budget, config, False, 0.1 * frame)
        if frame % 25 == 0:
            budget = link_budget.spend(budget, 100, link_budget.URGENT_PRIORITY)
            assert budget is not None
        if frame % 50 == 0:
            after = link_budget.spend(budget, PACKET_BYTES_MAX, link_budget.BULK_PRIORITY - 1)
            long_ones.append(after is not None)
            budget = after or budget
        while after := link_budget.spend(budget, 160, link_budget.BULK_PRIORITY):
            budget = after
    assert long_ones == [True] * 12


def test_r6_playback_does_not_stop_a_long_packet() -> None:
    """Playback takes all that is left in each frame; the next long packet is sent on credit."""
    flight = Flight(executive.Config(), passes=((0.0, 5700.0),))
    flight.fly(5.0)
    for _ in range(3):
        vehicle = flight.vehicle
        vehicle = msgspec.structs.replace(vehicle, housekeeping=housekeeping.request(vehicle.housekeeping, "slow"))
        now_s = flight.now_s + 0.1
        plant_frame = msgspec.structs.replace(vehicle.sense.frame, sequence=10**6)
        vehicle, _ = executive.step(vehicle, flight.config, Inputs(recorder=BACKLOG, sensors=plant_frame), now_s)
        _, effects = executive.step(vehicle, flight.config, Inputs(recorder=BACKLOG), now_s + 0.1)
        assert all(e.live for e in effects if isinstance(e, Telemetry))


def test_r6_utilisation_is_measured_and_telemetered() -> None:
    config = link_budget.Config(rate_bps=8_000.0)
    state = downlink.start(0.0)
    for frame in range(1, 400):
        # 500 bytes a second of 1,000.
        status = RecorderStatus(sent_bytes=int(frame * 50))
        state, _ = downlink.step(state, config, True, status, frame * 0.1)
        expected = 0.0 if frame < 100 else 0.5
        assert state.utilisation_fraction == pytest.approx(expected, abs=0.01)
    for frame in range(400, 600):
        state, _ = downlink.step(state, config, True, RecorderStatus(sent_bytes=19_950), frame * 0.1)
    assert state.utilisation_fraction == 0.0


def test_playback_comes_after_what_is_live() -> None:
    """Housekeeping of the same frame is paid before the rest goes to playback."""
    flight = Flight(executive.Config(), passes=((0.0, 5700.0),))
    flight.fly(5.0)
    flight.effects.clear()
    vehicle, effects = flight.vehicle, ()
    played = 0
    for frame in range(15):
        inputs = Inputs(recorder=BACKLOG)
        vehicle, effects = executive.step(vehicle, flight.config, inputs, flight.now_s + 0.1 * (frame + 1))
        kinds = [type(e).__name__ for e in effects if isinstance(e, Telemetry | Playback)]
        assert kinds == sorted(kinds, reverse=True)
        live = [e for e in effects if isinstance(e, Telemetry) and e.apid in (APID_HK_FAST, APID_HK_MAIN)]
        assert all(e.live for e in live)
        played += kinds.count("Playback")
    assert played


def test_a_packet_that_is_neither_sent_nor_recorded_is_not_made() -> None:
    """N of X: gaps on the ground always mean a loss."""
    filters = {recording.EVENT: (1, 4)}
    for live, made in ((False, 3), (True, 12)):
        packer = downlink.Packer(downlink.start(0.0), msgspec.structs.replace(CONTACT, live=live), filters)
        for _ in range(12):
            packer.event(Event("PROBE_RECOVERED"))
        sent = [e for e in packer.effects if isinstance(e, Telemetry)]
        assert [e.sequence for e in sent] == list(range(made))
        assert sum(e.record for e in sent) == 3
        assert packer.closed(downlink.start(0.0)).filtered == 9


def test_r6_every_packet_has_number_time_and_time_quality() -> None:
    flight = Flight(executive.Config())
    flight.fly(3.0)
    for effect in flight.effects:
        if isinstance(effect, Telemetry):
            telemetry = decode_telemetry(effect.packet)
            assert telemetry.packet.sequence_count == effect.sequence
            assert telemetry.packet.tai_s >= 0
            assert telemetry.packet.time_quality in range(len(TIME_QUALITY))
            if isinstance(telemetry.body, HousekeepingBody):
                assert telemetry.body.seq == effect.sequence

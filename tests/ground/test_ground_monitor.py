"""Newest values, limits and events from live and played-back packets, in any order."""

import math

import pytest
from spacecraft_double import SpacecraftDouble

from flightsw.link.codec import Telemetry, decode_telemetry
from flightsw.link.dictionary import DESTINATION_PLAYBACK, DICTIONARY_HASH, PARAMETER_BY_NAME
from flightsw.link.packet import redirect
from ground.monitor import EVENTS_MAX, Monitor, level, value_text

LEVELS = (
    ("eps.soc_fraction", 0.90, ""),
    ("eps.soc_fraction", 0.72, ""),
    ("eps.soc_fraction", 0.71, "yellow"),
    ("eps.soc_fraction", 0.69, "red"),
    ("eps.soc_fraction", math.nan, ""),
    ("thermal.gpu_degc", 79.0, ""),
    ("thermal.gpu_degc", 79.1, "yellow"),
    ("thermal.gpu_degc", 80.1, "red"),
    ("train.loss", 1e9, ""),
)


@pytest.mark.parametrize(("name", "value", "expected"), LEVELS)
def test_level(name: str, value: float, expected: str) -> None:
    assert level(PARAMETER_BY_NAME[name], value) == expected


TEXTS = (
    ("mode", 3.0, "COMPUTE"),
    ("mode", 99.0, "99"),
    ("mode", 1.5, "1.5"),
    ("train.step", 123456.0, "123456"),
    ("train.loss", 1.23456789, "1.235"),
    ("gpu.energy_j", 12345.678, "12345.7"),
    ("gpu.power_w", math.nan, "–"),
    ("gpu.power_w", math.inf, "inf"),
)


@pytest.mark.parametrize(("name", "value", "expected"), TEXTS)
def test_value_text(name: str, value: float, expected: str) -> None:
    assert value_text(PARAMETER_BY_NAME[name], value) == expected


def packet(craft: SpacecraftDouble, world_s: float, playback: bool = False, **values: float) -> Telemetry:
    craft.world_s = world_s
    octets = craft.recorder[craft.housekeeping(send=False, **values)]
    return decode_telemetry(redirect(octets, DESTINATION_PLAYBACK) if playback else octets)


def test_alarms_come_once_per_change_and_only_from_live_data(udp_craft: SpacecraftDouble) -> None:
    monitor = Monitor()
    story = (
        (10.0, False, 0.80, []),
        (11.0, False, 0.71, ["yellow"]),
        (12.0, False, 0.71, []),
        (13.0, False, 0.60, ["red"]),
        (9.0, True, 0.50, []),
        (14.0, True, 0.50, []),
        (15.0, False, 0.60, []),
        (16.0, False, 0.90, [""]),
    )
    for world_s, playback, soc, expected in story:
        alarms = monitor.observe(packet(udp_craft, world_s, playback, eps__soc_fraction=soc), 0.0)
        assert [alarm.level for alarm in alarms] == expected, world_s
    assert len(monitor.alarms) == 3


def test_playback_never_winds_a_value_back(udp_craft: SpacecraftDouble) -> None:
    monitor = Monitor()
    old = packet(udp_craft, 5.0, playback=True, eps__soc_fraction=0.1)
    monitor.observe(packet(udp_craft, 10.0, eps__soc_fraction=0.8), 0.0)
    monitor.observe(old, 0.0)
    assert monitor.latest["eps.soc_fraction"].value == 0.8
    assert monitor.world_s == 10.0
    udp_craft.boot = 2
    monitor.observe(packet(udp_craft, 4.0, eps__soc_fraction=0.7), 0.0)
    assert monitor.latest["eps.soc_fraction"].value == 0.7
    assert (monitor.boot, monitor.world_s) == (2, 4.0)


def test_another_dictionary_on_board_is_noticed(udp_craft: SpacecraftDouble) -> None:
    monitor = Monitor()
    for hash, differs in (("", False), (DICTIONARY_HASH, False), ("0" * 16, True)):
        identity = udp_craft.boot_event(hash)
        monitor.observe(decode_telemetry(udp_craft.recorder[identity]), 0.0)
        assert monitor.dictionary_differs is differs


def test_events_are_bounded_and_each_is_kept_once(udp_craft: SpacecraftDouble) -> None:
    monitor = Monitor()
    for _ in range(EVENTS_MAX + 50):
        telemetry = decode_telemetry(udp_craft.recorder[udp_craft.event("SHUTDOWN", send=False, reason="test")])
        monitor.observe(telemetry, 0.0)
        monitor.observe(telemetry, 0.0)
    assert len(monitor.events) == EVENTS_MAX
    assert max(sequence for _, sequence in monitor.events) == EVENTS_MAX + 50

"""A power reading and what it is a reading of: cards show three quantities that people call "power".

    instant   mean over the sensor's last look, tens of milliseconds long; says little of paced work
    average   mean of the looks of the last second; lags behind a new set-point by as long
    energy    a counter; its difference over a time is the mean power, and the longer the time the better
    rail      what a monitor on the supply measures, with its own averaging

A loop that takes one for the other is wrong or slow, so a reading says its kind, its window and its age.
"""

from typing import Literal

import msgspec

PowerKind = Literal["instant", "average", "energy", "rail"]


class PowerReading(msgspec.Struct, frozen=True):
    """``value`` is in W, for "energy" in J since the driver started. NaN window or age: the device does not tell.

    ``window_s`` is the time that the value is a mean over (0 for a counter), ``age_s`` the time since it was taken.
    """

    kind: PowerKind
    value: float
    window_s: float
    age_s: float

"""Mean elements: how J2 moves them, where they put the satellite, and the true state behind them.

Mean elements in Brouwer's sense drift at the secular rates of first order in J2, with γ = J2 (R/p)², p = a (1 −
e²):

    node       −3/2 n γ cos i
    perigee     3/4 n γ (5 cos² i − 1)
    anomaly     n (1 + 3/4 γ √(1 − e²) (3 cos² i − 1))

The position follows from Kepler's equation M = E − e sin E. ``osculating`` adds the short-period terms of first
order: the state that an integrator of the full equations of motion has to start from to fly the same mean orbit.

Sources: Brouwer 1959; Hoots & Roehrich, Spacetrack Report 3 (the short-period terms, as SGP4 has them).
"""

from datetime import datetime
from math import atan2, cos, degrees, pi, radians, sin, sqrt
from typing import Final

import msgspec

from .geometry import DAY_S, EARTH_J2, EARTH_MU_KM3_S2, EARTH_RADIUS_KM, Vector

NEWTON_STEPS_MAX: Final = 12
NEWTON_ENOUGH_RAD: Final = 1e-13


class MeanElements(msgspec.Struct, frozen=True, kw_only=True):
    """Mean elements at one instant; angles in rad."""

    axis_km: float
    eccentricity: float
    inclination: float
    node: float
    perigee: float
    anomaly: float

    @property
    def motion_rad_s(self) -> float:
        """Mean motion n of the unperturbed ellipse."""
        return sqrt(EARTH_MU_KM3_S2 / self.axis_km**3)

    def rates_rad_s(self) -> tuple[float, float, float]:
        """Secular rates of node, perigee and anomaly."""
        round_off = 1.0 - self.eccentricity**2
        oblate = EARTH_J2 * (EARTH_RADIUS_KM / (self.axis_km * round_off)) ** 2
        motion, cos2_i = self.motion_rad_s, cos(self.inclination) ** 2
        return (
            -1.5 * motion * oblate * cos(self.inclination),
            0.75 * motion * oblate * (5.0 * cos2_i - 1.0),
            motion * (1.0 + 0.75 * oblate * sqrt(round_off) * (3.0 * cos2_i - 1.0)),
        )

    def after(self, elapsed_s: float) -> "MeanElements":
        """The elements ``elapsed_s`` later."""
        node, perigee, anomaly = self.rates_rad_s()
        return msgspec.structs.replace(
            self,
            node=self.node + node * elapsed_s,
            perigee=self.perigee + perigee * elapsed_s,
            anomaly=self.anomaly + anomaly * elapsed_s,
        )


def eccentric_anomaly(mean_anomaly: float, eccentricity: float) -> float:
    """E of M = E − e sin E, rad, by Newton's iteration; e under 1."""
    found = mean_anomaly + eccentricity * sin(mean_anomaly)
    for _ in range(NEWTON_STEPS_MAX):
        change = (found - eccentricity * sin(found) - mean_anomaly) / (1.0 - eccentricity * cos(found))
        found -= change
        if abs(change) < NEWTON_ENOUGH_RAD:
            break
    return found


def mean_anomaly(true_anomaly: float, eccentricity: float) -> float:
    """M of a true anomaly, rad."""
    e = eccentricity
    found = atan2(sqrt(1.0 - e * e) * sin(true_anomaly), e + cos(true_anomaly))
    return found - e * sin(found)


class KeplerOrbit:
    """An ellipse that J2 turns: Kepler's motion on mean elements."""

    def __init__(self, name: str, epoch: datetime, elements: MeanElements) -> None:
        """``elements`` hold at ``epoch``."""
        self.name, self.epoch, self.elements = name, epoch, elements
        self._axis_km, self._eccentricity = elements.axis_km, elements.eccentricity
        self._minor = sqrt(1.0 - elements.eccentricity**2)
        self._cos_i, self._sin_i = cos(elements.inclination), sin(elements.inclination)
        self._node, self._perigee, self._anomaly = elements.node, elements.perigee, elements.anomaly
        self._node_rate, self._perigee_rate, self._anomaly_rate = elements.rates_rad_s()
        self.period_s = 2.0 * pi / (self._anomaly_rate + self._perigee_rate)
        self.node_rate_deg_day = degrees(self._node_rate) * DAY_S

    def mean_elements(self, elapsed_s: float) -> MeanElements:
        """Mean elements ``elapsed_s`` after the epoch."""
        return self.elements.after(elapsed_s)

    def position_km(self, elapsed_s: float) -> Vector:
        """Inertial position ``elapsed_s`` after the epoch."""
        anomaly = eccentric_anomaly(self._anomaly + self._anomaly_rate * elapsed_s, self._eccentricity)
        # In the plane, the first axis to perigee; then turned by perigee, inclination and node.
        forward = self._axis_km * (cos(anomaly) - self._eccentricity)
        sideward = self._axis_km * self._minor * sin(anomaly)
        perigee, node = self._perigee + self._perigee_rate * elapsed_s, self._node + self._node_rate * elapsed_s
        cos_p, sin_p, cos_n, sin_n = cos(perigee), sin(perigee), cos(node), sin(node)
        along, across = cos_p * forward - sin_p * sideward, sin_p * forward + cos_p * sideward
        level = across * self._cos_i
        return (cos_n * along - sin_n * level, sin_n * along + cos_n * level, across * self._sin_i)


def osculating(mean: MeanElements) -> tuple[Vector, Vector]:
    """Position in km and velocity in km/s that a satellite on these mean elements has under J2."""
    axis_km, e = mean.axis_km, mean.eccentricity
    anomaly = eccentric_anomaly(mean.anomaly, e)
    round_off = 1.0 - e * e
    radius_km = axis_km * (1.0 - e * cos(anomaly))
    motion = sqrt(EARTH_MU_KM3_S2 * axis_km)
    rising_km_s, turning_km_s = motion * e * sin(anomaly) / radius_km, motion * sqrt(round_off) / radius_km
    latitude = mean.perigee + atan2(sqrt(round_off) * sin(anomaly), cos(anomaly) - e)

    # Short-period terms of first order in J2; c2 and s2 belong to twice the argument of latitude.
    cos_i, sin_i = cos(mean.inclination), sin(mean.inclination)
    c2, s2 = cos(2.0 * latitude), sin(2.0 * latitude)
    semi_latus_km = axis_km * round_off
    half_km = 0.5 * EARTH_J2 * EARTH_RADIUS_KM**2 / semi_latus_km
    half = half_km / semi_latus_km
    polar = 3.0 * cos_i * cos_i - 1.0
    speed_1_s = mean.motion_rad_s
    radius_km = radius_km * (1.0 - 1.5 * half * sqrt(round_off) * polar) + 0.5 * half_km * sin_i * sin_i * c2
    rising_km_s -= speed_1_s * half_km * sin_i * sin_i * s2
    turning_km_s += speed_1_s * half_km * (sin_i * sin_i * c2 + 1.5 * polar)
    latitude -= 0.25 * half * (7.0 * cos_i * cos_i - 1.0) * s2
    node = mean.node + 1.5 * half * cos_i * s2
    inclination = mean.inclination + 1.5 * half * cos_i * sin_i * c2

    cos_u, sin_u, cos_n, sin_n = cos(latitude), sin(latitude), cos(node), sin(node)
    cos_i, sin_i = cos(inclination), sin(inclination)
    up = (cos_n * cos_u - sin_n * sin_u * cos_i, sin_n * cos_u + cos_n * sin_u * cos_i, sin_u * sin_i)
    on = (-cos_n * sin_u - sin_n * cos_u * cos_i, -sin_n * sin_u + cos_n * cos_u * cos_i, cos_u * sin_i)
    # Those terms leave out eccentricity times J2, which in the energy would grow to tens of kilometres in a day. So
    # the speed is the one that gives the orbit its energy, −μ/2a and the mean of J2's potential.
    field = EARTH_J2 * EARTH_RADIUS_KM**2
    per_axis = 1.0 + field * polar / (2.0 * axis_km * axis_km * round_off**1.5)
    here = 1.0 / radius_km - field * (3.0 * up[2] * up[2] - 1.0) / (2.0 * radius_km**3)
    speed2 = 2.0 * EARTH_MU_KM3_S2 * (here - per_axis / (2.0 * axis_km))
    scale = sqrt(speed2 / (rising_km_s**2 + turning_km_s**2))
    rising_km_s, turning_km_s = scale * rising_km_s, scale * turning_km_s
    position = (radius_km * up[0], radius_km * up[1], radius_km * up[2])
    velocity = (
        rising_km_s * up[0] + turning_km_s * on[0],
        rising_km_s * up[1] + turning_km_s * on[1],
        rising_km_s * up[2] + turning_km_s * on[2],
    )
    return position, velocity


def mean_from_degrees(
    *, axis_km: float, eccentricity: float, inclination: float, node: float, perigee: float, latitude: float
) -> MeanElements:
    """Mean elements of angles in degrees; ``latitude`` is the argument of latitude, perigee plus true anomaly."""
    return MeanElements(
        axis_km=axis_km,
        eccentricity=eccentricity,
        inclination=radians(inclination),
        node=radians(node),
        perigee=radians(perigee),
        anomaly=mean_anomaly(radians(latitude - perigee), eccentricity),
    )

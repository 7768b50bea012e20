"""The heat path, learned in flight, and the temperatures of its two nodes, filtered with it.

    C_g Ṫ_g = P + w_g − G (T_g − T_r)
    C_r Ṫ_r = G (T_g − T_r) + P_bus + Q + Q_sun · sun + w_r − K T_r⁴

*Temperatures.* A sensor's noise of 0.3 K would cost margin; the nodes are slow (minutes), so a Kalman filter takes
the noise out. Its other two states are the heat flows w that the model does not explain, so that a wrong parameter
does not drag the estimate off.
*Biases.* One constant error of a sensor cannot be seen, the difference of two can: it passes for a heat flow c that
does not grow with the power, where the conductance does. It is learned beside G and shared between both sensors by
their priors; what cannot be known stays in the sigma that is told.
As in ``charge``, frames are gathered into batches of ``BATCH_S``, so that the gains do not depend on their rate.
A reading far above the estimate is told as it is: the estimate may be late, never cooler than what is seen.

*Parameters.* Over windows of ``WINDOW_S`` the balances are linear in what is sought:

    ∫P − C_g ΔT_g                 = G ∫(T_g − T_r) − c t                               the GPU node
    ∫P + P_bus t − C_g ΔT_g       = C_r ΔT_r + K ∫T_r⁴ − Q t − Q_sun ∫sun              both nodes together

Recursive least squares with a prior (the configured values) and slow forgetting; C_g and P_bus are believed,
because nothing here tells them from G and Q. What is learned stays within ``BOUND`` of what is configured, the
heat of sunlight within that part of all absorbed heat: outside, the model is wrong and not its numbers.
"""

from math import sqrt
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.avionics import SensorFrame

from . import kalman
from .plan import HeatPath

STEFAN_BOLTZMANN: Final = 5.670374419e-8
ZERO_CELSIUS_K: Final = 273.15
GPU, RADIATOR, GPU_FLOW, RADIATOR_FLOW = range(4)

BATCH_S: Final = 10.0
GAP_S: Final = 60.0
"""After a longer silence, or so long without a reading of a node (mission time), nothing is known of it."""
SUBSTEP_S: Final = 5.0
GATE: Final = 5.0
"""A reading this many standard uncertainties off: the node is elsewhere, the filter begins anew."""
FLOW_W: Final = 10.0
"""Standard deviation of a heat flow that no parameter explains; what the parameters leave open comes on top."""
FLOW_MEMORY_S: Final = 3000.0
UNKNOWN_POWER_W: Final = 300.0
"""Uncertainty of the GPU's power while its rail is not measured, and of the flows when the node was elsewhere."""

WINDOW_S: Final = 300.0
BOUND: Final = 0.3
CONDUCTANCE_PRIOR: Final = 0.1
EMISSION_PRIOR: Final = 0.04
CAPACITY_PRIOR: Final = 0.1
ABSORBED_PRIOR: Final = 0.15
SUN_PRIOR: Final = 0.2
"""Relative standard uncertainties of what is configured; that of sunlight in parts of all absorbed heat."""
BIAS_LEFT: Final = 0.2
"""Part of a sensor's bias that is never taken for known: the model of the heat path is not the heat path."""
BIAS_BOUND: Final = 4.0
"""A difference of biases is believed up to this many of its prior standard uncertainties."""
WINDOW_NOISE_W: Final = 1.5
"""Of the mean powers over a window."""
FORGET_1_S: Final = 1e-9
"""Relative variance per second that every parameter gains: 1 % in a day."""
REFERENCE_K: Final = 300.0
"""Emission is learned as the heat at this temperature, which is of the size of the others."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Heat path as configured, where learning begins."""

    conductance_w_k: Annotated[float, Meta(gt=0.0, le=1e4)] = 14.0
    """Conductance from the GPU node to the radiator node."""
    gpu_capacity_j_k: Annotated[float, Meta(gt=0.0, le=1e7)] = 3000.0
    """Heat capacity of the GPU node."""
    radiator_capacity_j_k: Annotated[float, Meta(gt=0.0, le=1e8)] = 12000.0
    """Heat capacity of the radiator node."""
    radiator_area_m2: Annotated[float, Meta(gt=0.0, le=1000.0)] = 1.4
    """Radiating area."""
    emissivity: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.85
    """Emissivity of the radiator."""
    absorbed_w_m2: Annotated[float, Meta(ge=0.0, le=1000.0)] = 65.0
    """Heat that the radiator absorbs in the dark, Earth's infrared, per area."""
    absorbed_sun_w_m2: Annotated[float, Meta(ge=0.0, le=1000.0)] = 20.0
    """What it absorbs more in sunlight, per area."""
    sensor_bias_k: Annotated[float, Meta(ge=0.0, le=20.0)] = 0.3
    """Constant error of the GPU node's temperature sensor, standard uncertainty."""
    radiator_bias_k: Annotated[float, Meta(ge=0.0, le=20.0)] = 0.3
    """Constant error of the radiator's temperature sensor, standard uncertainty."""
    sensor_noise_k: Annotated[float, Meta(gt=0.0, le=20.0)] = 0.3
    """Noise of one reading."""

    @property
    def gpu_bias_least_k(self) -> float:
        """What is left of the GPU node's bias, standard uncertainty, when the difference of the two is known."""
        return sqrt(_left_var(self, self.sensor_bias_k, 0.0))

    @property
    def heat(self) -> HeatPath:
        """The heat path as configured."""
        area_m2 = self.radiator_area_m2
        return HeatPath(
            gpu_capacity_j_k=self.gpu_capacity_j_k,
            radiator_capacity_j_k=self.radiator_capacity_j_k,
            conductance_w_k=self.conductance_w_k,
            emission_w_k4=self.emissivity * STEFAN_BOLTZMANN * area_m2,
            absorbed_w=self.absorbed_w_m2 * area_m2,
            absorbed_sun_w=self.absorbed_sun_w_m2 * area_m2,
        )


class Window(Struct, frozen=True):
    """Integrals since the window began, at these temperatures (K) of these variances."""

    gpu_k: float
    radiator_k: float
    gpu_var: float
    radiator_var: float
    span_s: float = 0.0
    gpu_j: float = 0.0
    difference_ks: float = 0.0
    emission_s: float = 0.0
    sun_s: float = 0.0


class State(Struct, frozen=True, kw_only=True):
    """Node temperatures (NaN while unknown) with standard uncertainties, the heat path as learned, and the filter.

    ``link`` and ``balance`` are the least squares' own: covariance of G and c, of Q, Q_sun, K and C_r. ``offset_w``
    is c, ``gpu_bias_k`` and ``radiator_bias_k`` what it makes of the sensors' biases.
    """

    gpu_degc: float = float("nan")
    radiator_degc: float = float("nan")
    gpu_sigma_k: float = float("nan")
    radiator_sigma_k: float = float("nan")
    heat: HeatPath
    mean: kalman.Vector = ()
    covariance: kalman.Covariance = ()
    span_s: float = 0.0
    unseen_s: float = 0.0
    blind_s: float = 0.0
    gpu_off: float = 0.0
    gpu_count: int = 0
    radiator_off: float = 0.0
    radiator_count: int = 0
    window: Window | None = None
    offset_w: float = 0.0
    gpu_bias_k: float = 0.0
    radiator_bias_k: float = 0.0
    link: kalman.Covariance
    balance: kalman.Covariance


def start(config: Config) -> State:
    """As configured; temperatures unknown."""
    heat = config.heat
    absorbed_w = heat.absorbed_w + heat.absorbed_sun_w
    return State(
        heat=heat,
        link=kalman.diagonal(
            CONDUCTANCE_PRIOR * heat.conductance_w_k, heat.conductance_w_k * sqrt(_difference_var(config))
        ),
        balance=kalman.diagonal(
            ABSORBED_PRIOR * absorbed_w,
            SUN_PRIOR * absorbed_w,
            EMISSION_PRIOR * heat.emission_w_k4 * REFERENCE_K**4,
            CAPACITY_PRIOR * heat.radiator_capacity_j_k,
        ),
    )


def step(state: State, config: Config, frame: SensorFrame, bus_power_w: float, dt_s: float) -> State:
    """After one more frame, ``dt_s`` of mission time after the one before; NaN readings are missing."""
    gpu, radiator = frame.gpu_temp_degc, frame.radiator_temp_degc
    blind_s = state.blind_s + dt_s if gpu != gpu or radiator != radiator else 0.0
    if not state.mean or dt_s > GAP_S or blind_s > GAP_S:
        return _begun(state, config, gpu, radiator)
    heat = state.heat
    gpu_k, radiator_k, gpu_flow_w, radiator_flow_w = state.mean
    power_w, unseen_s = frame.gpu_rail_power_w, state.unseen_s
    if power_w != power_w:
        # What flows when nothing is measured: as much as keeps the node where it is.
        power_w = heat.conductance_w_k * (gpu_k - radiator_k) - state.offset_w - gpu_flow_w
        unseen_s += dt_s
    sun = frame.sun_fraction
    lit = 1.0 if sun > 0.5 else 0.0
    outside_w = bus_power_w + heat.absorbed_w + heat.absorbed_sun_w * lit + radiator_flow_w
    conductance, emission, offset_w = heat.conductance_w_k, heat.emission_w_k4, state.offset_w
    window = state.window
    count = int(dt_s / SUBSTEP_S) or 1
    h_s = dt_s / count
    per_gpu, per_radiator = h_s / heat.gpu_capacity_j_k, h_s / heat.radiator_capacity_j_k
    difference_k = emitted = 0.0
    for _ in range(count):
        apart_k = gpu_k - radiator_k
        squared = radiator_k * radiator_k
        fourth = squared * squared
        difference_k += apart_k
        emitted += fourth
        through_w = conductance * apart_k - offset_w
        gpu_k += per_gpu * (power_w + gpu_flow_w - through_w)
        radiator_k += per_radiator * (through_w + outside_w - emission * fourth)
    if window is not None:
        window = Window(
            window.gpu_k,
            window.radiator_k,
            window.gpu_var,
            window.radiator_var,
            window.span_s + dt_s,
            window.gpu_j + power_w * dt_s,
            window.difference_ks + difference_k * h_s,
            window.emission_s + emitted * h_s / REFERENCE_K**4,
            window.sun_s + lit * dt_s,
        )
    gpu_off, gpu_count = state.gpu_off, state.gpu_count
    radiator_off, radiator_count = state.radiator_off, state.radiator_count
    gpu_read, radiator_read = gpu_k - ZERO_CELSIUS_K, radiator_k - ZERO_CELSIUS_K
    gpu_degc, radiator_degc = gpu_read - state.gpu_bias_k, radiator_read - state.radiator_bias_k
    far_k = GATE * config.sensor_noise_k
    if gpu == gpu:
        off_k = gpu - gpu_read
        gpu_off += off_k
        gpu_count += 1
        if off_k > far_k:
            gpu_degc = gpu
    if radiator == radiator:
        off_k = radiator - radiator_read
        radiator_off += off_k
        radiator_count += 1
        if off_k > far_k:
            radiator_degc = radiator
    after = State(
        gpu_degc=gpu_degc,
        radiator_degc=radiator_degc,
        gpu_sigma_k=state.gpu_sigma_k,
        radiator_sigma_k=state.radiator_sigma_k,
        heat=heat,
        mean=(gpu_k, radiator_k, gpu_flow_w, radiator_flow_w),
        covariance=state.covariance,
        span_s=state.span_s + dt_s,
        unseen_s=unseen_s,
        blind_s=blind_s,
        gpu_off=gpu_off,
        gpu_count=gpu_count,
        radiator_off=radiator_off,
        radiator_count=radiator_count,
        window=window,
        offset_w=state.offset_w,
        gpu_bias_k=state.gpu_bias_k,
        radiator_bias_k=state.radiator_bias_k,
        link=state.link,
        balance=state.balance,
    )
    if after.span_s < BATCH_S - 1e-6:
        return after
    return _fused(after, config, bus_power_w, gpu, radiator)


def _flow_sigmas_w(state: State, gpu_k: float, radiator_k: float) -> tuple[float, float]:
    """Standard deviations of the unexplained flows, by what the parameters leave open at these temperatures."""
    apart_k, relative = gpu_k - radiator_k, radiator_k / REFERENCE_K
    gpu_var = FLOW_W * FLOW_W + kalman.variance(state.link, ((0, apart_k), (1, -1.0)))
    squared = relative * relative
    return sqrt(gpu_var), sqrt(
        gpu_var + kalman.variance(state.balance, ((0, 1.0), (1, 1.0), (2, -squared * squared)))
    )


def _begun(state: State, config: Config, gpu_degc: float, radiator_degc: float, flow_sigma_w: float = 0.0) -> State:
    """The filter at its first readings, or anew; what was learned of the heat path stays."""
    gpu_bias_k, radiator_bias_k, gpu_var, radiator_var = _biases(state, config)
    learned = State(
        heat=state.heat,
        offset_w=state.offset_w,
        gpu_bias_k=gpu_bias_k,
        radiator_bias_k=radiator_bias_k,
        link=state.link,
        balance=state.balance,
    )
    if gpu_degc != gpu_degc or radiator_degc != radiator_degc:
        return learned
    noise_k = config.sensor_noise_k
    gpu_k, radiator_k = gpu_degc + ZERO_CELSIUS_K, radiator_degc + ZERO_CELSIUS_K
    gpu_flow_w, radiator_flow_w = _flow_sigmas_w(state, gpu_k, radiator_k)
    return replace(
        learned,
        gpu_degc=gpu_degc - gpu_bias_k,
        radiator_degc=radiator_degc - radiator_bias_k,
        gpu_sigma_k=sqrt(noise_k * noise_k + gpu_var),
        radiator_sigma_k=sqrt(noise_k * noise_k + radiator_var),
        mean=(gpu_k, radiator_k, 0.0, 0.0),
        covariance=kalman.diagonal(
            noise_k, noise_k, max(gpu_flow_w, flow_sigma_w), max(radiator_flow_w, flow_sigma_w)
        ),
    )


def _fused(state: State, config: Config, bus_power_w: float, gpu_degc: float, radiator_degc: float) -> State:
    """The end of a batch: the covariance catches up with the means, and the readings have their say."""
    span_s, heat = state.span_s, state.heat
    gpu_k, radiator_k, gpu_flow_w, radiator_flow_w = state.mean
    to_gpu, to_radiator = span_s / heat.gpu_capacity_j_k, span_s / heat.radiator_capacity_j_k
    through = heat.conductance_w_k
    radiates = 4.0 * heat.emission_w_k4 * radiator_k**3
    unseen_k = UNKNOWN_POWER_W * state.unseen_s / heat.gpu_capacity_j_k
    covariance = kalman.carry(
        state.covariance,
        GPU,
        ((GPU, 1.0 - to_gpu * through), (RADIATOR, to_gpu * through), (GPU_FLOW, to_gpu)),
        unseen_k * unseen_k,
    )
    covariance = kalman.carry(
        covariance,
        RADIATOR,
        (
            (GPU, to_radiator * through),
            (RADIATOR, 1.0 - to_radiator * (through + radiates)),
            (RADIATOR_FLOW, to_radiator),
        ),
    )
    keeps = max(0.0, 1.0 - span_s / FLOW_MEMORY_S)
    forgets = 1.0 - keeps * keeps
    for index, sigma_w in zip((GPU_FLOW, RADIATOR_FLOW), _flow_sigmas_w(state, gpu_k, radiator_k), strict=True):
        covariance = kalman.carry(covariance, index, ((index, keeps),), forgets * sigma_w * sigma_w)
    mean: kalman.Vector = (gpu_k, radiator_k, keeps * gpu_flow_w, keeps * radiator_flow_w)
    noise_var = config.sensor_noise_k**2
    for index, off, count in (
        (GPU, state.gpu_off, state.gpu_count),
        (RADIATOR, state.radiator_off, state.radiator_count),
    ):
        if not count:
            continue
        innovation_k = off / count - (mean[index] - state.mean[index])
        if innovation_k * innovation_k > GATE * GATE * (covariance[index][index] + noise_var):
            return _begun(state, config, gpu_degc, radiator_degc, UNKNOWN_POWER_W)
        mean, covariance = kalman.fuse(mean, covariance, ((index, 1.0),), innovation_k, noise_var)
    window, learned = state.window, state
    if state.unseen_s:
        window = None
    elif window is None or window.span_s >= WINDOW_S:
        begun = Window(mean[GPU], mean[RADIATOR], covariance[GPU][GPU], covariance[RADIATOR][RADIATOR])
        if window is not None:
            learned = _learned(state, config, window, begun, bus_power_w)
        window = begun
    gpu_bias_k, radiator_bias_k, gpu_bias_var, radiator_bias_var = _biases(learned, config)
    # A reading that stands out is told as it is, as in ``step``.
    read_gpu, read_radiator = mean[GPU] - ZERO_CELSIUS_K, mean[RADIATOR] - ZERO_CELSIUS_K
    far_k = GATE * config.sensor_noise_k
    return State(
        gpu_degc=gpu_degc if gpu_degc > read_gpu + far_k else read_gpu - gpu_bias_k,
        radiator_degc=radiator_degc if radiator_degc > read_radiator + far_k else read_radiator - radiator_bias_k,
        gpu_sigma_k=sqrt(gpu_bias_var + covariance[GPU][GPU]),
        radiator_sigma_k=sqrt(radiator_bias_var + covariance[RADIATOR][RADIATOR]),
        heat=learned.heat,
        mean=mean,
        covariance=covariance,
        blind_s=state.blind_s,
        window=window,
        offset_w=learned.offset_w,
        gpu_bias_k=gpu_bias_k,
        radiator_bias_k=radiator_bias_k,
        link=learned.link,
        balance=learned.balance,
    )


def _difference_var(config: Config) -> float:
    """Variance of the difference of both sensors' biases before anything was learned."""
    return config.sensor_bias_k**2 + config.radiator_bias_k**2


def _left_var(config: Config, sigma_k: float, difference_var: float) -> float:
    """Variance of one sensor's bias of prior ``sigma_k`` when that of the difference is ``difference_var``."""
    prior_var = _difference_var(config)
    if prior_var == 0.0:
        return 0.0
    own_var = sigma_k * sigma_k
    share = own_var / prior_var
    return max((BIAS_LEFT * sigma_k) ** 2, own_var * (1.0 - share) + share * share * difference_var)


def _biases(state: State, config: Config) -> tuple[float, float, float, float]:
    """Biases of both sensors in kelvin, GPU node first, and their variances."""
    prior_var = _difference_var(config)
    if prior_var == 0.0:
        return 0.0, 0.0, 0.0, 0.0
    conductance = state.heat.conductance_w_k
    difference_k, difference_var = state.offset_w / conductance, state.link[1][1] / conductance**2
    bound_k = BIAS_BOUND * sqrt(prior_var)
    difference_k = min(bound_k, max(-bound_k, difference_k))
    share = config.sensor_bias_k**2 / prior_var
    return (
        share * difference_k,
        (share - 1.0) * difference_k,
        _left_var(config, config.sensor_bias_k, difference_var),
        _left_var(config, config.radiator_bias_k, difference_var),
    )


def _learned(state: State, config: Config, window: Window, end: Window, bus_power_w: float) -> State:
    """The heat path after one more window; the next one begins at ``end``."""
    heat, filed, span_s = state.heat, config.heat, window.span_s
    gpu_j = window.gpu_j - heat.gpu_capacity_j_k * (end.gpu_k - window.gpu_k)
    power_var = (WINDOW_NOISE_W * span_s) ** 2
    gpu_var = power_var + heat.gpu_capacity_j_k**2 * (window.gpu_var + end.gpu_var)
    link, forget = state.link, span_s * FORGET_1_S * filed.conductance_w_k**2
    link = kalman.widened(kalman.widened(link, 0, forget), 1, forget * _difference_var(config))
    (conductance, offset_w), link = kalman.fuse(
        (heat.conductance_w_k, state.offset_w),
        link,
        ((0, window.difference_ks), (1, -span_s)),
        gpu_j - heat.conductance_w_k * window.difference_ks + state.offset_w * span_s,
        gpu_var,
    )
    scale = REFERENCE_K**4
    capacity = heat.radiator_capacity_j_k
    believed = (heat.absorbed_w, heat.absorbed_sun_w, heat.emission_w_k4 * scale, capacity)
    absorbed_w = filed.absorbed_w + filed.absorbed_sun_w
    sizes = (absorbed_w, absorbed_w, filed.emission_w_k4 * scale, filed.radiator_capacity_j_k)
    balance = state.balance
    for index, size in enumerate(sizes):
        balance = kalman.widened(balance, index, span_s * FORGET_1_S * size * size)
    row = (
        (0, -span_s),
        (1, -window.sun_s),
        (2, window.emission_s),
        (3, end.radiator_k - window.radiator_k),
    )
    off_j = gpu_j + bus_power_w * span_s - sum(factor * believed[index] for index, factor in row)
    balance_var = gpu_var + capacity**2 * (window.radiator_var + end.radiator_var)
    (dark_w, sun_w, emission_w, capacity), balance = kalman.fuse(believed, balance, row, off_j, balance_var)
    bound_w = BOUND * absorbed_w
    learned = HeatPath(
        gpu_capacity_j_k=heat.gpu_capacity_j_k,
        radiator_capacity_j_k=_near(capacity, filed.radiator_capacity_j_k),
        conductance_w_k=_near(conductance, filed.conductance_w_k),
        emission_w_k4=_near(emission_w / scale, filed.emission_w_k4),
        absorbed_w=_near(dark_w, filed.absorbed_w),
        absorbed_sun_w=min(filed.absorbed_sun_w + bound_w, max(0.0, filed.absorbed_sun_w - bound_w, sun_w)),
    )
    return replace(state, heat=learned, offset_w=offset_w, link=link, balance=balance)


def _near(value: float, configured: float) -> float:
    """The value, within ``BOUND`` of what is configured."""
    return min((1.0 + BOUND) * configured, max((1.0 - BOUND) * configured, value))

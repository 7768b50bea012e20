"""Load shedding: which rung of the ladder (``shed_table``) the vehicle stands on, and when it moves.

*Four readings and three facts*, each of which acts alone: charge, bus voltage, the two node temperatures; sensors
that are silent, an essential reading that cannot be believed, a rail that the power board has dropped by itself (it
is commanded off and on again). Not knowing, and a voltage under ``off_v`` (the bus alarm), idle the GPU at once.

*In.* A reading must have been beyond a limit for ``hold_s``, the bus voltage for ``alarm_s``. The deepest rung that
anything asks for is taken at once. NaN neither enters nor leaves a rung.

*Out.* A rung is left when nothing asks for it any more, each reading behind its hysteresis, for the rung's dwell;
then the next milder one is taken, with a dwell of its own; one without a dwell is passed in the same frame.

*Last rung.* SAFE belongs to ``mode``. The rung says that the floor was reached, or asks for SAFE itself: when a
reading stays at GPU_OFF for ``safe_after_s``, the GPU was not the reason.

ECLIPSE_BUDGET spends as if the whole dark arc lay ahead and no sun were left: (soc − target) E η_d / eclipse − bus,
whatever the sun sensor and the belief in the array say.

All times are on the machine's clock: they reject noise of samples, and keep workers from being started and stopped.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from . import eps, governor, plausible, sense, thermal
from .events import Event
from .limits import NEVER, TIMER_SLACK_S
from .shed_table import RUNGS, Cause, Config, Rung

ROOM_SOC_MIN: Final = 0.002
ROOM_K_MIN: Final = 0.5
"""Least distances between target and floor that depths are measured in; a configuration may leave none."""
ECLIPSE_MIN_S: Final = 20.0
DOUBT_FRAMES: Final = 2
"""Sensor frames in a row with an essential reading that is no reading: the first may be a glitch."""
BOARD_FRAMES: Final = 5
"""Sensor frames in a row in which the rail is off though commanded on; a command takes two of them to be seen."""


class Reach(Struct, frozen=True):
    """One reading: the deepest rung it asks for, the one it would ask for next, and since when it is beyond."""

    rung: Rung = Rung.NOMINAL
    next: Rung = Rung.NOMINAL
    beyond_s: float = NEVER


CALM: Final = Reach()


class Scene(Struct, frozen=True):
    """What the ladder looks at beside the sensors.

    The charge that limits are held against and the node temperatures as estimated (°C), the governor's targets of
    charge and GPU node (°C), the longest dark arc (s, mission time), whether a sensor frame came, whether the rail
    is commanded on, which limit of the floor is passed, in words, or "", and whether a frame came that was not
    taken because it stands still as a whole.
    """

    soc: float
    gpu_degc: float
    radiator_degc: float
    soc_target: float
    gpu_target_degc: float
    eclipse_s: float
    news: bool
    rail_on: bool
    floor: str = ""
    still: bool = False


class State(Struct, frozen=True, kw_only=True):
    """The rung that is taken, its cause, and the memory of every reading.

    ``clear_s`` is since when nothing asks for the rung, ``off_s`` since when a reading asks for GPU_OFF, ``bad_s``
    since when nothing essential is known; ``doubts`` and ``drops`` count sensor frames. ``ceiling`` (0 to 1) bounds
    the duty; ``checkpoint_asked`` holds for one frame; ``rail_off`` takes the rail once the workers are gone,
    ``cut`` without waiting for them. ``safe`` says in words why SAFE is asked for, or is empty.
    """

    rung: Rung = Rung.NOMINAL
    cause: Cause = Cause.NONE
    soc: Reach = CALM
    bus: Reach = CALM
    gpu: Reach = CALM
    radiator: Reach = CALM
    clear_s: float = NEVER
    off_s: float = NEVER
    bad_s: float = NEVER
    doubts: int = 0
    drops: int = 0
    ceiling: float = 1.0
    checkpoint_asked: bool = False
    rail_off: bool = False
    cut: bool = False
    safe: str = ""


ASIDE: Final = State()
"""Nothing is shed."""


class Asking(Struct, frozen=True):
    """The deepest rung that is asked for, by what, and in words."""

    rung: Rung = Rung.NOMINAL
    cause: Cause = Cause.NONE
    text: str = ""


NOBODY: Final = Asking()


def doubted(sensed: sense.State) -> str:
    """The first essential reading that is missing or not believed (impossible, frozen, jumped), or ""."""
    frame, bad = sensed.frame, sensed.bad
    if plausible.ALL in bad:
        return "the whole frame"
    for name in sense.ESSENTIAL:
        if frame is None or getattr(frame, name) != getattr(frame, name) or name in bad:
            return name
    return ""


def step(
    state: State,
    config: Config,
    power: eps.Config,
    heat: thermal.Config,
    card: governor.Config,
    sensed: sense.State,
    scene: Scene,
    now_s: float,
) -> tuple[State, tuple[Event, ...]]:
    """The ladder after this frame's sensing."""
    if sensed.frame is None:
        # Before the first frame there is nothing to shed: BOOT runs no payload.
        return state, ()
    seen = state
    if scene.news:
        seen = _read(state, config, power, heat, sensed, scene, now_s)
    elif scene.still and state.doubts < DOUBT_FRAMES:
        # Nothing new to read, and one frame more that nobody measured.
        seen = replace(state, doubts=state.doubts + 1)
    bad = not sensed.fresh or seen.doubts >= DOUBT_FRAMES
    bad_s = NEVER if not bad else now_s if state.bad_s == NEVER else state.bad_s
    deep = max(seen.soc.rung, seen.bus.rung, seen.gpu.rung, seen.radiator.rung) >= Rung.GPU_OFF
    off_s = NEVER if not deep else now_s if state.off_s == NEVER else state.off_s
    want = _wanted(seen, config, sensed, scene, bad_s, now_s)
    if want is NOBODY and state.rung is Rung.NOMINAL:
        return seen, ()
    safe = ""
    if deep and now_s - off_s >= config.safe_after_s - TIMER_SLACK_S:
        safe = f"GPU off does not help: {want.text}"
        want = Asking(Rung.SAFE, want.cause, safe)
    rung, cause, text, clear_s = _moved(state, config, want, now_s)
    row = RUNGS[rung]
    found: tuple[Event, ...] = ()
    if rung is not state.rung:
        found = (Event("SHED_RUNG", {"old": state.rung.name, "new": rung.name, "cause": text}),)
    urgent = state.cut or seen.bus.rung >= Rung.GPU_OFF or seen.drops >= BOARD_FRAMES
    after = replace(
        seen,
        rung=rung,
        cause=cause,
        clear_s=clear_s,
        off_s=off_s,
        bad_s=bad_s,
        ceiling=_ceiling(rung, config, power, card, scene, sensed),
        checkpoint_asked=row.checkpoint and not RUNGS[state.rung].checkpoint,
        rail_off=row.rail_off,
        cut=row.rail_off and urgent,
        safe=safe,
    )
    return after, found


def _read(
    state: State,
    config: Config,
    power: eps.Config,
    heat: thermal.Config,
    sensed: sense.State,
    scene: Scene,
    now_s: float,
) -> State:
    """The memory of every reading after one more sensor frame."""
    frame = sensed.frame
    assert frame is not None, "news without a frame"
    depths = (config.derate_depth, config.budget_depth, config.shed_depth, config.off_depth)
    volts = (-config.derate_v, -config.budget_v, -config.shed_v, -config.off_v)
    slack, hold_s, room_k = config.hysteresis_depth, config.hold_s, config.radiator_room_k
    depth = (scene.soc_target - scene.soc) / max(ROOM_SOC_MIN, scene.soc_target - power.soc_safe)
    soc = _reach(state.soc, depth, depths, slack, hold_s, now_s)
    depth = (scene.gpu_degc - scene.gpu_target_degc) / max(ROOM_K_MIN, heat.gpu_limit_degc - scene.gpu_target_degc)
    gpu = _reach(state.gpu, depth, depths, slack, hold_s, now_s)
    depth = 1.0 + (scene.radiator_degc - heat.radiator_limit_degc) / room_k
    radiator = _reach(state.radiator, depth, depths, slack, hold_s, now_s)
    bus = _reach(state.bus, -frame.bus_voltage_v, volts, config.hysteresis_v, config.alarm_s, now_s)
    if frame.bus_voltage_v <= config.off_v and bus.rung < Rung.SHED:
        # The alarm itself: idle costs nothing but work, so it waits for nothing.
        bus = Reach(Rung.SHED, bus.next, bus.beyond_s)
    doubts = min(state.doubts + 1, DOUBT_FRAMES) if doubted(sensed) else 0
    drops = min(state.drops + 1, BOARD_FRAMES) if scene.rail_on and not frame.gpu_rail_on else 0
    same = soc is state.soc and bus is state.bus and gpu is state.gpu and radiator is state.radiator
    if same and doubts == state.doubts and drops == state.drops:
        return state
    return replace(state, soc=soc, bus=bus, gpu=gpu, radiator=radiator, doubts=doubts, drops=drops)


def _reach(
    state: Reach, value: float, limits: tuple[float, ...], hysteresis: float, hold_s: float, now_s: float
) -> Reach:
    """One reading after one more sample: worse is larger, ``limits`` rise from rung to rung."""
    if state is CALM and value < limits[0]:
        return state
    if value != value:
        return Reach(state.rung) if state.rung else CALM
    enters = Rung(sum(value >= limit for limit in limits))
    if enters > state.rung:
        # What was passed all the time is what the mildest sample of it passed.
        passed = enters if state.beyond_s == NEVER else min(enters, state.next)
        beyond_s = now_s if state.beyond_s == NEVER else state.beyond_s
        if now_s - beyond_s >= hold_s - TIMER_SLACK_S:
            return Reach(passed)
        return Reach(state.rung, passed, beyond_s)
    stays = Rung(min(state.rung, sum(value > limit - hysteresis for limit in limits)))
    return Reach(stays) if stays else CALM


def _wanted(seen: State, config: Config, sensed: sense.State, scene: Scene, bad_s: float, now_s: float) -> Asking:
    """The deepest rung that anything asks for; of equals the first."""
    frame = sensed.frame
    assert frame is not None, "the ladder stands still without a frame"
    asking: list[Asking] = []
    if seen.bus.rung:
        asking.append(Asking(seen.bus.rung, Cause.BUS, f"bus {frame.bus_voltage_v:.2f} V"))
    if seen.soc.rung:
        asking.append(Asking(seen.soc.rung, Cause.SOC, f"SoC {scene.soc:.4f}, target {scene.soc_target:.4f}"))
    if seen.gpu.rung:
        asking.append(Asking(seen.gpu.rung, Cause.GPU_TEMP, f"GPU node {scene.gpu_degc:.1f} degC"))
    if seen.radiator.rung:
        text = f"radiator {scene.radiator_degc:.1f} degC"
        asking.append(Asking(seen.radiator.rung, Cause.RADIATOR_TEMP, text))
    if bad_s != NEVER:
        rung = Rung.GPU_OFF if now_s - bad_s >= config.stale_off_s - TIMER_SLACK_S else Rung.SHED
        if sensed.fresh:
            asking.append(Asking(rung, Cause.DOUBT, f"{doubted(sensed)} cannot be believed"))
        else:
            asking.append(Asking(rung, Cause.STALE, f"no valid sensor frame for {sensed.age_s(now_s):.1f} s"))
    if seen.drops >= BOARD_FRAMES:
        asking.append(Asking(Rung.GPU_OFF, Cause.BOARD, "the power board dropped the rail"))
    if scene.floor:
        asking.append(Asking(Rung.SAFE, Cause.FLOOR, scene.floor))
    return max(asking, key=lambda one: one.rung) if asking else NOBODY


def _moved(state: State, config: Config, want: Asking, now_s: float) -> tuple[Rung, Cause, str, float]:
    """The rung after this frame, its cause, what is said of it, and since when nothing asks for it."""
    if want.rung > state.rung:
        return want.rung, want.cause, want.text, NEVER
    if want.rung is state.rung:
        return state.rung, want.cause, "", NEVER
    clear_s = now_s if state.clear_s == NEVER else state.clear_s
    key = RUNGS[state.rung].dwell
    dwell_s: float = getattr(config, key) if key else 0.0
    if now_s - clear_s < dwell_s - TIMER_SLACK_S:
        return state.rung, state.cause, "", clear_s
    milder = Rung(state.rung - 1)
    while milder > want.rung and (key := RUNGS[milder].dwell) and getattr(config, key) == 0.0:
        milder = Rung(milder - 1)
    text = f"nothing asks for {state.rung.name} since {dwell_s:g} s"
    return (milder, state.cause, text, now_s) if milder else (milder, Cause.NONE, text, NEVER)


def _ceiling(
    rung: Rung, config: Config, power: eps.Config, card: governor.Config, scene: Scene, sensed: sense.State
) -> float:
    if rung is Rung.NOMINAL:
        return 1.0
    if rung is Rung.DERATE:
        return config.derate_ceiling
    if rung is not Rung.ECLIPSE_BUDGET or sensed.frame is None:
        return 0.0
    spare_j = (scene.soc - scene.soc_target) * power.capacity_j
    carried_w = spare_j * power.discharge_efficiency / max(scene.eclipse_s, ECLIPSE_MIN_S) - power.bus_power_w
    duty = (carried_w - card.gpu_idle_w) / (card.gpu_max_w - card.gpu_idle_w)
    # NaN is not over 0: not knowing is idle.
    return min(duty, config.derate_ceiling) if duty > 0.0 else 0.0

"""What each effect of the core means: one ``match``, complete by the type checker.

Nothing here decides and nothing waits. What an effect leads to comes back as an input of a later frame.
"""

import logging
from typing import Final, assert_never, cast

from flightsw.core import effects
from flightsw.gpu import protocol
from flightsw.link.schema import Severity

from .ports import Ports
from .recorder_tables import Row

LOG_LEVELS: Final = {
    Severity.DIAGNOSTIC: logging.DEBUG,
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.ERROR: logging.ERROR,
    Severity.CRITICAL: logging.CRITICAL,
    Severity.FATAL: logging.CRITICAL,
}

_events: Final = logging.getLogger("flightd.event")


def execute(effect: effects.Effect, ports: Ports, boot_count: int, now_s: float) -> None:
    """Carry out one effect of the frame at ``now_s``."""
    match effect:
        case effects.Telemetry():
            sent = effect.live and ports.radio.send(effect.packet)
            if effect.record:
                ports.recorder.record(_row(effect, boot_count, sent))
        case effects.Actuate():
            ports.avionics.actuate(effect)
        case effects.SetPace(job, duty, micro_batch_s):
            ports.workers.tell(job, protocol.Pace(duty, micro_batch_s))
        case effects.SetVigilance(job, level):
            ports.workers.tell(job, protocol.Vigilance(cast(protocol.LevelName, level)))
        case effects.KickWatchdog():
            ports.watchdog.kick(now_s)
        case effects.Playback(budget_bytes):
            ports.recorder.play_back(budget_bytes)
        case effects.Replay():
            ports.recorder.replay(effect)
        case effects.SetRetention():
            ports.recorder.retain(effect)
        case effects.Acknowledge(boot, apid, first, last):
            ports.recorder.acknowledge(boot, apid, first, last)
        case effects.Announce(severity, name, text):
            _events.log(LOG_LEVELS[severity], "%-20s %s", name, text)
        case effects.StartWorker(job):
            ports.workers.start(job)
        case effects.StopWorker(job):
            ports.workers.tell(job, protocol.Stop())
        case effects.KillWorker(job, reason):
            ports.workers.kill(job, reason)
        case effects.SaveCheckpoint(job, reason):
            ports.workers.tell(job, protocol.Checkpoint(reason))
        case effects.SubmitRequest():
            ports.workers.tell(
                effect.job,
                protocol.Generate(
                    request=effect.request,
                    prompt=effect.prompt,
                    max_tokens=effect.max_tokens,
                    temperature=effect.temperature,
                    top_k=effect.top_k,
                    seed=effect.seed,
                ),
            )
        case effects.RequestPlan(request, deadline_s):
            ports.planner.ask(request, deadline_s)
        case effects.Persist(key, payload):
            ports.store.put(key, payload)
        case effects.Restart(reason, by_ladder):
            ports.life.request_end(reason, "ladder" if by_ladder else "restart")
        case effects.CountUncleanBoots(count):
            ports.life.count_unclean_boots(count)
        case _:
            assert_never(effect)


def _row(effect: effects.Telemetry, boot_count: int, sent: bool) -> Row:
    return Row(
        boot=boot_count,
        apid=effect.apid,
        sequence=effect.sequence,
        priority=effect.priority,
        world_s=effect.world_s,
        sent=sent,
        packet=effect.packet,
        group=effect.group,
        severity=effect.severity,
    )

"""A worker: one job in one process, the only owner of its CUDA context.

    python -m flightsw.gpu.worker                    under the daemon: specification and messages on standard input
    python -m flightsw.gpu.worker --solo SPEC.json   the undisturbed twin of a training job, without a daemon

The main thread runs the workload. Beside it the channel's thread reads messages and a timer thread sends heartbeats
with the workload's counters, so a workload that hangs goes on beating without progress and is caught by that.
The process is nice: telemetry and commanding go before work. SIGTERM stops in an orderly way, but not with status
0: whoever sent it is not the daemon, which then starts the job again. SIGINT is ignored, because a terminal sends
it to the whole group and the daemon decides when its workers stop.

Exit status: 0 done or stopped by the daemon · 1 after a ``Fault`` · 2 wrong use · ``channel.ORPHAN_STATUS`` the
daemon vanished · ``TERMINATED_STATUS`` after SIGTERM.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from flightsw.gpu import protocol
from flightsw.gpu.channel import Channel
from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer

if TYPE_CHECKING:
    from flightsw.gpu.workloads.job import Job

NICENESS: Final = 10
TERMINATED_STATUS: Final = 128 + signal.SIGTERM
HEARTBEAT_S: Final = 0.5
SPEC_BYTES_MAX: Final = 1 << 16
REASON_CHARACTERS_MAX: Final = 400


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flightsw.gpu.worker", description="GPU worker process")
    parser.add_argument("--solo", metavar="SPEC.json", type=Path, help="run this training job without a daemon")
    options = parser.parse_args(arguments)
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    return _serve() if options.solo is None else _solo(options.solo)


def _serve() -> int:
    channel = Channel.on_standard_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = channel.receive()
    if spec is None:
        return 0
    if not isinstance(spec, protocol.TrainSpec | protocol.InferSpec):
        return _fault(channel, "spec", f"the first message is {type(spec).__name__}, not a job specification")
    try:
        meter = Meter(spec.meter)
    except OSError as error:
        return _fault(channel, "spec", f"meter {spec.meter}: {error.strerror}")
    # Torch takes seconds to import: only now that the pipe is known to be ours.
    from flightsw.gpu.workloads.job import Job, JobFault

    job = Job(channel.send, Pacer(), meter)
    terminated = threading.Event()

    def terminate(number: int, frame: object) -> None:
        terminated.set()
        job.stop()

    signal.signal(signal.SIGTERM, terminate)
    channel.start(job.post, job.stop)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(job, ended), name="heartbeat", daemon=True)
    beat.start()
    try:
        _partitioned(spec, job)
    except JobFault as fault:
        return _fault(channel, fault.code, fault.reason)
    except MemoryError as error:
        return _fault(channel, "memory", str(error) or "out of memory")
    except Exception as error:
        # A fault of ours or of the device: the trace is for the log, one line of it for the daemon.
        traceback.print_exc()
        code = "memory" if type(error).__name__ == "OutOfMemoryError" else "internal"
        return _fault(channel, code, f"{type(error).__name__}: {error}")
    finally:
        ended.set()
        job.is_ready.set()
        beat.join()
    channel.send(job.progress.beat())
    return TERMINATED_STATUS if terminated.is_set() else 0


def _partitioned(spec: protocol.JobSpec, job: "Job") -> None:
    """Run on the part of the card that the specification names; without partitions on the whole card, and say
    so."""
    if spec.sm_fraction >= 1.0:
        return _run(spec, job)
    import torch

    from flightsw.gpu.actuators.partition import PartitionUnavailable, partition

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(partition(torch, spec.sm_fraction))
        except PartitionUnavailable as error:
            job.send(protocol.Fault(code="partition", reason=f"{error}; the job goes on with the whole card"))
        return _run(spec, job)


def _run(spec: protocol.JobSpec, job: "Job") -> None:
    match spec:
        case protocol.TrainSpec():
            from flightsw.gpu.workloads import train

            train.run(spec, job)
        case protocol.InferSpec():
            from flightsw.gpu.workloads import infer

            infer.run(spec, job)
        case _:
            assert_never(spec)


def _beat(job: "Job", ended: threading.Event) -> None:
    job.is_ready.wait()
    while not ended.wait(HEARTBEAT_S):
        job.send(job.progress.beat())


def _fault(channel: Channel, code: str, reason: str) -> int:
    line = " ".join(reason.split())[:REASON_CHARACTERS_MAX]
    print(f"worker: {code}: {line}", file=sys.stderr)
    channel.send(protocol.Fault(code=code, reason=line))
    return 1


def _solo(path: Path) -> int:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopping.set())
    try:
        with open(path, "rb") as file:
            spec = msgspec.json.decode(file.read(SPEC_BYTES_MAX), type=protocol.TrainSpec)
    except OSError as error:
        print(f"worker: {path}: {error.strerror}", file=sys.stderr)
        return 2
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        print(f"worker: {path}: {error}", file=sys.stderr)
        return 2
    from flightsw.gpu.workloads import train
    from flightsw.gpu.workloads.job import JobFault

    try:
        train.run_solo(spec, stopping.is_set)
    except JobFault as fault:
        print(f"worker: {fault.code}: {fault.reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

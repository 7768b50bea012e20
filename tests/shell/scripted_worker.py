"""A worker double that speaks the protocol and misbehaves on order: ``scripted_worker.py MANNER``.

Its manner is an argument of ``worker.command``, so the daemon under test is the unmodified one. It needs no torch
and starts in a moment. Steps are counted in a file beside the checkpoints, so that a restart resumes.
"""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from flightsw.gpu import protocol
from flightsw.gpu.protocol import LENGTH_PREFIX, Heartbeat, InferSpec, ProbeSpec, TrainSpec


def say(message: protocol.FromChild) -> None:
    data = protocol.encode(message)
    while data:
        data = data[os.write(1, data) :]


def hear(timeout_s: float) -> protocol.ToChild | None:
    """The next message; None when none came; ends the process at end of file."""
    if not select.select([0], [], [], timeout_s)[0]:
        return None
    prefix = os.read(0, LENGTH_PREFIX.size)
    if len(prefix) < LENGTH_PREFIX.size:
        sys.exit(0)
    (size,) = LENGTH_PREFIX.unpack(prefix)
    body = b""
    while len(body) < size:
        body += os.read(0, size - len(body))
    return protocol.decode_to_child(body)


def beat(progress: int, pending: int = 0) -> None:
    say(
        Heartbeat(
            progress=progress,
            step=progress,
            loss=1.0 / (1 + progress),
            tokens=progress * 64,
            busy_s=progress * 0.01,
            micro_batch_s=0.01,
            pending=pending,
        )
    )


def commit(generation: int, step: int) -> None:
    say(
        protocol.Committed(
            generation=generation, step=step, digest=f"{step:032x}", size_bytes=1000, stall_s=0.001, total_s=0.01
        )
    )


def work(spec: TrainSpec | InferSpec, manner: str) -> int:
    """A worker in good order, except that "deaf" ignores Stop, "busy" takes all of a core, and the first life of
    "hurt" finds damage in a storm that it cannot mend."""
    progress = 0
    notes = Path(spec.checkpoint_dir) / f"{spec.id}.step" if spec.checkpoint_dir else None
    if notes is not None and notes.exists():
        progress = int(notes.read_text())
    say(protocol.Ready(pid=os.getpid(), device="cpu", step=progress, generation=0 if progress else -1))
    due_s, generation, hurt = 0.0, 0, manner == "hurt" and progress == 0
    while True:
        progress += 1
        if manner == "busy":
            end_s = time.perf_counter() + 0.02
            while time.perf_counter() < end_s:
                pass
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + 0.1
            beat(progress)
            if notes is not None:
                notes.parent.mkdir(parents=True, exist_ok=True)
                # It may be killed between any two lines, and a restart reads this.
                notes.with_suffix(".tmp").write_text(str(progress))
                notes.with_suffix(".tmp").replace(notes)
        message = hear(0.0 if manner == "busy" else 0.02)
        match message:
            case protocol.Stop() if manner != "deaf":
                commit(generation, progress)
                return 0
            case protocol.Checkpoint():
                generation += 1
                commit(generation, progress)
            case protocol.Vigilance(level=level):
                found = int(hurt and level == "storm")
                say(
                    protocol.IntegrityReport(
                        level=level,
                        checks=progress,
                        detected=found,
                        open=found,
                        scrubs=1,
                        last_detector="digest",
                        last_where="weight head",
                    )
                )
            case protocol.Generate():
                say(
                    protocol.Reply(
                        request=message.request,
                        text=message.prompt[::-1],
                        tokens=len(message.prompt),
                        finish="stop",
                        generation=generation,
                        duration_s=0.01,
                    )
                )


def probe() -> int:
    sequence = 0
    while True:
        sequence += 1
        say(protocol.Sample(sequence=sequence, source="scripted", power_w=123.0, unsupported=("ecc_uncorrected",)))
        hear(0.1)


def main(manner: str) -> int:
    spec = hear(30.0)
    if isinstance(spec, ProbeSpec):
        return probe()
    assert isinstance(spec, TrainSpec | InferSpec)
    match manner:
        case "silent":
            hear(3600.0)
        case "fails":
            print("first line\nthe corpus cannot be read", file=sys.stderr)
            return 3
        case "garbage":
            os.write(1, LENGTH_PREFIX.pack(5) + b"\xc1\xc1\xc1\xc1\xc1")
            hear(3600.0)
        case "huge":
            os.write(1, LENGTH_PREFIX.pack(2**31))
            hear(3600.0)
        case "flood":
            while True:
                beat(1)
        case "chatty":
            beat(1)
            for number in range(200_000):
                print(f"line {number} \x1b[31m" + "x" * 200, file=sys.stderr)
        case "grandchild":
            grandchild = subprocess.Popen(["sleep", "3600"])
            say(protocol.Ready(pid=grandchild.pid, device="cpu", step=0, generation=-1))
            hear(3600.0)
        case _:
            return work(spec, manner)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

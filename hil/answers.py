"""Answers beside those of an undisturbed worker: what was released must be what the weights say.

After the flight, each generation that answers named is given to a worker of its own, the real program on a copy
of that one checkpoint, with nothing else in the world. It gets the same requests, one after the other, and its
texts are held against the archived ones. A request is alone in its batch there; on board it should be, too, because
the shapes of a batch change the rounding, and a rounding may change a drawn token.

The worker is spoken to as the daemon does: ``u32`` length and a msgpack map with its ``kind``. The bench writes
these maps itself; it attacks and watches from outside and shares no code with the worker. Every wait is bounded.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from struct import Struct
from typing import Any, Final

import msgspec

from flightsw.link.dictionary import TELECOMMAND_BY_NAME

from .evidence import AnswerRecord, ReplyRecord

LENGTH: Final = Struct("<I")
MESSAGE_BYTES_MAX: Final = 1 << 20
ANSWER_MAX_S: Final = 120.0
"""Longest wait for one answer; the first includes the worker's start."""
READ_BYTES: Final = 65536
ASKED: Final = ("prompt", "max_tokens", "temperature", "top_k", "seed")


class NoAnswer(Exception):
    """The undisturbed worker gave no answer; the text is one line."""


class LoneWorker:
    """An inference worker with one checkpoint and nobody else around."""

    def __init__(self, job: Mapping[str, Any], checkpoint: Path, folder: Path) -> None:
        """Copy the checkpoint and start the worker; ``job`` is the satellite's. Raises ``OSError``."""
        ring = folder / "checkpoints"
        ring.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, ring / checkpoint.name)
        self._log = folder / "worker.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flightsw.gpu.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdin is not None, "it was asked for"
        assert self._process.stdout is not None, "it was asked for"
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._received = b""
        self._said = 0
        self._send({**job, "checkpoint_dir": str(ring.absolute()), "meter": ""})
        self._send({"kind": "pace", "duty": 1.0})

    def ask(self, arguments: Mapping[str, Any]) -> str:
        """The text of its answer. Raises ``NoAnswer``."""
        self._said += 1
        defaults = {argument.name: argument.default for argument in TELECOMMAND_BY_NAME["job.infer"].arguments}
        request = {name: arguments.get(name, defaults.get(name)) for name in ASKED}
        self._send({"kind": "generate", "request": self._said, **request})
        deadline_s = time.monotonic() + ANSWER_MAX_S
        for message in self._messages(deadline_s):
            if message.get("kind") == "fault":
                raise NoAnswer(f"the undisturbed worker failed: {message.get('reason')}")
            if message.get("kind") == "reply" and message.get("request") == self._said:
                if message.get("finish") == "failed":
                    raise NoAnswer(f"the undisturbed worker refused: {message.get('text')}")
                return str(message.get("text"))
        raise NoAnswer(f"the undisturbed worker gave no answer (log: {self._log})")

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        body = msgspec.msgpack.encode(message)
        with contextlib.suppress(BrokenPipeError):  # That it is gone shows when it is read.
            os.write(self._in, LENGTH.pack(len(body)) + body)

    def _messages(self, deadline_s: float) -> Iterator[dict[str, Any]]:
        """Messages until the deadline, or until the worker is gone."""
        while True:
            while len(self._received) >= LENGTH.size:
                (length,) = LENGTH.unpack_from(self._received)
                if length > MESSAGE_BYTES_MAX or len(self._received) < LENGTH.size + length:
                    break
                body = self._received[LENGTH.size : LENGTH.size + length]
                self._received = self._received[LENGTH.size + length :]
                yield msgspec.msgpack.decode(body, type=dict[str, Any])
            ready, _, _ = select.select([self._out], [], [], max(0.0, deadline_s - time.monotonic()))
            data = os.read(self._out, READ_BYTES) if ready else b""
            if not data:
                return
            self._received += data


def compare_answers(
    replies: list[ReplyRecord],
    job: Mapping[str, Any],
    ring: Path,
    folder: Path,
    announce: Callable[[str], None],
) -> tuple[list[AnswerRecord], str]:
    """Released answers with the undisturbed worker's, and why some could not be compared ("" when all were).

    ``job`` is the inference job as the mission file has it, ``ring`` the checkpoints on board after the flight.
    """
    released = [reply for reply in replies if reply.finish != "failed"]
    answers: list[AnswerRecord] = []
    problems: list[str] = []
    for generation in sorted({reply.generation for reply in released}):
        asked = [reply for reply in released if reply.generation == generation]
        announce(f"asking an undisturbed worker {len(asked)} times on generation {generation}")
        checkpoint = ring / f"gen-{generation:08d}.ckpt"
        if not checkpoint.exists():
            problems.append(
                f"generation {generation} is no longer in the ring, so {len(asked)} answers have no twin"
            )
            continue
        try:
            worker = LoneWorker(job, checkpoint, folder / f"gen-{generation}")
        except OSError as error:
            problems.append(f"no undisturbed worker could be started: {error.strerror}")
            continue
        with contextlib.closing(worker):
            for reply in asked:
                try:
                    twin_text = worker.ask(reply.arguments)
                except NoAnswer as error:
                    problems.append(str(error))
                    break
                answers.append(
                    AnswerRecord(
                        request=reply.request,
                        world_s=reply.world_s,
                        generation=generation,
                        text=reply.text,
                        twin_text=twin_text,
                    )
                )
    return answers, "; ".join(problems)

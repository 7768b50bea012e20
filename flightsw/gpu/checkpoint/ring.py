"""A ring of generations in one folder: commit, scan, prune.

    gen-00000012.ckpt       a generation (``format``)
    gen-00000013.ckpt.tmp   being written; after a crash: half-written, removed at the next ``open_for_writing``
    gen-00000011.ckpt.bad   found corrupt by the writer; the newest ``QUARANTINE_MAX`` are kept for the post-mortem
    latest                  "generation step state-digest check": the newest committed generation
    lock                    held by the one writer

A commit writes a temporary file, flushes it to the medium, reads it back and checks every byte, renames it, makes
the folder durable, and only then moves ``latest``, in the same durable way. A crash at any point leaves the
older generations and ``latest`` as they were. ``latest`` serves readers that poll; recovery never trusts
it: a scan takes the newest generation that verifies, and reports the ones that do not.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import xxhash
from torch import Tensor

from flightsw.gpu.checkpoint import format
from flightsw.gpu.checkpoint.format import Corrupt, Facts, Manifest

GENERATIONS_MIN: Final = 4
QUARANTINE_MAX: Final = 2
LOCK_WAIT_S: Final = 10.0
"""How long a new writer waits for its predecessor to end; longer than a channel's grace for orphans."""
LOCK_POLL_S: Final = 0.05
POINTER_BYTES_MAX: Final = 256

_NAME: Final = re.compile(r"^gen-(\d{8,15})\.ckpt$")
_TEMPORARY: Final = re.compile(r"^gen-(\d{8,15})\.ckpt\.tmp$")
_BAD: Final = re.compile(r"^gen-(\d{8,15})\.ckpt\.bad$")


class SaveError(Exception):
    """A generation could not be committed; older generations stand. The text is one line for an operator."""


class Rejection(msgspec.Struct, frozen=True):
    """A generation that was skipped; −1 stands for the ``latest`` pointer itself."""

    generation: int
    reason: str


class Pointer(msgspec.Struct, frozen=True):
    """What ``latest`` says."""

    generation: int
    step: int
    digest: str


class Commit(msgspec.Struct, frozen=True):
    """A generation that is durable, verified and ``latest``."""

    generation: int
    step: int
    digest: str
    size_bytes: int


class Restored(msgspec.Struct, frozen=True):
    """The newest generation that verifies (None: there is none), and what was skipped on the way to it."""

    manifest: Manifest | None
    tensors: dict[str, Tensor]
    rejected: tuple[Rejection, ...]


class Ring:
    """The folder of one job. Any number of readers, one writer (``open_for_writing``)."""

    def __init__(self, folder: Path, generations: int = GENERATIONS_MIN) -> None:
        if generations < GENERATIONS_MIN:
            raise ValueError(f"a ring has at least {GENERATIONS_MIN} generations, not {generations}")
        self.folder = folder
        self._generations = generations
        self._lock_fd = -1
        self._next = 0

    # --- reading ---------------------------------------------------------------------------------------------

    def generations(self) -> list[int]:
        """Numbers of the generations on disk, newest first, verified or not."""
        return sorted(self._numbers(_NAME), reverse=True)

    def path(self, generation: int) -> Path:
        """File of a generation."""
        return self.folder / f"gen-{generation:08d}.ckpt"

    def latest(self) -> Pointer | None:
        """The newest committed generation as ``latest`` names it; None when there is none or it is damaged."""
        try:
            with open(self.folder / "latest", "rb") as file:
                line = file.read(POINTER_BYTES_MAX)
            text, _, check = line.rstrip(b"\n").rpartition(b" ")
            generation, step, digest = text.decode("ascii").split(" ")
            if check.decode("ascii") != xxhash.xxh3_64_hexdigest(text):
                return None
            return Pointer(int(generation), int(step), digest)
        except (OSError, ValueError):
            return None

    def newest(self, keep: Callable[[str], bool] = lambda name: True) -> Restored:
        """The newest generation that verifies, with the tensors whose names ``keep`` accepts.

        Never raises for what it finds on disk. The writer moves corrupt generations out of the way.
        """
        rejected: list[Rejection] = []
        found = self.generations()
        pointer = self.latest()
        if pointer is None and (self.folder / "latest").exists():
            rejected.append(Rejection(-1, 'the pointer "latest" is damaged; the generations were searched instead'))
        elif (
            pointer is not None
            and pointer.generation > max(found, default=-1)
            and not self._bad(pointer.generation).exists()
        ):
            rejected.append(Rejection(pointer.generation, 'named by "latest", but its file is missing'))
        for generation in found:
            try:
                manifest, tensors = format.read(self.path(generation), keep)
                if manifest.generation != generation:
                    raise Corrupt(f"file is named generation {generation} and holds {manifest.generation}")
                return Restored(manifest, tensors, tuple(rejected))
            except FileNotFoundError:
                continue  # Pruned by the writer since the listing.
            except Corrupt as error:
                rejected.append(Rejection(generation, str(error)))
                self._quarantine(generation)
            except OSError as error:
                rejected.append(Rejection(generation, f"cannot be read: {error.strerror}"))
        return Restored(None, {}, tuple(rejected))

    # --- writing ---------------------------------------------------------------------------------------------

    def open_for_writing(self) -> tuple[Rejection, ...]:
        """Become the writer: make the folder, take the lock, clear half-written files and report them.

        Raises ``SaveError`` when the folder cannot be used or another writer holds it for ``LOCK_WAIT_S``.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take_lock()
            halves = sorted(self._numbers(_TEMPORARY))
            for generation in halves:
                self._temporary(generation).unlink(missing_ok=True)
            pointer = self.latest()
            known = [*self._numbers(_NAME), *self._numbers(_BAD), *halves, pointer.generation if pointer else -1]
        except OSError as error:
            raise SaveError(f"checkpoint folder {self.folder}: {error.strerror}") from None
        self._next = max(known, default=-1) + 1
        return tuple(Rejection(generation, "half-written: its writer ended while saving") for generation in halves)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def commit(self, step: int, facts: Facts, tensors: Mapping[str, Tensor]) -> Commit:
        """Make host tensors the newest generation. Raises ``SaveError``; older generations are untouched then."""
        assert self._lock_fd >= 0, "commit needs open_for_writing"
        entries = format.describe(tensors)
        manifest = Manifest(
            generation=self._next, step=step, digest=format.state_digest(entries), facts=facts, tensors=entries
        )
        temporary = self._temporary(self._next)
        try:
            size_bytes = format.write(temporary, manifest, tensors)
            written, _ = format.read(temporary, lambda name: False)
            if written != manifest:
                raise Corrupt("another manifest was read back")
            os.rename(temporary, self.path(self._next))
            self._sync_folder()
            self._point(manifest)
        except (OSError, Corrupt) as error:
            temporary.unlink(missing_ok=True)
            raise SaveError(f"generation {manifest.generation} in {self.folder}: {_explain(error)}") from None
        finally:
            self._next += 1
            self._prune()
        return Commit(manifest.generation, step, manifest.digest, size_bytes)

    def _point(self, manifest: Manifest) -> None:
        text = f"{manifest.generation} {manifest.step} {manifest.digest}".encode("ascii")
        line = text + b" " + xxhash.xxh3_64_hexdigest(text).encode("ascii") + b"\n"
        temporary = self.folder / "latest.tmp"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self.folder / "latest")
        self._sync_folder()

    def _prune(self) -> None:
        """Keep the newest generations; a file that cannot be removed is tried again at the next commit."""
        surplus = [self.path(generation) for generation in self.generations()[self._generations :]]
        bad = sorted(self._numbers(_BAD), reverse=True)[QUARANTINE_MAX:]
        for path in [*surplus, *(self._bad(generation) for generation in bad)]:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue

    def _quarantine(self, generation: int) -> None:
        """Move a corrupt generation aside, so that it neither fills the ring nor is reported again."""
        if self._lock_fd >= 0:
            try:
                os.replace(self.path(generation), self._bad(generation))
            except OSError:
                return

    def _take_lock(self) -> None:
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise OSError(errno.EBUSY, "another worker still writes here") from None
                time.sleep(LOCK_POLL_S)

    def _numbers(self, pattern: re.Pattern[str]) -> list[int]:
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return [int(match[1]) for name in names if (match := pattern.match(name))]

    def _temporary(self, generation: int) -> Path:
        return self.folder / f"gen-{generation:08d}.ckpt.tmp"

    def _bad(self, generation: int) -> Path:
        return self.folder / f"gen-{generation:08d}.ckpt.bad"

    def _sync_folder(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _explain(error: OSError | Corrupt) -> str:
    if isinstance(error, Corrupt):
        return f"read back wrong: {error}"
    return error.strerror or str(error)

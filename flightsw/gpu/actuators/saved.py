"""The settings of a card as they were found, in a file that outlives whoever changed them.

The file is written durably *before* the first change and removed after everything is as it was. So whatever ends
the process between the two, SIGKILL and a power cut included, leaves the file, and the next start restores from it
before it does anything else. It names the card: settings of one card are never written to another.
"""

import contextlib
import os
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

FORMAT: Final = 1
BYTES_MAX: Final = 1 << 14


class SavedError(Exception):
    """The file cannot be used; one line for the operator."""


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``values`` by name of the setting, in its own unit (mW, MHz, mode number); −1 is the driver's default."""

    card: Annotated[str, Meta(max_length=200)]
    values: dict[str, int]
    format: Literal[1] = 1


class SavedFile:
    """One such file. ``load`` is None when nothing was left changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Saved | None:
        """What an earlier process left behind; raises ``SavedError`` for a file that cannot be read."""
        try:
            with self.path.open("rb") as file:
                return msgspec.json.decode(file.read(BYTES_MAX), type=Saved)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SavedError(f"{self.path}: {error.strerror or error}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SavedError(
                f"{self.path}: is no file of saved settings ({error}); set the card right by hand and remove it"
            ) from None

    def save(self, saved: Saved) -> None:
        """Durable when this returns; raises ``SavedError``, and then no setting may be changed."""
        temporary = self.path.with_name(self.path.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(saved))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            self._sync_folder()
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise SavedError(f"{self.path}: {error.strerror or error}; nothing is changed") from None

    def clear(self) -> None:
        """Everything is as it was found. A file that cannot be removed only restores once more: harmless."""
        with contextlib.suppress(OSError):
            self.path.unlink()
            self._sync_folder()

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

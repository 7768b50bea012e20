"""The state directory: made when it is not there, and owned by one daemon at a time.

Two daemons on one state would write one recorder and one boot count. The lock is a kernel lock on ``lock``: it
ends with its process, however that ends, so that a crash leaves nothing to clean up. Its content, the owner's
process id, is only for the message to whoever comes second.
"""

import fcntl
import os
from pathlib import Path

DIRECTORY_MODE = 0o700


class StateDirectoryError(Exception):
    """The state directory cannot be used; the text says why and what to do."""


class StateDirectory:
    """A locked state directory; ``release`` or the end of the process gives it back."""

    def __init__(self, path: Path) -> None:
        """Make and lock ``path``; raises ``StateDirectoryError``."""
        self.path = path
        try:
            path.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
            self._fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise StateDirectoryError(f"{path}: is no folder; choose another mission.state_dir") from None
        except OSError as error:
            raise StateDirectoryError(
                f"{path}: cannot be made or written: {error.strerror}; choose another mission.state_dir"
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            raise StateDirectoryError(
                f"{path}: in use by another flightd (process {owner or 'unknown'}); stop that one"
                " or choose another mission.state_dir"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._fd)

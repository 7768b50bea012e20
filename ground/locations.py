"""Where the station's socket and archive are: option, else environment, else ``out/ground`` in the working
directory."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SOCKET_VARIABLE: Final = "GROUND_SOCKET"
ARCHIVE_VARIABLE: Final = "GROUND_ARCHIVE"
DIRECTORY: Final = Path("out/ground")
SOCKET_PATH_BYTES_MAX: Final = 107
"""``sun_path`` of Linux is 108 bytes with its final zero."""


def archive_path(option: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Path of the archive file."""
    return option or Path(environment.get(ARCHIVE_VARIABLE) or DIRECTORY / "archive.sqlite")


def socket_path(option: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Path of the control socket."""
    return option or Path(environment.get(SOCKET_VARIABLE) or DIRECTORY / "station.sock")


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Text for ``bind`` or ``connect``: the path, or a short name for it when the kernel would refuse its length.

    Raises ``OSError`` when the directory does not exist.
    """
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)

"""The leash: a child that cannot outlive the daemon. ``python leash.py PARENT_PID NICENESS PROGRAM ARGUMENT…``

A worker ends itself when its standard input closes. One that is stuck in a driver call does not read; if then the
daemon is killed, it would keep the GPU for ever. So a child is started through this file: it asks the kernel for
SIGKILL at the death of its parent (``PR_SET_PDEATHSIG``, kept across exec), lowers its priority and becomes the
program. Doing this after exec, in a process of its own, is safe where running Python between fork and exec in a
threaded daemon is not.

It runs under ``python -I -S`` and imports nothing of ours, so that it is there in a few milliseconds.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CANNOT_EXECUTE = 126


def main(arguments: list[str]) -> int:
    """Become the program; returns only when that fails."""
    parent, niceness, program = int(arguments[0]), int(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        print(f"leash: prctl: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
    # The parent may have died before the kernel knew of our wish.
    if os.getppid() != parent:
        return _CANNOT_EXECUTE
    os.nice(niceness)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        print(f"cannot start {program[0]}: {error.strerror}", file=sys.stderr)
    return _CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

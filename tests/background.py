"""Threads and processes of a test: they are over when their block is left, and an error of theirs is the test's.

A thread that dies by itself is only warned of, and the warning is laid at the door of whichever test is next. A
thread that outlives its block goes on with descriptors that others have closed, or that the system has given to
somebody else by then. So whoever runs something beside a test runs it as ``Background``: leaving the block asks it
to end, waits for it, and raises what it raised. What failed first stays to be read as the context of that error.
"""

import subprocess
import threading
import time
from collections.abc import Callable
from types import TracebackType

END_MAX_S = 60.0
LOOK_MAX_S = 0.25
"""What one look counts at most. Whoever waits looks more often, unless the machine stood still meanwhile."""


class Patience:
    """A deadline that a machine which stands still does not use up: what is waited for stood still as well."""

    def __init__(self, timeout_s: float) -> None:
        self._left_s, self._looked_s = timeout_s, time.monotonic()

    def over(self) -> bool:
        """Whether the time is up; looks at the clock."""
        looked_s, self._looked_s = self._looked_s, time.monotonic()
        self._left_s -= min(self._looked_s - looked_s, LOOK_MAX_S)
        return self._left_s < 0.0


class Child(subprocess.Popen):
    """A process that is killed when its block is left, whatever happened there, unless it has ended by itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        super().__exit__(kind, error, trace)


class Background:
    """``target`` in a thread, from entering the block to leaving it; ``end`` is what makes it return."""

    def __init__(self, target: Callable[[], object], end: Callable[[], object] = lambda: None) -> None:
        self._target, self._end = target, end
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._target()
        except BaseException as error:
            self._error = error

    def start(self) -> "Background":
        self._thread.start()
        return self

    def stop(self) -> None:
        """Make it end, and wait until it has."""
        try:
            self._end()
        finally:
            self.join()

    def __enter__(self) -> "Background":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float = END_MAX_S) -> None:
        """Wait until it has returned, and raise what it raised, once."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"{self._target} does not end in {timeout_s:g} s"
        error, self._error = self._error, None
        if error is not None:
            raise error

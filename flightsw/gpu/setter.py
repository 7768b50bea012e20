"""The setter: the only process that changes settings of a card, and one that puts them back.

``python -m flightsw.gpu.setter`` takes a ``SetterSpec`` as the first message on standard input. It is started only
when ``[actuators]`` asks for a setting, or when an earlier one left a file of saved settings behind. It is a
process of its own so that the right to change a card, where it needs one, is given to these few lines and not to
the daemon or to a workload (the idea of Zeus's ``zeusd``: least privilege behind a narrow protocol).

    1 restore    a saved file found at the start is put back first, whatever else was wanted
    2 look       every wanted setting is read, and its range asked; one that cannot be had ends here, nothing
    changed 3 save       the values found, durably
    4 set        one after the other, each read back; a refusal puts back what was set before it
    5 hold       values are read every ``HOLD_S``; ``Adjust`` moves one within its range
    6 put back   at end of file, ``Stop``, SIGTERM, an exception: the values of 3, then the file goes

SIGKILL and a power cut leave the file, and 1 follows at the next start. A card that has vanished cannot be put
back: the file stays, and the process ends with status 1 so that it is started again.
"""

import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flightsw.gpu.actuators.saved import Saved, SavedError, SavedFile
from flightsw.gpu.actuators.settings import DEFAULT, ClockLock, Nvpmodel, PowerLimit, Setting, SettingError
from flightsw.gpu.channel import Channel
from flightsw.gpu.nvml import Card, NvmlError
from flightsw.gpu.protocol import Adjust, Applied, Fault, FromChild, SetterSpec, Stop, ToChild

HOLD_S: Final = 1.0
ADJUSTS_MAX: Final = 64
RESTORE_GRACE_S: Final = 60.0
"""Time to put settings back once the daemon is gone: NVML calls take tens of milliseconds, nvpmodel seconds."""
NOTHING_SAVED: Final = "nothing is changed"


class Setter:
    """The settings of one specification and the file behind them. Every method raises ``SettingError`` only."""

    def __init__(self, spec: SetterSpec) -> None:
        self._spec = spec
        self._file = SavedFile(Path(spec.saved_file))
        self._settings: dict[str, Setting] = {}
        self._held: dict[str, int] = {}
        self._found: dict[str, int] = {}
        self._touched: list[str] = []
        self._card_name = ""
        self._saved = False

    def restore_left(self) -> dict[str, int]:
        """Put back what an earlier process left changed; the values, empty when there was nothing."""
        try:
            saved = self._file.load()
        except SavedError as error:
            raise SettingError(str(error)) from None
        if saved is None:
            return {}
        unknown = sorted(set(saved.values) - {"power_limit", "clock_lock", "nvpmodel"})
        if unknown:
            raise SettingError(f"{self._file.path}: holds unknown settings {', '.join(unknown)}")
        self._open(frozenset(saved.values))
        if saved.card != self._card_name:
            raise SettingError(
                f"{self._file.path}: holds settings of card {saved.card}, this is {self._card_name}; put that card"
                " right by hand and remove the file"
            )
        self._put_back(saved.values)
        return saved.values

    def apply(self) -> dict[str, int]:
        """Look, save, set. On an error nothing is left changed, as far as the card still answers."""
        wanted = self._wanted()
        self._open(frozenset(wanted))
        found: dict[str, int] = {}
        for name, value in wanted.items():
            setting = self._settings[name]
            low, high = setting.allowed()
            if not low <= value <= high:
                raise SettingError(f"{name} = {value} {setting.unit}: allowed are {low} to {high}; {NOTHING_SAVED}")
            found[name] = setting.read()
        try:
            self._file.save(Saved(self._card_name, found))
        except SavedError as error:
            raise SettingError(str(error)) from None
        self._found, self._saved = found, True
        for name, value in wanted.items():
            self._write(name, value)
        return dict(self._held)

    def adjust(self, name: str, value: int) -> dict[str, int]:
        """Move one of the configured settings; a value outside its range is refused, the old one stands."""
        setting = self._settings.get(name)
        if setting is None or name not in self._held:
            raise SettingError(f"{name}: is not switched on in [actuators]")
        low, high = setting.allowed()
        if not low <= value <= high:
            raise SettingError(f"{name} = {value} {setting.unit}: allowed are {low} to {high}")
        self._write(name, value)
        return dict(self._held)

    def drifted(self) -> str:
        """Whether somebody else changed a setting: the sentence, once, or empty. The other one's value stands."""
        for name, value in self._held.items():
            now = self._settings[name].read()
            if now not in (value, DEFAULT):
                self._held[name] = now
                return f"{name} is {now} {self._settings[name].unit}, not {value}: somebody else changed it"
        return ""

    def put_back(self) -> dict[str, int]:
        """Everything as it was found; does nothing when nothing was changed."""
        if not self._saved:
            return {}
        back = {name: self._found[name] for name in self._touched}
        self._put_back(back)
        self._saved = False
        return back

    def _write(self, name: str, value: int) -> None:
        """Set a value. One that was refused outright has changed nothing and needs no putting back."""
        setting = self._settings[name]
        try:
            setting.write(value)
        except SettingError:
            if name not in self._touched and not _is(setting, self._found[name]):
                self._touched.append(name)
            raise
        if name not in self._touched:
            self._touched.append(name)
        self._held[name] = value

    def _put_back(self, values: dict[str, int]) -> None:
        failed = []
        for name, value in values.items():
            try:
                # What is as it was needs no right to be set.
                if value == DEFAULT or self._settings[name].read() != value:
                    self._settings[name].write(value)
            except SettingError as error:
                failed.append(str(error))
        if failed:
            raise SettingError(
                f"settings are not put back: {'; '.join(failed)}; {self._file.path} keeps them for the next start"
            )
        self._file.clear()

    def _wanted(self) -> dict[str, int]:
        spec, wanted = self._spec, {}
        if spec.power_limit_w > 0.0:
            wanted["power_limit"] = round(spec.power_limit_w * 1e3)
        if spec.clock_lock_mhz > 0:
            wanted["clock_lock"] = spec.clock_lock_mhz
        if spec.nvpmodel_mode >= 0:
            wanted["nvpmodel"] = spec.nvpmodel_mode
        return wanted

    def _open(self, names: frozenset[str]) -> None:
        spec = self._spec
        self._card_name = "jetson"
        if names & {"power_limit", "clock_lock"}:
            try:
                card = Card(spec.nvml_module, spec.device_index)
                self._card_name = card.identity()
            except NvmlError as error:
                raise SettingError(f"no card to set: {error}") from None
            self._settings["power_limit"] = PowerLimit(
                card, spec.power_limit_min_w, spec.power_limit_max_w or float("inf")
            )
            self._settings["clock_lock"] = ClockLock(card)
        self._settings["nvpmodel"] = Nvpmodel(spec.nvpmodel_program)


def _is(setting: Setting, value: int) -> bool:
    """Whether the card still has this value, as far as it can be asked."""
    try:
        return setting.read() == value
    except SettingError:
        return False


def serve(
    spec: SetterSpec, send: Callable[[FromChild], None], ended: threading.Event, inbox: deque[ToChild]
) -> int:
    """All six steps; returns the exit status."""
    setter = Setter(spec)
    try:
        if left := setter.restore_left():
            send(Applied(values=left, restored=True))
    except SettingError as error:
        send(Fault(code="setter", reason=str(error)))
        return 1
    status = 0
    try:
        if not ended.is_set() and spec.wanted:
            send(Applied(values=setter.apply(), restored=False))
            _hold(setter, send, ended, inbox)
    except SettingError as error:
        send(Fault(code="setter", reason=str(error)))
        status = 1
    finally:
        try:
            if back := setter.put_back():
                send(Applied(values=back, restored=True))
        except SettingError as error:
            send(Fault(code="setter", reason=str(error)))
            status = 1
    return status


def _hold(setter: Setter, send: Callable[[FromChild], None], ended: threading.Event, inbox: deque[ToChild]) -> None:
    held: dict[str, int] = {}
    while not ended.wait(HOLD_S):
        while inbox:
            message = inbox.popleft()
            if isinstance(message, Adjust):
                try:
                    held = setter.adjust(message.setting, message.value)
                except SettingError as error:
                    send(Fault(code="setter", reason=f"{error}; the setter goes on"))
        if drift := setter.drifted():
            send(Fault(code="setter", reason=f"{drift}; the setter goes on"))
        send(Applied(values=held, restored=False))


def main() -> int:
    """Run the setter on standard input and output; returns the exit status."""
    channel = Channel.on_standard_streams(grace_s=RESTORE_GRACE_S)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ended = threading.Event()
    # From the first moment: a signal between two steps must still put everything back.
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    spec = channel.receive()
    if spec is None:
        return 0
    if not isinstance(spec, SetterSpec):
        channel.send(Fault(code="spec", reason=f"the first message is {type(spec).__name__}, not a SetterSpec"))
        return 1
    inbox: deque[ToChild] = deque(maxlen=ADJUSTS_MAX)
    channel.start(lambda message: ended.set() if isinstance(message, Stop) else inbox.append(message), ended.set)
    return serve(spec, channel.send, ended, inbox)


if __name__ == "__main__":
    sys.exit(main())

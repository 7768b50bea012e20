"""flightd, the onboard daemon: read the arguments, load the configuration, fly.

Exit status: 0 after an orderly end, 1 when the state directory cannot be used or the daemon failed, 2 when the
command line or the configuration is wrong. A restart by telecommand replaces the process image (``exec``), so it
keeps its process id and works alike under systemd, on the bench and in a terminal.

``--guard`` checks the configuration, then becomes the guard (``shell/guard.py``), which starts this program again
without that word and watches over it.
"""

import argparse
import asyncio
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from flightsw import config
from flightsw.link.dictionary import DICTIONARY_HASH
from flightsw.shell.daemon import Ending, fly
from flightsw.shell.log import EventLog
from flightsw.shell.state_directory import StateDirectory, StateDirectoryError

STATUS_ENDED: Final = 0
STATUS_FAILED: Final = 1
STATUS_CONFIGURATION: Final = 2
GUARD: Final = Path(__file__).with_name("shell") / "guard.py"
GUARD_STOP_S: Final = 30.0
"""What an orderly end may take beyond the workers: reaping, recorder, store, and being up again after a restart."""

_WITHOUT_CONFIGURATION: Final = (
    "flightd: it needs a configuration: flightd --config mission.toml\n"
    "         a commented one to start from: flightd --example > mission.toml"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.example:
        sys.stdout.write(config.EXAMPLE.read_text())
        return STATUS_ENDED
    if options.config is None:
        print(_WITHOUT_CONFIGURATION, file=sys.stderr)
        return STATUS_CONFIGURATION
    try:
        mission = config.load(options.config, options.set)
    except config.ConfigurationError as error:
        for line in error.lines:
            print(f"flightd: {line}", file=sys.stderr)
        return STATUS_CONFIGURATION
    if options.check:
        print(f"{options.config}: valid, {len(mission.jobs)} jobs, configuration {mission.config_hash}")
        return STATUS_ENDED
    if options.actuators:
        _show_actuators(mission)
    if options.guard:
        _become_guard(mission)
    try:
        ending = _run(mission)
    except StateDirectoryError as error:
        print(f"flightd: {error}", file=sys.stderr)
        return STATUS_FAILED
    except KeyboardInterrupt:
        # Ctrl-C before the signal handlers stood, or while the last lines were written.
        return STATUS_FAILED
    if ending.restart:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return STATUS_FAILED if ending.failed else STATUS_ENDED


def _show_actuators(mission: config.MissionConfig) -> None:
    """Replace this process by one that may load NVML and PyTorch and prints the table of actuators."""
    spec = msgspec.json.encode(mission.setter_spec).decode()
    os.execv(sys.executable, [sys.executable, "-m", "flightsw.gpu.actuators.table", spec])


def _become_guard(mission: config.MissionConfig) -> None:
    """Replace this process by the guard of a daemon with the same arguments."""
    watchdog, stop_s = mission.watchdog, mission.worker.stop_timeout_s + GUARD_STOP_S
    limits = (
        watchdog.timeout_s,
        watchdog.guard_start_s,
        stop_s,
        watchdog.guard_restarts_max,
        watchdog.guard_window_s,
    )
    daemon = [sys.executable, *(word for word in sys.orig_argv[1:] if word != "--guard")]
    os.execv(sys.executable, [sys.executable, "-I", "-S", str(GUARD), *map(str, limits), *daemon])


def _run(mission: config.MissionConfig) -> Ending:
    state = StateDirectory(mission.state_dir)
    log = EventLog(
        mission.state_dir,
        level=mission.log.level,
        max_bytes=mission.log.max_bytes,
        backups=mission.log.backups,
        terminal=sys.stderr,
    )
    try:
        logging.getLogger("flightd").info(
            "%s: gpusat %s, dictionary %s, configuration %s, state in %s, process %d",
            mission.mission.name,
            version(),
            DICTIONARY_HASH,
            mission.config_hash,
            mission.state_dir,
            os.getpid(),
        )
        return asyncio.run(fly(mission))
    finally:
        log.close()
        state.release()


def version() -> str:
    """Version of the distribution; "unknown" when it runs from a tree that was never installed."""
    try:
        return importlib.metadata.version("gpusat")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flightd",
        allow_abbrev=False,
        description="Flight software of a GPU compute satellite: the onboard daemon.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="mission configuration (TOML)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one value of the configuration; for a job jobs.ID.KEY=VALUE; may be repeated",
    )
    parser.add_argument(
        "--guard", action="store_true", help="fly under a guard process that restarts a dead or stuck daemon"
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument(
        "--actuators", action="store_true", help="show what can change the GPU's power here, and end"
    )
    parser.add_argument("--example", action="store_true", help="print a commented configuration and end")
    parser.add_argument("--version", action="version", version=f"flightd {version()}, dictionary {DICTIONARY_HASH}")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The commands about a running station: run one, watch it, ask for its status, stop it.

A terminal gets a page that is drawn again and again; a pipe, ``--plain`` and ``--json`` get each fact once, as a
line.
"""

import signal
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from flightsw.link.endpoint import GRAMMAR, parse_endpoint

from . import display
from .client import StationClient
from .errors import ExitCode, GroundError
from .locations import archive_path, socket_path
from .options import Archive, Json, Plain, Socket
from .screen import print_json
from .station import Station

REFRESH_S: Final = 0.5


def listen(
    link: Annotated[str, typer.Option("--link", help=f"Radio endpoint: {GRAMMAR}.")],
    archive: Archive = None,
    socket: Socket = None,
    plain: Plain = False,
    as_json: Json = False,
) -> None:
    """Run the station: receive, archive, acknowledge, follow commands. Ctrl-C ends it."""
    try:
        endpoint = parse_endpoint(link)
    except ValueError as error:
        raise GroundError(f"--link: {error}", ExitCode.USAGE) from None
    control = socket_path(socket)
    station = Station(endpoint, archive_path(archive), control)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            station.run()
        except BaseException as error:
            failure.append(error)

    # The station has its own thread, so that a terminal that was stopped with Ctrl-S never stops the archive.
    thread = threading.Thread(target=run, name="station")
    thread.start()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _follow(control, plain, as_json, running=thread.is_alive)
    except KeyboardInterrupt:
        pass
    except GroundError:
        # A station that failed takes its control socket along: its own reason comes first.
        thread.join()
        if not failure:
            raise
    finally:
        station.stop()
        thread.join()
    if failure:
        raise GroundError(f"the station stopped: {type(failure[0]).__name__}: {failure[0]}")


def watch(socket: Socket = None, plain: Plain = False, as_json: Json = False) -> None:
    """Watch a station that runs already. Ctrl-C leaves it running."""
    _follow(socket_path(socket), plain, as_json)


def status(socket: Socket = None, as_json: Json = False) -> None:
    """Show the station at a glance: contact, spacecraft, link, packets, archive, notices."""
    with StationClient(socket_path(socket)) as client:
        snapshot = client.snapshot()
    if as_json:
        values = {name: value for name, value in msgspec.to_builtins(snapshot.latest).items()}
        print_json({**msgspec.to_builtins(snapshot.status), "latest": values})
    else:
        Console(highlight=False).print(display.status_page(snapshot))


def stop(socket: Socket = None) -> None:
    """Ask the running station to commit and end."""
    with StationClient(socket_path(socket)) as client:
        client.stop()


def _follow(control: Path, plain: bool, as_json: bool, running: Any = lambda: True) -> None:
    """Show a station until it ends; ``running`` is false once a station of our own has ended in good order."""
    console = Console(highlight=False)
    follower = display.Follower(as_json)
    with StationClient(control) as client:
        try:
            if plain or as_json or not console.is_terminal:
                while True:
                    for line in follower.lines(client.snapshot()):
                        print(line, flush=True)
                    time.sleep(REFRESH_S)
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    snapshot = client.snapshot()
                    live.update(display.page(snapshot, time.time(), console.height), refresh=True)
                    time.sleep(REFRESH_S)
        except GroundError:
            if running():
                raise


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt

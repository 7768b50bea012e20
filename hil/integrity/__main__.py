"""The campaign's own process: ``python -m hil.integrity``. ``hil campaign integrity`` starts it.

It computes with torch, which the bench itself never loads; what goes wrong in here cannot take the bench along. The
report goes to standard output, progress and complaints to standard error.

Exit status: 0 every goal that could be judged is met · 1 one was missed · 2 invalid, wrong use · 130 interrupted.
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import torch

from hil import machine

from . import measuring, page, show
from .account import Account, Ending, account, write
from .campaign import PARTS, Campaign, Order
from .injection import NoSuchTarget
from .injector import NeverFired
from .ledger_table import LedgerError
from .plan import QUICK_SHARE, PlanError, scale_for
from .shapes import NoShape
from .testees import Roster

EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
TOLD_EVERY_S: Final = 10.0
"""Progress where nobody watches a terminal."""


def main() -> int:
    """Parse, carry out, report."""
    parser = argparse.ArgumentParser(prog="hil campaign integrity", description=__doc__)
    parser.add_argument("--n", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-measurements", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out") / "integrity")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # Faults are many and programs small: one thread each is the fastest, and repeatable.
    try:
        scale = scale_for(chosen.n) if chosen.n else QUICK_SHARE if chosen.quick else 1.0
        order = Order(
            folder=chosen.out, seed=chosen.seed, scale=scale, parts=tuple(dict.fromkeys(chosen.part or PARTS))
        )
        if chosen.only:
            return _replay(order, chosen.only, as_json=chosen.json)
        # Parts that are asked for by name are what is wanted, and nothing beside them.
        measure = not chosen.part and not chosen.no_measurements
        return _campaign(order, measure=measure, as_json=chosen.json, quiet=chosen.quiet)
    except (PlanError, NoSuchTarget, NoShape, LedgerError, ValueError) as error:
        print(f"hil: {error}", file=sys.stderr)
    except OSError as error:
        print(f"hil: {error.filename or chosen.out}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_USAGE


def _campaign(order: Order, *, measure: bool, as_json: bool, quiet: bool) -> int:
    ending: Ending = "whole"
    reason = ""
    commit = machine.commit()
    try:
        campaign = Campaign(order)
        campaign.carry_out(lambda progress: None if quiet else _line(show.progress(progress), progress.group))
        if measure:
            testees = Roster(order.seed)
            measuring.carry_out(
                order.folder, testees, quick=order.scale < 1.0, say=lambda text: None if quiet else _line(text, "")
            )
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent passes it on, too; the report is short.
        ending, reason = "partial", "interrupted; the same command goes on from here"
    except NeverFired as error:
        ending, reason = "invalid", str(error)
    if not quiet:
        print(file=sys.stderr)
    found = account(order.folder, command=_command(), commit=commit, seed=order.seed, ending=ending, reason=reason)
    _report(found, order.folder, as_json=as_json)
    return found.exit_code


def _report(found: Account, folder: Path, *, as_json: bool) -> None:
    write(found, folder)
    page.write(found, folder)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print("\n".join(show.lines(found, folder)))


def _replay(order: Order, injection_id: str, *, as_json: bool) -> int:
    injection, fired, end, alone = Campaign(order).replay(injection_id)
    values = {"injection": injection, "fired": fired, "end": end, "alone": alone}
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(values)).decode())
    else:
        print("\n".join(show.replay(injection, fired, end, alone)))
    return 0


def _command() -> str:
    """What repeats this run."""
    return " ".join(["hil campaign integrity", *sys.argv[1:]])


class _Line:
    """The progress line: rewritten on a terminal, once in a while where there is none."""

    def __init__(self) -> None:
        self._told_s = float("-inf")
        self._group = ""

    def __call__(self, text: str, group: str) -> None:
        now_s = time.monotonic()
        terminal = sys.stderr.isatty()
        if now_s - self._told_s < (0.2 if terminal else TOLD_EVERY_S) and group == self._group:
            return
        self._told_s, self._group = now_s, group
        print(f"\r\x1b[2K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)


_line: Final = _Line()

if __name__ == "__main__":
    sys.exit(main())

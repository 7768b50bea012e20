"""Part ``integrity``: a sample of the fault campaign, false alarms, overhead and scrub speed on the processor.

The figures are those of ``hil campaign integrity --quick`` (minutes); ``make soak`` carries out the whole plan.
Bounds that need more faults than a sample has are reported and not judged. Called as a program with ``--gpu``
(``make bench-gpu``) it measures overhead and scrub on a CUDA card and writes a dated result with the card's name;
without a card that is one line and exit status 0.
"""

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from results import Result, measured

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "out" / "bench" / "integrity"
CARDS: Final = ROOT / "tests" / "benchmarks" / "cards"
"""Results of cards are kept with the sources: whoever has none sees those of who had one."""
BASELINES: Final = {
    "compute.coverage": (11.8, "orbital-runtime's on bf16 activations"),
    "overhead.train": (25.7, "orbital-runtime's, on an L4"),
}
"""Published figures of the rival, of its own subject and faults."""
CARD_NAMES: Final = ("h100", "h200", "a100", "l4")
"""What the ids of a card's figures end with."""
EXIT_CODES: Final = (0, 1)
"""Of a campaign that can be counted: all goals met, or one missed."""


class CampaignFailed(RuntimeError):
    """The campaign was invalid or could not be carried out."""


def run() -> Iterator[Result]:
    """All figures of a quick campaign."""
    yield from rows(campaign(FOLDER, "--quick"))


def campaign(folder: Path, *options: str) -> dict[str, Any]:
    """Carry out a campaign in its own process; its report. Raises ``CampaignFailed``."""
    command = [sys.executable, "-m", "hil.integrity", "--out", str(folder), "--json", *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in EXIT_CODES:
        raise CampaignFailed(f"the integrity campaign ended with status {done.returncode}: {' '.join(command)}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def rows(report: dict[str, Any]) -> Iterator[Result]:
    """Rows of a report's figures; a bound that could not be judged has no goal."""
    for figure in report["figures"]:
        baseline, name = BASELINES.get(figure["id"], (None, ""))
        yield measured(
            figure["id"],
            figure["value"],
            figure["unit"],
            goal=figure["goal"] if figure["judged"] else None,
            better=figure["better"],
            baseline=baseline,
            baseline_name=name,
        )


def card() -> int:
    """Overhead and scrub on a CUDA card, into a dated file; the exit status."""
    import torch

    from hil.integrity import measuring
    from hil.machine import commit, versions

    if not torch.cuda.is_available():
        print("bench-gpu: skipped, there is no CUDA card here; the figures of README's rows .h100 stay as they are")
        return 0
    device = torch.device("cuda")
    name = torch.cuda.get_device_name()
    found: dict[str, Any] = {
        "card": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "versions": {**versions(), "cuda": torch.version.cuda},
        "scrub": _values(measuring.scrub(device)),
        "overhead": [_values(row) for row in measuring.overheads(device, quick=False, say=_say)],
    }
    suffix = next((short for short in CARD_NAMES if short in name.lower()), "gpu")
    found["figures"] = {
        f"scrub.gb_per_s.{suffix}": found["scrub"]["gb_per_s"],
        **{
            f"overhead.{kind}.{suffix}": max(
                row["percent"] for row in found["overhead"] if row["kind"] == kind and row["level"] == "storm"
            )
            for kind in ("train", "infer")
        },
    }
    slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    CARDS.mkdir(parents=True, exist_ok=True)
    path = CARDS / f"{found['date']}-{slug}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {path.relative_to(ROOT)}")
    return 0


def _values(struct: Any) -> dict[str, Any]:
    import msgspec

    values: dict[str, Any] = msgspec.structs.asdict(struct)
    return values


def _say(text: str) -> None:
    print(f"bench-gpu: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="measure a CUDA card")
    if not parser.parse_args().gpu:
        parser.error("as a program it measures a card: --gpu; the rest is `make bench ONLY=integrity`")
    sys.exit(card())

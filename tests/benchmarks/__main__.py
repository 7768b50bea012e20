"""``make bench``: run the parts, write ``out/bench/results.json``, render README's table.

A part is a module beside this one with ``run() -> Iterator[Result]``. Rivals and baselines are measured by the part
itself, in the same run. The exit status is 1 when a goal was missed, so that a script notices.
"""

import argparse
import importlib
import sys
from pathlib import Path

from results import Result, merge, number, render

PARTS = ("spine", "services", "power", "integrity")
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Measure, print each figure as it comes, write the results."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="run one part")
    parser.add_argument("--no-readme", action="store_true", help="leave README's table as it is")
    arguments = parser.parse_args()

    new: list[Result] = []
    for part in [arguments.only] if arguments.only else PARTS:
        for result in importlib.import_module(part).run():
            verdict = "" if result.goal is None else ("  goal met" if result.met else "  GOAL MISSED")
            rival = "" if result.baseline is None else f"  [{result.baseline_name}: {number(result.baseline)}]"
            print(f"{result.id:32s} {number(result.value):>10s} {result.unit:8s}{rival}{verdict}", flush=True)
            new.append(result)
    path = ROOT / "out" / "bench" / "results.json"
    merge(path, new)
    if not arguments.no_readme:
        readme = ROOT / "README.md"
        readme.write_text(render(readme.read_text(), new))
    print(f"{len(new)} figures in {path.relative_to(ROOT)}")
    return 0 if all(r.met for r in new) else 1


if __name__ == "__main__":
    sys.exit(main())

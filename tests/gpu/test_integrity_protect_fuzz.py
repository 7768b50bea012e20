"""Random programs (``random_programs``) at STORM against themselves unprotected: undisturbed, and with one flip.

For longer: ``python -m tests.gpu.test_integrity_protect_fuzz FIRST COUNT`` plays that many seeds and prints each
difference with the command that plays it again.
"""

import sys

import pytest
import torch

from flightsw.link.integrity import Level
from tests.gpu.played import Hit, alike, play
from tests.gpu.random_programs import random_program

SEEDS = range(6)
COMMAND = "python -m tests.gpu.test_integrity_protect_fuzz {} 1"


def differs(seed: int) -> str:
    """What is wrong when an undisturbed program is guarded, or one with a flip; empty when nothing is."""
    program = random_program(seed)
    bare, _ = play(program, None)
    given = bool(seed % 2)
    for above in (False, True):
        counted = Hit(-1, above=above)
        kept, player = play(program, Level.STORM, given=given, hit=counted)
        if player.findings or player.refused:
            return f"undisturbed, {player.findings} {player.refused}"
        if not alike(kept, bare):
            return "undisturbed, other bits"
        nth = int(torch.randint(counted.seen, (1,), generator=torch.Generator().manual_seed(seed)))
        hit = Hit(nth, above=above)
        kept, player = play(program, Level.STORM, given=given, hit=hit)
        if not hit.where:
            return "the flip never fired"
        if not player.refused and not alike(kept, bare):
            return f"a flip of {hit.where}, {above=}, was missed: {player.findings}"
    return ""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_program_keeps_its_bits_and_a_flip_is_noticed_or_changes_nothing(seed: int) -> None:
    assert differs(seed) == "", COMMAND.format(seed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    first, count = int(sys.argv[1]), int(sys.argv[2])
    for seed in range(first, first + count):
        if found := differs(seed):
            sys.stdout.write(f"{COMMAND.format(seed)}: {found}\n")

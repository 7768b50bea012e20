"""Two copies of every digest, and the closer look: who is believed, and when memory is touched."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flightsw.gpu.integrity.closer import READINGS_MAX, look_closer
from flightsw.gpu.integrity.damage import Damage, repair
from flightsw.gpu.integrity.digest import digest
from flightsw.gpu.integrity.sums import Sums

CPU = torch.device("cpu")


class Block:
    """Twenty words, their sums, and readings that can be made to go wrong."""

    def __init__(self) -> None:
        self.words = torch.arange(3, 23, dtype=torch.int32)
        self.memory = self.words.view(torch.uint8)
        self.sums = Sums(3, CPU)
        self.sums.write(1, digest(self.memory))
        self.good = self.words.clone()
        self.wrong: list[Tensor] = []
        """Added to the readings to come, one each."""
        self.touched = 0
        self.after: Callable[[], None] = lambda: None
        """Happens after a word was put right."""

    def read(self) -> Tensor:
        return digest(self.memory)[0] + (self.wrong.pop(0) if self.wrong else 0)

    def put_right(self, damage: Damage) -> bool:
        self.touched += 1
        repair(self.memory, damage)
        self.after()
        self.after = lambda: None
        return True

    def look(self, changed: bool = False) -> tuple[str, bool]:
        look = look_closer(self.sums, 1, self.read(), self.read, self.put_right, lambda: changed)
        return look.state, look.hit


def test_sums_of_nothing_and_what_is_added_to_them() -> None:
    sums = Sums(2, CPU)
    assert sums.agree(0, torch.zeros((2, 3), dtype=torch.int64))
    more = torch.tensor([[1, -2, 2**62], [5, 6, 2**62], [7, 7, 2**62]])
    sums.add(torch.tensor([1, 0, 1]), more)
    expected = torch.stack((more[1], more[0] + more[2]))
    assert sums.agree(0, expected)
    sums.clear(1, 1)
    assert sums.agree(0, torch.stack((more[1], torch.zeros_like(more[1]))))
    sums.first[1] = 9
    sums.seal(1, 1)
    assert sums.agree(1, torch.full((1, 3), 9))


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("copy", ["first", "complement"])
def test_a_hit_copy_is_seen_and_written_again_from_the_other(copy: str, column: int) -> None:
    block = Block()
    table = getattr(block.sums, copy)
    before = table.clone()
    table[1, column] ^= 1 << 40
    found = block.read()[None]
    assert not block.sums.agree(1, found)
    assert block.sums.differing(1, found) == [0]
    assert block.look() == ("good", False)
    assert torch.equal(table, before)
    assert block.touched == 0


def test_a_word_is_put_right() -> None:
    block = Block()
    block.words[4] ^= 0x700
    assert block.look() == ("good", True)
    assert torch.equal(block.words, block.good)


def test_readings_that_go_wrong_touch_nothing() -> None:
    """Each looks like damage of one word."""
    block = Block()
    block.wrong = [torch.tensor([e, 3 * e, 9 * e]) for e in (1, 2, 4)]
    assert block.look() == ("good", False)
    assert block.touched == 0


def test_readings_that_never_agree_are_given_up() -> None:
    block = Block()
    block.wrong = [torch.tensor([e, 3 * e, 9 * e]) for e in range(1, READINGS_MAX + 2)]
    assert block.look() == ("open", True)
    assert block.touched == 0


def test_a_hit_while_another_is_put_right_is_put_right_too() -> None:
    block = Block()
    block.words[4] ^= 0x700

    def hit_again() -> None:
        block.words[9] ^= 3

    block.after = hit_again
    assert block.look() == ("good", True)
    assert torch.equal(block.words, block.good)
    assert block.touched == 2


def test_what_the_program_wrote_is_not_touched() -> None:
    block = Block()
    block.words[4] = 1
    assert block.look(changed=True) == ("changed", True)
    assert (int(block.words[4]), block.touched) == (1, 0)


def test_a_word_of_memory_and_a_copy_both_hit_leave_nobody_to_believe() -> None:
    block = Block()
    block.words[4] ^= 1
    block.sums.first[1, 0] += 1
    assert block.look() == ("open", True)
    assert block.touched == 0

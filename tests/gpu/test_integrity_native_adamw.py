"""The processor's AdamW: torch's bits, the digests of what it writes, and nothing written that was not expected."""

import pytest
import torch

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.digest import BLOCK_WORDS, digest

pytest.importorskip("numba")
native_adamw = kernels.native(torch.device("cpu"), "native_adamw")

BETAS = (0.9, 0.99)
EPSILON = 1e-8
LENGTHS = (128, 4096 - 128, 4096, 5 * 4096 + 256, BLOCK_WORDS, 2 * BLOCK_WORDS + 384)

same_bits = pytest.mark.skipif(
    not native_adamw.same_as_torch(),
    reason="this machine's torch rounds otherwise than the kernel, which is not used then",
)


def state(words, seed=1):
    generator = torch.Generator().manual_seed(seed)
    p, m, v = (torch.randn(words, generator=generator) * size for size in (0.02, 1e-3, 1e-3))
    return p, m, v.square()


def gradients(words, seed):
    return torch.randn(words, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (-(seed % 7))


def scalars(count, *, scale=0.37, rate=1e-3, decay=0.1):
    return native_adamw.scalars(
        scale=scale, learning_rate=rate, betas=BETAS, epsilon=EPSILON, decay=decay, count=float(count)
    )


def by_torch(state, g, count, *, scale=0.37, rate=1e-3, decay=0.1):
    p, m, v = state
    torch._fused_adamw_(
        [p], [torch.mul(g, torch.tensor(scale))], [m], [v], [], [torch.tensor(float(count))], lr=rate,
        beta1=BETAS[0], beta2=BETAS[1], weight_decay=decay, eps=EPSILON, amsgrad=False, maximize=False,
    )  # fmt: skip


def rows(state, g):
    return state[0], g, state[1], state[2]


def sums_of(state):
    return torch.stack([digest(row.view(torch.uint8)) for row in state], dim=1)


def test_the_kernel_is_used_where_torch_has_its_vectors():
    """On another processor it may round otherwise, and is left alone; here that would be speed lost unseen."""
    expected = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    assert native_adamw.same_as_torch() or not expected


@same_bits
@pytest.mark.parametrize("words", LENGTHS)
def test_steps_are_torch_s_bit_for_bit(words):
    mine, theirs = state(words), state(words)
    for count in range(1, 31):
        g, named = gradients(words, count), {"rate": 1e-3 / count, "decay": 0.1 * (count % 2), "scale": 1.0 / count}
        done = native_adamw.advance(rows(mine, g), scalars(count, **named), write=True)
        by_torch(theirs, g, count, **named)
        assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True)), count
        assert torch.equal(done.sums, sums_of(mine))


@same_bits
@pytest.mark.parametrize("extreme", [0.0, 1e-45, 1e-38, 1e18, -1e18], ids=str)
def test_extreme_gradients_and_moments_are_rounded_alike(extreme):
    mine, theirs = state(4096), state(4096)
    g = gradients(4096, 3)
    for some in (mine, theirs):
        some[0][::3], some[1][::5], some[2][::7] = extreme, extreme, abs(extreme)
    g[::2] = extreme
    native_adamw.advance(rows(mine, g), scalars(9), write=True)
    by_torch(theirs, g, 9)
    assert all(
        torch.equal(one.view(torch.int32), other.view(torch.int32)) for one, other in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize("words", LENGTHS)
def test_a_rehearsal_changes_nothing_and_says_what_the_update_will_be(words):
    mine, before = state(words), state(words)
    g = gradients(words, 2)
    said = native_adamw.advance(rows(mine, g), scalars(5), write=False)
    assert all(torch.equal(one, other) for one, other in zip(mine, before, strict=True))
    done = native_adamw.advance(rows(mine, g), scalars(5), write=True, expected=said.sums)
    assert done.unlike == ()
    assert torch.equal(said.sums, done.sums)
    assert torch.equal(said.sums, sums_of(mine))
    assert said.moved == pytest.approx(float((mine[0] - before[0]).double().square().sum()), rel=1e-5)
    assert said.size == pytest.approx(float(before[0].double().square().sum()), rel=1e-5)


@pytest.mark.parametrize("which", range(3), ids=["weights", "averages", "squares"])
def test_a_block_that_does_not_come_to_what_was_expected_is_not_written(which):
    words = 3 * BLOCK_WORDS + 640
    mine, before, whole = state(words), state(words), state(words)
    g = gradients(words, 2)
    expected = native_adamw.advance(rows(mine, g), scalars(5), write=False).sums
    native_adamw.advance(rows(whole, g), scalars(5), write=True)
    expected[1, which, 2] += 1
    done = native_adamw.advance(rows(mine, g), scalars(5), write=True, expected=expected)
    assert done.unlike == (1,)
    block = slice(BLOCK_WORDS, 2 * BLOCK_WORDS)
    for row, old, new in zip(mine, before, whole, strict=True):
        assert torch.equal(row[block], old[block])
        assert torch.equal(row[:BLOCK_WORDS], new[:BLOCK_WORDS])
        assert torch.equal(row[2 * BLOCK_WORDS :], new[2 * BLOCK_WORDS :])


@pytest.mark.parametrize("row", range(4), ids="pgmv")
@pytest.mark.parametrize("bit", [0, 12, 22, 29, 31])
def test_a_word_read_wrongly_shows_in_the_digests(row, bit):
    words = BLOCK_WORDS + 384
    four = rows(state(words), gradients(words, 2))
    good = native_adamw.advance(four, scalars(5), write=False).sums
    four[row].view(torch.int32)[BLOCK_WORDS + 7] ^= -(2**31) if bit == 31 else 1 << bit
    found = native_adamw.advance(four, scalars(5), write=False).sums
    assert torch.equal(found[0], good[0])
    assert not torch.equal(found[1], good[1])


def test_rows_that_are_not_whole_vectors_are_refused():
    with pytest.raises(AssertionError, match="whole vectors"):
        native_adamw.advance(rows(state(100), gradients(100, 1)), scalars(1), write=False)


def test_another_rounding_than_torch_s_is_noticed(monkeypatch):
    """A machine whose torch fuses other operations: there the kernel is not used."""
    ask = torch._fused_adamw_

    def otherwise(weights, *arguments, **named):
        ask(weights, *arguments, **named)
        weights[0][77] = torch.nextafter(weights[0][77], torch.tensor(1.0))

    monkeypatch.setattr(torch, "_fused_adamw_", otherwise)
    native_adamw.same_as_torch.cache_clear()
    try:
        assert not native_adamw.same_as_torch()
    finally:
        native_adamw.same_as_torch.cache_clear()

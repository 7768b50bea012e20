"""The model: cached generation equals one pass over the whole text, whatever the batch looks like."""

import pytest
import torch

from flightsw.gpu.workloads.gpt import GPT, PADDING, PRESETS, Cache, GPTConfig

CONFIG = GPTConfig(layers=2, heads=4, width=32, context=16, vocabulary=50)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(11)
    model = GPT(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # Large enough that attention weights differ visibly.
    return model.requires_grad_(False)


def texts(*lengths):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(CONFIG.vocabulary, (n,), generator=generator) for n in lengths]


def feed(model, cache, pieces, rows=None):
    """One cached call with rows of different lengths: ``pieces`` are (first position, tokens)."""
    width = max(len(tokens) for _, tokens in pieces)
    idx = torch.zeros(len(pieces), width, dtype=torch.long)
    positions = torch.full((len(pieces), width), PADDING)
    for row, (start, tokens) in enumerate(pieces):
        idx[row, : len(tokens)] = tokens
        positions[row, : len(tokens)] = torch.arange(start, start + len(tokens))
    logits = model.forward_cached(idx, cache, positions, rows)
    return [logits[row, : len(tokens)] for row, (_, tokens) in enumerate(pieces)]


@pytest.mark.parametrize(
    ("lengths", "prompts"),
    [
        ((16,), (1,)),
        ((16, 9, 4), (7, 5, 1)),
        ((5, 5, 5), (5, 5, 5)),
        ((16, 2), (15, 1)),
    ],
    ids=["one row", "uneven", "prompt only", "context full"],
)
def test_cached_logits_equal_uncached_ones(model, lengths, prompts):
    rows = texts(*lengths)
    whole = [model(row[None])[0][0] for row in rows]
    cache = Cache(CONFIG, len(rows))
    got = feed(model, cache, [(0, row[:prompt]) for row, prompt in zip(rows, prompts, strict=True)])
    done = list(prompts)
    while any(at < len(row) for at, row in zip(done, rows, strict=True)):
        step = [(at, row[at : at + 1]) for at, row in zip(done, rows, strict=True)]
        for row, logits in enumerate(feed(model, cache, step)):
            got[row] = torch.cat([got[row], logits])
            done[row] += len(logits)
    for row, expected in enumerate(whole):
        torch.testing.assert_close(got[row], expected, rtol=1e-5, atol=1e-5)


def test_rows_of_the_cache_are_independent_and_reusable(model):
    first, second, third = texts(8, 12, 6)
    cache = Cache(CONFIG, 3)
    feed(model, cache, [(0, first[:5]), (0, second[:11])], torch.tensor([2, 0]))
    (fresh,) = feed(model, cache, [(0, third)], torch.tensor([2]))  # Row 2 now belongs to another text.
    (rest,) = feed(model, cache, [(11, second[11:])], torch.tensor([0]))
    torch.testing.assert_close(fresh, model(third[None])[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rest, model(second[None])[0][0, 11:], rtol=1e-5, atol=1e-5)


def test_an_earlier_logit_never_sees_a_later_token(model):
    (row,) = texts(10)
    changed = row.clone()
    changed[6] = (changed[6] + 1) % CONFIG.vocabulary
    before, after = model(row[None])[0][0], model(changed[None])[0][0]
    assert torch.equal(before[:6], after[:6])
    assert not torch.equal(before[6:], after[6:])


def test_loss_is_the_mean_cross_entropy(model):
    (row,) = texts(9)
    logits, loss = model(row[None, :-1], row[None, 1:])
    expected = -torch.log_softmax(logits[0], -1)[torch.arange(8), row[1:]].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert model(row[None])[1] is None


@pytest.mark.parametrize("tokens", [17, 40])
def test_text_beyond_the_context_is_refused(model, tokens):
    idx = torch.zeros(1, tokens, dtype=torch.long)
    with pytest.raises(ValueError, match="context of 16"):
        model(idx)
    with pytest.raises(ValueError, match="context of 16"):
        model.forward_cached(idx, Cache(CONFIG, 1), torch.arange(tokens)[None])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="not divisible"):
        GPTConfig(layers=1, heads=3, width=32, context=16)


def test_presets_are_what_they_are_named_after():
    char = PRESETS["char"].model
    assert (char.layers, char.width, char.heads, char.context, char.vocabulary) == (6, 384, 6, 256, 256)
    assert {"micro", "tiny", "char", "gpt2-14m", "gpt2-85m", "gpt2-302m"} == set(PRESETS)
    with torch.device("meta"):
        assert GPT(char).parameter_count == pytest.approx(10.7e6, rel=0.02)
        assert GPT(PRESETS["gpt2-85m"].model).parameter_count == pytest.approx(85e6, rel=0.03)
        assert GPT(PRESETS["gpt2-14m"].model).parameter_count == pytest.approx(14.6e6, rel=0.03)
        assert GPT(PRESETS["gpt2-302m"].model).parameter_count == pytest.approx(302e6, rel=0.03)
        assert GPT(PRESETS["tiny"].model).parameter_count < 1e6

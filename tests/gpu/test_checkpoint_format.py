"""One generation on disk: every byte is covered, what is wrong is told, nothing is executed or over-allocated."""

import msgspec
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from flightsw.gpu.checkpoint import format
from flightsw.gpu.checkpoint.format import Corrupt, Manifest

TENSORS = {
    "model.weight": torch.arange(1, 13, dtype=torch.float32).reshape(3, 4),
    "model.half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "optimiser.weight.step": torch.tensor(41.0),
    "random.host": torch.arange(7, dtype=torch.uint8),
    "model.none": torch.zeros(0, 5, dtype=torch.int64),
}


def everything(name):
    return True


def nothing(name):
    return False


def manifest_of(tensors, **changes):
    entries = format.describe(tensors)
    fields = {"generation": 3, "step": 41, "facts": {"preset": "tiny", "loss": 1.25, "tokens": 9}}
    return Manifest(digest=format.state_digest(entries), tensors=entries, **{**fields, **changes})


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "gen-00000003.ckpt"
    format.write(path, manifest_of(TENSORS), TENSORS)
    return path


def sealed(body: bytes, tail: bytes = b"", version: int = format.VERSION) -> bytes:
    """A file with a right header digest around any manifest: what a bug or a forger could write."""
    head = format.HEADER.pack(format.MAGIC, version, len(body))
    return head + xxhash.xxh3_128_digest(head + body) + body + tail


def test_what_was_written_is_read(written):
    manifest, tensors = format.read(written, everything)
    assert manifest == manifest_of(TENSORS)
    assert [entry.name for entry in manifest.tensors] == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert written.stat().st_mode & 0o777 == 0o600


def test_a_part_is_read_but_all_is_checked(written):
    _, tensors = format.read(written, lambda name: name.startswith("model."))
    assert sorted(tensors) == ["model.half", "model.none", "model.weight"]
    data = bytearray(written.read_bytes())
    data[-1] ^= 1  # Inside random.host, which is not asked for.
    written.write_bytes(data)
    with pytest.raises(Corrupt, match=r"random\.host"):
        format.read(written, lambda name: name.startswith("model."))


@given(
    st.dictionaries(
        st.text("abcé.", min_size=1, max_size=9),
        st.tuples(st.sampled_from(sorted(format.DTYPES)), st.lists(st.integers(0, 5), max_size=3)),
        max_size=5,
    ),
    st.integers(0, 2**32),
)
def test_any_set_of_tensors_round_trips(tmp_path_factory, layout, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (dtype, shape) in layout.items():
        size = format.DTYPES[dtype].itemsize
        raw = torch.randint(0, 256, (*shape, size), generator=generator).to(torch.uint8)  # NaN patterns included.
        tensors[name] = raw.view(format.DTYPES[dtype]).reshape(shape)
    path = tmp_path_factory.mktemp("round") / "file"
    format.write(path, manifest_of(tensors), tensors)
    _, read = format.read(path, everything)
    assert {n: bytes(format.tensor_bytes(t)) for n, t in read.items()} == {
        n: bytes(format.tensor_bytes(t)) for n, t in tensors.items()
    }


def test_every_single_bit_flip_in_the_file_is_rejected(written):
    data = written.read_bytes()
    survived = []
    with open(written, "r+b", buffering=0) as file:
        for at in range(len(data)):
            for bit in range(8):
                file.seek(at)
                file.write(bytes([data[at] ^ 1 << bit]))
                try:
                    format.read(written, nothing)
                    survived.append((at, bit))
                except Corrupt:
                    pass
            file.seek(at)
            file.write(data[at : at + 1])
    assert survived == []
    assert format.read(written, nothing)[0] == manifest_of(TENSORS)


def test_every_truncation_and_every_tail_is_rejected(written):
    data = written.read_bytes()
    for kept in range(len(data)):
        written.write_bytes(data[:kept])
        with pytest.raises(Corrupt):
            format.read(written, nothing)
    written.write_bytes(data + b"\0")
    with pytest.raises(Corrupt, match="bytes of tensors"):
        format.read(written, nothing)


BODY = msgspec.to_builtins(manifest_of(TENSORS))
ENTRY = BODY["tensors"][0]


def body(**changes) -> bytes:
    return msgspec.json.encode({**BODY, **changes})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header"),
        (b"PK\x03\x04" + bytes(40), "first bytes"),
        (sealed(body(), version=2), "version 2 is unknown"),
        (format.HEADER.pack(format.MAGIC, 1, 2**32 - 1) + bytes(64), "manifest length"),
        (format.HEADER.pack(format.MAGIC, 1, 4000) + bytes(64), "inside the manifest"),
        (sealed(b"[" * 50_000), "manifest"),
        (sealed(b"\xff\xfe"), "manifest"),
        (sealed(body(extra=1)), "manifest"),
        (sealed(body(step=-1)), "manifest"),
        (sealed(body(tensors=[{**ENTRY, "dtype": "object"}])), "unknown type"),
        (sealed(body(tensors=[{**ENTRY, "shape": [2**39, 2**39]}])), "bytes of tensors"),
        (sealed(body(tensors=[ENTRY, ENTRY])), "twice"),
        (sealed(body(tensors=[], digest="0" * 32)), "state digest"),
    ],
)
def test_a_wrong_file_is_rejected_with_its_reason(tmp_path, content, reason):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(Corrupt, match=reason):
        format.read(path, everything)


def test_the_state_digest_covers_names_types_shapes_and_values_of_weights_and_optimiser_only():
    base = format.state_digest(format.describe(TENSORS))

    def changed(name, tensor):
        return format.state_digest(format.describe({**TENSORS, name: tensor}))

    assert changed("random.host", torch.zeros(7, dtype=torch.uint8)) == base
    assert changed("model.weight", TENSORS["model.weight"].reshape(4, 3)) != base
    assert changed("model.weight", TENSORS["model.weight"].view(torch.int32)) != base
    assert changed("model.other", torch.zeros(1)) != base
    assert changed("optimiser.weight.step", torch.tensor(42.0)) != base

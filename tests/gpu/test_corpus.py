"""The corpus: text files, folders, the standard library; one clear line for what cannot serve."""

import sysconfig

import pytest

from flightsw.gpu.workloads import corpus
from flightsw.gpu.workloads.job import JobFault


def test_a_text_file_is_its_bytes(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(1, 251)) * 20)
    loaded = corpus.load(str(tmp_path / "a.txt"), context=32)
    assert bytes(loaded.tokens.numpy()) == bytes(range(1, 251)) * 20
    assert loaded.source == str(tmp_path / "a.txt")


def test_a_folder_is_its_text_files_in_order(tmp_path):
    for name, text in {"b/y.txt": b"y" * 400, "b/x.txt": b"x" * 400, "a.txt": b"a" * 400}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\x00\x00" * 50)
    (tmp_path / ".hidden").write_bytes(b"h" * 400)
    loaded = corpus.load(str(tmp_path), context=16)
    assert bytes(loaded.tokens.numpy()) == b"a" * 400 + b"x" * 400 + b"y" * 400


def test_the_digest_tells_corpora_apart_and_is_repeatable(tmp_path):
    digests = []
    for name, text in (("one", "abc" * 500), ("two", "abd" * 500), ("three", "abc" * 500)):
        (tmp_path / name).write_text(text)
        digests.append(corpus.load(str(tmp_path / name), context=16).digest)
    assert digests[0] == digests[2] != digests[1]


def test_the_default_is_the_standard_library_bounded_and_repeatable():
    first, second = corpus.load("", context=256), corpus.load("", context=256)
    assert first.source == sysconfig.get_path("stdlib")
    assert first.digest == second.digest
    assert 1 << 20 < len(first.tokens) <= corpus.LIBRARY_BYTES_MAX
    assert b"def __init__(self" in bytes(first.tokens.numpy())


def test_a_large_folder_is_cut_at_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CORPUS_BYTES_MAX", 1000)
    for name in "abc":
        (tmp_path / name).write_text(name * 600)
    assert bytes(corpus.load(str(tmp_path), context=16).tokens.numpy()) == b"a" * 600 + b"b" * 400


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b""), "has no text"),
        (lambda path: path.write_bytes(b"x" * 100), "has 100 bytes of text; a context of 64 needs at least 1040"),
        (lambda path: path.mkdir(), "has no text"),
        (lambda path: path.symlink_to(path), "symbolic links|No such file"),
    ],
    ids=["missing", "empty file", "small file", "empty folder", "loop"],
)
def test_a_corpus_that_cannot_serve_is_one_clear_fault(tmp_path, make, reason):
    path = tmp_path / "corpus"
    make(path)
    with pytest.raises(JobFault, match=reason) as caught:
        corpus.load(str(path), context=64)
    assert caught.value.code == "corpus"
    assert str(path) in caught.value.reason
    assert "\n" not in caught.value.reason

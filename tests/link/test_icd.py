"""The ICD: every entry of the dictionary is in it, its byte offsets are true, and the command line behaves."""

import re
import runpy
import struct
import sys

import pytest

from flightsw.link.codec import pack_housekeeping
from flightsw.link.dictionary import DICTIONARY_HASH, EVENTS, HOUSEKEEPING, PARAMETERS, TELECOMMANDS
from flightsw.link.icd import MARKDOWN_FILE, XTCE_FILE, export_markdown, main
from flightsw.link.packet import TmPacket, encode_tm
from flightsw.link.schema import FailureCode, Mode, Severity, Stage
from flightsw.link.xtce import export_xtce

MARKDOWN = export_markdown()


def test_everything_of_the_dictionary_is_in_it():
    names = [f"`{c.name}`" for c in TELECOMMANDS]
    names += [f"`{a.name}`" for c in TELECOMMANDS for a in c.arguments]
    names += [f"| `{p.name}` |" for p in PARAMETERS]
    names += [f"| 0x{e.id:02X} | {e.name} |" for e in EVENTS]
    names += [f"| {c.value} | {c.name} |" for codes in (Mode, Severity, Stage, FailureCode) for c in codes]
    assert [name for name in names if name not in MARKDOWN] == []
    assert DICTIONARY_HASH in MARKDOWN


def test_tables_are_whole():
    """Every row of a table has as many cells as its head."""
    for block in re.findall(r"(?:^\|.*\|\n)+", MARKDOWN, re.MULTILINE):
        rows = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, rows[0]


@pytest.mark.parametrize("group", HOUSEKEEPING, ids=lambda g: g.name)
def test_offsets_are_true(group):
    values = [i + 0.25 for i in range(len(group.parameters))]
    packet = encode_tm(TmPacket(group.apid, 1, 3, 25, 1, 0, 2, 2.1e9, pack_housekeeping(group, values)))
    section = MARKDOWN.split(f"### {group.name}: APID")[1].split("\n#")[0]
    offsets = re.findall(r"^\| (\d+) \| `(.+?)`", section, re.MULTILINE)
    assert [name for _, name in offsets] == list(group.parameters)
    assert [struct.unpack_from(">d", packet, int(offset))[0] for offset, _ in offsets] == values
    assert f"{len(packet)} octets" in section


@pytest.mark.parametrize(("arguments", "text"), [([], MARKDOWN), (["--xtce"], export_xtce())])
def test_to_standard_output(arguments, text, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out == text


def test_to_a_directory(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "icd")]) == 0
    assert (tmp_path / "icd" / MARKDOWN_FILE).read_text(encoding="utf-8") == MARKDOWN
    assert (tmp_path / "icd" / XTCE_FILE).read_text(encoding="utf-8") == export_xtce()
    assert MARKDOWN_FILE in capsys.readouterr().out


def test_a_directory_that_cannot_be_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file")]) == 1
    assert re.fullmatch(r"icd: cannot write to .*file: .*; choose another --out\n", capsys.readouterr().err)


def test_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["icd"])
    monkeypatch.delitem(sys.modules, "flightsw.link.icd")
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("flightsw.link.icd", run_name="__main__")
    assert exit.value.code == 0
    assert capsys.readouterr().out == MARKDOWN

"""The ledger: one end for every injection, readable after a kill, refused when it cannot be true."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hil.integrity.injection import Fired, Injection, Site, SubjectInfo, draw
from hil.integrity.ledger import BEGUN, CSV, HEADER, MANUAL, PARQUET, Ledger, read, validate, write_parquet
from hil.integrity.ledger_table import COLUMNS, NAMES, OUTCOMES, End, LedgerError, check, manual, row_of
from hil.integrity.shapes import PUBLISHED

INFO = SubjectInfo(
    name="micro",
    sites=(
        Site(target="weights", layer="a.weight", dtype="float32", elements=1000),
        Site(target="activations", layer="b, or c", dtype="bfloat16", elements=64, operation="gelu#1", call=3),
    ),
    passes=4,
)
SILENT = End(outcome="silent", effect="sdc", level="off", released=True)
MASKED = End(outcome="masked", effect="masked", level="off")
CORRECTED = End(
    outcome="corrected",
    effect="due",
    level="storm",
    detectors=("digest", "replay"),
    repaired=True,
    latency_passes=0,
)
DETECTED = End(outcome="detected", effect="critical", level="watch", detectors=("guard",), latency_passes=2)
ENDS = (SILENT, MASKED, CORRECTED, DETECTED)


def injection(index: int) -> Injection:
    return draw(1, index, INFO, PUBLISHED)


def fired(planned: Injection) -> Fired:
    return Fired(
        injection=planned.id, where=f'"{planned.layer}"', dtype=planned.dtype, elements=(1, 9), old=(0, 2**63),
        new=(1, 255), words32=2,
    )  # fmt: skip


def fill(ledger: Ledger, count: int) -> None:
    for index in range(count):
        planned = injection(index)
        ledger.begin(planned)
        ledger.end(planned, fired(planned), ENDS[index % 4])


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        fill(ledger, 40)
    rows = list(read(tmp_path))
    assert [row["id"] for row in rows] == [injection(index).id for index in range(40)]
    for index, row in enumerate(rows):
        planned = injection(index)
        assert row == row_of(planned, fired(planned), ENDS[index % 4])
        assert row["place"] == planned.place
        assert row["elements"] == "1+9"
        assert row["old"] == "0+8000000000000000"
    assert {row["outcome"] for row in rows} == set(OUTCOMES)
    assert validate(tmp_path) == 40


def test_any_csv_reader_understands_it(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        fill(ledger, 8)
    with (tmp_path / CSV).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert tuple(rows[0]) == NAMES
    assert {row["layer"] for row in rows} == {"a.weight", "b, or c"}


def test_parquet_holds_the_same_rows_with_types_and_texts(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `campaign`")
    from pyarrow import parquet

    with Ledger(tmp_path) as ledger:
        fill(ledger, 8)
    table = parquet.read_table(tmp_path / PARQUET)
    assert table.schema.names == list(NAMES)
    for column in COLUMNS:
        assert table.schema.field(column.name).metadata[b"text"].decode() == column.text
    rows = table.to_pylist()
    for row, same in zip(rows, read(tmp_path), strict=True):
        assert {k: "+".join(v) if isinstance(v, list) else v for k, v in row.items()} == same


def test_without_pyarrow_there_is_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ledger = Ledger(tmp_path)
    fill(ledger, 4)
    assert ledger.close() is None
    assert not (tmp_path / PARQUET).exists()
    assert write_parquet(tmp_path) is None
    assert validate(tmp_path) == 4


def test_the_manual_is_the_table(tmp_path: Path) -> None:
    with Ledger(tmp_path):
        pass
    text = (tmp_path / MANUAL).read_text()
    assert text == manual()
    for column in COLUMNS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"{column.name} ")]
        assert column.text in line
        assert all(value in line for value in column.allowed)
    assert HEADER.strip().split(",") == list(NAMES)


def test_a_killed_campaign_leaves_a_ledger_that_goes_on(tmp_path: Path) -> None:
    """The child is killed with an injection begun and not ended; a power cut then tears its last row."""
    code = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_integrity_ledger import Ledger, fill, injection\n"
        f"ledger = Ledger(Path({str(tmp_path)!r}))\n"
        "fill(ledger, 5)\n"
        "ledger.begin(injection(5))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert child.returncode == -signal.SIGKILL
    assert len(list(read(tmp_path))) == 5
    with pytest.raises(LedgerError, match=r"1 injections were begun and have no end \(1\.5\.published\.micro\)"):
        validate(tmp_path)
    whole = (tmp_path / CSV).read_bytes()
    (tmp_path / CSV).write_bytes(whole[:-20])
    assert len(list(read(tmp_path))) == 4
    ledger = Ledger(tmp_path)
    assert ledger.open_ids == {injection(4).id, injection(5).id}
    assert ledger.ended_ids == {injection(index).id for index in range(4)}
    for index in (4, 5):
        ledger.begin(injection(index))
        ledger.end(injection(index), fired(injection(index)), MASKED)
    ledger.close()
    assert validate(tmp_path) == 6
    assert (tmp_path / BEGUN).read_text().count("\n") == 6


def test_an_injection_has_one_beginning_and_one_end(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    first, second = injection(0), injection(1)
    with pytest.raises(LedgerError, match="ends without having been begun"):
        ledger.end(first, fired(first), MASKED)
    ledger.begin(first)
    with pytest.raises(LedgerError, match="never fired: the run is invalid"):
        ledger.end(first, None, MASKED)
    with pytest.raises(LedgerError, match=r"the evidence is that of 1\.1\.published\.micro"):
        ledger.end(first, fired(second), MASKED)
    ledger.end(first, fired(first), MASKED)
    with pytest.raises(LedgerError, match="it ends as exactly one outcome"):
        ledger.end(first, fired(first), SILENT)
    with pytest.raises(LedgerError, match="an id is used once"):
        ledger.begin(first)
    ledger.begin(second)
    with pytest.raises(LedgerError, match="begun and have no end"):
        ledger.close()


def test_an_end_that_was_copied_is_found(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        fill(ledger, 3)
    lines = (tmp_path / CSV).read_text().splitlines(keepends=True)
    (tmp_path / CSV).write_text("".join([*lines, lines[-1]]))
    with pytest.raises(LedgerError, match="has two ends"):
        validate(tmp_path)


def test_a_failed_campaign_reports_its_own_error(tmp_path: Path) -> None:
    def campaign() -> None:
        with Ledger(tmp_path) as ledger:
            ledger.begin(injection(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        campaign()
    assert Ledger(tmp_path).open_ids == {injection(0).id}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outcome": "fine"}, "outcome = 'fine'; allowed are corrected, detected, masked, silent"),
        ({"outcome": "detected"}, "but nobody noticed"),
        ({"outcome": "silent"}, "but no wrong result was released"),
        ({"released": True}, "but a wrong result was released"),
        ({"detectors": "digest", "latency_passes": 1}, "but somebody noticed"),
        ({"latency_passes": 1}, "the latency contradicts it"),
        ({"dtype": "float12"}, "allowed are float64"),
        ({"place": float("nan")}, "place is not finite"),
        ({"seed": 2}, "not those of its id"),
        ({"id": "mine"}, "SEED.INDEX.PRIOR.SUBJECT"),
        ({"detail": "two\nlines"}, "a row is one line"),
        ({"words32": "many"}, "words32 = 'many' is no integer"),
        ({"words32": True}, "is no integer"),
        ({"layer": None}, "layer = None is no text"),
    ],
)
def test_a_row_that_cannot_be_is_refused(change: dict[str, object], says: str) -> None:
    row = row_of(injection(0), fired(injection(0)), MASKED)
    check(row)
    with pytest.raises(LedgerError, match=says) as caught:
        check({**row, **change})
    assert "\n" not in str(caught.value).replace("two\nlines", "")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace("id,", "ident,", 1), "its first line is not that of schema"),
        (lambda text: text.replace("masked", "maskd"), "maskd"),
        (lambda text: text + "a,b\n", "2 cells"),
        (lambda text: text.replace(",false,", ",no,", 1), "neither true nor false"),
        (lambda text: text.replace("1.0.published", "1.9.published"), "not those of its id"),
    ],
)  # fmt: skip
def test_a_spoilt_ledger_is_refused_with_its_line(tmp_path: Path, spoil: object, says: str) -> None:
    with Ledger(tmp_path) as ledger:
        fill(ledger, 4)
    path = tmp_path / CSV
    path.write_text(spoil(path.read_text()))
    with pytest.raises(LedgerError, match=says):
        list(read(tmp_path))
    with pytest.raises(LedgerError, match=CSV):
        Ledger(tmp_path)

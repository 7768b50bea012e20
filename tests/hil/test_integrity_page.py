"""The campaign's page and report: complete, self-contained, honest about what is partial or missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from hil.integrity import alone, measurements, page, plots, show
from hil.integrity.account import Account, account, write
from hil.integrity.injection import Fired, Injection
from hil.integrity.intervals import Share
from hil.integrity.ledger import Ledger
from hil.integrity.ledger_table import End
from hil.integrity.measurements import FalseAlarms, Injector, Measurements, Overhead, Scrub
from hil.integrity.tally import count, rows

MEASURED = Measurements(
    false_alarms=FalseAlarms(checks=1_000_000, alarms=0, passes=1000, by_subject={"gpt-float32": 1_000_000}),
    overhead=(
        Overhead(
            workload="GPT <b>3×96</b>", kind="train", level="storm", percent=12.5, low=11.0, high=14.0,
            control_low=-1.0, control_high=1.5, rounds=7, passes=4,
        ),
        Overhead(
            workload="GPT 4×384", kind="infer", level="storm", percent=40.0, low=38.0, high=41.0,
            control_low=-2.0, control_high=2.0, rounds=7, passes=4,
        ),
    ),
    scrub=Scrub(gb_per_s=4.2, bytes=1 << 28, device="cpu", plain_gb_per_s=9.0),
    injectors=(Injector(name="pytorchfi", version="", ran=False, text="not importable here"),),
)  # fmt: skip

OF_STATE, OF_GPT, OF_TRAIN = "gpt-float32:between", "gpt-bfloat16", "train-mixed"
BEFORE = "output_before_rounding"
# subject, target, dtype, shape, effect, outcome, repaired, released, detectors, alone
ROWS = [
    (OF_STATE, "weights", "float32", "single_bit", "sdc", "corrected", True, False, ("digest",), ("digest",)),
    (OF_STATE, "weights", "float32", "strided", "due", "detected", False, False, ("digest",), ("digest", "finite")),
    (OF_STATE, "weights", "float32", "nullify", "masked", "corrected", True, False, ("digest",), None),
    (OF_GPT, BEFORE, "float32", "nan", "due", "corrected", False, False, ("checksum",), ("checksum",)),
    (OF_GPT, "activations", "bfloat16", "single_bit", "sdc", "silent", False, True, (), ()),
    (OF_TRAIN, "gradients", "float32", "multi_bit", "critical", "detected", False, False, ("guard",), ("guard",)),
    ("serve-float32", "weights", "float32", "single_bit", "sdc", "corrected", False, False, ("digest",), None),
]  # fmt: skip


def write_rows(folder: Path, some: list = ROWS) -> Path:
    with Ledger(folder) as ledger, alone.Alone(folder) as by_itself:
        for index, (
            subject,
            target,
            dtype,
            shape,
            effect,
            outcome,
            repaired,
            released,
            detectors,
            only,
        ) in enumerate(some):
            injection = Injection(
                id=f"1.{index}.published.{subject}", subject=subject, prior="published", seed=1, index=index,
                target=target, layer="layer", operation="", call=0, occasion=0, dtype=dtype, shape=shape, bits=(1,),
                stride=0, words=1, place=0.5,
            )  # fmt: skip
            fired = Fired(
                injection=injection.id, where="layer", dtype=dtype, elements=(3,), old=(1,), new=(3,), words32=1
            )
            end = End(
                outcome=outcome, effect=effect, level="storm", detectors=detectors, repaired=repaired,
                released=released, latency_passes=0 if detectors else -1,
            )  # fmt: skip
            ledger.begin(injection)
            if only is not None:
                by_itself.add(injection.id, only)
            ledger.end(injection, fired, end)
    return folder


def made(folder: Path, **changes: object) -> Account:
    write_rows(folder)
    measurements.save(folder, MEASURED)
    circumstances = {"command": "hil campaign integrity --seed 1", "commit": "c0ffee", "seed": 1, "ending": "whole"}
    return account(folder, **circumstances | changes)


def test_counts_of_known_rows(tmp_path: Path) -> None:
    some = rows(write_rows(tmp_path))
    assert [row.part for row in some] == ["state"] * 3 + ["compute"] * 3 + ["answers"]
    assert [row.dtype for row in some] == ["float32"] * 3 + ["bfloat16"] * 3 + ["float32"]
    found = count(row for row in some if row.part == "state")
    assert found.effects == {"masked": 1, "sdc": 1, "critical": 0, "due": 1, "hang": 0}
    assert (found.coverage, found.repaired) == (Share(hits=2, total=2), Share(hits=1, total=2))
    assert found.alone == {"digest": Share(hits=2, total=2), "finite": Share(hits=1, total=2)}
    assert count(row for row in some if row.part == "compute").coverage == Share(hits=2, total=3)


def test_figures_with_their_goals(tmp_path: Path) -> None:
    found = {figure.id: figure for figure in made(tmp_path).figures}
    expected = {
        "state.coverage": (100.0, True),
        "state.repaired": (50.0, False),
        "compute.coverage": (pytest.approx(200.0 / 3.0), False),
        "compute.coverage_low": (pytest.approx(20.77, abs=0.01), False),
        "tainted_answers": (0.0, True),
        "false_alarms": (0.0, True),
        "overhead.train": (12.5, True),
        "overhead.infer": (40.0, False),
        "scrub.gb_per_s": (4.2, True),
    }
    assert {id: (found[id].value, found[id].met) for id in expected} == expected
    assert "; processor time of one thread; A/A -1.0 to +1.5 %; " in found["overhead.train"].text
    assert found["state.coverage_low"].met is None, "two faults say nothing of 99.9 %, and missed none"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 1),
        ({"ending": "partial", "reason": "interrupted"}, 1),
        ({"ending": "invalid", "reason": "it never fired"}, 2),
    ],
)
def test_exit_status(tmp_path: Path, changes: dict, code: int) -> None:
    assert made(tmp_path, **changes).exit_code == code


@pytest.mark.parametrize(("ending", "code"), [("whole", 0), ("partial", 130)])
def test_exit_status_without_a_miss(tmp_path: Path, ending: str, code: int) -> None:
    write_rows(tmp_path, ROWS[:1])
    assert account(tmp_path, command="c", commit="", seed=1, ending=ending).exit_code == code


class Page(HTMLParser):
    """Collects tags, ids, and every address the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action"}]


def test_page_is_complete_and_self_contained(tmp_path: Path) -> None:
    text = page.write(made(tmp_path), tmp_path).read_text(encoding="utf-8")
    parsed = Page()
    parsed.feed(text)
    assert [address for address in parsed.loads if not address.startswith("#")] == []
    assert "script" not in parsed.tags
    assert parsed.tags.count("svg") == 4
    assert len(parsed.ids) == len(set(parsed.ids)), "drawings in one page share no id"
    assert all(address[1:] in parsed.ids for address in parsed.loads)
    assert "#0102" not in text
    assert "$" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    for part in ("compute.coverage", "0 of 1", "11.8 %", "injections.csv", "pytorchfi", "--seed 1", "FAIL", "hang"):
        assert part in text, part
    assert "<b>3×96" not in text


def test_a_workload_stands_once_above_its_levels() -> None:
    """Beside each level it was cut off at the left, so long it is."""
    rows = [
        msgspec.structs.replace(MEASURED.overhead[0], workload=workload, level=level)
        for workload in ("16 answers of 32 tokens to prompts of 192", "8 answers")
        for level in ("standard", "storm")
    ]
    said = re.findall(r"<text[^>]*>([^<]*)</text>", plots.overhead(rows))
    assert [text for text in said if "answers" in text or text in ("standard", "storm")] == [
        "standard", "storm", "standard", "storm",
        "train, 16 answers of 32 tokens to prompts of 192", "train, 8 answers",
    ]  # fmt: skip


def test_numbers_and_their_heads_are_on_one_side(tmp_path: Path) -> None:
    for table in re.findall(r"<table.*?</table>", page.page(made(tmp_path), tmp_path), re.DOTALL):
        head, _, body = table.partition("</thead>")
        if body:
            sides = ["n" in kinds for kinds in re.findall(r'<th( class="n")?>', head)]
            first = body[: body.index("</tr>")]
            assert ['class="n' in cell for cell in re.findall(r"<td[^>]*>", first)] == sides


def test_drawings_follow_light_and_dark(tmp_path: Path) -> None:
    text = page.page(made(tmp_path), tmp_path)
    used = set(re.findall(r"var\(--([a-z-]+)\)", "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))))
    light, dark = text[: text.index("</style>")].split("prefers-color-scheme: dark")
    assert used
    assert [name for name in used if f"--{name}:" not in light or f"--{name}:" not in dark] == []


@pytest.mark.parametrize(
    ("ending", "said"), [("partial", "INCONCLUSIVE: partial"), ("invalid", "INVALID: invalid")]
)
def test_what_is_not_whole_says_so(tmp_path: Path, ending: str, said: str) -> None:
    write_rows(tmp_path, ROWS[:1])
    found = account(tmp_path, command="c", commit="", seed=1, ending=ending, reason="interrupted after 1")
    text = page.page(found, tmp_path)
    assert said in text
    assert "interrupted after 1" in text
    assert "No overhead was measured" in text
    assert ending.upper() in show.lines(found, tmp_path)[0]


def test_an_empty_campaign_still_has_a_page(tmp_path: Path) -> None:
    with Ledger(tmp_path):
        pass
    found = account(tmp_path, command="c", commit="", seed=1, ending="partial", reason="interrupted")
    assert found.figures == ()
    assert "0 injections" in page.page(found, tmp_path)


def test_report_is_json_with_the_ids(tmp_path: Path) -> None:
    write(made(tmp_path), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {figure["id"] for figure in report["figures"]} >= {
        "state.coverage",
        "compute.coverage",
        "tainted_answers",
    }
    assert report["commit"] == "c0ffee"


@pytest.mark.parametrize(("share", "place"), [(0.0, 0.0), (0.9, 1.0), (0.999, 3.0), (0.99999, 4.0), (1.0, 4.0)])
def test_scale_of_nines(share: float, place: float) -> None:
    assert plots.nines(share) == pytest.approx(place)

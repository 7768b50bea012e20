"""Card profiles in files: the shipped one, a written one that reads back, a bad one told in lines."""

from pathlib import Path

import msgspec
import pytest

from flightsw.link.card import PROFILE_BYTES_MAX, REFERENCE, Alias, Profile, Setting, Stop
from flightsw.shell import card_profile
from flightsw.shell.card_profile import ProfileError, load_profile, render

GOOD = render(REFERENCE)
FULL = msgspec.structs.replace(
    REFERENCE,
    card='Card "X"\x7f \\ µ',
    also=(),
    provenance="measured",
    measured_on="2026-11-30",
    coolant_degc=-4.5,
    train=msgspec.structs.replace(
        REFERENCE.train,
        settings=(
            Setting(power_w=1.0 / 3.0, throughput=0.25, batch=8),
            Setting(power_w=640.0, throughput=1.0, sms=132, duty=0.5),
        ),
    ),
    decode=REFERENCE.train.rescaled(80.0, 300.0),
    stops=(Stop(kernel_s=0.01, p50_s=0.005, worst_s=0.011, count=7),),
    aliases=(Alias(period_s=0.1, bias_w=-55.0, scatter_w=1e-9),),
)


def test_the_shipped_profile_is_the_one_of_the_core() -> None:
    assert card_profile.shipped() == ("h100-sxm",)
    assert load_profile("h100-sxm") == REFERENCE
    assert REFERENCE.provenance == "assumed", "nobody has measured it"


@pytest.mark.parametrize("profile", [REFERENCE, FULL], ids=["shipped", "everything"])
def test_what_is_written_reads_back(tmp_path: Path, profile: Profile) -> None:
    (tmp_path / "card.toml").write_text(render(profile, "measured\nby a test"))
    assert load_profile("card.toml", tmp_path) == profile
    assert load_profile(str(tmp_path / "card.toml")) == profile
    assert (tmp_path / "card.toml").read_text().startswith("# measured\n# by a test\n")


# (text of the file, what follows its path in the one line)
MISTAKES = {
    "no card": (GOOD.replace('card = "', 'crad = "'), "crad: unknown key; did you mean 'card'?"),
    "provenance": (GOOD.replace('"assumed"', '"guessed"'), 'provenance: "guessed" is refused; allowed is one of'),
    "no train": (GOOD.partition("[train]")[0], "train: is missing; allowed is a table of Workload"),
    "train is a number": ("train = 5\n" + GOOD.partition("[train]")[0], "train: 5 is no table"),
    "conductance 0": (
        GOOD.replace("conductance_w_k = 14.0", "conductance_w_k = 0"),
        "conductance_w_k: 0 is refused",
    ),
    "NaN": (GOOD.replace("settle_s = 0.25", "settle_s = nan"), "settle_s: nan is refused"),
    "another format": (GOOD.replace("format = 1", "format = 2"), "format: 2 is refused; allowed is one of 1"),
    "power falls": (GOOD.replace("279.193", "900.0"), "train: point 2: power_w and throughput must both rise"),
    "in decode": (GOOD + "[decode]\npower_w = [1, 2]\nfoo = 1\n", "decode.foo: unknown key"),
    "no TOML": ("card = ", "is no TOML: "),
    "not UTF-8": ("card = \udcff", "byte 7 is not UTF-8"),
    "too long": ("#" * (PROFILE_BYTES_MAX + 1), "bytes, a card profile has at most"),
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_path_and_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "card.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ProfileError) as caught:
        load_profile(str(path))
    first = caught.value.lines[0]
    assert first.startswith(f"{path}: ")
    assert said in first
    assert all("\n" not in line for line in caught.value.lines)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("h200", "card profile 'h200': no such name; allowed are h100-sxm, or the path of a .toml file"),
        ("", "card profile '': no such name"),
        ("missing.toml", "missing.toml: cannot be read: No such file or directory"),
        (".toml", ".toml: cannot be read"),
    ],
)
def test_a_profile_that_is_not_there(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(name, tmp_path)
    assert said in str(caught.value)

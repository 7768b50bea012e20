"""House rules as tests: what the architecture promises about every module, checked on the source itself.

The dependency rules between packages are import-linter contracts (``make check``); here are the rules that no
linter knows. Every rule is a row: a pattern, where it is forbidden, and why. Each has been seen to fail.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flightsw", "ground", "hil")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
TESTS = sorted(p for p in (ROOT / "tests").rglob("*.py"))

TOP_LEVEL = {
    "pyproject.toml", "flightsw", "ground", "hil", "tests", "Makefile", "README.md",
    "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt",
}  # fmt: skip

# (pattern, files it may not stand in, why)
BANNED = (
    (r"(?<!\.)\beval\(|(?<!\.)\bexec\(", SOURCES, "nothing that came from outside is ever executed"),
    (r"^\s*(import|from) pickle|\bpickle\.loads?\(|\bmarshal\.loads?\(", SOURCES, "no pickle from outside"),
    (r"torch\.load\(", SOURCES, "checkpoints have their own verified format"),
    (r"(?<!\.)asyncio\.create_task\(", SOURCES, "tasks live in groups, or their exceptions get lost"),
    (r"\b(TODO|FIXME|XXX|HACK)\b", SOURCES + TESTS, "finish it, or file it"),
    (r"trust_remote_code\s*=\s*True", SOURCES, "a model directory is data, not code"),
    (r"\bprint\(", sorted((ROOT / "flightsw" / "core").rglob("*.py")), "core has no output"),
    (
        r"\btime\.time\(\)|datetime\.now\(",
        sorted((ROOT / "flightsw").rglob("*.py")),
        "two clocks, neither of them this",
    ),
)


@pytest.mark.parametrize(("pattern", "files", "why"), BANNED, ids=[row[0] for row in BANNED])
def test_banned_in_source(pattern: str, files: list[Path], why: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{why}:\n" + "\n".join(found)


def test_tests_never_sleep() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in TESTS
        if "benchmarks" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep", "asyncio.sleep"}
        if not (node.args and ast.unparse(node.args[0]) == "0")  # asyncio.sleep(0) only yields.
    ]
    assert not calls, "tests wait for conditions, not for time: " + ", ".join(calls)


EXCLUSION = re.compile(r"#\s*pragma:\s*no (?:cover|branch)\b(?P<rest>.*)")
REASON = re.compile(r" - \w+ \w+")


def test_what_coverage_leaves_out_says_why() -> None:
    unsaid = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "flightsw")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := EXCLUSION.search(line)) and not REASON.match(found["rest"])
    ]
    assert not unsaid, "write `# pragma: no cover - reason`:\n" + "\n".join(unsaid)


@pytest.mark.parametrize(
    ("comment", "says_why"),
    [
        ("# pragma: no cover", False),
        ("# pragma: no branch", False),
        ("# pragma: no cover - ", False),
        ("#pragma: no cover", False),
        ("# pragma: no cover - it ends the process.", True),
    ],
)
def test_a_reason_is_words(comment: str, says_why: bool) -> None:
    found = EXCLUSION.search(comment)
    assert found is not None
    assert bool(REASON.match(found["rest"])) is says_why


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_opens_with_its_purpose(path: Path) -> None:
    text = path.read_text()
    if path.name == "__init__.py" and not text.strip():
        return
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "a module opens with its purpose"
    assert len(docstring) > 40, "a module opens with its purpose, not with its name"


def test_flightsw_init_is_empty() -> None:
    assert (ROOT / "flightsw" / "__init__.py").read_text() == "", "importing link must not import the daemon"


def test_top_level_is_what_the_customer_fixed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.split("/")[0] for line in tracked.splitlines()}
    extra = {name for name in names if not name.startswith(".")} - TOP_LEVEL
    assert not extra, f"not part of the fixed top level: {sorted(extra)}"


def test_the_daemon_process_stays_small() -> None:
    """What flightd imports at run time, not only what a linter sees."""
    heavy = {"torch", "numpy", "scipy", "pandas", "pynvml", "highspy", "matplotlib", "rich", "typer", "sgp4"}
    names = "sorted({m.split('.')[0] for m in sys.modules})"
    code = f"import sys, flightsw.__main__, flightsw.shell.daemon; print(*{names})"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not heavy & set(out.split())


def test_no_machine_paths() -> None:
    """A path of one machine in a tracked file works on that machine only."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pattern = re.compile(r"/(work|root|home)/[a-z]")
    found = [
        f"{name}:{number}"
        for name in tracked.split("\0")
        if name and Path(name).suffix in {".py", ".toml", ".md", ".service", ""} and (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), 1)
        if pattern.search(line) and name != "tests/test_architecture.py"
    ]
    assert not found, "paths of one machine: " + ", ".join(found)

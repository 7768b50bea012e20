"""The example configuration, written from the types: ``python -m flightsw.shell.example`` prints ``mission.toml``.

Every key stands there with its meaning, its unit (the last part of its name), what is allowed and its default. The
meaning is the docstring under the field, so that text and code cannot drift apart; a test holds the packaged
file against this module.
"""

import ast
import inspect
import sys
import textwrap
from typing import Any, Final

import msgspec

from flightsw import config
from flightsw.gpu.protocol import InferSpec, TrainSpec

from .typed_toml import allowed, shown

WIDTH: Final = 110
HEADER: Final = """\
# Configuration of flightd, the onboard daemon of gpusat. Every key is here with its default, except where a
# comment says otherwise: a key that is left out has its default. Units stand at the end of a key's name: _s
# seconds, _w watts, _wh watt-hours, _degc degrees Celsius, _k kelvin, _mb 10^6 bytes, _bps bits per second,
# _world_s mission time. Relative paths start at the folder of this file.
#
# Check a file with  flightd --config mission.toml --check
"""


def render() -> str:
    """The whole file."""
    parts = [HEADER]
    for name, kind in config.sections().items():
        parts.append(f"[{name}]\n{_about(kind)}{_keys(name, kind)}")
    parts.append("# Jobs: one [[jobs]] table each, in order of importance; none is needed.\n")
    for kind in (TrainSpec, InferSpec):
        tag = shown(kind.__struct_config__.tag)
        parts.append(f"[[jobs]]\n{_about(kind)}kind = {tag}\n{_keys('jobs', kind)}")
    return "\n".join(parts)


def docs(kind: type[Any]) -> dict[str, str]:
    """Docstring under each field of a struct and of those it extends, by field name."""
    found: dict[str, str] = {}
    for part in kind.__mro__:
        if not issubclass(part, msgspec.Struct) or part is msgspec.Struct:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
            ):
                found.setdefault(field.target.id, str(ast.literal_eval(text.value)))
    return found


def _about(kind: type[msgspec.Struct]) -> str:
    return _comment((inspect.getdoc(kind) or "").partition("\n\n")[0])


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(" ".join(text.split()), WIDTH))


def _keys(section: str, kind: type[msgspec.Struct]) -> str:
    texts = docs(kind)
    lines = []
    for field in msgspec.structs.fields(kind):
        if f"{section}.{field.name}" in config.DERIVED:
            continue
        range_text = allowed(field.type)
        # A bare text allows what its meaning says.
        also = "" if range_text == "a text" else f" Allowed: {range_text}."
        lines.append(_comment(texts[field.name] + also))
        default = field.default
        if section == "governor" and field.name in config.PROFILE_KEYS:
            lines.append(f"# Left out, it is that of card.profile.\n# {field.name} = {_toml(default)}\n")
            continue
        # TOML has no null: a key without a value is shown, and left out.
        lines.append(f"# {field.name} =\n" if default is None else f"{field.name} = {_toml(default)}\n")
    return "".join(lines)


def _toml(value: object) -> str:
    return "[]" if value == () else shown(value)


if __name__ == "__main__":
    sys.stdout.write(render())

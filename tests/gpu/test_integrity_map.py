"""The package's map names every module once, so that a stranger finds each and none that is gone."""

import re
from collections import Counter
from pathlib import Path

from flightsw.gpu import integrity

LINE = re.compile(r"^    (\w+)  +\S", re.MULTILINE)


def test_the_map_names_every_module_once() -> None:
    assert integrity.__doc__ is not None
    folder = Path(integrity.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert Counter(LINE.findall(integrity.__doc__)) == Counter(modules)

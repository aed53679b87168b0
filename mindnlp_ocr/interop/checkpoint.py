"""A model that mindnlp has loaded, as a checkpoint for this engine."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.config import ModelConfig
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.check import Stored, check
from mindnlp_ocr.weights.checkpoint import Checkpoint, StoredWeights
from mindnlp_ocr.weights.folder import own_bfloat16
from mindnlp_ocr.weights.names import expected_shapes, published
from mindnlp_ocr.weights.quantize import Source

PROCESSOR_FILES = ("tokenizer.json", "preprocessor_config.json")  # required for reading pages
_OWN_FILES = ("config.json", "generation_config.json")  # written from the model itself
_DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(ml_dtypes.bfloat16): "BF16"}


class MindNLPCheckpoint(Checkpoint):
    """A Qwen2-VL model of mindnlp in its current state.

    On a CPU, arrays share the memory of the tensors. Weights that the engine packs (every matrix, with our CPU operators) or
    moves to a device are copied, one weight at a time; norms stay shared.

    Args:
        model: a Qwen2VLForConditionalGeneration.
        processor: a folder with tokenizer.json and preprocessor_config.json; by default, the folder of the model.

    Raises:
        SetupError: the model is not a mindnlp model, or its processor files do not exist.
    """

    def __init__(self, model: Any, processor: str | Path | None = None) -> None:
        config = getattr(model, "config", None)
        if not hasattr(model, "named_parameters") or not hasattr(config, "to_json_string"):
            raise SetupError(
                f"from_mindnlp: {type(model).__name__} is not a mindnlp model: pass a Qwen2VLForConditionalGeneration",
                code="mindnlp_model_invalid",
            )
        self._model = model
        origin = processor if processor is not None else getattr(model, "name_or_path", "")
        self._processor = Path(origin) if str(origin) else Path("(none)")
        self.name = self._processor.name if self._processor.is_dir() else "mindnlp"
        if missing := [name for name in PROCESSOR_FILES if not (self._processor / name).is_file()]:
            raise SetupError(
                f"from_mindnlp: {self._processor} contains no {' and no '.join(missing)}: pass processor=FOLDER, the "
                "published folder of the checkpoint",
                code="mindnlp_processor_incomplete",
            )

    @contextmanager
    def files(self) -> Iterator[Path]:
        """Provide a folder with the model's configuration and the processor's files while the context is open."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for path in self._processor.iterdir():
                if path.suffix in (".json", ".jinja", ".txt") and path.name not in _OWN_FILES and path.is_file():
                    shutil.copy(path, folder)
            (folder / "config.json").write_text(self._model.config.to_json_string(use_diff=False), encoding="utf-8")
            generation = getattr(self._model, "generation_config", None)
            if generation is not None:
                (folder / "generation_config.json").write_text(generation.to_json_string(use_diff=False), encoding="utf-8")
            yield folder

    @contextmanager
    def weights(self, config: ModelConfig) -> Iterator["MindNLPWeights"]:
        """Provide the weights. For errors, see :class:`MindNLPWeights`."""
        yield MindNLPWeights(self._model, config)

    def fingerprint(self) -> str:
        """Return the SHA-256 over the configuration, the processor's files and all weights."""
        digest = hashlib.sha256()
        with self.files() as folder:
            for path in sorted(folder.iterdir()):
                content = path.read_bytes()
                digest.update(f"{path.name} {len(content)} ".encode() + content)
            config = ModelConfig.from_folder(folder)
        weights = MindNLPWeights(self._model, config)
        for name in sorted(expected_shapes(config)):
            array = weights.array(name)
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()


class MindNLPWeights(StoredWeights):
    """The weights of the model under their published names.

    Raises:
        SetupError: see :func:`check`.
    """

    def __init__(self, model: Any, config: ModelConfig) -> None:
        self.names = self._tensors = {published(name): tensor for name, tensor in model.named_parameters()}
        arrays = {name: self.array(name) for name in self._tensors}
        found = {name: Stored(array.shape, _DTYPES.get(array.dtype, str(array.dtype))) for name, array in arrays.items()}
        self.dtype = check(f"from_mindnlp: {type(model).__name__}", found, config)

    def array(self, name: str) -> NDArray[Any]:
        """Return a view of a tensor on a CPU, or a copy of a tensor on another device."""
        tensor = self._tensors[name]
        if not hasattr(tensor, "asnumpy"):
            raise SetupError(
                f"from_mindnlp: {name} is a {type(tensor).__name__}, not a MindSpore tensor: load with mindnlp",
                code="mindnlp_model_invalid",
            )
        return own_bfloat16(tensor.asnumpy())

    def __getitem__(self, name: str) -> Source:
        return self.array(name)

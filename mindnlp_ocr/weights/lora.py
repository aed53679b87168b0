"""LoRA adapters in PEFT's format, merged into the weights in float32.

W + scaling * B A, with scaling = alpha / r, or alpha / sqrt(r) for rank-stabilised adapters (Hu et al. 2021,
arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732). Reference: `merge_and_unload` of peft.
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mindnlp_ocr.config import ModelConfig, read_json
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.weights.check import listed
from mindnlp_ocr.weights.checkpoint import Checkpoint, StoredWeights
from mindnlp_ocr.weights.digest import fingerprint
from mindnlp_ocr.weights.folder import opened, own_bfloat16
from mindnlp_ocr.weights.names import expected_shapes, published
from mindnlp_ocr.weights.quantize import Quantized, Source, dequantize

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LOW_RANK = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?")
WRAPPERS = re.compile(r"\.(base_layer|modules_to_save|default)(?=\.|$)")  # names of PEFT's wrappers around a layer

Rank = Annotated[int, Field(gt=0, le=2**16)]
Alpha = Annotated[float, Field(allow_inf_nan=False)]


class LoraConfig(BaseModel):
    """The settings in ``adapter_config.json`` that affect a merge. Unsupported settings that would change it are
    rejected."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: Literal["LORA"]
    r: Rank
    lora_alpha: Alpha
    use_rslora: bool = False
    rank_pattern: dict[str, Rank] = {}
    alpha_pattern: dict[str, Alpha] = {}
    fan_in_fan_out: Literal[False] = False
    use_dora: Literal[False] = False
    use_qalora: Literal[False] = False
    lora_bias: Literal[False] = False
    use_bdlora: None = None
    layer_replication: None = None
    trainable_token_indices: None = None
    alora_invocation_tokens: None = None
    target_parameters: Annotated[list[str], Field(max_length=0)] | None = None
    init_lora_weights: bool | Literal["gaussian", "eva", "orthogonal"] | None = True  # other methods change the base weights

    def scaling(self, module: str) -> float:
        """Return the scaling of a module by its name during training."""
        rank, alpha = self.rank(module), float(_matching(self.alpha_pattern, module, self.lora_alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def rank(self, module: str) -> int:
        return int(_matching(self.rank_pattern, module, self.r))


class Adapter:
    """An adapter in memory.

    Attributes:
        changed: published names of the weights that the adapter changes.

    Raises:
        SetupError: the folder does not exist, is not a LoRA adapter of a supported kind, or its files are damaged or
            inconsistent.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = self._config()
        self._low_rank: dict[str, dict[str, NDArray[Any]]] = {}  # A and B by the stored name of the module
        self._whole: dict[str, NDArray[Any]] = {}  # by published names
        self._module: dict[str, str] = {}  # published name of a weight -> stored name of its module
        self._read()
        self.changed = frozenset([*self._module, *self._whole])

    def _config(self) -> LoraConfig:
        path = self.folder / CONFIG
        if not path.exists():
            what = "is not a LoRA adapter" if self.folder.is_dir() else "does not exist"
            raise SetupError(
                f"adapter {self.folder} {what}: pass a folder with {CONFIG} and {TENSORS}, as PEFT saves it",
                code="adapter_missing",
            )
        try:
            return LoraConfig(**read_json(path))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise SetupError(
                f"{path}: {where} is {fault['input']!r} ({fault['msg']}): merge it with PEFT, and use the merged model",
                code="adapter_setting_unsupported",
            ) from error

    def _read(self) -> None:
        path = self.folder / TENSORS
        if not path.exists() and (self.folder / "adapter_model.bin").exists():
            raise SetupError(
                f"{self.folder} contains adapter_model.bin, a pickle: save it with safe_serialization=True",
                code="adapter_pickle",
            )
        faults = []
        with opened(path) as file:
            for key in file.keys():  # noqa: SIM118
                array = own_bfloat16(file.get_tensor(key))
                if array.dtype.name not in ("float32", "float16", "bfloat16"):
                    faults.append(f"{key} is stored as {array.dtype}")
                    continue
                name = WRAPPERS.sub("", key.removeprefix("base_model.model."))
                if match := LOW_RANK.fullmatch(name):
                    module, embedding, side, _ = match.groups()
                    if embedding:  # stored transposed
                        side, array = "AB"[side == "A"], array.T
                    self._low_rank.setdefault(module, {})[side] = array
                    self._module[published(f"{module}.weight")] = module
                elif "lora_" in name:
                    faults.append(f"{key} is not a supported kind of weight")
                else:
                    self._whole[published(name)] = array
        for module, pair in self._low_rank.items():
            faults += self._pair_faults(module, pair)
        if not faults and not self._low_rank and not self._whole:
            faults = ["it contains no weights"]
        if faults:
            raise SetupError(
                f"{path} cannot be used: {listed(faults)}: save the adapter again with PEFT", code="adapter_invalid"
            )

    def _pair_faults(self, module: str, pair: Mapping[str, NDArray[Any]]) -> Iterator[str]:
        if pair.keys() != {"A", "B"}:
            yield f"{module} has only lora_{next(iter(pair))}"
            return
        a, b = _factors(pair)
        if a.shape[0] != b.shape[1] or a.shape[0] != self.config.rank(module):
            shapes = f"lora_A {pair['A'].shape} and lora_B {pair['B'].shape}"
            yield f"{module} has {shapes}, but its rank in {CONFIG} is {self.config.rank(module)}"

    def check(self, config: ModelConfig) -> None:
        """Check that the adapter matches a checkpoint with this configuration.

        Raises:
            SetupError: names or shapes do not match.
        """
        shapes = expected_shapes(self.untied(config))
        faults: list[str] = []
        for name in sorted(self.changed):
            if name not in shapes:
                near = difflib.get_close_matches(name, shapes, 1) if len(faults) < 5 else []
                faults.append(f"the model has no weight {name}" + (f" (the nearest is {near[0]})" if near else ""))
                continue
            found = self._whole[name].shape if name in self._whole else self._delta_shape(name)
            if math.prod(found) != math.prod(shapes[name]) or found[0] != shapes[name][0]:
                faults.append(f"{name} has the shape {shapes[name]}, but in the adapter {found}")
        if faults:
            raise SetupError(
                f"adapter {self.folder} is for another base: {listed(faults)}: use its own base model",
                code="adapter_mismatch",
            )

    def _delta_shape(self, name: str) -> tuple[int, ...]:
        a, b = _factors(self._low_rank[self._module[name]])
        return b.shape[0], a.shape[1]

    def untied(self, config: ModelConfig) -> ModelConfig:
        """Return the configuration of the adapted network, in which a tied head is untied if the adapter changes it."""
        if self.changed.isdisjoint({EMBEDDING, HEAD}):
            return config
        return config.model_copy(update={"tie_word_embeddings": False})

    def merged(self, name: str, base: Source) -> NDArray[Any]:
        """Return a weight with the adapter merged in, in float32 unless the adapter contains the whole weight."""
        weight = self._whole.get(name, base)
        if name not in self._module:
            assert not isinstance(weight, Quantized)
            return weight
        module = self._module[name]
        whole = dequantize(weight) if isinstance(weight, Quantized) else weight.astype(np.float32)
        a, b = (factor.astype(np.float32) for factor in _factors(self._low_rank[module]))
        delta = (b @ a) * np.float32(self.config.scaling(module))
        return (whole.reshape(delta.shape) + delta).reshape(whole.shape)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files of the adapter."""
        return fingerprint([self.folder / CONFIG, self.folder / TENSORS])


class AdaptedCheckpoint(Checkpoint):
    """A checkpoint with an adapter merged in.

    Raises:
        SetupError: the adapter does not match the configuration (raised by ``config``).
    """

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        self.base, self.adapter = base, adapter
        self.name = f"{base.name} with {adapter.folder.name}"

    @property
    def paths(self) -> list[Path]:
        return self.base.paths

    def files(self) -> AbstractContextManager[Path]:
        return self.base.files()

    def config(self, folder: Path) -> ModelConfig:
        config = self.base.config(folder)
        self.adapter.check(config)
        return self.adapter.untied(config)

    @contextmanager
    def weights(self, config: ModelConfig) -> Iterator[StoredWeights]:
        with self.base.files() as folder:
            stored = self.base.config(folder)
        with self.base.weights(stored) as weights:
            yield AdaptedWeights(weights, self.adapter, expected_shapes(config))

    def fingerprint(self) -> str:
        return f"{self.base.fingerprint()} {self.adapter.digest}"


class AdaptedWeights(StoredWeights):
    """The weights of a checkpoint with an adapter, merged on demand.

    Args:
        names: names of the weights of the adapted network. A head that was tied is created from the embedding.
    """

    def __init__(self, base: StoredWeights, adapter: Adapter, names: Iterable[str]) -> None:
        self._base, self._adapter = base, adapter
        self.names, self.dtype = list(names), base.dtype

    def __getitem__(self, name: str) -> Source:
        base = self._base[EMBEDDING if name == HEAD and HEAD not in self._base else name]
        return self._adapter.merged(name, base) if name in self._adapter.changed else base


def _factors(pair: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return A [r, in] and B [out, r]. For a convolution, they have more dimensions, and those of B are 1."""
    return pair["A"].reshape(len(pair["A"]), -1), pair["B"].reshape(len(pair["B"]), -1)


def _matching(pattern: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, as PEFT does."""
    for key, value in pattern.items():
        try:
            if re.fullmatch(rf"(.*\.)?({key})", module):
                return value
        except re.error as error:
            raise SetupError(
                f"{CONFIG}: {key!r} is not a regular expression ({error}): save the adapter again", code="adapter_invalid"
            ) from error
    return otherwise

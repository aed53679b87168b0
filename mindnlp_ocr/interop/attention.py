"""Our attention operators for mindnlp's models, registered as an attention implementation of transformers."""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from mindnlp_ocr.engine.buckets import bucket_for
from mindnlp_ocr.errors import SetupError
from mindnlp_ocr.interop.loading import import_mindnlp
from mindnlp_ocr.ops import native

Array = NDArray[Any]

MIN_KEYS, MAX_KEYS = 64, 1 << 20  # keys of a call are padded to buckets in this range, so that few shapes are compiled


def register_attention(name: str = "mindnlp_ocr_flash") -> str:
    """Register our CPU operators as an attention implementation of transformers, for inference.

    Models use it with ``attn_implementation=name`` or ``model.set_attn_implementation(name)``.

    Raises:
        SetupError: mindnlp is not installed, or our operators are not built.
    """
    built, reason = native.available()
    if not built:
        raise SetupError(f"register_attention: {reason}", code="operators_missing")
    import_mindnlp()
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(name, _Attention(name))
    AttentionMaskInterface.register(name, _live_keys)  # otherwise, a model with padding would get no mask
    return name


def _live_keys(
    cache_position: Any, kv_length: int, mask_function: Any, attention_mask: Any = None, kv_offset: int = 0, **_: Any
) -> Any:
    """Return which keys up to the newest are not padding, bool [batch, keys], or None if no key is padding."""
    from transformers.masking_utils import causal_mask_function

    if mask_function is not causal_mask_function or kv_offset:
        raise SetupError(
            "attention of mindnlp_ocr: packed sequences and sliding windows are not supported: pass an attention_mask "
            "with one sequence in each row, or use attn_implementation='eager'",
            code="attention_unsupported",
        )
    seen = int(cache_position[-1]) + 1
    if attention_mask is None:
        return None if seen == kv_length else np.ones((1, seen), np.bool_)  # the cache is longer than its contents
    if attention_mask.ndim != 2:
        raise SetupError(
            f"attention of mindnlp_ocr: the mask has {attention_mask.ndim} dimensions: use [batch, keys]",
            code="attention_mask_unsupported",
        )
    mask = attention_mask.asnumpy().astype(np.bool_)[:, :seen]
    return None if mask.all() and seen == kv_length else mask


class _Attention:
    """The attention function that the modules of transformers call."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._decode, self._vision = native.flash_decode(), native.flash_vision()

    def __call__(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        sliding_window: int | None = None,
        **options: Any,
    ) -> tuple[Any, None]:
        """Compute attention of query [batch, heads, tokens, head_dim] over key and value [batch, kv_heads, keys, head_dim].

        Returns:
            [batch, tokens, heads, head_dim], and None in place of attention weights.
        """
        import mindtorch

        refused = {"dropout": dropout, "sliding_window": sliding_window, "softcap": options.get("softcap")}
        if given := [f"{name}={value}" for name, value in refused.items() if value]:
            raise SetupError(
                f"attention {self.name!r} does not support {given[0]}: use attn_implementation='eager'",
                code="attention_unsupported",
            )
        # Convert through NumPy: our operators' results for mindnlp's tensors are not accepted by mindnlp's own operators.
        q, k, v = (np.asarray(x.asnumpy()) for x in (query, key, value))
        if attention_mask is not None and not isinstance(attention_mask, np.ndarray):
            raise SetupError(
                f"attention {self.name!r} creates its own mask: pass the model one of shape [batch, keys]",
                code="attention_mask_unsupported",
            )
        if scaling is not None:
            q = q * np.asarray(scaling * q.shape[-1] ** 0.5, q.dtype)  # the operator itself divides by the square root
        if is_causal if is_causal is not None else getattr(module, "is_causal", True):
            answer = self._causal(q, k, v, attention_mask)
        else:
            answer = self._full(q, k, v, attention_mask)
        return mindtorch.from_numpy(answer).to(query.device), None

    def _full(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        """Full attention: every token attends to every key, as for the patches of an image."""
        if mask is not None or q.shape[2] != k.shape[2]:
            raise SetupError(
                f"attention {self.name!r}: only causal attention supports padding, or more keys than tokens",
                code="attention_mask_unsupported",
            )
        return np.stack([
            self._vision(*(_tensor(x[row].swapaxes(0, 1)) for x in (q, k, v)), _integers(0, q.shape[2])).asnumpy()
            for row in range(len(q))
        ])  # fmt: skip

    def _causal(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        """Causal attention: the tokens are the last keys, and each attends to the keys up to its own, without padding."""
        batch, heads, tokens, head_dim = q.shape
        answer = np.zeros((batch, tokens, heads, head_dim), q.dtype)
        for row in range(batch):
            live = np.ones(k.shape[2], np.bool_) if mask is None else mask[row % len(mask)]
            keys, new = np.flatnonzero(live), np.flatnonzero(live[len(live) - tokens :])
            if not len(new):
                continue
            slots = [_slot(x[row][:, keys]) for x in (k, v)]
            added = [_tensor(x[row][:, keys[-len(new) :]].swapaxes(0, 1)[None]) for x in (k, v)]  # written in place
            asked = _tensor(q[row][:, new].swapaxes(0, 1)[None])
            held = _integers(0), _integers(len(keys) - len(new)), _integers(len(new))
            answer[row, new] = self._decode(asked, *added, *slots, *held).asnumpy()[0]
        return answer


def _slot(x: Array) -> Tensor:
    """Copy keys or values [kv_heads, keys, head_dim] to a slot with the size of a bucket."""
    slot = np.zeros((1, x.shape[0], bucket_for(x.shape[1], MIN_KEYS, MAX_KEYS), x.shape[2]), x.dtype)
    slot[0, :, : x.shape[1]] = x
    return Tensor(slot)


def _tensor(x: Array) -> Tensor:
    return Tensor(np.ascontiguousarray(x))


def _integers(*values: int) -> Tensor:
    return Tensor(np.array(values, np.int32), ms.int32)

"""The interface of backends, the device-specific part of the vision tower and the language model."""

from typing import Any, TypeAlias

from mindspore import Parameter, ParameterTuple, Tensor, nn

# Layers pass plain tuples in compiled graphs, because MindSpore 2.7.2 runs the constructor of a named tuple in Python,
# outside the graph.

StepInputs: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""The slots that a call extends: ``slots``, ``cached`` and ``count``, each int32 [segments]. A prompt is one segment with
many tokens; a decode step has many segments with one token each.

``slots`` contains the slot of each segment, ``cached`` the number of tokens that the slot already contains, and ``count``
the number of new tokens, which padding may follow. A segment with ``count`` 0 is inactive.
"""

VisionContext: TypeAlias = tuple[Tensor, Tensor, Any, Tensor]
"""Inputs shared by all blocks of the vision tower in a call: ``cos`` and ``sin``, the rotary embedding of every patch;
``mask``, which restricts attention to an image or a window, in a backend-specific form; ``rows`` int32 [1], the number of
patches without padding.
"""

StepContext: TypeAlias = tuple[Tensor, Tensor, Any, Tensor, int]
"""Inputs shared by all layers of the language model in a call: ``cos`` and ``sin``, the rotary embedding of every token;
``mask``, the visible keys and the write position of each token, in a backend-specific form; ``rows`` int32 [1], the number
of tokens without padding; ``segments``, the number of segments.
"""


class Backend(nn.Cell):
    """Runs the blocks and layers of a network with the given attention heads.

    By default, a block or layer runs its own ``construct``, which calls :meth:`vision_attention` or :meth:`step_attention`.
    A backend with a fused operator for a whole block or layer sets ``fuses_vision`` or ``fuses_layers``.

    Attributes:
        fuses_vision: whether :meth:`vision_block` runs a whole block of the vision tower.
        fuses_layers: whether :meth:`decoder_layer` runs a whole decoder layer.
        decode_steps: maximum number of tokens per text and call. If it is more than 1, :meth:`greedy_decode` is implemented.
        packed_prompts: maximum number of prompts in a prefill, concatenated without padding between them.
        packed_images: maximum number of images in a call of the vision tower.
        most_windows: maximum number of windows in a call of the vision tower.
        samples_in_graph: whether tokens are sampled on the device.
        rows_are_slots: whether a decode step needs one segment per slot, in the order of the slots.
        slots_on_device: whether slots are in memory that the host cannot access, so that graphs copy and clear them.
    """

    fuses_vision = False
    fuses_layers = False
    decode_steps = 1
    packed_prompts = 1
    packed_images = 8
    most_windows = 1 << 24
    samples_in_graph = False
    rows_are_slots = False
    slots_on_device = False

    def __init__(self, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__(auto_prefix=False)
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim

    def slot_tensor(self, x: Tensor) -> Tensor:
        """Convert keys or values [slots, kv_heads, max_length, head_dim] into the shape and dtype of the slots."""
        raise NotImplementedError

    def score_bytes(self, tokens: int) -> int:
        """Return the peak size of the attention scores in bytes; 0 if they are computed in tiles."""
        raise NotImplementedError

    def vision_context(self, cos: Tensor, sin: Tensor, cu_seqlens: Tensor) -> VisionContext:
        """Return the inputs that all blocks share.

        Args:
            cos, sin: float32 [patches, head_dim / 2].
            cu_seqlens: int32 [images + 1], the start of each image, and the end of the last.
        """
        raise NotImplementedError

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> Any:
        """Return the ``mask`` for attention within windows.

        Args:
            patches: number of patches in the bucket.
            cu_seqlens: int32 [windows + 1], the start of each window, and the end of the last. Empty windows come last.
        """
        raise NotImplementedError

    def vision_attention(self, q: Tensor, k: Tensor, v: Tensor, context: VisionContext) -> Tensor:
        """Attention of every patch to all patches of its image or window. All tensors are [patches, heads, head_dim]."""
        raise NotImplementedError

    def vision_block(self, block: Any, x: Tensor, context: VisionContext) -> Tensor:
        """Run a whole ``VisionBlock`` on x, float32 [patches, width]. Requires ``fuses_vision``."""
        raise NotImplementedError

    def step_context(
        self, cos: Tensor, sin: Tensor, step: StepInputs, rows: Tensor, kv_shape: tuple[int, int, int, int]
    ) -> StepContext:
        """Return the inputs that all layers share.

        Args:
            cos, sin: float32 [segments * tokens, head_dim / 2].
            rows: int32 [1], number of tokens without padding.
            kv_shape: (slots, kv_heads, max_length, head_dim).
        """
        raise NotImplementedError

    def step_attention(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, context: StepContext
    ) -> Tensor:
        """Causal attention of new tokens to their slot and to one another. Writes k and v to the slots in place.

        Args:
            q: float32 [segments, tokens, heads, head_dim].
            k, v: float32 [segments, tokens, kv_heads, head_dim].
            keys, values: keys and values of all slots, in the form of :meth:`slot_tensor`.
        Returns:
            A tensor of the shape and dtype of q.
        """
        raise NotImplementedError

    def decoder_layer(self, layer: Any, x: Tensor, keys: Parameter, values: Parameter, context: StepContext) -> Tensor:
        """Run a whole ``DecoderLayer`` on x, float32 [rows, hidden]. Requires ``fuses_layers``."""
        raise NotImplementedError

    def greedy_decode(
        self,
        language: Any,
        token_ids: Tensor,
        position_ids: Tensor,
        step: StepInputs,
        ends: Tensor,
        layers: ParameterTuple,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Generate up to ``decode_steps`` tokens of each text greedily. Requires ``decode_steps`` > 1.

        Args:
            language: the ``LanguageModel``.
            token_ids, position_ids: int32 [segments], the newest token of each text and its position.
            step: its ``count`` is the number of tokens to generate.
            ends: int32 [n], ids of the tokens that end a text.
            layers: weights, keys and values of all layers, from ``LanguageModel.layer_tensors``.
        Returns:
            Tokens int32 [steps, segments], -1 if there is none; their log-probabilities, float32 [steps, segments]; logits
            [segments, vocab] of the last tokens.
        """
        raise NotImplementedError

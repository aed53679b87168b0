"""What a backend is: the part of the two networks that differs from device to device."""

from typing import Any, TypeAlias

from mindspore import Parameter, ParameterTuple, Tensor, nn

# What layers hand on in a compiled graph are plain tuples: MindSpore 2.7.2 runs the constructor of a named tuple in Python,
# outside the graph.

StepInputs: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Which slots a call extends: ``slots``, ``cached`` and ``count``, each int32 [segments]. A prompt is one segment of many
tokens, a decode step one token each of many segments.

``slots`` says where the tokens of a segment go, ``cached`` how many tokens the slot holds before them, and ``count`` how
many are new; what follows them is padding. A segment whose ``count`` is 0 rests.
"""

VisionContext: TypeAlias = tuple[Tensor, Tensor, Any, Tensor]
"""What all blocks of the vision tower share in one call: ``cos`` and ``sin``, the rotation of every patch; ``mask``, which
patches see one another (those of an image or of a window), in the form that the backend made for itself; ``rows`` int32 [1],
patches that are not padding.
"""

StepContext: TypeAlias = tuple[Tensor, Tensor, Any, Tensor, int]
"""What all layers of the language model share in one call: ``cos`` and ``sin``, the rotation of every token; ``mask``, what
each token sees and where it is written, in the form that the backend made for itself; ``rows`` int32 [1], tokens that
are not padding; ``segments``, how many there are.
"""


class Backend(nn.Cell):
    """Runs the blocks and layers of a network whose attention has this form.

    A block or layer is defined by its ``construct``, over :meth:`vision_attention` or :meth:`step_attention`. A backend that
    has one operator for the whole of it says so in ``fuses_vision`` or ``fuses_layers``, and is then given the whole.

    Attributes:
        fuses_vision: whether :meth:`vision_block` runs a whole block of the vision tower.
        fuses_layers: whether :meth:`decoder_layer` runs a whole decoder layer.
        decode_steps: tokens that a text may get in one call. More than one: :meth:`greedy_decode` is there.
        packed_prompts: prompts that one prefill may take, rows behind rows without padding between them.
        packed_images: images that one call of the vision tower takes.
        most_windows: windows that one call of the vision tower takes.
        samples_in_graph: whether logits stay on the device when tokens are sampled from them.
        rows_are_slots: whether a decode step needs one segment for each slot, in the order of the slots.
        slots_on_device: whether slots lie in memory that the host does not see: then a graph copies and clears them.
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
        """Keys or values [slots, kv_heads, max_length, head_dim] in the shape and dtype in which the slots hold them."""
        raise NotImplementedError

    def score_bytes(self, tokens: int) -> int:
        """Bytes at the peak for the attention scores of so many tokens; 0 where scores exist a tile at a time."""
        raise NotImplementedError

    def vision_context(self, cos: Tensor, sin: Tensor, cu_seqlens: Tensor) -> VisionContext:
        """What the blocks share.

        Args:
            cos, sin: float32 [patches, head_dim / 2].
            cu_seqlens: int32 [images + 1], where each image begins, and the end of the last.
        """
        raise NotImplementedError

    def vision_mask(self, patches: int, cu_seqlens: Tensor) -> Any:
        """The ``mask`` of a context whose patches see those of their own window alone.

        Args:
            patches: in the bucket.
            cu_seqlens: int32 [windows + 1], where each window begins, and the end of the last. Empty ones come last.
        """
        raise NotImplementedError

    def vision_attention(self, q: Tensor, k: Tensor, v: Tensor, context: VisionContext) -> Tensor:
        """Every patch attends to every patch of its own image or window: all [patches, heads, head_dim]."""
        raise NotImplementedError

    def vision_block(self, block: Any, x: Tensor, context: VisionContext) -> Tensor:
        """A whole ``VisionBlock``, x float32 [patches, width], where ``fuses_vision``."""
        raise NotImplementedError

    def step_context(
        self, cos: Tensor, sin: Tensor, step: StepInputs, rows: Tensor, kv_shape: tuple[int, int, int, int]
    ) -> StepContext:
        """What the layers share.

        Args:
            cos, sin: float32 [segments * tokens, head_dim / 2].
            rows: int32 [1], tokens that are not padding.
            kv_shape: (slots, kv_heads, max_length, head_dim).
        """
        raise NotImplementedError

    def step_attention(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Parameter, values: Parameter, context: StepContext
    ) -> Tensor:
        """New tokens attend to what their slot holds and, causally, to one another; k and v are written in place.

        Args:
            q: float32 [segments, tokens, heads, head_dim].
            k, v: float32 [segments, tokens, kv_heads, head_dim].
            keys, values: of all slots, in the form of :meth:`slot_tensor`.
        Returns:
            As q.
        """
        raise NotImplementedError

    def decoder_layer(self, layer: Any, x: Tensor, keys: Parameter, values: Parameter, context: StepContext) -> Tensor:
        """A whole ``DecoderLayer``, x float32 [rows, hidden], where ``fuses_layers``."""
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
        """Up to ``decode_steps`` greedy tokens of each text, where that is more than one.

        Args:
            language: the ``LanguageModel``.
            token_ids, position_ids: int32 [segments], the newest token of each text and its position.
            step: its ``count`` is how many tokens are wanted.
            ends: int32 [n], tokens that end a text.
            layers: the weights, keys and values of all layers, of ``LanguageModel.layer_tensors``.
        Returns:
            int32 [steps, segments], -1 where there is no token; the logarithms of the tokens' probabilities, float32
            [steps, segments]; logits [segments, vocab] of the last tokens.
        """
        raise NotImplementedError

"""The published names and shapes of all weights of a checkpoint."""

from mindnlp_ocr.architectures import Mlp
from mindnlp_ocr.config import ModelConfig

# transformers >= 4.52 saves the same weights under other prefixes.
_RENAMED = (("model.language_model.", "model."), ("model.visual.", "visual."))


# Of the layers of a vision block's MLP: those that widen, and the one that narrows again.
VISION_MLP: dict[Mlp, tuple[tuple[str, ...], str]] = {
    "quick_gelu": (("fc1",), "fc2"),
    "silu_gate": (("gate_proj", "up_proj"), "down_proj"),
}


def published(name: str) -> str:
    """Return the original published name of a weight, regardless of the release of transformers that saved it."""
    for new, original in _RENAMED:
        if name.startswith(new):
            return original + name.removeprefix(new)
    return name


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the published names and shapes of all weights of this network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    vision, width = config.vision, config.vision.embed_dim

    def vision_norm(name: str) -> None:
        shapes[f"{name}.weight"] = (width,)
        if vision.norm == "layer":
            shapes[f"{name}.bias"] = (width,)

    merged = width * vision.spatial_merge_size**2
    shapes["visual.patch_embed.proj.weight"] = (
        width,
        vision.in_channels,
        vision.temporal_patch_size,
        vision.patch_size,
        vision.patch_size,
    )
    for i in range(vision.depth):
        block = f"visual.blocks.{i}"
        vision_norm(f"{block}.norm1")
        vision_norm(f"{block}.norm2")
        linear(f"{block}.attn.qkv", 3 * width, width, bias=True)
        linear(f"{block}.attn.proj", width, width, bias=True)
        inputs, output = VISION_MLP[vision.mlp]
        for name in inputs:
            linear(f"{block}.mlp.{name}", vision.mlp_dim, width, bias=True)
        linear(f"{block}.mlp.{output}", width, vision.mlp_dim, bias=True)
    vision_norm("visual.merger.ln_q")
    linear("visual.merger.mlp.0", merged, merged, bias=True)
    linear("visual.merger.mlp.2", vision.hidden_size, merged, bias=True)

    hidden, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
    shapes["model.embed_tokens.weight"] = (config.vocab_size, hidden)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        linear(f"{layer}.self_attn.q_proj", hidden, hidden, bias=True)
        linear(f"{layer}.self_attn.k_proj", kv_width, hidden, bias=True)
        linear(f"{layer}.self_attn.v_proj", kv_width, hidden, bias=True)
        linear(f"{layer}.self_attn.o_proj", hidden, hidden, bias=False)
        linear(f"{layer}.mlp.gate_proj", config.intermediate_size, hidden, bias=False)
        linear(f"{layer}.mlp.up_proj", config.intermediate_size, hidden, bias=False)
        linear(f"{layer}.mlp.down_proj", hidden, config.intermediate_size, bias=False)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes

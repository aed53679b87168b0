"""The published names and shapes of all weights of a checkpoint."""

from mindnlp_ocr.config import Qwen2VLConfig

# transformers >= 4.52 saves the same weights under other prefixes.
_RENAMED = (("model.language_model.", "model."), ("model.visual.", "visual."))


def published(name: str) -> str:
    """Return the original published name of a weight, regardless of the release of transformers that saved it."""
    for new, original in _RENAMED:
        if name.startswith(new):
            return original + name.removeprefix(new)
    return name


def expected_shapes(config: Qwen2VLConfig) -> dict[str, tuple[int, ...]]:
    """Return the published names and shapes of all weights of this network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def layer_norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    vision, width = config.vision, config.vision.embed_dim
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
        layer_norm(f"{block}.norm1", width)
        layer_norm(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", 3 * width, width, bias=True)
        linear(f"{block}.attn.proj", width, width, bias=True)
        linear(f"{block}.mlp.fc1", vision.mlp_dim, width, bias=True)
        linear(f"{block}.mlp.fc2", width, vision.mlp_dim, bias=True)
    layer_norm("visual.merger.ln_q", width)
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

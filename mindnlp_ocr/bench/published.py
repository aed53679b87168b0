"""The shapes of published Qwen2-VL checkpoints, for tools that run them with random weights or foretell their memory."""

from typing import Any

_TOKENS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "eos_token_id": 151645}
_VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4}


def _config(hidden: int, vocabulary: int, tied: bool, positions: int, sections: list[int], **layers: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2_vl",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        **layers,
        "max_position_embeddings": positions,
        "rope_scaling": {"type": "mrope", "mrope_section": sections},
        "tie_word_embeddings": tied,
        **_TOKENS,
        "vision_config": {**_VISION, "hidden_size": hidden},
    }


# config.json as far as the network reads it. Of MinerU2.5 the heads, the sections, the vision tower and the context were
# read; hidden size, layers, MLP, vocabulary and the tied head are inferred: they are those of Qwen2-0.5B, and add up to the
# published 2.15 GB (of 2**30 bytes) in bfloat16.
CONFIGS: dict[str, dict[str, Any]] = {
    "mineru2.5-1.2b": _config(
        896, 151936, True, 16384, [8, 12, 12],
        num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864,
    ),
    "2b": _config(
        1536, 151936, True, 32768, [16, 24, 24],
        num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, intermediate_size=8960,
    ),
    "7b": _config(
        3584, 152064, False, 32768, [16, 24, 24],
        num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944,
    ),
}  # fmt: skip
NAMES = {"mineru2.5-1.2b": "MinerU2.5-2509-1.2B", "2b": "Qwen2-VL-2B", "7b": "Qwen2-VL-7B"}

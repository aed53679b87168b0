"""The shapes of published checkpoints, for tools that run them with random weights or forecast their memory."""

from typing import Any

_TOKENS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "eos_token_id": 151645}
_QWEN2_VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4}
_QWEN2_5_VISION = {
    "depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31], "hidden_act": "silu",
}  # fmt: skip


def _qwen2(hidden: int, vocabulary: int, tied: bool, positions: int, sections: list[int], **layers: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2_vl",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        **layers,
        "max_position_embeddings": positions,
        "rope_scaling": {"type": "mrope", "mrope_section": sections},
        "tie_word_embeddings": tied,
        **_TOKENS,
        "vision_config": {**_QWEN2_VISION, "hidden_size": hidden},
    }


def _qwen2_5(hidden: int, vocabulary: int, tied: bool, **layers: int) -> dict[str, Any]:
    text = _qwen2(hidden, vocabulary, tied, 128000, [16, 24, 24], **layers)
    return {**text, "model_type": "qwen2_5_vl", "vision_config": {**_QWEN2_5_VISION, "out_hidden_size": hidden}}


# The parts of config.json that the network reads. For MinerU2.5, heads, sections, vision tower and context are published;
# hidden size, layers, MLP, vocabulary and the tied head are inferred: those of Qwen2-0.5B add up to the published 2.15 GB
# (of 2**30 bytes) in bfloat16.
CONFIGS: dict[str, dict[str, Any]] = {
    "mineru2.5-1.2b": _qwen2(
        896, 151936, True, 16384, [8, 12, 12],
        num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864,
    ),
    "2b": _qwen2(
        1536, 151936, True, 32768, [16, 24, 24],
        num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, intermediate_size=8960,
    ),
    "7b": _qwen2(
        3584, 152064, False, 32768, [16, 24, 24],
        num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944,
    ),
    "qwen2.5-3b": _qwen2_5(
        2048, 151936, True,
        num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2, intermediate_size=11008,
    ),
    "qwen2.5-7b": _qwen2_5(
        3584, 152064, False,
        num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944,
    ),
}  # fmt: skip
NAMES = {
    "mineru2.5-1.2b": "MinerU2.5-2509-1.2B",
    "2b": "Qwen2-VL-2B",
    "7b": "Qwen2-VL-7B",
    "qwen2.5-3b": "Qwen2.5-VL-3B",
    "qwen2.5-7b": "Qwen2.5-VL-7B",
}

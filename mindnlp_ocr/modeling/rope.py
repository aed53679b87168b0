"""Rotary position embeddings and Qwen2-VL's multimodal positions (NumPy, on the host)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mindnlp_ocr.errors import PageError

VISION_THETA = 10000.0


class MRopePositions(NamedTuple):
    ids: NDArray[np.int32]  # [3, tokens]: time, height, width
    delta: int  # position of a generated token minus its index in the sequence


def rotary_table(
    positions: NDArray[np.int64], head_dim: int, theta: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cos and sin of text positions, float32 [positions, head_dim / 2], computed in float32 as in transformers."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse = (np.float32(1.0) / np.float32(theta) ** exponent).astype(np.float32)
    angles = positions.astype(np.float32)[:, None] * inverse
    return np.cos(angles), np.sin(angles)


def vision_table(
    grid_thw: tuple[int, int, int], head_dim: int, merge: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cos and sin of patches, float32 [patches, head_dim / 2]: by the row in the first half, by the column in the
    second.

    Patches are in the order of the merger: merge x merge neighbours are consecutive.
    """
    frames, height, width = grid_thw
    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")

    def merged_order(index: NDArray[np.int64]) -> NDArray[np.int64]:
        blocks = index.reshape(height // merge, merge, width // merge, merge).transpose(0, 2, 1, 3)
        return np.tile(blocks.reshape(-1), frames)

    tables = [rotary_table(merged_order(index), head_dim // 2, VISION_THETA) for index in (row, column)]
    return np.concatenate([t[0] for t in tables], -1), np.concatenate([t[1] for t in tables], -1)


def mrope_positions(
    token_ids: NDArray[np.int32], grids: list[tuple[int, int, int]], image_token_id: int, merge: int
) -> MRopePositions:
    """Return the positions of a prompt: text advances all three axes, an image has its rows and columns as positions.

    Text after an image continues from the largest position in it (Qwen2-VL, section 2.1).

    Raises:
        PageError: the image tokens and the grids do not match.
    """
    parts: list[NDArray[np.int32]] = []
    start = index = 0
    is_image = token_ids == image_token_id
    for frames, height, width in grids:
        rows, columns = height // merge, width // merge
        size = frames * rows * columns
        ahead = int(np.argmax(is_image[index:])) if is_image[index:].any() else -1
        if ahead < 0 or not is_image[index + ahead : index + ahead + size].all() or index + ahead + size > len(token_ids):
            raise PageError(
                f"the prompt has no {size} image tokens for an image of {rows} x {columns}", code="image_tokens_mismatch"
            )
        parts.append(_text(start, ahead))
        start += ahead
        parts.append(start + np.indices((frames, rows, columns), np.int32).reshape(3, size))
        start += max(frames, rows, columns)
        index += ahead + size
    if is_image[index:].any():
        raise PageError(
            f"the prompt has {int(is_image[index:].sum())} more image tokens than its images need",
            code="image_tokens_mismatch",
        )
    parts.append(_text(start, len(token_ids) - index))
    start += len(token_ids) - index
    return MRopePositions(np.concatenate(parts, 1).astype(np.int32), start - len(token_ids))


def _text(start: int, length: int) -> NDArray[np.int32]:
    return np.tile(np.arange(start, start + length, dtype=np.int32), (3, 1))

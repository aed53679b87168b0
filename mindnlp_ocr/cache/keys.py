"""Cache keys: everything that the keys and values of a sequence depend on, and the common prefix of two sequences."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ImageSpan(NamedTuple):
    """The range of image tokens of one image in a sequence."""

    start: int  # index of its first token
    tokens: int
    digest: bytes  # see image_digest

    @property
    def end(self) -> int:
        return self.start + self.tokens


def image_digest(pixels: NDArray[np.float32], grid_thw: Sequence[int]) -> bytes:
    """Return the SHA-256 of the whole input of the vision tower for an image: patches, shape, dtype and grid."""
    grid = tuple(int(side) for side in grid_thw)
    digest = hashlib.sha256(f"{grid} {pixels.shape} {pixels.dtype.str} ".encode())
    digest.update(np.ascontiguousarray(pixels).data.cast("B"))
    return digest.digest()


@dataclass(frozen=True, eq=False)
class PrefixKey:
    """A sequence of tokens and images whose keys and values a slot may hold. It is falsy if it has no tokens.

    Attributes:
        base: identifies the model: the checkpoint's fingerprint, the dtype and the adapter.
        token_ids: int32 [tokens], a read-only copy of the argument.
        images: the ranges of image tokens, in order. All images have the same token id, so their digests distinguish them.

    Raises:
        ValueError: the token ids are not a vector, or a range is empty, out of order, or past the end of the sequence.
    """

    base: str
    token_ids: NDArray[np.int32]
    images: tuple[ImageSpan, ...] = ()

    def __post_init__(self) -> None:
        token_ids = np.array(self.token_ids, np.int32)
        if token_ids.ndim != 1:
            raise ValueError(f"token_ids has the shape {token_ids.shape}: pass one sequence [tokens]")
        token_ids.flags.writeable = False
        object.__setattr__(self, "token_ids", token_ids)
        object.__setattr__(self, "images", tuple(self.images))
        end = 0
        for image in self.images:
            if image.start < end or image.tokens < 1 or image.end > len(token_ids):
                raise ValueError(
                    f"an image of {image.tokens} tokens from {image.start} does not fit a sequence of {len(token_ids)} with "
                    f"images up to {end}: give each image its own tokens, in order"
                )
            end = image.end

    def __len__(self) -> int:
        return len(self.token_ids)

    def common(self, other: "PrefixKey") -> int:
        """Return the length of the longest common prefix in tokens, without partial images; 0 if the bases differ."""
        if self.base != other.base:
            return 0
        length = min(len(self), len(other))
        differing = np.flatnonzero(self.token_ids[:length] != other.token_ids[:length])
        if differing.size:
            length = int(differing[0])
        for image in set(self.images) ^ set(other.images):
            length = min(length, image.start)
        return self.uncut(max(0, length))

    def uncut(self, length: int) -> int:
        """Return the largest length up to ``length`` that does not end within an image."""
        for image in self.images:
            if image.start < length < image.end:
                return image.start
        return length

    def prefix(self, length: int) -> "PrefixKey":
        """Return the key of the first ``length`` tokens and their images.

        Raises:
            ValueError: the length exceeds the sequence, or the prefix would end within an image.
        """
        if not 0 <= length <= len(self):
            raise ValueError(f"a prefix of {length} tokens was requested: use 0 to {len(self)}")
        if (whole := self.uncut(length)) != length:
            raise ValueError(f"a prefix of {length} tokens cuts an image that starts at {whole}: use uncut({length})")
        images = tuple(image for image in self.images if image.end <= length)
        return PrefixKey(self.base, self.token_ids[:length], images)

    def extended(self, token_ids: Sequence[int] | NDArray[Any]) -> "PrefixKey":
        """Return the key of this sequence followed by the tokens of an answer, which contains no images."""
        return PrefixKey(self.base, np.append(self.token_ids, np.asarray(token_ids, np.int32)), self.images)

    def digest(self) -> bytes:
        """Return the SHA-256 of the base, the token ids and the images, which identifies the sequence."""
        digest = hashlib.sha256(f"{len(self.base.encode())} {len(self)} {len(self.images)} ".encode())
        digest.update(self.base.encode())
        digest.update(self.token_ids.astype("<i4").tobytes())
        for image in self.images:
            digest.update(f" {image.start} {image.tokens} {image.digest.hex()}".encode())
        return digest.digest()

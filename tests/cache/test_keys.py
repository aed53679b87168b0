"""Tests of prefix keys: common prefixes, and what makes keys differ."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindnlp_ocr.cache.keys import ImageSpan, PrefixKey, image_digest

A, B = b"a" * 32, b"b" * 32
PIXELS = np.arange(8 * 6, dtype=np.float32).reshape(8, 6)


def key(token_ids: object, *images: ImageSpan, base: str = "base") -> PrefixKey:
    return PrefixKey(base, token_ids, images)  # type: ignore[arg-type]


def span(start: int, tokens: int, digest: bytes = A) -> ImageSpan:
    return ImageSpan(start, tokens, digest)


# Digests of images


def test_the_same_pixels_have_the_same_digest_however_they_lie_in_memory() -> None:
    assert len(image_digest(PIXELS, (1, 2, 4))) == 32
    assert image_digest(PIXELS, (1, 2, 4)) == image_digest(PIXELS.copy(order="F"), [1, 2, 4])
    assert image_digest(PIXELS[::2], (1, 2, 2)) == image_digest(PIXELS[::2].copy(), np.array([1, 2, 2]))


def test_every_single_bit_of_the_pixels_changes_the_digest() -> None:
    seen = {image_digest(PIXELS, (1, 2, 4))}
    for bit in range(PIXELS.nbytes * 8):
        changed = PIXELS.copy()
        changed.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << bit % 8
        seen.add(image_digest(changed, (1, 2, 4)))
    assert len(seen) == 1 + PIXELS.nbytes * 8


def test_the_grid_the_shape_and_the_dtype_change_the_digest_of_the_same_bytes() -> None:
    digests = {
        image_digest(PIXELS, (1, 2, 4)),
        image_digest(PIXELS, (1, 4, 2)),
        image_digest(PIXELS, (2, 2, 2)),
        image_digest(PIXELS.reshape(6, 8), (1, 2, 4)),
        image_digest(PIXELS.view(np.int32).view(np.dtype("<i4")), (1, 2, 4)),  # type: ignore[arg-type]
        image_digest(PIXELS.view(np.uint32), (1, 2, 4)),  # type: ignore[arg-type]
    }
    assert len(digests) == 6


# Common prefixes


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 3], [1, 2, 4], 2),
        ([1, 2, 3], [9, 2, 3], 0),
        ([1, 2, 3], [1, 9, 3], 1),
        ([], [1], 0),
        ([], [], 0),
    ],
)
def test_text_is_common_up_to_the_first_token_that_differs(first: list[int], second: list[int], common: int) -> None:
    assert key(first).common(key(second)) == key(second).common(key(first)) == common


def test_nothing_is_common_between_two_bases() -> None:
    assert key([1, 2, 3], base="float32").common(key([1, 2, 3], base="float16")) == 0


TEXT = [1, 2, 7, 7, 7, 3, 4]  # an image of three tokens from 2


@pytest.mark.parametrize(
    ("other", "common"),
    [
        (key(TEXT, span(2, 3)), 7),
        (key(TEXT, span(2, 3, B)), 2),  # another image in the same place
        (key(TEXT), 2),  # the same tokens without an image
        (key([1, 2, 7, 7, 7, 9], span(2, 3)), 5),
        (key([1, 2, 7, 7, 9, 3], span(2, 3)), 2),  # tokens differ within the image: it is not shared in part
        (key([1, 2, 7, 7, 7, 7, 3], span(2, 4)), 2),  # the same digest over another span
        (key([1, 7, 7, 7, 2, 3, 4], span(1, 3)), 1),
        (key([1, 9, 7, 7, 7, 3, 4], span(2, 3)), 1),
        (key([1, 2]), 2),
        (key([1, 2, 7, 7, 7], span(2, 3)), 5),
        (key([1, 2, 7, 7]), 2),  # ends where the image is half done
        (key([1, 2, 7, 7, 7, 3, 4, 7, 7, 7], span(2, 3), span(7, 3, B)), 7),
    ],
)
def test_an_image_is_never_shared_in_part(other: PrefixKey, common: int) -> None:
    mine = key(TEXT, span(2, 3))
    assert mine.common(other) == other.common(mine) == common


def test_the_second_image_ends_the_prefix_where_it_differs() -> None:
    tokens = [1, 7, 7, 2, 7, 7, 3]
    mine = key(tokens, span(1, 2, A), span(4, 2, B))
    assert mine.common(key(tokens, span(1, 2, A), span(4, 2, A))) == 4
    assert mine.common(key(tokens, span(1, 2, B), span(4, 2, B))) == 1
    assert mine.common(key([*tokens[:6], 9], span(1, 2, A), span(4, 2, B))) == 6


@st.composite
def keys(draw: st.DrawFn) -> PrefixKey:
    token_ids: list[int] = []
    images = []
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            images.append(span(len(token_ids), draw(st.integers(1, 3)), draw(st.sampled_from([A, B]))))
            token_ids += [7] * images[-1].tokens
        else:
            token_ids += draw(st.lists(st.sampled_from([1, 2, 7]), max_size=3))
    return key(token_ids, *images)


@given(keys(), keys())
def test_the_common_prefix_is_the_longest_that_both_have(first: PrefixKey, second: PrefixKey) -> None:
    def same(length: int) -> bool:
        if any(k.uncut(length) != length for k in (first, second)):
            return False
        mine, yours = first.prefix(length), second.prefix(length)
        return mine.token_ids.tolist() == yours.token_ids.tolist() and mine.images == yours.images

    assert first.common(second) == max(n for n in range(min(len(first), len(second)) + 1) if same(n))


# Making keys


def test_a_key_owns_its_tokens_and_nobody_can_write_them() -> None:
    given_ids = np.array([1, 2, 3], np.int64)
    made = key(given_ids)
    given_ids[0] = 9
    assert made.token_ids.tolist() == [1, 2, 3]
    assert made.token_ids.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        made.token_ids[0] = 9


def test_an_answer_extends_the_prompt_and_keeps_its_images() -> None:
    prompt = key(TEXT, span(2, 3))
    whole = prompt.extended([5, 6])
    assert whole.token_ids.tolist() == [*TEXT, 5, 6]
    assert (whole.images, whole.base, len(whole)) == (prompt.images, "base", 9)
    assert whole.common(prompt) == len(prompt) == 7


@pytest.mark.parametrize(("length", "images"), [(0, 0), (2, 0), (5, 1), (6, 1), (7, 1)])
def test_a_prefix_keeps_the_images_that_fit(length: int, images: int) -> None:
    short = key(TEXT, span(2, 3)).prefix(length)
    assert short.token_ids.tolist() == TEXT[:length]
    assert len(short.images) == images


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (3, "a prefix of 3 tokens cuts an image that starts at 2: use uncut(3)"),
        (4, "a prefix of 4 tokens cuts an image that starts at 2: use uncut(4)"),
        (8, "a prefix of 8 tokens was requested: use 0 to 7"),
        (-1, "a prefix of -1 tokens was requested: use 0 to 7"),
    ],
)
def test_an_invalid_prefix_length_is_rejected(length: int, message: str) -> None:
    with pytest.raises(ValueError) as error:
        key(TEXT, span(2, 3)).prefix(length)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "images", [[span(5, 3)], [span(2, 0)], [span(-1, 2)], [span(2, 3), span(4, 2)], [span(4, 2), span(1, 2)]]
)
def test_spans_that_do_not_fit_the_sequence_are_refused(images: list[ImageSpan]) -> None:
    with pytest.raises(ValueError, match="give each image its own tokens, in order"):
        key(TEXT, *images)


def test_token_ids_of_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"token_ids has the shape \(1, 3\)"):
        key([[1, 2, 3]])


def test_keys_that_differ_in_anything_have_different_digests() -> None:
    different = [
        key(TEXT, span(2, 3)),
        key(TEXT, span(2, 3, B)),
        key(TEXT, span(2, 2)),
        key(TEXT, span(3, 2)),
        key(TEXT),
        key(TEXT, span(2, 3), base="other"),
        key(TEXT[:-1], span(2, 3)),
        key([*TEXT[:-1], 5], span(2, 3)),
        key([], base="base "),
        key([]),
    ]
    assert len({k.digest() for k in different}) == len(different)
    assert key(TEXT, span(2, 3)).digest() == key(TEXT, span(2, 3)).digest()


def test_the_cache_is_managed_without_mindspore() -> None:
    code = "import sys, mindnlp_ocr.cache.manager, mindnlp_ocr.cache.store; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

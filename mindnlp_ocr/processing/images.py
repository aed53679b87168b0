"""Opening of images, and the resizing, normalisation and patches of Qwen2-VL and Qwen2.5-VL, which are the same.

The results are bitwise equal to those of the published ``Qwen2VLImageProcessor`` with the same release of Pillow.
"""

import base64
import hashlib
import io
import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from mindnlp_ocr.cache.keys import image_digest
from mindnlp_ocr.config import read_json
from mindnlp_ocr.errors import PageError, SetupError

MAX_SOURCE_PIXELS = 178_956_970  # Pillow's own limit, above an A2 page at 600 dpi; decoded, it takes 540 MB
MAX_ASPECT_RATIO = 200
MAX_FILE_IN_MEMORY = 1 << 28
MAX_SEEN = 4096  # maximum number of images that a reader remembers, with about 200 bytes for each

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]


class Patches(NamedTuple):
    """One image as the input of the vision tower."""

    pixels: NDArray[np.float32]  # [patches, channels * time * patch * patch]
    grid_thw: tuple[int, int, int]  # patches in time, height and width


@dataclass
class PromptImage:
    """An image of a prompt. The grid and the digest are computed immediately, the patches on demand.

    Attributes:
        grid_thw: patches in time, height and width.
        digest: digest of the input of the vision tower, see :func:`mindnlp_ocr.cache.keys.image_digest`.
        patches: returns the patches; it may open the image again.
    """

    grid_thw: tuple[int, int, int]
    digest: bytes
    patches: Callable[[], Patches]


class ImageProcessor(BaseModel):
    """The settings in ``preprocessor_config.json``, and the preprocessing that they define."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    min_pixels: PositiveInt = 56 * 56
    max_pixels: PositiveInt = 28 * 28 * 1280
    patch_size: PositiveInt = 14
    temporal_patch_size: PositiveInt = 2
    merge_size: PositiveInt = 2
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_folder(cls, folder: Path) -> "ImageProcessor":
        """Read the settings of a Hugging Face folder, including the ``size`` format of newer releases."""
        path = folder / "preprocessor_config.json"
        raw = read_json(path)
        size = raw.get("size") or {}
        if not isinstance(size, dict):
            raise SetupError(f"{path} cannot be used: size is {type(size).__name__}, not an object", code="config_invalid")
        for ours, theirs in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            if raw.get(ours) is None:
                raw.pop(ours, None)
                if size.get(theirs):
                    raw[ours] = size[theirs]
        try:
            return cls(**raw)
        except ValidationError as error:
            first = error.errors()[0]
            raise SetupError(f"{path} cannot be used: {first['loc'][0]}: {first['msg']}", code="config_invalid") from error

    @property
    def pixels_per_token(self) -> int:
        return (self.patch_size * self.merge_size) ** 2

    def tokens(self, grid_thw: tuple[int, int, int]) -> int:
        """Return the number of tokens of an image in the prompt."""
        return math.prod(grid_thw) // self.merge_size**2

    def patches(self, image: Image.Image) -> Patches:
        """Resize an RGB image to a multiple of the merged patch, and split it into patches.

        Raises:
            PageError: one side is more than 200 times as long as the other.
        """
        factor = self.patch_size * self.merge_size
        height, width = smart_resize(image.height, image.width, factor, self.min_pixels, self.max_pixels)
        resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        planes = np.stack([table[resized[..., c]] for c, table in enumerate(self._levels())])
        frames = np.broadcast_to(planes, (self.temporal_patch_size, *planes.shape))
        patch, merge = self.patch_size, self.merge_size
        rows, columns = height // patch, width // patch
        split = frames.reshape(1, self.temporal_patch_size, 3, rows // merge, merge, patch, columns // merge, merge, patch)
        # merge x merge neighbours side by side; in a patch: channel, time, row, column
        pixels = split.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1)
        return Patches(np.ascontiguousarray(pixels), (1, rows, columns))

    def _levels(self) -> list[NDArray[np.float32]]:
        """The normalised values of the 256 levels of each channel, with the rounding of the published processor."""
        level = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
        pairs = zip(self.image_mean, self.image_std, strict=True)
        return [(level - np.float32(mean)) / np.float32(std) for mean, std in pairs]


class ImageReader:
    """Opens and preprocesses images. It recognises known images by the bytes of their source without opening them.

    This is safe because patches depend only on these bytes and on the settings of the processor.
    """

    def __init__(self, processor: ImageProcessor) -> None:
        self.processor = processor
        self._seen: OrderedDict[bytes | None, tuple[tuple[int, int, int], bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, source: ImageSource) -> PromptImage:
        """Read an image; see :func:`load_image` for sources and errors."""
        content, load = _content(source)
        name = hashlib.sha256(content).digest() if content is not None else None
        with self._lock:
            seen = self._seen.get(name)
        if seen is not None:
            return PromptImage(*seen, patches=lambda: self.processor.patches(load()))
        patches = self.processor.patches(load())
        image = PromptImage(patches.grid_thw, image_digest(patches.pixels, patches.grid_thw), lambda: patches)
        if name is not None:
            with self._lock:
                self._seen[name] = image.grid_thw, image.digest
                if len(self._seen) > MAX_SEEN:
                    self._seen.popitem(last=False)
        return image

    def forget(self) -> None:
        """Forget all images, so that they are opened again."""
        with self._lock:
            self._seen.clear()


def _content(source: ImageSource) -> tuple[bytes | None, Callable[[], Image.Image]]:
    """Return the immutable bytes that define an image, or None, and a function that opens the image."""
    if isinstance(source, bytes):
        return source, lambda: load_image(source)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return source.encode("utf-8", "surrogatepass"), lambda: load_image(source)
    if isinstance(source, str | os.PathLike):
        path = Path(os.fsdecode(source).removeprefix("file://"))
        try:
            if path.is_file() and path.stat().st_size <= MAX_FILE_IN_MEMORY:
                content = path.read_bytes()  # read once, since the file might change
                return content, lambda: _open(io.BytesIO(content), str(path))
        except (OSError, ValueError):
            pass  # load_image raises the error
    return None, lambda: load_image(source)


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the nearest size whose sides are multiples of ``factor`` and whose area is within the limits."""
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise PageError(
            f"an image of {width} x {height} pixels is too elongated (limit {MAX_ASPECT_RATIO}:1): cut it into parts",
            code="image_too_elongated",
        )
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


def load_image(source: ImageSource) -> Image.Image:
    """Load an upright RGB image from a path, bytes, a data URL, a Pillow image or a NumPy array (uint8).

    Transparent parts become white, 16-bit levels are scaled to 8 bits, and only the first frame of an animation is read.

    Raises:
        PageError: the source is not an image, truncated, too large, a document of several pages, or of an unknown type.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with errors_of("the image"):
            return _upright_rgb(source, "the image")
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), f"an image of {len(source)} bytes")
    if not isinstance(source, str | os.PathLike):
        raise PageError(
            f"{type(source).__name__} is not an image: pass a path, bytes, a data URL, a Pillow image or an array",
            code="image_unsupported",
        )
    name = os.fsdecode(source)
    if name[:5].lower() == "data:":
        return _from_data_url(name)
    if name.startswith(("http://", "https://")):
        raise PageError(
            f"{name} is a web address: download it first, because this engine opens only files", code="web_address"
        )
    path = Path(name.removeprefix("file://"))
    try:
        found = "a file" if path.is_file() else "a folder" if path.is_dir() else "missing"
    except OSError as error:  # for example, a name that is too long or a folder without search permission
        raise PageError(
            f"{name[:60]}... cannot be opened ({error.strerror}): pass an image file", code="file_unreadable"
        ) from error
    if found != "a file":
        raise PageError(f"{path} is {found}: pass an image file", code="file_missing")
    return _open(path, str(path))


def _open(file: Path | io.BytesIO, name: str) -> Image.Image:
    with errors_of(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_SOURCE_PIXELS is checked below
        with Image.open(file) as image:
            return _upright_rgb(image, name)


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Convert the exceptions that Pillow raises for an image to PageErrors."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise PageError(
            f"{name} is not an image that Pillow can open: use PNG, JPEG, WebP, TIFF, BMP or GIF",
            code="image_format_unknown",
        ) from error
    except Image.DecompressionBombError as error:
        raise PageError(f"{name} is too large ({error}): scale it down", code="image_too_large") from error
    except PermissionError as error:
        raise PageError(
            f"{name} may not be read ({error.strerror}): change its permissions", code="permission_denied"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise PageError(f"{name} is truncated or damaged ({error}): save it again", code="image_damaged") from error


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise PageError(f"{name} of {image.width} x {image.height} has no pixels: use 1 x 1 or more", code="image_empty")
    if image.width * image.height > MAX_SOURCE_PIXELS:
        raise PageError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_SOURCE_PIXELS:,}: scale it down",
            code="image_too_large",
        )
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        raise PageError(
            f"{name} has {getattr(image, 'n_frames', 1)} pages: save each page as a file (tiffsplit, ImageMagick)",
            code="image_several_pages",
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        scale = 257.0 if image.mode.startswith("I") else 1.0
        transparent = image.info.get("transparency")  # a single level for a grey PNG
        grey = np.clip(np.round(levels / scale), 0, 255)
        if isinstance(transparent, int):
            grey[levels == transparent] = 255
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PageError(
            f"an array of {array.dtype} {array.shape} is not an image: pass uint8 [height, width] or "
            "[height, width, 1 | 3 | 4]",
            code="array_invalid",
        )
    if 0 in array.shape:
        raise PageError(f"an array of {array.shape} has no pixels: use 1 x 1 or more", code="image_empty")
    return _upright_rgb(Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array), "the array")


def _from_data_url(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise PageError(f"{head[:60]}... is not a base64 data URL: use data:image/png;base64,...", code="invalid_image_url")
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError as error:  # binascii.Error, or letters beyond ASCII
        raise PageError(
            f"{head[:60]},... is damaged base64 ({error}): encode the file again", code="invalid_image_url"
        ) from error
    return _open(io.BytesIO(content), f"a data URL of {len(content)} bytes")

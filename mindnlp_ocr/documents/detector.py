"""Line detection with RapidOCR's text detector (PP-OCR), which runs on the host regardless of the model's device."""

import math
import threading
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mindnlp_ocr.documents.result import Rotation
from mindnlp_ocr.ops.cores import usable_cores

SIDE = 1024  # longest side of the page in the first pass, in pixels
FINE_SIDE = 1792  # longest side in the second pass, for pages with small print
SMALL_PRINT = 11.0  # median line height in the first pass, in pixels, below which there is a second pass
DIRECTION_SAMPLES = 9  # number of lines (the longest ones) that vote whether a page is upside down
PIECE_ASPECT = 4  # maximum aspect ratio of the pieces of these lines
MAX_ASPECT = 8  # wider pages are padded at the top and bottom
UPSIDE_DOWN = 0.7  # minimum score for a vote to count

Quad = NDArray[np.float64]  # [4, 2]: the corners clockwise from the top left one, in pixels


class Detection(NamedTuple):
    """The lines of one page.

    Attributes:
        quads: the corners of every line, [4, 2] each, in pixels of the input page.
        scores: the score of each line, from 0 to 1.
    """

    quads: list[Quad]
    scores: list[float]


class LineDetector:
    """Detects the lines and the orientation of pages. Thread-safe, but it processes one page at a time.

    Args:
        threads: number of CPU threads; by default, all cores that the process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or usable_cores()
        self._lock = threading.Lock()

    def detect(self, page: Image.Image) -> Detection:
        """Detect the lines of an RGB page, from top to bottom. Pages with small print get a second pass at a larger size."""
        pixels = np.asarray(page)[:, :, ::-1]
        longest = max(page.size)
        with self._lock:
            found = self._detect(pixels, SIDE)
            if found.quads and longest > SIDE:
                scale = SIDE / longest
                if float(np.median([height(quad) for quad in found.quads])) * scale < SMALL_PRINT:
                    found = self._detect(pixels, FINE_SIDE)
        return found

    def rotations(self, page: Image.Image, detection: Detection) -> tuple[Rotation, ...]:
        """Return the clockwise rotations, in degrees, that may make the page upright: one if it is clear, else two, the more
        likely one first.

        Vertical lines show that a page lies on its side. A classifier of short pieces of lines distinguishes up from down.
        It makes errors on unusual print, so its result alone never rotates a page.
        """
        quads = sorted(detection.quads, key=lambda quad: -max(width(quad), height(quad)))[:DIRECTION_SAMPLES]
        upright = sum(1 for quad in quads if width(quad) >= height(quad))
        on_its_side = sum(1 for quad in quads if height(quad) > 2 * width(quad)) > 2 * upright
        if on_its_side:
            page = page.transpose(Image.Transpose.ROTATE_270)
            quads = [turned_clockwise(quad, page.width) for quad in quads]
        pieces = [_piece(page, quad) for quad in quads if min(width(quad), height(quad)) > 4]
        with self._lock:
            votes = [self._rapidocr(piece, use_det=False, use_cls=True, use_rec=False).cls_res[0] for piece in pieces]
        down = sum(1 for label, score in votes if label == "180" and score > UPSIDE_DOWN)
        up = sum(1 for label, score in votes if label == "0" and score > UPSIDE_DOWN)
        if on_its_side:
            return (270, 90) if down > up else (90, 270)
        return (180, 0) if down > up else (0,)

    def _detect(self, pixels: NDArray[Any], side: int) -> Detection:
        high, wide = pixels.shape[:2]
        pad = max(0, math.ceil((wide / MAX_ASPECT - high) / 2))  # the network detects nothing in a narrow strip
        if pad:
            pixels = np.pad(pixels, ((pad, pad), (0, 0), (0, 0)), mode="edge")
        detector = self._detector
        detector.limit_side_len = side
        result = detector(pixels)
        if result.boxes is None or len(result.boxes) == 0:
            return Detection([], [])
        quads = [np.asarray(quad, np.float64) - (0, pad) for quad in result.boxes]
        return Detection([quad.clip((0, 0), (wide, high)) for quad in quads], [float(score) for score in result.scores])

    @cached_property
    def _detector(self) -> Any:
        from rapidocr.ch_ppocr_det import TextDetector

        # The library's complete pipeline would also crop every line, which takes three times as long as the detection.
        settings = self._rapidocr.cfg
        settings.Det.engine_cfg = settings.EngineConfig[settings.Det.engine_type.value]
        settings.Det.model_root_dir = settings.Global.model_root_dir
        return TextDetector(settings.Det)

    @cached_property
    def _rapidocr(self) -> Any:
        from rapidocr import RapidOCR  # the import takes a second

        return RapidOCR(
            params={
                "Global.use_rec": False,
                "Global.log_level": "error",
                "Det.limit_type": "max",
                "EngineConfig.onnxruntime.intra_op_num_threads": self._threads,
                "EngineConfig.onnxruntime.enable_cpu_mem_arena": True,
            }
        )


def _piece(page: Image.Image, quad: Quad) -> NDArray[Any]:
    """Return the beginning of a line in BGR, at most as long as the input of the classifier."""
    left, top, right, bottom = bounds(quad)
    right = min(right, left + PIECE_ASPECT * (bottom - top))
    return np.ascontiguousarray(np.asarray(page.crop((left, top, right, bottom)))[:, :, ::-1])


def width(quad: Quad) -> float:
    """Return the mean length of the upper and the lower edge."""
    return float(np.linalg.norm(quad[1] - quad[0]) + np.linalg.norm(quad[2] - quad[3])) / 2


def height(quad: Quad) -> float:
    """Return the mean length of the left and the right edge."""
    return float(np.linalg.norm(quad[3] - quad[0]) + np.linalg.norm(quad[2] - quad[1])) / 2


def bounds(quad: Quad) -> tuple[int, int, int, int]:
    """Return the bounding box of the corners in whole pixels: left, top, right, bottom."""
    left, top = np.floor(quad.min(0))
    right, bottom = np.ceil(quad.max(0))
    return int(left), int(top), int(right), int(bottom)


def turned_clockwise(quad: Quad, new_width: int) -> Quad:
    """Return the corners, starting at the top left, after the page was rotated by 90 degrees clockwise.

    Args:
        new_width: width of the rotated page.
    """
    turned = np.stack([new_width - quad[:, 1], quad[:, 0]], 1)
    return np.roll(turned, 1, 0)

"""Line detection with RapidOCR's text detector (PP-OCR), which runs on the host regardless of the model's device."""

import math
import threading
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mindnlp_ocr.documents.result import Rotation
from mindnlp_ocr.ops.cores import usable_cores

SIDE = 1024  # longest side of the page in the first pass, in pixels
FINE_SIDE = 1792  # longest side in the second pass, for pages with small print
SMALL_PRINT = 11.0  # median line height in the first pass, in pixels, below which there is a second pass
SURE = 0.5  # minimum score of a line; this is RapidOCR's own limit
UNSURE = 0.25  # minimum score of a line that does not overlap others, such as the number of a page
OVERLAP = 0.3  # maximum overlap of an unsure line with another, as a share of the smaller of both areas
LEAST_THICKNESS, MOST_THICKNESS = 0.6, 2.0  # of an unsure line, as a share of the median thickness of the sure lines
LONG = 5  # aspect ratio from which an unsure region that overlaps others probably contains a line that was not separated
DIRECTION_SAMPLES = 9  # number of lines (the longest ones) that vote whether a page is upside down
PIECE_ASPECT = 4  # maximum aspect ratio of the pieces of these lines
MAX_ASPECT = 8  # wider pages are padded at the top and bottom
UPSIDE_DOWN = 0.7  # minimum score for a vote to count

Quad = NDArray[np.float64]  # [4, 2]: the corners clockwise from the top left one, in pixels


class Detection(NamedTuple):
    """The lines of one page.

    Attributes:
        quads: the corners of every line, [4, 2] each, in pixels of the input page.
        sure: for each line, whether its score is so high that it is text even if it can hardly be read.
    """

    quads: list[Quad]
    sure: list[bool]


class LineDetector:
    """Detects the lines and the orientation of pages. Thread-safe, but it processes one page at a time.

    Args:
        threads: number of CPU threads; by default, all cores that the process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or usable_cores()
        self._lock = threading.Lock()

    def detect(self, page: Image.Image) -> Detection:
        """Detect the lines of an RGB page, from top to bottom.

        There is a second pass at a larger size if the print is small, or if the first pass did not separate the lines.
        """
        pixels = np.asarray(page)[:, :, ::-1]
        longest = max(page.size)
        with self._lock:
            found, separated = self._detect(pixels, SIDE)
            if found.quads and longest > SIDE:
                small = float(np.median([thickness(quad) for quad in found.quads])) * SIDE / longest < SMALL_PRINT
                if small or not separated:
                    again, _ = self._detect(pixels, FINE_SIDE)
                    found = again if again.quads else found
        return found

    def rotations(self, page: Image.Image, found: Detection) -> tuple[Rotation, ...]:
        """Return the clockwise rotations, in degrees, that may make the page upright: one if it is clear, else two, the more
        likely one first.

        Vertical lines show that a page lies on its side. A classifier of short pieces of lines distinguishes up from down.
        It makes errors on unusual print, so its result alone never rotates a page.
        """
        quads = sorted(found.quads, key=lambda quad: -max(width(quad), height(quad)))[:DIRECTION_SAMPLES]
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

    def _detect(self, pixels: NDArray[Any], side: int) -> tuple[Detection, bool]:
        """Return the lines, and whether the network seems to have separated them all."""
        high, wide = pixels.shape[:2]
        pad = max(0, math.ceil((wide / MAX_ASPECT - high) / 2))  # the network detects nothing in a narrow strip
        if pad:
            pixels = np.pad(pixels, ((pad, pad), (0, 0), (0, 0)), mode="edge")
        detector = self._detector
        detector.limit_side_len = side
        result = detector(pixels)
        if result.boxes is None or len(result.boxes) == 0:
            return Detection([], []), True
        sure, unsure, separated = select_lines(np.asarray(result.boxes, np.float32), np.asarray(result.scores))
        if not len(sure):
            return Detection([], []), True
        less = {box.tobytes() for box in unsure}
        boxes = _from_top_to_bottom(np.array([*sure, *unsure]))
        quads = [(np.asarray(box, np.float64) - (0, pad)).clip((0, 0), (wide, high)) for box in boxes]
        return Detection(quads, [box.tobytes() not in less for box in boxes]), separated

    @cached_property
    def _detector(self) -> Any:
        from rapidocr.ch_ppocr_det import TextDetector

        # The library's complete pipeline would also crop every line, which takes three times as long as the detection.
        settings = self._rapidocr.cfg
        settings.Det.engine_cfg = settings.EngineConfig[settings.Det.engine_type.value]
        settings.Det.model_root_dir = settings.Global.model_root_dir
        settings.Det.box_thresh = UNSURE
        detector = TextDetector(settings.Det)
        detector.sorted_boxes = lambda boxes: boxes  # the library would sort the boxes, but not their scores
        return detector

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


def _from_top_to_bottom(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    from rapidocr.ch_ppocr_det import TextDetector

    ordered: NDArray[np.float32] = TextDetector.sorted_boxes(boxes)
    return ordered


def _piece(page: Image.Image, quad: Quad) -> NDArray[Any]:
    """Return the beginning of a line in BGR, at most as long as the input of the classifier."""
    left, top, right, bottom = bounds(quad)
    right = min(right, left + PIECE_ASPECT * (bottom - top))
    return np.ascontiguousarray(np.asarray(page.crop((left, top, right, bottom)))[:, :, ::-1])


def select_lines(
    boxes: NDArray[np.float32], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]], bool]:
    """Return the sure lines, the unsure ones, and whether the network seems to have separated all lines.

    A region with a low score is an unsure line if it does not overlap others and is about as thick as the sure ones. If it
    is long and overlaps others, it probably contains a line that the network has joined to them.

    Args:
        boxes: corners of all regions [regions, 4, 2].
        scores: their scores [regions].
    """
    sure = boxes[scores >= SURE]
    unsure: list[NDArray[np.float32]] = []
    separated = True
    usual = float(np.median([thickness(box) for box in sure])) if len(sure) else math.inf
    for index in np.argsort(-scores, kind="stable")[len(sure) :]:
        box = boxes[index]
        if any(_overlap(box, other) > OVERLAP for other in (*sure, *unsure)):
            if max(width(box), height(box)) >= LONG * thickness(box):
                separated = False
        elif LEAST_THICKNESS * usual <= thickness(box) <= MOST_THICKNESS * usual:
            unsure.append(box)
    return sure, unsure, separated


def _overlap(box: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the area that both cover, as a share of the smaller one."""
    shared: float = cv2.intersectConvexConvex(box, other)[0]
    return shared / max(1.0, min(cv2.contourArea(box), cv2.contourArea(other)))


def width(quad: Quad) -> float:
    """Return the mean length of the upper and the lower edge."""
    return float(np.linalg.norm(quad[1] - quad[0]) + np.linalg.norm(quad[2] - quad[3])) / 2


def height(quad: Quad) -> float:
    """Return the mean length of the left and the right edge."""
    return float(np.linalg.norm(quad[3] - quad[0]) + np.linalg.norm(quad[2] - quad[1])) / 2


def thickness(quad: Quad) -> float:
    """Return the height of a line, or its width if it is vertical."""
    return min(width(quad), height(quad))


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

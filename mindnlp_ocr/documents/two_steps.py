"""``--layout model``: the model detects the blocks of a page and, unless the page is read by lines, reads each block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from PIL import Image

from mindnlp_ocr.documents.agreement import trusted
from mindnlp_ocr.documents.ahead import added
from mindnlp_ocr.documents.detector import Quad, bounds
from mindnlp_ocr.documents.regions import CONTAINERS, PICTURES, cut_of, share_inside
from mindnlp_ocr.documents.result import Block, Box
from mindnlp_ocr.documents.settings import ModelLayoutSettings
from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.models.qwen2vl import Qwen2VLModel

if TYPE_CHECKING:
    from mindnlp_ocr.documents.mineru import EngineMinerUClient, EngineOutput, Review

OVERLAP = 0.8  # overlap, as a share of the smaller of two boxes, from which the later box is omitted
SMALLEST = 3  # minimum side of a box in pixels; smaller boxes contain no text
MOST_OF_A_PAGE = 0.6  # area of a picture, as a share of the page, from which lines in it are read, too
COVERED = 0.5  # share of a line from which it counts as covered by a box
TABLE_MARGIN = 0.5  # margin around the lines of a table whose cells are asked for, as a share of the median line height
BOX = "<|box_start|>"


@dataclass
class Found:
    """The result of the two steps for a page.

    Attributes:
        blocks: the blocks of mineru-vl-utils.
        warnings: problems of the answers.
        timings_ms: timings, summed over all requests.
    """

    blocks: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def covered(self) -> list[Sequence[float]]:
        """Boxes, in shares of the page, in which no further lines are read: those with text, and pictures that are not
        as large as the page."""
        boxes = []
        for block in self.blocks:
            left, top, right, bottom = block["bbox"]
            small = (right - left) * (bottom - top) < MOST_OF_A_PAGE
            if block.get("content") or (block.get("label") in PICTURES and small):
                boxes.append(block["bbox"])
        return boxes


class TwoSteps:
    """Reads pages in two steps. Its methods may be called from several threads.

    Args:
        batch_size: number of blocks of one page that are read concurrently.
        max_new_tokens: maximum number of new tokens for a block and for the layout; by default, the model's limit.
        wanted: called between requests; if it returns False, the page ends with an error.

    Raises:
        SetupError: mineru-vl-utils is not installed.
    """

    def __init__(
        self,
        model: Qwen2VLModel,
        settings: ModelLayoutSettings,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        try:
            from mindnlp_ocr.documents import mineru
        except ImportError as error:
            raise SetupError(
                f"--layout model needs mineru-vl-utils, which cannot be imported ({error}): "
                "run `pip install 'mindnlp-ocr[mineru]'`",
                code="package_missing",
            ) from error
        self._settings = settings
        client = mineru.EngineVlmClient(model, batch_size, max_new_tokens, wanted, isolate_block_errors=True)
        sampling = {
            kind: mineru.MinerUSamplingParams(**chosen.model_dump(exclude_none=True))
            for kind, chosen in settings.sampling.items()
        }
        options = {"layout_image_size": settings.image_size, "image_analysis": settings.image_analysis}

        def new_client(review: "Review") -> "EngineMinerUClient":
            return mineru.EngineMinerUClient(client, settings.prompts, sampling, review, **options)

        self._new_client = new_client

    def read(self, image: Image.Image) -> Found:
        """Detect and read the blocks of an RGB page.

        Raises:
            PageError: the reading was cancelled, or the request for the layout failed.
        """
        found = Found()
        try:
            result = self._client(found).two_step_extract(image, scored=True)
        except ValueError as error:  # a RequestError of the library
            raise PageError(f"the page could not be read in two steps: {error}", code="layout_failed") from error
        found.blocks = list(result)
        outputs = [result.layout_scored, *(block.get("scored") for block in result)]
        found.timings_ms = added(output.timings_ms for output in outputs if output is not None and output.timings_ms)
        faults = [output.fault for output in outputs if output is not None and output.fault is not None]
        if faults:
            found.warnings.append(f"{len(faults)} of {len(result)} blocks could not be read: {faults[0]}")
        return found

    def detect(self, image: Image.Image) -> Found:
        """Detect the blocks of an RGB page, without reading them.

        Raises:
            PageError: the reading was cancelled, or the request failed.
        """
        found = Found()
        try:
            result = self._client(found).layout_detect(image, scored=True)
        except ValueError as error:  # a RequestError of the library
            raise PageError(f"the layout of the page could not be read: {error}", code="layout_failed") from error
        found.blocks = list(result)
        if result.layout_scored is not None and result.layout_scored.timings_ms:
            found.timings_ms = dict(result.layout_scored.timings_ms)
        return found

    def add_cells(self, image: Image.Image, found: Found, blocks: Sequence[Block]) -> tuple[Block, ...]:
        """Ask for the cells of the tables among blocks that consist of lines; ``found`` receives warnings and timings.

        Returns:
            The blocks; a table has HTML if the answer can be trusted.
        """
        tables = [number for number, block in enumerate(blocks) if block.kind == "table"]
        if not tables:
            return tuple(blocks)
        crops = [image.crop(_with_margin(blocks[number], image.size)) for number in tables]
        try:
            answers = self._client(found).batch_content_extract(crops, "table", scored=True)
        except (PageError, ValueError) as error:  # the latter is a RequestError of the library
            found.warnings.append(f"The cells of {len(tables)} of {len(tables)} tables could not be read: {error}")
            return tuple(blocks)
        outputs = [answer.scored for answer in answers if answer is not None]
        found.timings_ms = added([found.timings_ms, *(output.timings_ms for output in outputs if output.timings_ms)])
        faults = [output.fault for output in outputs if output.fault is not None]
        if faults:
            found.warnings.append(f"The cells of {len(faults)} of {len(tables)} tables could not be read: {faults[0]}")
        completed = list(blocks)
        for number, answer in zip(tables, answers, strict=True):
            if answer is not None and cut_of(answer.scored) is None:
                html = trusted(answer, blocks[number].lines)
                completed[number] = blocks[number].model_copy(update={"html": html})
        return tuple(completed)

    def _client(self, found: Found) -> "EngineMinerUClient":
        """Create a client that adds the problems of the layout to the warnings of a page."""

        def review(page: Image.Image, blocks: list[Any], answer: "EngineOutput") -> list[Any]:
            if answer.fault is not None:
                raise PageError(f"the layout of the page could not be read: {answer.fault}", code="layout_failed")
            return self._reviewed(page, blocks, answer, found.warnings)

        return self._new_client(review)

    def _reviewed(self, page: Image.Image, blocks: list[Any], answer: "EngineOutput", warnings: list[str]) -> list[Any]:
        """Select the blocks to read: not too small, not overlapping, and not too many."""
        if answer.finish_reason != "stop":
            why = "repeated itself" if answer.finish_reason == "repetition" else "reached the maximum length of an answer"
            warnings.append(f"The list of blocks was truncated because the model {why}.")
        named = answer.text.count(BOX)
        kept: list[Any] = []
        for block in blocks:
            left, top, right, bottom = block["bbox"]
            large = (right - left) * page.width >= SMALLEST and (bottom - top) * page.height >= SMALLEST
            if large and not any(_doubled(block, other) for other in kept):
                kept.append(block)
        if named > len(kept):
            warnings.append(
                f"{named - len(kept)} of {named} boxes of the model were omitted because they were outside the page, of an "
                "unknown kind, too small, or overlapping other boxes."
            )
        if len(kept) > self._settings.most_boxes:
            warnings.append(f"The model detected {len(kept)} blocks; only the first {self._settings.most_boxes} were read.")
        return kept[: self._settings.most_boxes]


def _doubled(block: Any, other: Any) -> bool:
    """Return whether two blocks would be read twice: one covers the other, and neither is a container."""
    if {block["type"], other["type"]} & (CONTAINERS | PICTURES):
        return False
    one, two = block["bbox"], other["bbox"]
    return max(share_inside(one, two), share_inside(two, one)) >= OVERLAP


def _with_margin(table: Block, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the place of a table in pixels, with a margin around its lines, inside a page of size ``size``."""
    margin = TABLE_MARGIN * median(line.box.height for line in table.lines)
    left, top, right, bottom = table.box
    return (
        max(0, round(left - margin)),
        max(0, round(top - margin)),
        min(size[0], round(right + margin)),
        min(size[1], round(bottom + margin)),
    )


def uncovered(quads: Sequence[Quad], covered: Sequence[Sequence[float]], size: tuple[int, int]) -> list[Quad]:
    """Return the lines of which less than half lies in boxes; the boxes are in shares of a page of size ``size``."""
    width, height = size
    left_out = []
    for quad in quads:
        left, top, right, bottom = (float(value) for value in bounds(quad))
        line = (left / width, top / height, right / width, bottom / height)
        if sum(share_inside(line, box) for box in covered) < COVERED:
            left_out.append(quad)
    return left_out


def inserted(blocks: Sequence[Block], more: Sequence[Block]) -> tuple[Block, ...]:
    """Insert additional blocks into the reading order, each after the last block that is above it in its column."""
    order = list(blocks)
    for block in more:
        middle = (block.box.top + block.box.bottom) / 2
        above = [
            place for place, other in enumerate(order) if other.box.bottom <= middle and _shares_column(other.box, block.box)
        ]
        order.insert(above[-1] + 1 if above else 0, block)
    return tuple(order)


def _shares_column(one: Box, other: Box) -> bool:
    return min(one.right, other.right) > max(one.left, other.left)

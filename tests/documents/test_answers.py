"""Tests of answers in Markdown and in olmOCR's JSON: blocks, rotated pages and malformed answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindnlp_ocr.documents.answers import front_matter_answer, markdown_blocks, olmocr_answer, plain
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.result import Box, Document, Page
from tests.documents.scripted import Answer, ScriptedModel
from tests.documents.writers.pages import written

MARKDOWN = """\
# Report **2025**

First line,
second [line](http://x).

- one
- *two*

| a | b \\| c |
|---|---|
| 1 | 2 |

$$
x^2
$$

```python
# no heading

x = 1
```

<table><tr><td colspan="2">wide</td></tr>

<tr><td>1</td><td>2</td></tr></table>

## Next
$$y$$
The end_of_it."""
BOX = Box(0, 0, 100, 200)


def olmocr(text: str | None, turn: int = 0) -> str:
    """An answer of olmOCR-7B-0225."""
    return json.dumps(
        {
            "primary_language": "en",
            "is_rotation_valid": not turn,
            "rotation_correction": turn,
            "is_table": False,
            "is_diagram": False,
            "natural_text": text,
        }
    )


def olmocr2(text: str, turn: int = 0) -> str:
    """An answer of olmOCR-2."""
    about = f"primary_language: en\nis_rotation_valid: {not turn}\nrotation_correction: {turn}\n"
    return f"---\n{about}is_table: False\nis_diagram: False\n---\n{text}"


def read(script: Any, folder: Path, image: Image.Image, preset: str = "olmocr") -> tuple[Page, ScriptedModel]:
    """A page as a model of this preset reads it."""
    model: Any = ScriptedModel(script, folder)
    return DocumentReader(model, preset=preset, threads=1).read_image(image), model


def test_markdown_becomes_blocks() -> None:
    blocks = markdown_blocks(MARKDOWN, BOX)
    assert [(block.kind, block.level) for block in blocks] == [
        ("title", 1),
        ("text", None),
        ("list", None),
        ("table", None),
        ("formula", None),
        ("code", None),
        ("table", None),
        ("title", 2),
        ("formula", None),
        ("text", None),
    ]
    assert blocks[0].text == "Report 2025"
    assert blocks[1].text == "First line,\nsecond line."
    assert blocks[3].text == "a\tb | c\n1\t2"
    assert (blocks[4].latex, blocks[8].latex) == ("x^2", "y")
    assert blocks[5].text == "# no heading\n\nx = 1"
    assert blocks[6].html == '<table><tr><td colspan="2">wide</td></tr><tr><td>1</td><td>2</td></tr></table>'
    assert blocks[9].text == "The end_of_it."


def test_the_markdown_of_the_model_is_what_is_written_as_markdown(tmp_path: Path) -> None:
    page, _ = read(lambda prompt, image: olmocr(MARKDOWN), tmp_path, Image.new("RGB", (100, 200)))
    text = written("markdown", Document(source="a.png", pages=(page,))).decode()
    assert text.startswith("# Report **2025**\n\nFirst line,\nsecond [line](http://x).\n\n- one\n- *two*\n")
    for name in ("text", "json", "tsv", "hocr", "alto"):
        assert b"wide" in written(name, Document(source="a.png", pages=(page,)))


def test_a_page_is_shrunk_and_its_size_is_told_before_the_image(tmp_path: Path) -> None:
    page, model = read(lambda prompt, image: olmocr("text"), tmp_path, Image.new("RGB", (2048, 1000), "white"))
    [(prompt, size)] = model.asked
    assert size == (1024, 500)
    assert "RAW_TEXT_START\nPage dimensions: 2048.0x1000.0\n[Image 0x0 to 2048x1000]\n\nRAW_TEXT_END" in prompt
    assert [part["type"] for part in model.requests[0].messages[0]["content"]] == ["text", "image"]
    assert model.requests[0].max_new_tokens == 3000
    assert (page.text, page.layout, page.blocks[0].box) == ("text", "page", (0, 0, 2048, 1000))


def test_olmocr_2_gets_the_prompt_before_a_page_of_its_size(tmp_path: Path) -> None:
    page, model = read(lambda prompt, image: olmocr2("# a\n\nb"), tmp_path, Image.new("RGB", (2048, 1000)), "olmocr2")
    [(prompt, size)] = model.asked
    assert size == (1288, 629)
    assert prompt.startswith("Attached is one page of a document that you must process. Just return")
    assert prompt.endswith("is_table, and is_diagram parameters.")
    assert prompt.count("\n") == 2
    assert [part["type"] for part in model.requests[0].messages[0]["content"]] == ["text", "image"]
    assert model.requests[0].max_new_tokens == 8000
    assert [(block.kind, block.text) for block in page.blocks] == [("title", "a"), ("text", "b")]
    assert page.warnings == ()


def test_nanonets_tags_stay_in_the_markdown_and_not_in_the_text(tmp_path: Path) -> None:
    answer = "<watermark>COPY</watermark>\n\n<table><tr><td>1</td></tr></table>\n\n<page_number>9/22</page_number>"
    page, model = read(lambda prompt, image: answer, tmp_path, Image.new("RGB", (300, 200)), "nanonets")
    assert model.asked[0][0].endswith("Prefer using ☐ and ☑ for check boxes.")
    assert [part["type"] for part in model.requests[0].messages[0]["content"]] == ["image", "text"]
    assert [(block.kind, block.text) for block in page.blocks] == [("text", "COPY"), ("table", "1"), ("text", "9/22")]
    assert page.blocks[0].markdown == "<watermark>COPY</watermark>"


def test_rolmocr_answers_in_plain_text(tmp_path: Path) -> None:
    page, model = read(lambda prompt, image: "one\ntwo", tmp_path, Image.new("RGB", (300, 200)), "rolmocr")
    assert (
        model.asked[0][0] == "Return the plain text representation of this document as if you were reading it naturally.\n"
    )
    assert (page.text, model.requests[0].max_new_tokens) == ("one\ntwo", 4096)


@pytest.mark.parametrize(
    ("answer", "text", "turn", "warned"),
    [
        (olmocr2("a\n---\nb", 90), "a\n---\nb", 90, False),
        (olmocr2(""), None, 0, False),
        ("---\nprimary_language: no\n---", None, 0, False),  # Norwegian
        ("Just text.", "Just text.", 0, True),
        ("---\nprimary_language: en\n", "---\nprimary_language: en\n", 0, True),
        ("---\nrotation_correction: 45\n---\na", "---\nrotation_correction: 45\n---\na", 0, True),
        ("---\na: [\n---\nb", "---\na: [\n---\nb", 0, True),
        ("---\na rule\n---\nb", "---\na rule\n---\nb", 0, True),
    ],
)
def test_a_front_matter_is_read_or_taken_as_text(answer: str, text: str | None, turn: int, warned: bool) -> None:
    found, warning = front_matter_answer(answer)
    assert (found.natural_text, found.turn, warning is not None) == (text, turn, warned)


@pytest.mark.parametrize("preset", ["olmocr", "olmocr2"])
@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_page_that_has_to_be_turned_is_asked_for_again(tmp_path: Path, turn: int, preset: str) -> None:
    answer = olmocr if preset == "olmocr" else olmocr2
    image = Image.new("RGB", (100, 200), "white")
    image.putpixel((0, 0), (255, 0, 0))
    corner = {90: (199, 0), 180: (99, 199), 270: (0, 99)}[turn]

    def script(prompt: str, given: Image.Image) -> Answer:
        if given.getpixel((0, 0)) == (255, 0, 0):
            return answer("sdrawkcab", turn)
        assert given.getpixel(corner) == (255, 0, 0)
        return answer("upright")

    page, _ = read(script, tmp_path, image, preset)
    assert (page.text, page.rotation, page.lines[0].angle % 360) == ("upright", turn, -turn % 360)


def test_nothing_to_read_is_an_empty_page(tmp_path: Path) -> None:
    page, _ = read(lambda prompt, image: olmocr(None), tmp_path, Image.new("RGB", (100, 200)))
    assert (page.text, page.blocks, page.warnings, page.error) == ("", (), (), None)


@pytest.mark.parametrize(
    ("answer", "text", "warning"),
    [
        ("Just text.", "Just text.", "The model did not answer in JSON"),
        ('{"is_table": false, "natural_text": "a\\nb \\"c\\" \\u00', 'a\nb "c" ', "malformed or truncated"),
        ('{"natural_text": "a", "rotation_correction": 45}', "a", "malformed"),
        ("{}", "", None),
    ],
)
def test_an_answer_that_is_damaged_is_read_as_far_as_it_goes(answer: str, text: str, warning: str | None) -> None:
    found, said = olmocr_answer(answer)
    assert found.natural_text == text if text else not found.natural_text
    assert (warning is None and said is None) or (warning is not None and said is not None and warning in said)


def test_an_answer_that_is_cut_off_is_marked_and_warned_of(tmp_path: Path) -> None:
    page, _ = read(lambda prompt, image: (olmocr("one\n\ntwo")[:-4], "length"), tmp_path, Image.new("RGB", (100, 200)))
    assert page.text == "one\n\nt"
    assert page.lines[-1].cut == "length"
    assert any("malformed or truncated" in warning for warning in page.warnings)


@pytest.mark.parametrize("text", ["```\nnever closed", "<table><tr><td>x", "$$ open", "#" * 50, "|||\n|--|", "\n\n \n", "-"])
def test_markdown_of_any_kind_is_taken(text: str) -> None:
    for block in markdown_blocks(text, BOX):
        assert block.lines


def test_emphasis_goes_and_words_with_underscores_stay() -> None:
    assert plain("**a** b_c_d *e* _f_ ![g](h)") == "a b_c_d e f g"

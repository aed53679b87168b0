"""The prompts that are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 300
ROOT = Path(__file__).resolve().parents[2]

Message = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One prompt to record, under the name that the tests know it by."""

    name: str
    messages: list[Message]
    max_new_tokens: int = LIMIT


def image(path: str) -> dict[str, str]:
    """Image content, its path relative to the repository."""
    return {"type": "image", "image": path}


def text(words: str) -> dict[str, str]:
    """Text content."""
    return {"type": "text", "text": words}


def user(*parts: dict[str, str]) -> Message:
    """A message of the user, its parts in the order that the model meets them."""
    return {"role": "user", "content": list(parts)}


def page(file: str, prompt: str, *, name: str | None = None, limit: int = LIMIT) -> Case:
    """One image and then the prompt, which is how the checkpoint was trained."""
    path = f"examples/{file}" if (ROOT / "examples" / file).exists() else f"tests/pages/{file}"
    return Case(name or Path(file).stem, [user(image(path), text(prompt))], limit)


def cases() -> list[Case]:
    """Every page with some prompt of the training set, then conversations of other shapes."""
    word, line, odd = (f"tests/pages/{name}.png" for name in ("word_56x56", "line_400x60", "odd_301x173"))
    chinese, form, mixed, paper = (
        f"tests/pages/{name}.png" for name in ("zh_line_336x34", "zh_form_420x322", "mixed_420x238", "paper_392x224")
    )
    return [
        page("invoice.png", "Extract all text from this invoice."),
        page("receipt.png", "OCR"),
        page("letter.png", "Transcribe this page."),
        page("notice_zh.png", "请识别图片中的所有文字。"),
        page("word_56x56.png", "OCR"),
        page("small_48x30.png", "Text:"),
        page("line_392x28.png", "Read all the text in the image."),
        page("line_400x60.png", "What does the image say?"),
        page("strip_1008x30.png", "Recognize the text."),
        page("odd_301x173.png", "Extract all text from this image."),
        page("tall_126x644.png", "提取图中文字"),
        page("minutes_700x560.png", "Please output all text content in the image."),
        page("large_900x700.png", "Extract all text from this image."),
        page("zh_line_336x34.png", "识别图中的文字。"),
        page("zh_text_448x308.png", "请识别图片中的所有文字。"),
        page("zh_form_420x322.png", "提取图中文字"),
        page("mixed_420x238.png", "识别图中的文字。"),
        page("paper_392x224.png", "Recognize the text."),
        page("inverted_364x196.png", "Text:"),
        page("blank_224x168.png", "OCR"),
        page("photo_420x280.jpg", "Transcribe this page."),
        page("gray_336x252.png", "Read all the text in the image."),
        page("rotated_420x280.png", "What does the image say?"),
        page("mono_448x210.png", "Extract all text from this invoice."),
        page("ticket_280x448.png", "Please output all text content in the image."),
        page("alpha_308x140.png", "OCR"),
        page("minutes_700x560.png", "OCR", name="cut_short", limit=12),
        Case("two_images", [user(image(line), image(chinese), text("Extract all text from this image."))], 96),
        Case("three_images", [user(image(word), image(odd), image(line), text("OCR"))], 96),
        Case("text_before_image", [user(text("Read all the text in the image."), image(mixed))], 96),
        Case(
            "second_question",
            [
                user(image(paper), text("OCR")),
                {"role": "assistant", "content": "Fresh honey from the valley"},
                {"role": "user", "content": "Extract all text from this image."},
            ],
            96,
        ),
        Case(
            "images_in_two_turns",
            [
                user(image(chinese), text("识别图中的文字。")),
                {"role": "assistant", "content": [text("请在出口处出示您的车票")]},
                user(image(paper), text("Extract all text from this image.")),
            ],
            96,
        ),
        Case(
            "system_message",
            [{"role": "system", "content": "You are a careful assistant."}, user(image(form), text("提取图中文字"))],
            120,
        ),
        # No prompt of the training set: those all end at once when there is no image.
        Case("text_only", [{"role": "user", "content": "abc abc abc abc abc abc"}], 48),
    ]

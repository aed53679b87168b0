"""Read several pages at the same time. Run it as: uv run python examples/read_batch.py

Results arrive in the order in which the texts end, so each comes with the number of its page.
"""

from mindnlp_ocr import PageError, Qwen2VLModel

PAGES = ["examples/invoice.png", "examples/letter.png", "examples/receipt.png", "examples/missing.png"]


def messages(page: str) -> list[dict]:
    """One user turn: the page, and what to do with it."""
    content = [{"type": "image", "image": page}, {"type": "text", "text": "Extract all text from this image."}]
    return [{"role": "user", "content": content}]


model = Qwen2VLModel()
results = dict(model.generate_batch(map(messages, PAGES), batch_size=3))
for number, page in enumerate(PAGES):
    result = results[number]
    print(f"== {page}")
    print(f"not read: {result}" if isinstance(result, PageError) else result.text)

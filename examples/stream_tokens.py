"""Print the text of a page while the model decodes it. Run it as: uv run python examples/stream_tokens.py

Prints the text of examples/letter.png, a few tokens at a time.
"""

from mindnlp_ocr import Qwen2VLModel

model = Qwen2VLModel()
content = [
    {"type": "image", "image": "examples/letter.png"},
    {"type": "text", "text": "Extract all text from this image."},
]
for piece in model.stream([{"role": "user", "content": content}]):
    print(piece, end="", flush=True)
print()

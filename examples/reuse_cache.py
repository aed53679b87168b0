"""Ask two questions about one page: the second reuses the page from the cache. Run it as:
uv run python examples/reuse_cache.py

Prints the text of examples/receipt.png, the tokens that each question reused, and the statistics of the cache.
"""

from mindnlp_ocr import Qwen2VLModel

model = Qwen2VLModel()
for number, question in enumerate(["Extract all text from this image.", "OCR"], 1):
    content = [{"type": "image", "image": "examples/receipt.png"}, {"type": "text", "text": question}]
    reading = model.generate([{"role": "user", "content": content}])
    if number == 1:
        print(reading.text)
    print(f"question {number}: {reading.reused_tokens} of {reading.prompt_tokens} prompt tokens reused")

stats = model.get_cache_stats()
for name in ("cache_hits", "cache_misses", "hit_rate", "tokens_reused", "tokens_computed"):
    print(f"{name}: {stats[name]}")

"""Call the server with openai-python (pip install openai). Start the server first: mindnlp-ocr serve

Run it as: uv run --with openai python examples/call_server.py [URL]

Prints the text of examples/invoice.png as the server sends it. URL is http://127.0.0.1:8000 by default.
"""

import base64
import sys
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000") + "/v1",
    api_key="none",  # of --api-key-file, where the server was started with one
)
image = base64.b64encode(Path("examples/invoice.png").read_bytes()).decode()
content = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    {"type": "text", "text": "Extract all text from this image."},
]
model = client.models.list().data[0].id
stream = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], stream=True)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

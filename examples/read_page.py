"""Read a document, here an image of one page. Run it as: uv run python examples/read_page.py

Prints the text of examples/invoice.png, and how sure the model is of it. A PDF or a TIFF of several pages is read likewise.
"""

from mindnlp_ocr import Qwen2VLModel
from mindnlp_ocr.documents.reader import DocumentReader
from mindnlp_ocr.documents.stream import DocumentStream

reader = DocumentReader(Qwen2VLModel())
document = DocumentStream(reader).document("examples/invoice.png")
print(document.text)

page = document.pages[0]
print(f"\n{page.width} x {page.height} pixels, {len(page.lines)} lines, confidence {page.confidence}")

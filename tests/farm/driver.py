"""`mindnlp-ocr batch` with a reader that needs no model, as a program that tests can kill."""

import sys

from mindnlp_ocr.farm.command import main
from tests.farm.fakes import READER

if __name__ == "__main__":
    sys.exit(main(reader=READER))

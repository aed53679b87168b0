"""Read pages for tools/benchmark_peers.py: one path per line as input, one JSON object per line as output. The last object
contains the peak memory and versions.

python peer.py ENGINE [OPTION...]
"""

import importlib
import json
import os
import sys

from common import Reader


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    engine, *options = sys.argv[1:]
    # Only the module of this engine is imported, since the packages of the others are not installed in this environment. The
    # suffix "_reader" keeps the modules from shadowing the packages that they import.
    reader: Reader = importlib.import_module(f"{engine}_reader").open_reader(*options)
    for line in sys.stdin:
        try:
            answer = reader.read(line.rstrip("\n"))
        except Exception as error:  # affects only this page
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers, flush=True)
    print(json.dumps({"peak_mb": reader.peak_mb(), "version": reader.version()}), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""A process of tools/benchmark_peers.py: one path a line in, one JSON object a line out; the last tells memory and versions.

python peer.py ENGINE [OPTION...]
"""

import importlib
import json
import os
import sys

from common import Reader


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print must not mix with the answers
    engine, *options = sys.argv[1:]
    # So each environment imports its own alone. The ending keeps a module from hiding the package that it reads with.
    reader: Reader = importlib.import_module(f"{engine}_reader").open_reader(*options)
    for line in sys.stdin:
        try:
            answer = reader.read(line.rstrip("\n"))
        except Exception as error:  # of this page; the next may be read
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers, flush=True)
    print(json.dumps({"peak_mb": reader.peak_mb(), "version": reader.version()}), file=answers, flush=True)


if __name__ == "__main__":
    main()

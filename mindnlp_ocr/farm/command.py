"""The command ``mindnlp-ocr batch``."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from uuid import uuid4

from mindnlp_ocr.cluster.on_ray import absolute, for_workers, needs_card
from mindnlp_ocr.errors import SetupError, coded
from mindnlp_ocr.farm.inputs import documents
from mindnlp_ocr.farm.options import check_farm, parser
from mindnlp_ocr.farm.run import Workers, run
from mindnlp_ocr.farm.settings import READER, READER_IN_PARTS, FarmSettings
from mindnlp_ocr.options import check
from mindnlp_ocr.settings import parsed


def main(argv: Sequence[str] | None = None, reader: str = READER) -> int:
    """Read the documents named by ``argv`` on a Ray cluster. Returns the exit status.

    Args:
        reader: the class that reads pages, as "module:name".
    """
    try:
        arguments = parsed(parser(), sys.argv[1:] if argv is None else argv)
        check(arguments)
        check_farm(arguments)
        report = run(
            farm_settings(arguments, reader), documents(arguments.inputs), _workers(arguments), arguments.cost_per_hour
        )
    except SetupError as error:
        print(f"error: {coded(error, error.code)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: finished pages are kept, run the same command to continue", file=sys.stderr)
        return 130
    print(*report.lines(), sep="\n", file=sys.stderr)
    return 1 if report.failures else 0


def farm_settings(arguments: argparse.Namespace, reader: str = READER) -> FarmSettings:
    """Return the settings that every process of the farm needs."""
    options = for_workers(arguments, max(1, int(arguments.cpus_per_actor)))
    run_name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:8]}"
    output = arguments.output if "://" in arguments.output else absolute(arguments.output)
    if arguments.tensor_parallel > 1:
        reader = READER_IN_PARTS
    return FarmSettings(output, options, run_name, reader)


def _workers(arguments: argparse.Namespace) -> Workers:
    parts = arguments.tensor_parallel  # all parts run on one machine, since they belong to one actor
    address, npus = arguments.ray or os.environ.get("RAY_ADDRESS") or None, parts if needs_card(arguments) else 0
    return Workers(address, arguments.actors, arguments.cpus_per_actor * parts, npus)


if __name__ == "__main__":
    sys.exit(main())

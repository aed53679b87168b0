#!/usr/bin/env python3
"""Compare every attention path of this machine with float64, over a grid of shapes and dtypes.

    uv run tools/selftest.py                      # the CPU: eager, and our operators on every instruction set it has
    uv run tools/selftest.py --device Ascend      # an NPU: the first thing to run, and to paste into a bug report

Exit status: 0 all agree; 1 some do not, or failed; 2 the device cannot be used.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mindnlp_ocr import __version__
from mindnlp_ocr.errors import SetupError

TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
ROW = "{:<17} {:<8} {:<38} {:<9} {:>10} {:>9} {:>9}  {}"


def cases() -> list[Any]:
    """Head shapes of Qwen2-VL-2B (12/2 x 128, vision 16 x 80), of the built-in model, and a few that are awkward."""
    from mindnlp_ocr.bench.attention import Case

    return [
        Case("vision", 16, 16, 80, 512, (0, 512)),
        Case("vision", 16, 16, 80, 768, (0, 130, 131, 640)),
        Case("vision", 6, 6, 64, 256, (0, 200)),
        Case("prefill", 12, 2, 128, 512, (512,)),
        Case("prefill", 12, 2, 128, 384, (260,)),
        Case("prefill", 4, 4, 64, 96, (1,)),
        Case("decode", 12, 2, 128, 1024, (1023,)),
        Case("decode", 12, 2, 128, 1024, (0, 511, 512, 700)),
        Case("decode", 4, 4, 64, 256, (100, 255)),
    ]


def paths(device: Any) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """(name, dtypes, implementation) of every one that can run here."""
    from mindnlp_ocr.ops import native
    from mindnlp_ocr.ops.detect import detect_flash_attention_support

    cpu = device.kind == "CPU"
    yield "eager", ("float32",) if cpu else ("float32", "float16"), "eager"
    if not detect_flash_attention_support(device)[0]:
        return
    if not cpu:
        yield "flash", ("float32",), "flash"  # float32 outside, 16 bits inside
        return
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        yield f"flash {name}", tuple(TOLERANCES), "flash"


def compare(case: Any, device: Any, implementation: Any, dtype: str) -> tuple[float, float]:
    """The largest error, and the milliseconds of the faster of two runs."""
    import mindspore as ms

    from mindnlp_ocr.bench.attention import compiled

    held = [ms.Tensor(x).astype(getattr(ms, dtype)).astype(ms.float32).asnumpy() for x in case.inputs()]
    run = compiled(case, device, implementation, held, getattr(ms, dtype))
    answer = case.live_rows(run())
    times = [_timed(run) for _ in range(2)]
    return float(np.abs(answer - case.expected([x.astype(np.float64) for x in held])).max()), min(times)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, npu:0 or Ascend (default: cpu)")
    arguments = parser.parse_args()
    from mindnlp_ocr.ops.device import Device

    try:
        device = Device.parse(arguments.device)
        device.activate()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import mindspore as ms

    from mindnlp_ocr.ops.detect import detect_flash_attention_support
    from mindnlp_ocr.ops.native import explain

    print(
        f"mindnlp_ocr {__version__}, MindSpore {ms.__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    print(f"device {device}; flash attention: {detect_flash_attention_support(device)[1]}\n")
    print(ROW.format("path", "work", "shape", "dtype", "error", "allowed", "ms", ""))
    failed = total = 0
    sixteen_bit = device.kind == "Ascend"
    for name, dtypes, implementation in paths(device):
        for case in cases():
            for dtype in dtypes:
                total += 1
                allowed = TOLERANCES["float16" if sixteen_bit and implementation == "flash" else dtype]
                try:
                    largest, milliseconds = compare(case, device, implementation, dtype)
                except (RuntimeError, ValueError, TypeError) as problem:
                    failed += 1
                    print(ROW.format(name, case.work, str(case), dtype, "-", "-", "-", f"FAILED: {explain(problem)}"))
                    continue
                agrees = largest <= allowed  # False for NaN
                failed += not agrees
                figures = (f"{largest:.1e}", f"{allowed:.0e}", f"{milliseconds:.2f}")
                print(ROW.format(name, case.work, str(case), dtype, *figures, "ok" if agrees else "MISMATCH"))
    print(f"\n{total - failed} of {total} agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

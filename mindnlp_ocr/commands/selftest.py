"""Compare all operators of this machine with a float64 reference: attention, matrix products and norms.

    mindnlp-ocr selftest                      # the CPU: eager, and our operators with every available instruction set
    mindnlp-ocr selftest --device Ascend      # an NPU: run this first, and include the output in bug reports

Exit status: 0 all results agree; 1 some differ or failed; 2 the device cannot be used.
"""

import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mindnlp_ocr import __version__
from mindnlp_ocr.commands import command_parser
from mindnlp_ocr.errors import SetupError, coded

TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
ROW = "{:<14} {:<17} {:<38} {:<9} {:>10} {:>9} {:>9}  {}"


class Check(NamedTuple):
    """A row of the table."""

    path: str
    case: Any  # a Case or a ProductCase
    dtype: str
    allowed: float
    compare: Callable[[], tuple[float, float]]  # returns the largest error, and the time of the faster of two runs in ms


def cases() -> list[Any]:
    """Return attention shapes: those of Qwen2-VL-2B (12/2 x 128, vision 16 x 80) and the built-in model, and edge cases."""
    from mindnlp_ocr.bench.attention import Case

    return [
        Case("vision", 16, 16, 80, 512, (0, 512)),
        Case("vision", 16, 16, 80, 768, (0, 130, 131, 640)),
        Case("vision", 6, 6, 64, 256, (0, 200)),
        Case("prefill", 12, 2, 128, 512, (512,)),
        Case("prefill", 12, 2, 128, 384, (260,)),
        Case("prefill", 4, 4, 64, 96, (1,)),
        Case("extend", 12, 2, 128, 128, (300, 100)),
        Case("extend", 4, 4, 64, 64, (511, 1)),
        Case("decode", 12, 2, 128, 1024, (1023,)),
        Case("decode", 12, 2, 128, 1024, (0, 511, 512, 700)),
        Case("decode", 4, 4, 64, 256, (100, 255)),
    ]


def products() -> list[Any]:
    """Return shapes of products and norms: widths of Qwen2-VL-2B and odd widths, for one and for many rows."""
    from mindnlp_ocr.bench.products import ProductCase

    return [
        ProductCase("linear", 1, 1536, 2048),
        ProductCase("linear", 131, 75, 33),
        ProductCase("linear_add", 7, 1280, 1536),
        ProductCase("linear_quick_gelu", 20, 80, 320),
        ProductCase("linear_gelu", 5, 320, 130),
        ProductCase("gate", 3, 1536, 900),
        ProductCase("tied_head", 2, 96, 1000),
        ProductCase("embed", 9, 96, 1000),
        ProductCase("rms_norm", 5, 1536),
        ProductCase("rms_norm", 2, 75),
        ProductCase("layer_norm", 5, 1280),
        ProductCase("layer_norm", 2, 75),
    ]


def paths(device: Any) -> Iterator[tuple[str, tuple[str, ...], Any, Any]]:
    """Yield (name, attention dtypes, attention implementation, operators or None) for every path available here."""
    from mindnlp_ocr.ops import native
    from mindnlp_ocr.ops.detect import detect_flash_attention_support
    from mindnlp_ocr.ops.operators import CpuOperators, Operators

    cpu = device.kind == "CPU"
    yield "eager", ("float32",) if cpu else ("float32", "float16"), "eager", Operators()
    if not detect_flash_attention_support(device)[0]:
        return
    if not cpu:
        yield "flash", ("float32",), "flash", None  # float32 outside, 16 bits inside
        return
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        yield f"flash {name}", tuple(TOLERANCES), "flash", CpuOperators()


def checks(device: Any) -> Iterator[Check]:
    """Yield all checks. Each must be run before the next is requested, since the instruction set is global."""
    npu = device.kind == "Ascend"  # flash operators compute in 16 bits, and float32 products may round their inputs
    for name, dtypes, implementation, operators in paths(device):
        for case in cases():
            for dtype in dtypes:
                allowed = TOLERANCES["float16" if npu and implementation == "flash" else dtype]
                yield Check(name, case, dtype, allowed, partial(compare, case, device, implementation, dtype))
        for case in products() if operators is not None else []:
            allowed = TOLERANCES["float16" if npu else "float32"]
            yield Check(name, case, "float32", allowed, partial(compare_product, case, operators))


def compare(case: Any, device: Any, implementation: Any, dtype: str) -> tuple[float, float]:
    import mindspore as ms

    from mindnlp_ocr.bench.attention import compiled

    held = [ms.Tensor(x).astype(getattr(ms, dtype)).astype(ms.float32).asnumpy() for x in case.inputs()]
    run = compiled(case, device, implementation, held, getattr(ms, dtype))
    answer = case.live_rows(run())
    times = [_timed(run) for _ in range(2)]
    return float(np.abs(answer - case.expected([x.astype(np.float64) for x in held])).max()), min(times)


def compare_product(case: Any, operators: Any) -> tuple[float, float]:
    from mindnlp_ocr.bench.products import compiled

    inputs = case.inputs()
    run = compiled(case, operators, inputs)
    answer = run()
    times = [_timed(run) for _ in range(2)]
    return float(np.abs(answer - case.expected(inputs)).max()), min(times)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    parser = command_parser("selftest", __doc__)
    parser.add_argument("--device", default="cpu", help="cpu, npu:0 or Ascend (default: cpu)")
    arguments = parser.parse_args(argv)
    from mindnlp_ocr.ops.device import Device

    try:
        device = Device.parse(arguments.device)
        device.activate()
    except SetupError as error:
        print(f"error: {coded(error, error.code)}", file=sys.stderr)
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
    for path, case, dtype, allowed, compared in checks(device):
        total += 1
        try:
            largest, milliseconds = compared()
        except (RuntimeError, ValueError, TypeError) as problem:
            failed += 1
            print(ROW.format(path, case.work, str(case), dtype, "-", "-", "-", f"FAILED: {explain(problem)}"))
            continue
        agrees = largest <= allowed  # False for NaN
        failed += not agrees
        figures = (f"{largest:.1e}", f"{allowed:.0e}", f"{milliseconds:.2f}")
        print(ROW.format(path, case.work, str(case), dtype, *figures, "ok" if agrees else "MISMATCH"))
    print(f"\n{total - failed} of {total} agree")
    return 1 if failed else 0

# `just` lists the recipes (https://just.systems); each is one command that works without it, too.

default:
    @just --list

# Read a page
read *ARGS:
    uv run tools/infer.py {{ARGS}}

# All tests
test *ARGS:
    uv run pytest {{ARGS}}

# Compare every attention path of this machine with float64
selftest *ARGS:
    uv run tools/selftest.py {{ARGS}}

# How accurately pages are read
evaluate *ARGS:
    uv run tools/evaluate.py {{ARGS}}

# Measure docs/performance.md anew: most of an hour, nothing else running, the environments of `benchmark_peers.py --help`
performance: && report
    uv run tools/benchmark_comparison.py --output docs/performance/01-comparison.json --report build/report
    uv run tools/benchmark_kv_cache.py --output docs/performance/02-kv-cache.json
    uv run tools/benchmark_peers.py --output docs/performance/03-peers.json
    uv run tools/benchmark_peers.py --dtype int8 --peers openvino --openvino-model build/openvino/int8:auto --output docs/performance/04-peers-int8.json
    uv run tools/benchmark_peers.py --peers none --mindnlp eager --mindnlp mindnlp_ocr_flash --runs 1 tests/pages/line_392x28.png --output docs/performance/05-peers-mindnlp.json
    uv run tools/benchmark_peers.py tests/pages examples --runs 1 --output docs/performance/06-accuracy.json
    uv run tools/benchmark_kv_cache.py endurance --output docs/performance/07-endurance.json
    uv run tools/benchmark_start.py --output docs/performance/08-start.json
    uv run tools/benchmark_fusion.py --output docs/performance/09-fusion.json
    uv run tools/benchmark_export.py --output docs/performance/10-export.json
    uv run tools/benchmark_shapes.py --dtype bf16 --output docs/performance/11-shapes-bf16.json
    uv run tools/benchmark_shapes.py --dtype int8 --output docs/performance/12-shapes-int8.json
    uv run tools/benchmark_attention.py --peer-python .venv-reference/bin/python --runs 3 --output docs/performance/13-attention.json

# Write docs/performance.md from its figures
report:
    uv run tools/report.py docs/performance/*.json --output docs/performance.md

# Our Triton kernels in Triton's interpreter
triton:
    uv run --isolated --group triton pytest contrib/triton

# Lint, format check, types
check:
    uv run ruff check . && uv run ruff format --check . && uv run mypy

# What CI runs
ci:
    bash .ci/run

# Record the goldens again (needs .venv-reference, see CONTRIBUTING.md)
goldens:
    .venv-reference/bin/python tests/reference/record.py --checkpoint mindnlp_ocr/assets/qwen2vl-ocr-tiny --output tests/goldens

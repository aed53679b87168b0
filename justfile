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

# Our Triton kernels in Triton's interpreter
triton:
    uv run --isolated --group triton pytest tests/kernels

# Lint, format check, types
check:
    uv run ruff check . && uv run ruff format --check . && uv run mypy

# What CI runs
ci:
    bash .ci/run

# Record the goldens again (needs .venv-reference, see CONTRIBUTING.md)
goldens:
    .venv-reference/bin/python tests/reference/record.py --checkpoint mindnlp_ocr/assets/qwen2vl-ocr-tiny --output tests/goldens

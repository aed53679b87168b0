"""Builds the package and its CPU operators; names, versions and dependencies stand in pyproject.toml."""

from glob import glob

from setuptools import Extension, find_namespace_packages, setup

# A plain shared library that MindSpore loads by path, not a Python module. Without a compiler the package installs all
# the same, and runs on MindSpore's own operators.
cpu_operators = Extension(
    "mindnlp_ocr.ops._cpu",
    sources=sorted(glob("kernels/cpu/*.cc")),
    depends=sorted(glob("kernels/cpu/*.h") + glob("kernels/cpu/*.inc")),
    extra_compile_args=["-O3", "-std=c++17", "-ffp-contract=fast", "-Wno-psabi", "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,
)

setup(
    packages=find_namespace_packages(include=["mindnlp_ocr*"]),
    package_data={"": ["py.typed", "*.json", "*.txt", "*.safetensors", "*.md", "*.ttf"]},
    ext_modules=[cpu_operators],
)

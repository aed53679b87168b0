"""Build of the package and its CPU operators. Name, version and dependencies are in pyproject.toml."""

import os
from glob import glob

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

SWITCH = "MINDNLP_OCR_WITHOUT_OPERATORS"


class BuildOperators(build_ext):
    """A build command that explains a failure: without the operators, reading is several times slower."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            raise SystemExit(
                f"The CPU operators could not be built ({error}). Install g++ 10, clang 12 or a later one. To install "
                f"without them, with reading several times slower, set {SWITCH}=1."
            ) from error


# A plain shared library that MindSpore loads by path, not a Python module.
cpu_operators = Extension(
    "mindnlp_ocr.ops._cpu",
    sources=sorted(glob("kernels/cpu/*.cc")),
    depends=sorted(glob("kernels/cpu/*.h") + glob("kernels/cpu/*.inc")),
    extra_compile_args=["-O3", "-g0", "-std=c++20", "-ffp-contract=fast", "-Wno-psabi", "-pthread"],
    extra_link_args=["-pthread"],
)

setup(
    packages=find_namespace_packages(include=["mindnlp_ocr*"]),
    package_data={
        "": ["py.typed", "*.json", "*.txt", "*.safetensors", "*.md", "*.ttf", "*.html", "*.js", "*.css", "*.yaml"]
    },
    ext_modules=[] if os.environ.get(SWITCH) == "1" else [cpu_operators],
    cmdclass={"build_ext": BuildOperators},
)

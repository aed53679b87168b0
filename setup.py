"""Builds the package; names, versions and dependencies stand in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["mindnlp_ocr", "mindnlp_ocr.*"]),
    package_data={"mindnlp_ocr": ["assets/*/*", "py.typed"]},
)

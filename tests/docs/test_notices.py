"""Tests that THIRD_PARTY_NOTICES.md lists what pyproject.toml installs and what the source refers to."""

import re
from importlib import metadata

import pytest

from tests.conftest import ROOT

NOTICES = (ROOT / "THIRD_PARTY_NOTICES.md").read_text(encoding="utf-8")
REQUIRED = sorted({re.split(r"[^\w-]", text)[0] for text in metadata.requires("mindnlp-ocr") or []})


@pytest.mark.parametrize("package", REQUIRED)
def test_a_dependency_is_named_with_a_link(package: str) -> None:
    assert re.search(rf"\[{package}\]\(https://", NOTICES)


def test_every_paper_that_the_source_refers_to_is_listed() -> None:
    files = [path for folder in ("mindnlp_ocr", "kernels", "docs") for path in (ROOT / folder).rglob("*.*")]
    text = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".md", ".h", ".cc", ".inc")]
    papers = {paper.rstrip(".") for page in text for paper in re.findall(r"arXiv:[\d.]+", page)}
    assert len(papers) > 10
    assert papers <= {paper.rstrip(".") for paper in re.findall(r"arXiv:[\d.]+", NOTICES)}

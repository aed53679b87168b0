"""Tests that docs/troubleshooting*.md and the source contain the same messages."""

import re

import pytest

from tests.conftest import ROOT
from tests.docs.messages import messages, options

PAGES = ("docs/troubleshooting.md", "docs/troubleshooting-models.md", "docs/troubleshooting-server.md")
# Where an entry may cut off a message: before its remedy, its list of reasons, or its parentheses.
CUT = re.compile(r"[:;,]| \(")


def entries() -> dict[str, str]:
    """Return every `message` at the beginning of a list item, with its explanation."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for message, about in re.findall(r"^- `([^`]+)`:\s+((?:.+\n?)(?:  .*\n?)*)", text, re.MULTILINE):
            found[message] = about.strip()
    return found


def says(entry: str, message: str) -> bool:
    """Return whether an entry equals a message, or its beginning up to a permitted cut. Entries without words must be
    equal."""
    words = re.search(r"[A-Za-z]{3}", entry)
    return message == entry or bool(words and message.startswith(entry) and CUT.match(message, len(entry)))


ENTRIES, MESSAGES, OPTIONS = entries(), messages(), options()


def test_every_message_of_the_package_is_explained() -> None:
    assert len(MESSAGES) > 150  # the search of the source works
    missing = [f"{where}: {message}" for message, where in MESSAGES.items() if not any(says(e, message) for e in ENTRIES)]
    assert not missing, "add a line for each to one of " + ", ".join(PAGES)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_explained_message_is_still_in_the_code(entry: str) -> None:
    assert any(says(entry, message) for message in (*MESSAGES, *OPTIONS))
    assert len(ENTRIES[entry]) > 5


def test_an_entry_does_not_match_a_part_of_another_message() -> None:
    """Messages are cut off only at permitted places, never within a word or clause."""
    assert says("device ... is unknown", "device ... is unknown: use cpu")
    assert not says("device ...", "device ... is unknown: use cpu")
    assert not says("... is unknown", "device ... is unknown: use cpu")
    assert not says("device ... is unknown: use", "device ... is unknown: use cpu")
    assert not says("...: ...", "...: ...: use another")

"""Changes to the pages when they become a site: links to files outside of docs/, and the roles of docstrings."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#\s]+)(?:#[^)]*)?\)")
ROLE = re.compile(r":(?:class|func|meth|mod):(<code)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2]}` in the repository)", markdown)


def on_page_content(html: str, **_: Any) -> str:
    return ROLE.sub(r"\1", html)

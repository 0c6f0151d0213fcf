"""What people read leads where it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tools/**/README.md")})
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _anchors(document: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a document."""
    headings = (heading.lower() for heading in _HEADING.findall(document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_within_the_repository_leads_somewhere(document: Path) -> None:
    """To a file or folder that is there, and to a heading that it has."""
    for link in _LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_the_readme_leads_to_each_page(page: Path) -> None:
    """Nobody finds a page that nothing points to."""
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text()


def _commands(document: Path) -> set[str]:
    """Return the commands in a document, without comments and arguments."""
    blocks = re.findall(r"^```(?:bash|python)\n(.*?)^```", document.read_text(), re.M | re.S)
    lines = (line.split("#")[0].strip() for block in blocks for line in block.splitlines())
    return {" ".join(line.split()[:4]) for line in lines if line}


def test_the_chinese_readme_has_no_command_that_the_english_pages_do_not_have() -> None:
    """What is renamed is renamed in both."""
    english = {
        command for page in DOCUMENTS if ".zh" not in page.name for command in _commands(page)
    }
    assert _commands(ROOT / "README.zh.md") <= english

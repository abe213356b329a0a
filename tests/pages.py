"""The documents of this project: their blocks, the commands in them, their links."""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md",
                *(ROOT / "docs").glob("*.md")])


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def blocks_of(text: str, page: str) -> list[Block]:
    """Its fenced blocks, those in lists too."""
    found, lines = [], text.splitlines()
    start = None
    for number, line in enumerate(lines, 1):
        if not (fence := re.match(r"\s*```(.*)", line)):
            continue
        if start is None:
            start, language = number, fence[1].strip()
        else:
            found.append(Block(page, start, language, "\n".join(lines[start:number - 1]) + "\n"))
            start = None
    assert start is None, f"{page}:{start}: a block has no end"
    return found


def commands_of(text: str) -> list[str]:
    """Commands of a block for a shell: lines are joined, comments and prompts are not there."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            found.append(shlex.join(words[:end]))
            words = words[end + 1:]
    return found


TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
BLOCKS = [block for page, text in TEXTS.items() for block in blocks_of(text, page)]
COMMANDS = {page: [c for block in BLOCKS if block.page == page and block.language == "sh"
                   for c in commands_of(block.text)] for page in TEXTS}
IMPORTED = {folder for found in COMMANDS.values() for c in found
            for folder in re.findall(r"--out[ =](\S+)", c)}


def inline(text: str) -> list[str]:
    """Commands that stand whole in the text, between backticks, but those with placeholders."""
    outside = re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"(?<!`)`((?:python|effvid) [^`]+)`", outside)
    return [" ".join(c.split()) for c in found if not re.search(r"\.\.\.|<|\b[A-Z]{2,}\b|\.$", c)]


def anchors(text: str) -> set[str]:
    """What links may point to on a page, as GitHub names it."""
    found: dict[str, int] = {}
    for title in re.findall(r"^#+ +(.*?) *$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()
        slug = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
        found[slug + (f"-{found[slug]}" if slug in found else "")] = 1
        found[slug] = found.get(slug, 0)
    return set(found)


def broken_links(page: str, text: str) -> list[str]:
    """Links of a page into this project that lead nowhere."""
    wrong, here = [], (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"https://[\w.-]+(/|$)", target):
            continue
        name, _, anchor = target.partition("#")
        path = (here / name).resolve() if name else ROOT / page
        if not path.exists() or anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
            wrong.append(target)
    return wrong

"""What the site has from outside `docs`: benchmarks and changelog as pages, and links that fit a site.

Pages keep links that work in the repository; here those that leave `docs` become pages of the site or plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"benchmarks/README.md": "benchmarks.md", "CHANGELOG.md": "changelog.md"}
DESIGN = "design/index.md"
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are kept elsewhere or follow from others."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, ROOT / source, page)))
    files.append(File.generated(config, DESIGN, content=design_index()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of a page of `docs`."""
    if page.file.generated_by:
        return markdown
    return relinked(markdown, Path(page.file.abs_src_path), page.file.src_uri)


def relinked(text: str, source: Path, page: str) -> str:
    """The text with links from where the page is on the site; those to files that are not on it become plain text."""
    docs = ROOT / "docs"
    up = "../" * page.count("/")

    def link(match: re.Match[str]) -> str:
        target = (source.parent / match["target"]).resolve()
        inside = target.is_relative_to(ROOT)
        known = PAGES.get(str(target.relative_to(ROOT))) if inside else None
        if known is None and target == docs / "design":
            known = DESIGN
        if known is None and inside and target.is_relative_to(docs) and target.suffix:
            known = str(target.relative_to(docs))
        elif known is None and target.exists():
            return match["text"]
        # A target that is not there stays as it is, and fails the build.
        place = match["target"] if known is None else up + known
        return f"{match['image']}[{match['text']}]({place}{match['anchor'] or ''})"

    return LINK.sub(link, text)


def design_index() -> str:
    """The list of design notes."""
    lines = ["# Design notes", "", "Why it is built like this, one page per decision.", ""]
    for note in sorted((ROOT / "docs" / "design").glob("0*.md")):
        title = note.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title.replace('. ', '&period; ', 1)}]({note.name})")
    return "\n".join(lines) + "\n"

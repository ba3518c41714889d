"""The site builds strictly, without a network, from pages that are all on its list."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs the extra `docs`")
pytest.importorskip("mkdocstrings", reason="needs the extra `docs`")

ROOT = Path(__file__).parents[2]
SOURCES = ("mkdocs.yml", "CHANGELOG.md", "benchmarks/README.md", "docs")

pytestmark = pytest.mark.slow


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Builds the site where no proxy answers, so that whatever asks the network fails."""
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}, check=False,
    )  # fmt: skip


def test_the_site_is_built_and_fetches_nothing(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = {str(page.relative_to(tmp_path / "site")): page for page in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "concepts.html", "benchmarks.html", "changelog.html", "design/index.html"} <= set(pages)
    for page in pages.values():
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^ >]*", text)
        assert not fetched, f"{page.name} fetches {fetched}"
    reference = pages["reference.html"].read_text(encoding="utf-8")
    for name in ("train_step", "SearchConfig", "load_subnet", "OfaSlimError"):
        assert name in reference


def test_a_broken_link_fails(tmp_path: Path) -> None:
    for source in SOURCES:
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
        (tmp_path / source).parent.mkdir(exist_ok=True)
        copy(ROOT / source, tmp_path / source)
    (tmp_path / "ofa_slim").symlink_to(ROOT / "ofa_slim")
    for name in ("examples", "CONTRIBUTING.md", "SECURITY.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "docs" / "faq.md").open("a", encoding="utf-8") as page:
        page.write("\nSee [this](nowhere.md) and [that](../benchmarks/nowhere.md).\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "'nowhere.md', but the target is not found" in said
    assert "'../benchmarks/nowhere.md', but the target is not found" in said
    assert len(re.findall("WARNING", said)) == 2

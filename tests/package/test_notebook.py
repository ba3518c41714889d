"""The notebook runs from top to bottom and ends with a smaller model that reads about as well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel", reason="needs the kernel of notebooks")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "digits.ipynb"


@pytest.mark.slow
def test_the_notebook_compresses_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(NOTEBOOK, 4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    printed = "".join(output.text for output in last.outputs if output.get("name") == "stdout")
    (size, score), (small, after) = (
        (int(count.replace(",", "")), float(found))
        for count, found in re.findall(r"([\d,]+) parameters +accuracy ([\d.]+)", printed)
    )
    assert small <= 0.4 * size
    assert score > 0.93
    assert after > 0.9
    assert (tmp_path / "small-reader" / "model.safetensors").is_file()

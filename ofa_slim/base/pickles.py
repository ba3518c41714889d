"""Pickles are read only where the user says so: reading one runs whatever code it holds."""

from __future__ import annotations

import zipfile
from pathlib import Path

SUFFIXES = (".pdparams", ".pdopt", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_PADDLE = "s.save_file(paddle.load('{name}'), 'model.safetensors')"
_TORCH = "s.save_file(torch.load('{name}', weights_only=True), 'model.safetensors')"


def holds_pickle(file: Path) -> bool:
    """Whether a file is a pickle, or an archive with one, by its name or its first bytes; reads nothing else."""
    if file.suffix.lower() in SUFFIXES:
        return True
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return any(Path(name).suffix.lower() in SUFFIXES for name in archive.namelist())
    with file.open("rb") as stream:
        start = stream.read(2)
    # The mark and number of a pickle's protocol; those before number 2 have none, and none writes them any more.
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def refusal(file: Path | str) -> str:
    """Why a pickle is not read, and what to do instead."""
    name = Path(file).name
    module, code = ("paddle", _PADDLE) if name.endswith((".pdparams", ".pdopt")) else ("torch", _TORCH)
    return (
        f"{file} is a pickle, and reading a pickle runs whatever code it holds. Convert it to safetensors where "
        f'nothing can be lost: python -c "import {module}, safetensors.{module} as s; {code.format(name=name)}"; '
        "or, if you trust those who made it, say allow_pickle=True"
    )

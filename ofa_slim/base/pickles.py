"""Recognises pickles, which are read only with the user's consent: reading one runs the code inside it."""

from __future__ import annotations

import zipfile
from pathlib import Path

SUFFIXES = (".pdparams", ".pdopt", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_PADDLE = "s.save_file(paddle.load('{name}'), 'model.safetensors')"
_TORCH = "s.save_file(torch.load('{name}', weights_only=True), 'model.safetensors')"


def holds_pickle(file: Path) -> bool:
    """Whether a file is a pickle or an archive with one, judged by its name and first bytes alone."""
    if file.suffix.lower() in SUFFIXES:
        return True
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return any(Path(name).suffix.lower() in SUFFIXES for name in archive.namelist())
    with file.open("rb") as stream:
        start = stream.read(2)
    # A pickle of protocol 2 or later begins with this opcode and the protocol's number; nothing writes older ones now.
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def refusal(file: Path | str) -> str:
    """The error text for a pickle: why it is not read, and what to do instead."""
    name = Path(file).name
    module, code = ("paddle", _PADDLE) if name.endswith((".pdparams", ".pdopt")) else ("torch", _TORCH)
    return (
        f"{file} is a pickle, and reading a pickle runs the code inside it. Convert it to safetensors on a machine "
        f'where that can do no harm: python -c "import {module}, safetensors.{module} as s; {code.format(name=name)}"; '
        "or, if you trust those who made it, pass allow_pickle=True"
    )

"""A predictor leaves the thread counts of the process as they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import numpy as np, paddle
from paddle import nn
from paddle.static import InputSpec
from ofa_slim import to_static
from ofa_slim.base.predictor import Predictor
from ofa_slim.base.threads import _counts

paddle.matmul(paddle.ones([64, 64]), paddle.ones([64, 64]))
before = [get() for get, _ in _counts()]
model = nn.Linear(8, 4)
to_static(model, sys.argv[1], [InputSpec([None, 8], "float32", name="input")])
predictor = Predictor(Path(sys.argv[1]), onednn=True)
predictor({"input": np.ones((2, 8), "float32")})
print(before, [get() for get, _ in _counts()])
"""


@pytest.mark.slow
def test_the_process_keeps_its_threads(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert done.stdout.split("\n")[-2] == "[2, 2] [2, 2]"

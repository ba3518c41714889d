"""What every process does in the test of the supernet trainer on several; the weights come out as arrays by name.

`main` is for one of several processes and writes ``rank<number>.npz`` to a folder. The test calls `run` as well: one
process on its own is the reference.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
from paddle import distributed

from ofa_slim.integrations.trainer import OFAArguments
from trainer_runs import Weights, ernie, rows, trainer, weights

ROWS = 16


def run(folder: Path, importance: bool) -> Weights:
    """Two steps, each on all rows, in however many processes there are."""
    model = ernie("sequence")
    its = OFAArguments(
        teacher_engine="dygraph", strategy="sandwich", subnets=1, widths=[1.0, 0.5], importance=importance
    )
    made = trainer(
        "sequence",
        folder,
        model,
        ofa_args=its,
        optimizers=(paddle.optimizer.SGD(0.2, parameters=model.parameters()), None),
        # Rows of one length, so that the mean over tokens is that of the processes' means.
        train_dataset=[row for row in rows("sequence", 120) if len(row["input_ids"]) == 9][:ROWS],
        per_device_train_batch_size=ROWS // 2 // distributed.get_world_size(),
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=1,  # scores of heads and neurons are sums over batches
        evaluation_strategy="epoch",
    )
    made.train()
    return weights(model)


def main(folder: Path) -> None:
    found = {
        f"{important}/{key}": value for important in (False, True) for key, value in run(folder, important).items()
    }
    np.savez(folder / f"rank{distributed.get_rank()}.npz", **found)

"""What every process does in the test of the supernet trainer on several; the weights come out as arrays by name.

`main` is for one of several processes and writes ``rank<number>.npz`` to a folder. The test calls `run` as well: one
process on its own is the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def run_adamw(folder: Path, **own: Any) -> Weights:
    """Two epochs with the Trainer's own optimizer; its epsilon is so large that rounding is not made a step."""
    with paddle.utils.unique_name.guard():  # the names of parameters and moments are those of a new process
        model = ernie("sequence")
        made = trainer(
            "sequence",
            folder,
            model,
            ofa_args=OFAArguments(teacher_engine="dygraph", strategy="sandwich", subnets=1, widths=[1.0, 0.5]),
            train_dataset=[row for row in rows("sequence", 120) if len(row["input_ids"]) == 9][:ROWS],
            per_device_train_batch_size=ROWS // 2 // distributed.get_world_size(),
            gradient_accumulation_steps=2,
            per_device_eval_batch_size=1,
            learning_rate=1e-2,
            adam_epsilon=1e-3,
            lr_scheduler_type="constant",
            evaluation_strategy="epoch",
            save_strategy="epoch",
            **{"num_train_epochs": 2, **own},
        )
        made.train(resume_from_checkpoint=own.get("resume_from_checkpoint"))
    return weights(model)


def sharded(folder: Path) -> None:
    """With the moments of the optimizer spread over the processes, in one go and resumed after an epoch."""
    whole = run_adamw(folder / "whole", sharding="stage1")
    run_adamw(folder / "resumed", sharding="stage1", num_train_epochs=1)
    resumed = run_adamw(folder / "resumed", sharding="stage1", resume_from_checkpoint=True)
    found = {"whole": whole, "resumed": resumed}
    arrays = {f"{name}/{key}": value for name, one in found.items() for key, value in one.items()}
    np.savez(folder / f"rank{distributed.get_rank()}.npz", **arrays)


def main(folder: Path) -> None:
    found = {
        f"{important}/{key}": value for important in (False, True) for key, value in run(folder, important).items()
    }
    np.savez(folder / f"rank{distributed.get_rank()}.npz", **found)

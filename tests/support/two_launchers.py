"""A script that each machine's launcher starts: three steps of a small supernet, and the sum of its weights."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from models import batch, bert, labels, ofa_of
from ofa_slim import dynabert_config, parallel


def main() -> None:
    parallel.start()
    paddle.seed(5)
    ofa = ofa_of(bert(layers=1), ratios=[1.0, 0.5])
    ofa.eval()  # no dropout, so that one process alone gives the same
    optimizer = paddle.optimizer.SGD(0.1, parameters=ofa.parameters())
    configs = [dynabert_config(ofa, width) for width in (1.0, 0.5)]
    parallel.broadcast_parameters(ofa)
    for seed in range(3):
        inputs, classes = batch(8, seed=seed), labels(8, seed=seed)
        rows, weight = parallel.training_rows(8)
        its = classes[rows]
        ofa.train_step(
            [each[rows] for each in inputs], lambda logits, its=its: F.cross_entropy(logits, its), configs, scale=weight
        )
        parallel.reduce_gradients(ofa.parameters())
        optimizer.step()
        optimizer.clear_grad()
    total = sum(float(parameter.abs().sum()) for parameter in ofa.parameters())
    print(f"rank {parallel.position()[0]} of {parallel.position()[1]}: {total:.2f}")


if __name__ == "__main__":
    main()
    parallel.leave()

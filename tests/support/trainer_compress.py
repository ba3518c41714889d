"""PaddleNLP's `Trainer.compress` with DynaBERT, on generated text, for each kind of task that it knows.

The labels are what the model itself says, so that it is perfect in full and loses when it is cut.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddlenlp.data import DataCollatorForTokenClassification, DataCollatorWithPadding
from paddlenlp.metrics.squad import compute_prediction, squad_evaluate
from paddlenlp.trainer import CompressionArguments, Trainer
from paddlenlp.transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizer,
)
from paddlenlp.utils.log import logger

import ofa_slim.compat.paddleslim  # noqa: F401

WORDS = [f"{first}{second}" for first in "bcdfghjk" for second in ("a", "e", "i", "o")]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
LABELS = ["O", "B-THING", "I-THING"]
IGNORED = -100
MODELS = {
    "seq_cls": BertForSequenceClassification,
    "token_cls": BertForTokenClassification,
    "qa": BertForQuestionAnswering,
}


def rows(tokenizer: Any, count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of 4 to 12 words as the model's inputs."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        text = " ".join(rng.choice(WORDS, rng.integers(4, 13)))
        encoded = tokenizer(text)
        starts = np.cumsum([0, *(len(word) + 1 for word in text.split())])[:-1]
        offsets = [(int(start), int(start) + len(word)) for start, word in zip(starts, text.split(), strict=True)]
        found.append(
            {
                "input_ids": encoded["input_ids"],
                "token_type_ids": encoded["token_type_ids"],
                "id": str(number),
                "example_id": str(number),
                "context": text,
                "offset_mapping": [None, *offsets, None],
            }
        )
    return found


class Rows(paddle.io.Dataset):
    """Rows that PaddleNLP can ask for a column, iterate over and load in batches."""

    label_list = LABELS
    ignore_label = IGNORED

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__()
        self.rows = rows

    def __getitem__(self, index: Any) -> Any:
        return [row[index] for row in self.rows] if isinstance(index, str) else self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


class Task:
    """One kind of task: a model, rows with the labels that it gives them, and how PaddleNLP scores it."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "vocab.txt").write_text("\n".join(PIECES) + "\n")
        self.tokenizer = BertTokenizer(str(directory / "vocab.txt"))
        config = BertConfig(
            vocab_size=len(PIECES),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=32,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            num_labels=len(LABELS),
            initializer_range=0.4,
        )
        paddle.seed(0)
        self.model = MODELS[kind](config)
        self.train, self.dev = Rows(rows(self.tokenizer, 48, 0)), Rows(rows(self.tokenizer, 64, 1))
        for data in (self.train, self.dev):
            for row, answer in zip(data, self.answers(self.model, data), strict=True):
                row.update(self.labelled(row, answer))

    def answers(self, model: nn.Layer, data: Rows) -> list[Any]:
        """What a model answers to each row alone."""
        model.eval()
        with paddle.no_grad():
            return [
                model(paddle.to_tensor([row["input_ids"]]), paddle.to_tensor([row["token_type_ids"]])) for row in data
            ]

    def labelled(self, row: dict[str, Any], answer: Any) -> dict[str, Any]:
        if self.kind == "seq_cls":
            return {"labels": int(answer.argmax())}
        if self.kind == "token_cls":
            return {"labels": answer[0].argmax(-1).tolist()}
        start = int(answer[0][0, 1:-1].argmax()) + 1
        end = start + int(answer[1][0, start:-1].argmax())
        at = row["offset_mapping"][start][0]
        text = row["context"][at : row["offset_mapping"][end][1]]
        return {
            "start_positions": start,
            "end_positions": end,
            "answers": {"text": [text], "answer_start": [at]},
            "is_impossible": False,
        }

    def collate(self, batch: list[dict[str, Any]]) -> Any:
        names = ("input_ids", "token_type_ids", "labels", "start_positions", "end_positions")
        picked = [{name: row[name] for name in names if name in row} for row in batch]
        make = DataCollatorForTokenClassification if self.kind == "token_cls" else DataCollatorWithPadding
        return make(self.tokenizer)(picked)

    def criterion(self, logits: Any, labels: Any) -> paddle.Tensor:
        if self.kind == "qa":
            return sum(F.cross_entropy(one, place) for one, place in zip(logits, labels, strict=True)) / 2
        return F.cross_entropy(logits, labels, ignore_index=IGNORED)

    def score(self, model: nn.Layer) -> float:
        """What PaddleNLP's own evaluation calls the score of a model, counted here from its answers."""
        answers = self.answers(model, self.dev)
        if self.kind == "seq_cls":
            return float(np.mean([int(a.argmax()) == row["labels"] for a, row in zip(answers, self.dev, strict=True)]))
        if self.kind == "token_cls":
            from paddlenlp.metrics import ChunkEvaluator

            metric = ChunkEvaluator(label_list=LABELS)
            for answer, row in zip(answers, self.dev, strict=True):
                length = paddle.to_tensor([len(row["labels"])])
                counts = metric.compute(length, answer.argmax(axis=2), paddle.to_tensor([row["labels"]]))
                metric.update(*(count.item() for count in counts))
            return float(metric.accumulate()[2])
        logits = [[one[side][0].numpy() for one in answers] for side in (0, 1)]
        texts, _, _ = compute_prediction(self.dev, self.dev, tuple(logits), False, 20, 50)
        return float(squad_evaluate(examples=list(self.dev), preds=texts, is_whitespace_splited=False)["exact"])


def compress(kind: str, directory: Path, widths: list[str], save_steps: int = 3) -> dict[str, dict[float, float]]:
    """What was logged as the best score of each width, what the written model scores, and its number of weights."""
    task = Task(kind, directory)
    arguments = CompressionArguments(
        output_dir=str(directory),
        strategy="dynabert",
        width_mult_list=widths,
        num_train_epochs=2,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=16,
        learning_rate=1e-3,
        logging_steps=4,
        save_steps=save_steps,
        disable_tqdm=True,
        device="cpu",
    )
    trainer = Trainer(
        model=task.model,
        args=arguments,
        data_collator=task.collate,
        train_dataset=task.train,
        eval_dataset=task.dev,
        tokenizer=task.tokenizer,
        criterion=task.criterion,
    )
    trainer.eval_examples = task.dev
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger.logger.addHandler(handler)
    try:
        trainer.compress()
    finally:
        logger.logger.removeHandler(handler)
    best = [line.split() for line in logged if line.startswith("Best result of width_mult")]
    written, sizes = {}, {}
    for width in widths:
        model = paddle.jit.load(str(directory / f"width_mult_{round(float(width), 2):g}" / "model"))
        written[float(width)] = task.score(model)
        sizes[float(width)] = sum(int(np.prod(value.shape)) for value in model.state_dict().values())
    return {
        "logged": {float(words[4].rstrip(":")): float(words[5]) for words in best},
        "written": written,
        "sizes": sizes,
    }

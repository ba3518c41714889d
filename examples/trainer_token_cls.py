"""Compresses a slot tagger with PaddleNLP's Trainer, on sentences that it makes up.

    python examples/trainer_token_cls.py --output_dir runs/slots

1. Templates such as "book a table at {place} for {number} people" become tagged sentences, some of two clauses. Names
   are drawn from lists that the slots share, so that only the sentence says whether "madison park" is a place or a
   singer; in a quarter of the sentences they are words that the vocabulary does not have.
2. A small ERNIE is trained on them from scratch with PaddleNLP's Trainer.
3. `OFATrainer`, in the same place with the same arguments, trains it as a supernet.
4. The exported networks are read back, scored by the plain Trainer, and printed: F1 of whole slots, parameters.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddlenlp.data import DataCollatorForTokenClassification
from paddlenlp.trainer import PdArgumentParser, Trainer, TrainingArguments
from paddlenlp.transformers import ErnieConfig, ErnieForTokenClassification, ErnieTokenizer
from paddlenlp.utils.log import logger

from ofa_slim import OfaSlimError, load_subnet
from ofa_slim.integrations.trainer import OFAArguments, OFATrainer
from ofa_slim.tasks import IGNORED, TokenClassification

TEMPLATES = (
    "book a table at {place} for {number} people",
    "book a table for {number} at {place} {day}",
    "is there a room at {place} for {number} {day}",
    "play {song} by {singer}",
    "play something by {singer} {day}",
    "add {song} to my list for {day}",
    "who sang {song} before {singer}",
    "how is the weather in {city} {day}",
    "will it rain in {city} on {day}",
    "find a flight from {city} to {city} on {day}",
    "fly {number} people from {city} to {city}",
    "{singer} plays in {city} {day}",
    "is {place} in {city} open {day}",
    "take me from {place} to {place}",
    "wake me on {day} with {song}",
    "put on {singer} {song}",
    "drive {city} {place} {day}",
)
FIRST = "madison carmen georgia austin vienna phoenix lincoln florence sydney chelsea harlem jackson".split()
SECOND = "park lane hill brown stone river moore woods knight king bell summers".split()
UNKNOWN = 4  # of either, the last ones, that the vocabulary does not have
WORDS = {
    "number": "two three four five six seven".split(),
    "day": "today tomorrow tonight monday friday sunday".split(),
}
NAMED = ("place", "song", "singer", "city")  # all from the same names
TAGS = ["O", *(f"{begin}-{slot}" for slot in (*NAMED, *WORDS) for begin in "BI")]

Row = dict[str, Any]


@dataclass
class ExampleArguments:
    """What the example itself needs to know."""

    output_dir: str = field(default="runs/slots", metadata={"help": "where everything goes"})
    sentences: int = field(default=1500, metadata={"help": "to train on; a third as many score"})
    epochs: int = field(default=5, metadata={"help": "of the model, and of the supernet after it"})
    hidden_size: int = field(default=64, metadata={"help": "of the model, a multiple of 4"})
    layers: int = field(default=3, metadata={"help": "of the model"})
    seed: int = field(default=0, metadata={"help": "of the sentences and the trainings"})


def name(rng: np.random.Generator, unknown: bool) -> list[str]:
    """One or two words."""
    kept = slice(-UNKNOWN, None) if unknown else slice(None, -UNKNOWN)
    return [str(rng.choice(words[kept])) for words in (FIRST, SECOND)][: int(rng.integers(1, 3))]


def clause(rng: np.random.Generator, unknown: bool) -> tuple[list[str], list[str]]:
    """Words and their tags, from one template."""
    words, tags = [], []
    for part in TEMPLATES[rng.integers(len(TEMPLATES))].split():
        slot = re.fullmatch(r"\{(\w+)\}", part)
        if slot is None:
            words.append(part)
            tags.append("O")
            continue
        values = [str(rng.choice(WORDS[slot[1]]))] if slot[1] in WORDS else name(rng, unknown)
        words += values
        tags += [f"B-{slot[1]}", *[f"I-{slot[1]}"] * (len(values) - 1)]
    return words, tags


def sentence(rng: np.random.Generator, unknown: bool) -> tuple[list[str], list[str]]:
    """Words and their tags, of one clause or two."""
    words, tags = clause(rng, unknown)
    if rng.random() < 0.5:
        more, its = clause(rng, unknown)
        words, tags = [*words, "and", *more], [*tags, "O", *its]
    return words, tags


def vocabulary(folder: Path) -> ErnieTokenizer:
    """A tokenizer, from the file that this writes."""
    known = {word for template in TEMPLATES for word in template.split() if "{" not in word}
    known.update(["and"], FIRST[:-UNKNOWN], SECOND[:-UNKNOWN], *WORDS.values())
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(known)]) + "\n", encoding="utf-8")
    return ErnieTokenizer(str(file))


def rows(count: int, tokenizer: ErnieTokenizer, rng: np.random.Generator) -> list[Row]:
    """Sentences as the model reads them: every word is one token, and the special ones have no label."""
    made = []
    for _ in range(count):
        words, tags = sentence(rng, bool(rng.random() < 0.25))
        encoded = tokenizer(words, is_split_into_words=True)
        made.append({**encoded, "labels": [IGNORED, *map(TAGS.index, tags), IGNORED]})
    return made


def training(options: ExampleArguments, folder: str, rate: float) -> TrainingArguments:
    """The arguments of either training."""
    return TrainingArguments(
        output_dir=str(Path(options.output_dir) / folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        learning_rate=rate,
        warmup_ratio=0.1,
        weight_decay=0.01,
        evaluation_strategy="epoch",
        save_strategy="no",
        logging_steps=100,
        seed=options.seed,
        report_to=[],
        disable_tqdm=True,
    )


def run(options: ExampleArguments, settings: OFAArguments) -> list[tuple[str, int, float]]:
    """Trains, compresses and scores; a line of the table for each network."""
    folder = Path(options.output_dir)
    tokenizer = vocabulary(folder)
    rng = np.random.default_rng(options.seed)
    task = TokenClassification(TAGS)
    data = {
        "train_dataset": rows(options.sentences, tokenizer, rng),
        "eval_dataset": rows(max(1, options.sentences // 3), tokenizer, rng),
        "data_collator": DataCollatorForTokenClassification(tokenizer),
        "tokenizer": tokenizer,
        "compute_metrics": lambda found: task.metrics(found.predictions, found.label_ids),
    }
    paddle.seed(options.seed)
    config = ErnieConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        intermediate_size=4 * options.hidden_size,
        max_position_embeddings=64,
        initializer_range=0.1,  # so narrow a model learns slowly from ERNIE's own 0.02
        id2label=dict(enumerate(TAGS)),
        label2id={tag: number for number, tag in enumerate(TAGS)},
    )
    model = ErnieForTokenClassification(config)

    plain = Trainer(model, args=training(options, "original", 2e-3), **data)
    plain.train()
    table = [("original", parameters(model), f1(plain))]

    small = OFATrainer(
        model, args=training(options, "supernet", 1e-3), ofa_args=settings, **{**data, "compute_metrics": None}
    )
    small.train()
    for found in small.subnets:
        network = load_subnet(folder / "supernet" / found)
        scored = Trainer(network, args=training(options, "original", 0.0), **data)
        table.append((found.replace("_", " "), parameters(network), f1(scored)))
    return table


def f1(trainer: Trainer) -> float:
    return float(trainer.evaluate()["eval_f1"])


def parameters(model: nn.Layer) -> int:
    return sum(int(parameter.size) for parameter in model.parameters())


def formatted(table: Sequence[tuple[str, int, float]]) -> str:
    width = max(len(line[0]) for line in table)
    lines = [f"| {'model':<{width}} | parameters | slot F1 |", f"| {'-' * width} | ---------: | ------: |"]
    return "\n".join(
        [*lines, *(f"| {which:<{width}} | {count:>10,} | {100 * score:>7.2f} |" for which, count, score in table)]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example and prints its table; returns the exit status."""
    parser = PdArgumentParser((ExampleArguments, OFAArguments), description=__doc__)
    logger.logger.setLevel(logging.WARNING)
    try:
        options, settings = parser.parse_args_into_dataclasses(arguments)
        print(formatted(run(options, settings)))
    except (OfaSlimError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

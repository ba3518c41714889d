"""Runs the model in this folder: ``python predict.py "a text" "another text"``, or on arrays, as its README.md says.

It needs NumPy, what runs the files (Paddle or ONNX Runtime), and for texts the library `tokenizers`. In a program:
``from predict import load; print(load()(["a text"]))``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], Sequence[np.ndarray]]
Row = dict[str, Any]
"""One input of the model: lists by the name of an input, and what its answer needs."""

# Of inputs that a tokenizer may leave out: what each holds for a row of so many tokens.
_MADE: Mapping[str, Callable[[int], Any]] = {
    "attention_mask": np.ones,
    "position_ids": np.arange,
    "token_type_ids": np.zeros,
}
MOST_ANSWER_TOKENS = 30
SPAN_LIMIT = 0.5


def open_inference(folder: Path, threads: int) -> Run:
    """Paddle Inference on Paddle's device, with oneDNN on a CPU."""
    import paddle
    from paddle import inference

    config = inference.Config(str(folder / "model.json"), str(folder / "model.pdiparams"))
    config.disable_glog_info()
    kind, _, number = paddle.device.get_device().partition(":")
    if kind == "gpu":
        config.enable_use_gpu(100, int(number or 0))
    else:
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(threads)
    off = folder / "passes_off.json"
    for name in json.loads(off.read_text(encoding="utf-8")) if off.is_file() else ():
        config.delete_pass(str(name))
    predictor = inference.create_predictor(config)

    def run(inputs: Inputs) -> list[np.ndarray]:
        for name in predictor.get_input_names():
            predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(inputs[name]))
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return run


def open_onnx(folder: Path, threads: int) -> Run:
    """ONNX Runtime on the CPU."""
    session = open_session(folder / "model.onnx", threads)
    names = [wanted.name for wanted in session.get_inputs()]
    return lambda inputs: list(session.run(None, {name: inputs[name] for name in names}))


def open_session(file: Path, threads: int, rests: bool = False) -> Any:
    """An ONNX model in ONNX Runtime on the CPU; one that `rests` keeps no core busy between its runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", str(int(rests)))
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


ENGINES: dict[str, Callable[[Path, int], Run]] = {"inference": open_inference, "onnx": open_onnx}


class TextModel:
    """A model that is called with texts.

    Args:
        run: maps the model's inputs to its outputs.
        card: the content of ``format.json``.
        encode: the rows of a text.
        padding: the id that fills shorter rows of a batch.
    """

    def __init__(self, run: Run, card: Mapping[str, Any], encode: Callable[[Any], list[Row]], padding: int) -> None:
        self._run = run
        self._inputs: Mapping[str, str] = card["inputs"]
        self._task: Mapping[str, Any] = card["task"]
        self._encode = encode
        self._padding = padding

    def __call__(self, texts: Sequence[Any], batch_size: int = 32) -> list[dict[str, Any]]:
        """The answer for each text; rows of similar length share a batch.

        Raises: ValueError for what is not a text of the task, and where the model does not fit the task.
        """
        encoded = [self._encode(text) for text in texts]
        rows = [row for rows in encoded for row in rows]
        order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable")
        for start in range(0, len(order), batch_size):
            batch = [rows[place] for place in order[start : start + batch_size]]
            outputs = self._run({name: self._filled(name, kind, batch) for name, kind in self._inputs.items()})
            for place, row in enumerate(batch):
                found = [np.asarray(output[place], np.float64) for output in outputs]
                # Logits of a whole vocabulary for every token would be too many to keep.
                row["outputs"] = [_followed(found[0], row["input_ids"])] if self._task["form"] == "next" else found
        return [answer(self._task, rows) for rows in encoded]

    def _filled(self, name: str, kind: str, rows: Sequence[Row]) -> np.ndarray:
        """One of the model's inputs, [rows, length]; what the tokenizer does not give is made from the ids."""
        longest = max(len(row["input_ids"]) for row in rows)
        filled = np.full((len(rows), longest), self._padding if name == "input_ids" else 0, kind)
        for place, row in enumerate(rows):
            count = len(row["input_ids"])
            if name not in row and name not in _MADE:
                raise ValueError(f"the model needs an input {name!r}, which its tokenizer does not give")
            filled[place, :count] = row[name] if name in row else _MADE[name](count)
        return filled


def answer(task: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """What the outputs for the rows of one text say; only of tasks with a context a text has more than one row."""
    if task["form"] == "answers":
        return _span(rows)
    if task["form"] == "spans":
        return {"spans": _spans(rows)}
    if task["form"] == "next":
        loss, best, chance = rows[0]["outputs"][0]
        return {"next": rows[0]["decode"](int(best)), "score": float(chance), "perplexity": float(np.exp(loss))}
    labels, logits = task["labels"], rows[0]["outputs"][0]
    if not labels:
        return {"value": float(logits.reshape(-1)[0])}
    if logits.shape[-1] != len(labels):
        raise ValueError(f"the model has {logits.shape[-1]} classes, and its task {len(labels)} labels")
    if task["form"] == "tokens":
        classes = logits[np.asarray(rows[0]["starts"], np.int64)].argmax(-1)
        return {"tokens": rows[0]["words"], "tags": [labels[one] for one in classes]}
    if task["form"] == "multi_label":
        scores = dict(zip(labels, map(float, 1 / (1 + np.exp(-logits))), strict=True))
        return {"labels": [name for name in labels if scores[name] > 0.5], "scores": scores}
    chances = np.exp(logits - logits.max())
    best = int(chances.argmax())
    return {"label": labels[best], "score": float(chances[best] / chances.sum())}


def _span(rows: Sequence[Row]) -> dict[str, Any]:
    """The likeliest answer in all parts of a context; an empty one where "no answer" is likelier in every part."""
    found = []
    for row in rows:
        starts, ends = (output[: len(row["input_ids"])] for output in row["outputs"][:2])
        first, last = best_span(starts, ends, row["context"], MOST_ANSWER_TOKENS)
        chance = _chances(starts)[first] * _chances(ends)[last]
        none = _chances(starts)[0] * _chances(ends)[0]
        begin, end = row["offsets"][first][0], row["offsets"][last][1]
        found.append((chance, none, begin, end))
    chance, none, begin, end = max(found)
    if none > chance:
        return {"answer": "", "score": float(none)}
    return {"answer": rows[0]["text"][begin:end], "start": begin, "score": float(chance)}


def _spans(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every span in any part of a context; of one that two parts have, the likelier score."""
    found: dict[tuple[int, int], float] = {}
    for row in rows:
        starts, ends = (np.where(row["context"], one[: len(row["input_ids"])], 0) for one in row["outputs"][:2])
        for first, last in pairs_of(starts > SPAN_LIMIT, ends > SPAN_LIMIT):
            place = row["offsets"][first][0], row["offsets"][last][1]
            found[place] = max(found.get(place, 0.0), float(starts[first] * ends[last]))
    text = rows[0]["text"]
    return [
        {"text": text[begin:end], "start": begin, "end": end, "score": score}
        for (begin, end), score in sorted(found.items())
    ]


def pairs_of(starts: np.ndarray, ends: np.ndarray) -> list[tuple[int, int]]:
    """The spans of tokens that begin and end, bool [length]: an end belongs to the last start since the end before."""
    pairs, start = [], None
    for place in range(len(starts)):
        start = place if starts[place] else start
        if ends[place] and start is not None:
            pairs.append((start, place))
            start = None
    return pairs


def _followed(logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Of a text's tokens the mean loss of each after those before, the likeliest one that follows, its probability."""
    logits = logits[: len(ids)]
    logs = logits - logits.max(-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    losses = -logs[np.arange(len(ids) - 1), np.asarray(ids[1:], np.int64)]
    best = int(logs[-1].argmax())
    return np.array([losses.mean() if len(losses) else 0.0, best, np.exp(logs[-1, best])])


def _chances(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def best_span(starts: np.ndarray, ends: np.ndarray, allowed: np.ndarray, longest: int) -> tuple[int, int]:
    """The first and last token of the likeliest span of at most `longest` allowed tokens; logits and bool [length]."""
    scores = np.where(allowed, starts, -np.inf)[:, None] + np.where(allowed, ends, -np.inf)[None, :]
    places = np.arange(len(starts))
    span = places[None, :] - places[:, None]
    first, last = np.unravel_index(np.where((span >= 0) & (span < longest), scores, -np.inf).argmax(), scores.shape)
    return int(first), int(last)


class Encoder:
    """Makes rows of texts with a tokenizer of the library `tokenizers`.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        task: of ``format.json``.
        padding: the id of a token that means nothing.
    """

    def __init__(self, tokenizer: Any, task: Mapping[str, Any], padding: int) -> None:
        self._tokenizer = tokenizer
        self._padding = padding
        self._task = task
        self._most = int(task["max_length"])
        self._unknown = tokenizer.model.unk_token

    def __call__(self, text: Any) -> list[Row]:
        """The rows of a string, of a pair of strings, or of a list of tokens."""
        if self._task["form"] == "tokens":
            return [self._tagged(text.split() if isinstance(text, str) else list(text))]
        if self._task["form"] in ("answers", "spans"):
            return question_rows(self._tokenizer, *_two(text, "a question and a context"), self._most)
        if self._task["form"] == "next":
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids[-self._most :]
            return [{"input_ids": ids or [self._padding], "decode": lambda one: self._tokenizer.decode([one])}]
        first, second = _two(text, "a pair of texts") if self._task["pairs"] else (text, None)
        parts = [self._tokenizer.encode(part, add_special_tokens=False) for part in (first, second) if part is not None]
        room = self._most - self._tokenizer.num_special_tokens_to_add(len(parts) == 2)
        lengths = [len(part) for part in parts]
        while sum(lengths) > room:
            lengths[0 if len(lengths) == 1 or lengths[0] > lengths[1] else 1] -= 1
        for part, length in zip(parts, lengths, strict=True):
            part.truncate(length)
        found = self._tokenizer.post_process(*parts)
        return [{"input_ids": found.ids, "token_type_ids": found.type_ids}]

    def _tagged(self, words: list[str]) -> Row:
        pieces: list[int] = []
        starts: list[int] = []
        for word in words:
            starts.append(len(pieces))
            ids = self._tokenizer.encode(word, add_special_tokens=False).ids
            pieces += ids or [self._tokenizer.token_to_id(self._unknown)]
        around = self._tokenizer.encode("").ids
        before = self._tokenizer.encode("a").sequence_ids.index(0)
        pieces = pieces[: max(0, self._most - len(around))]
        starts = [start for start in starts if start < len(pieces)]
        return {
            "input_ids": [*around[:before], *pieces, *around[before:]],
            "words": words[: len(starts)],
            "starts": [before + start for start in starts],
        }


def question_rows(tokenizer: Any, question: str, context: str, max_length: int) -> list[Row]:
    """The rows of a question with the parts of its context, which have a quarter of their tokens in common.

    A question gets half of a row at most. Each row has the `offsets` of its tokens in the context, whether a token is
    of the `context`, and the `text` of it.
    """
    asked = tokenizer.encode(question, add_special_tokens=False)
    given = tokenizer.encode(context, add_special_tokens=False)
    special = tokenizer.num_special_tokens_to_add(True)
    most = (max_length - special) // 2
    if len(asked) > most:
        asked = tokenizer.encode(question[: asked.offsets[most - 1][1]], add_special_tokens=False)
        asked.truncate(most)
    room = max_length - special - len(asked)
    given.truncate(room, stride=room // 4)
    rows = []
    for part in [given, *given.overflowing]:
        row = tokenizer.post_process(asked, part)
        inside = np.array([place == 1 for place in row.sequence_ids])
        rows.append(
            {
                "input_ids": row.ids,
                "token_type_ids": row.type_ids,
                "offsets": row.offsets,
                "context": inside,
                "text": context,
            }
        )
    return rows


def _two(text: Any, wanted: str) -> tuple[str, str]:
    parts = text.split("\t") if isinstance(text, str) else text
    if not isinstance(parts, (tuple, list)) or len(parts) != 2:
        raise ValueError(f"{text!r} is not {wanted}, with a tab between them")
    return parts[0], parts[1]


def load(folder: Path | str = Path(__file__).parent, threads: int = 0) -> TextModel | Run:
    """The model of a folder, on so many threads, 0 for all cores: of texts, or of arrays by the name of an input."""
    folder = Path(folder)
    card = json.loads((folder / "format.json").read_text(encoding="utf-8"))
    run = ENGINES[card["opener"]](folder, threads or os.cpu_count() or 1)
    if not (folder / "tokenizer.json").is_file():
        return lambda inputs: run(_typed(inputs, card["inputs"]))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    padding = (tokenizer.padding or {}).get("pad_id", 0)
    tokenizer.no_padding()
    return TextModel(run, card, Encoder(tokenizer, card["task"], padding), padding)


def _typed(inputs: Mapping[str, Any], kinds: Mapping[str, str]) -> Inputs:
    for name in kinds:
        if name not in inputs:
            raise ValueError(f"there is no array {name!r}; the inputs are {', '.join(kinds)}")
    return {name: np.asarray(inputs[name], kind) for name, kind in kinds.items()}


def _run_file(model: Run, files: Sequence[str]) -> None:
    """Runs a model of arrays from one file into another."""
    if len(files) != 2:
        sys.exit("error: this model takes INPUTS.npz and OUTPUTS.npz")
    try:
        with np.load(files[0]) as inputs:
            outputs = model(dict(inputs))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {files[0]}: {error}")
    np.savez(files[1], *outputs)


def main() -> None:
    """Prints the answer for each text, a line of JSON each; or runs a file of arrays."""
    parser = argparse.ArgumentParser(
        description="Runs the model in this folder on texts. The answers are lines of JSON. A model of arrays takes "
        "two names of files: INPUTS.npz, with an array for each input, and OUTPUTS.npz, which it writes.",
        epilog="Two texts of a pair, or a question or prompt and its context, have a tab between them.",
    )
    parser.add_argument("texts", nargs="*", help="without any, the lines of the standard input")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    given = parser.parse_args()
    model = load(threads=given.threads)
    if not isinstance(model, TextModel):
        _run_file(model, given.texts)
        return
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # the interpreter's own are TextIOWrapper
    texts = given.texts or [line.rstrip("\r\n") for line in sys.stdin]
    try:
        answers = model(texts)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for each in answers:
        print(json.dumps(each, ensure_ascii=False))


if __name__ == "__main__":
    main()

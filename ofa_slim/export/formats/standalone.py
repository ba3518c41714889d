"""What stands beside the files of a text model, so that they are of use to someone who has nothing else."""

from __future__ import annotations

import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ofa_slim.base.threads import threads
from ofa_slim.errors import ExportError
from ofa_slim.export.fast_tokenizer import fast_tokenizer
from ofa_slim.export.formats import predict
from ofa_slim.export.formats.pipeline import TWO, pipeline

PREDICT, TOKENIZER, README = "predict.py", "tokenizer.json", "README.md"
CLOSE = 1e-3  # of two answers' numbers, as a share of the larger or of 1

_WORDS = ("", "a fine film", "Naïve? No, it's 1st-rate!", "價格是 3 元", "word " * 300)
_ENGINES = {"inference": "paddlepaddle", "onnx": "onnxruntime"}

logger = logging.getLogger(__name__)


def put_beside(
    folder: Path, opener: str, tokenizer: Any, task: Mapping[str, Any] | None, shapes: Mapping[str, Sequence[int]]
) -> None:
    """Puts a tokenizer's files, ``README.md`` and, where the files are for serving, ``predict.py`` into a folder.

    Args:
        folder: of one format.
        opener: what reads its files.
        tokenizer: of PaddleNLP; None for a model of arrays.
        task: see `ofa_slim.export.formats.pipeline.TextTask`; a tokenizer without one has its own files alone.
        shapes: of an example of the inputs.
    """
    alone = opener in _ENGINES
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
        if task is None:
            return
        alone = alone and _has_tokenizer(folder, tokenizer)
    if alone:
        shutil.copyfile(predict.__file__, folder / PREDICT)
    if tokenizer is None:
        text = _arrays_readme(folder.name, opener, shapes) if alone else None
    else:
        text = _readme(folder.name, opener, task or {}, alone)
    if text is not None:
        (folder / README).write_text(text, encoding="utf-8")


def _has_tokenizer(folder: Path, tokenizer: Any) -> bool:
    """Writes ``tokenizer.json``; says in the log where there can be none."""
    try:
        saved = type(tokenizer).from_pretrained(str(folder))  # knows special tokens in texts, a new one may not
        fast_tokenizer(saved).save(str(folder / TOKENIZER), pretty=False)
    except ExportError as error:
        logger.warning("%s has no %s: %s", folder.name, PREDICT, error)
        return False
    return True


def prove_answers(folder: Path) -> None:
    """Compares what ``predict.py`` answers, in a process of its own, with `pipeline`'s answers.

    Raises: ExportError where they differ, or it fails.
    """
    if not (folder / PREDICT).is_file():
        return
    classify = pipeline(folder)
    if classify.task.form in TWO:
        texts: Sequence[Any] = [(first, f"{second} {first} {second}") for first in _WORDS for second in _WORDS]
    else:
        texts = list(zip(_WORDS, reversed(_WORDS), strict=True)) if classify.task.pairs else list(_WORDS)
    wanted = classify(texts)
    lines = ["\t".join(text) if isinstance(text, tuple) else text for text in texts]
    command = [sys.executable, "-I", "-W", "ignore", str(folder / PREDICT), "--threads", str(threads())]
    given = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ExportError(f"{folder.name}: {PREDICT} fails: {said}")
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(answers) != len(wanted):
        raise ExportError(f"{folder.name}: {PREDICT} gives {len(answers)} answers for {len(wanted)} texts")
    for text, one, other in zip(texts, wanted, answers, strict=True):
        if not _alike(one, other):
            raise ExportError(f"{folder.name}: {PREDICT} answers {other} for {text!r}, ofa_slim.pipeline {one}")


def _alike(one: Any, other: Any) -> bool:
    """Whether two answers say the same, their numbers nearly so."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(value, other[name]) for name, value in one.items())
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(one == other)


_INPUTS = {
    "pairs": ('"one text\\tanother"', '[("one text", "another")]'),
    "answers": ('"a question\\tthe text that answers it"', '[("a question", "the text that answers it")]'),
    "spans": ('"a prompt\\tthe text that holds its spans"', '[("a prompt", "the text that holds its spans")]'),
    "tokens": ('"words with spaces between them"', '[["a", "list", "of", "words"]]'),
}


def _readme(name: str, opener: str, task: Mapping[str, Any], alone: bool) -> str:
    """What the folder holds and how to use it."""
    shell, python = _INPUTS.get("pairs" if task["pairs"] else task["form"], ('"a text"', '["a text"]'))
    quoted = f"$'{shell[1:-1]}'" if "\\t" in shell else shell
    lines = [f"# {task['name']}: a model as {name}", ""]
    if alone:
        engine = _ENGINES[opener]
        lines += [
            "```bash",
            f"pip install numpy tokenizers {engine}",
            f"python predict.py {quoted}",
            "python predict.py < lines.txt",
            "```",
            "",
            "In a program, with this folder on `sys.path`:",
            "",
            "```python",
            "from predict import load",
            "",
            f"print(load()({python}))",
            "```",
            "",
            f"`predict.py` reads `format.json`, `{TOKENIZER}` and the model; what else is there is for PaddleNLP.",
            f"Written with {engine} {_version(engine)}.",
        ]
    else:
        lines += [
            "```python",
            "import ofa_slim  # pip install ofa-slim",
            "",
            f"print(ofa_slim.pipeline('.')({python}))",
            "```",
        ]
        if opener == "plain":
            lines += ["", "`ofa_slim.load_subnet('.')` is the model as a Paddle layer, which can be trained further."]
        else:
            lines += ["", f"This tokenizer has no `{TOKENIZER}`: PaddleNLP makes the ids."]
    most = f"{task['max_length']} tokens"
    longer = {form: f"Longer contexts are read in parts of {most} with the text before the tab." for form in TWO}
    longer["next"] = f"Of longer texts the last {most} count."
    lines += ["", longer.get(task["form"], f"Longer texts are cut to {most}.")]
    if task["labels"]:
        lines += ["", "Labels, in the order of the outputs:", "", *(f"- `{label}`" for label in task["labels"])]
    return "\n".join(lines) + "\n"


def _arrays_readme(name: str, opener: str, shapes: Mapping[str, Sequence[int]]) -> str:
    """How to use a model of arrays."""
    engine = _ENGINES[opener]
    arrays = ", ".join(f'"{input_name}": zeros({list(shape)})' for input_name, shape in shapes.items())
    inputs = "\n".join(f"- `{input_name}`, for example {list(shape)}" for input_name, shape in shapes.items())
    return f"""# A model as {name}

```bash
pip install numpy {engine}
python predict.py inputs.npz outputs.npz
```

`inputs.npz` has an array for each input, and `outputs.npz` gets `arr_0`, `arr_1`, ... in the order of the outputs:

{inputs}

In a program, with this folder on `sys.path`:

```python
from numpy import zeros
from predict import load

print(load()({{{arrays}}}))
```

Written with {engine} {_version(engine)}.
"""


def _version(package: str) -> str:
    for name in (package, f"{package}-gpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of an unknown version"

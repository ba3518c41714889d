"""What stands beside a written text model: the same answers without this library, and a tokenizer without PaddleNLP."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ofa_slim
from families import maker
from ofa_slim.base.tokens import encode
from ofa_slim.errors import ExportError
from ofa_slim.export.fast_tokenizer import fast_tokenizer
from ofa_slim.export.formats import predict, write_formats
from ofa_slim.export.formats.pipeline import TextTask
from ofa_slim.export.formats.predict import Encoder, TextModel, pairs_of
from small_tokenizers import CHINESE, ENGLISH, STRANGE, TEXTS, byte_pairs, word_pieces

ODD = [
    *STRANGE,
    *TEXTS,
    "it's ₤5 ©, e.g. <s>x</s> [SEP]tail",
    "tab\tand\nline",
    "价格是3元。看",
    "ÀÉÎ ñ ß İ",
    "a" * 120,
]
KINDS = ["BertTokenizer", "ErnieTokenizer", "ElectraTokenizer", "DistilBertTokenizer", "MPNetTokenizer"]
FORMS = {
    "classification": (("bad", "so-so", "good"), False),
    "pairs": (("no", "perhaps", "yes"), True),
    "multi_label": (("long", "loud", "odd"), False),
    "tokens": (("O", "B-X", "I-X"), False),
    "regression": ((), False),
    "answers": ((), True),
}
ENDINGS = {"tokens": "ForTokenClassification", "answers": "ForQuestionAnswering"}


def tokenizer_of(folder: Path, name: str) -> Any:
    folder.mkdir(exist_ok=True)
    if name.endswith("BPETokenizer"):
        return byte_pairs(folder, name)
    return word_pieces(folder, list(dict.fromkeys([*ENGLISH, *CHINESE, "<s>", "</s>", "<pad>", "<mask>"])), name)


def saved(tokenizer: Any, folder: Path) -> Any:
    tokenizer.save_pretrained(str(folder))
    return type(tokenizer).from_pretrained(str(folder))


@pytest.mark.parametrize("name", [*KINDS, "RobertaBPETokenizer"])
def test_the_fast_tokenizer_gives_the_ids_of_paddlenlps(name: str, tmp_path: Path) -> None:
    tokenizer = saved(tokenizer_of(tmp_path / "made", name), tmp_path / "saved")
    fast = fast_tokenizer(tokenizer)
    fast.no_padding()
    for pairs in (False, True):
        for longest in (8, 13, 400):
            rows = Encoder(fast, {"form": "classification", "pairs": pairs, "max_length": longest}, 0)
            for number, text in enumerate(ODD):
                second = ODD[-number - 1] if pairs else None
                expected = dict(encode(tokenizer, text, second, longest))
                (row,) = rows((text, second) if pairs else text)
                assert row["input_ids"] == expected["input_ids"], (text, second)
                assert row["token_type_ids"] == expected.get("token_type_ids", row["token_type_ids"])


def test_tokenizers_that_have_no_such_file_are_named(tmp_path: Path) -> None:
    tokenizer = word_pieces(tmp_path / "made", ENGLISH)
    tokenizer.basic_tokenizer = None
    with pytest.raises(ExportError, match="BertTokenizer"):
        fast_tokenizer(tokenizer)


def written(folder: Path, form: str, formats: tuple[str, ...]) -> tuple[Path, TextTask, Any]:
    labels, pairs = FORMS[form]
    tokenizer = tokenizer_of(folder / "t", "BertTokenizer")
    rows = len(tokenizer.vocab)
    classes = {"num_labels": 1} if form == "regression" else {}
    model = maker("Bert", ENDINGS.get(form, "ForSequenceClassification"))(
        vocab_size=rows, max_position_embeddings=64, **classes
    )
    task = TextTask("mood", labels, 24, pairs and form != "answers", "classification" if form == "pairs" else form)
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, rows, (32, length)) for length in (5, 12)]
    samples = [{"input_ids": some, "token_type_ids": np.zeros_like(some)} for some in ids]
    write_formats(model, folder / "out", samples, formats, tokenizer=tokenizer, task=task.to_dict())
    return folder / "out", task, tokenizer


@pytest.mark.slow
@pytest.mark.usefixtures("forked_models")
@pytest.mark.parametrize("form", FORMS)
def test_predict_answers_as_the_pipeline_does_with_nothing_of_ours(form: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder, _, _ = written(tmp_path, form, ("inference", "onnx"))
    given: list[Any] = [text for text in ODD if "\t" not in text and "\n" not in text]
    if FORMS[form][1]:
        given = list(zip(given, reversed(given), strict=True))
    lines = "".join(("\t".join(one) if isinstance(one, tuple) else one) + "\n" for one in given)
    for name in ("inference", "onnx"):
        expected = ofa_slim.pipeline(folder / name)(given)
        alone = tmp_path / f"only-{name}"
        shutil.copytree(folder / name, alone)
        for file in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
            (alone / file).unlink()  # of PaddleNLP
        script = (
            "import sys; sys.modules['ofa_slim'] = sys.modules['paddlenlp'] = None; import runpy; "
            f"runpy.run_path({str(alone / 'predict.py')!r}, run_name='__main__')"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", "-c", script], input=lines, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(answers) == len(expected) == len(given)
        for one, other in zip(answers, expected, strict=True):
            assert one.keys() == other.keys()
            for key, value in other.items():
                assert one[key] == (pytest.approx(value, abs=1e-4) if isinstance(value, (float, dict)) else value)
        text = (folder / name / "README.md").read_text(encoding="utf-8")
        assert all(f"`{label}`" in text for label in FORMS[form][0])
        assert "python predict.py" in text


@pytest.mark.slow
@pytest.mark.usefixtures("forked_models")
def test_a_predict_that_answers_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "predict.py"
    text = Path(predict.__file__).read_text(encoding="utf-8")
    other.write_text(text.replace("labels[best]", "labels[0]"), encoding="utf-8")
    monkeypatch.setattr(predict, "__file__", str(other))
    monkeypatch.setattr(TextModel, "__call__", lambda model, texts, batch_size=32: [{"label": "good"} for _ in texts])
    with pytest.raises(ExportError, match=r"predict\.py answers"):
        written(tmp_path, "classification", ("inference",))
    assert not (tmp_path / "out").exists()


def test_an_answer_is_the_likeliest_span_of_all_parts_of_a_context(tmp_path: Path) -> None:
    tokenizer = fast_tokenizer(saved(tokenizer_of(tmp_path / "made", "BertTokenizer"), tmp_path / "saved"))
    tokenizer.no_padding()
    context = "a fine film and " * 12 + "the boring plot"
    task = {"form": "answers", "max_length": 24, "pairs": False, "labels": ()}
    wanted = tokenizer.encode("boring plot", add_special_tokens=False).ids

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        ids = inputs["input_ids"]
        starts = np.where(ids == wanted[0], 9.0, 0.0)
        ends = np.where(ids == wanted[-1], 9.0, 0.0)
        return [starts, ends]

    card = {"inputs": {"input_ids": "int64"}, "task": task}
    model = TextModel(run, card, Encoder(tokenizer, task, 0), 0)
    (found,) = model([("the plot", context)])
    assert found["answer"] == "boring plot"
    assert context[found["start"] :].startswith("boring plot")
    (none,) = model([("film", "a fine film")])  # no part has it; [CLS] is as likely as anything
    assert none["score"] < 0.5


@pytest.mark.parametrize("name", ["BertTokenizer", "RobertaBPETokenizer"])
def test_the_shortest_rows_of_a_question_stay_within_the_length(name: str, tmp_path: Path) -> None:
    tokenizer = fast_tokenizer(saved(tokenizer_of(tmp_path / "made", name), tmp_path / "saved"))
    tokenizer.no_padding()
    rows = predict.question_rows(tokenizer, "a fine film and the plot", "the boring plot of a long film", 8)
    assert all(len(row["input_ids"]) <= 8 for row in rows)
    assert sum(row["context"].sum() for row in rows) >= 7


@pytest.mark.slow
@pytest.mark.usefixtures("forked_models")
def test_a_task_without_a_tokenizer_is_a_model_of_arrays(tmp_path: Path) -> None:
    task = TextTask("mood", ("bad", "so-so", "good"), 24).to_dict()
    samples = [{"input_ids": np.ones((64, 5), np.int64)}]
    write_formats(maker("Bert")(vocab_size=9), tmp_path / "out", samples, ("inference",), task=task)
    np.savez(tmp_path / "in.npz", **samples[0])
    command = [sys.executable, "-I", "-W", "ignore", str(tmp_path / "out" / "inference" / "predict.py")]
    subprocess.run([*command, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")], check=True, capture_output=True)
    assert np.load(tmp_path / "out.npz")["arr_0"].shape == (64, 3)


@pytest.mark.parametrize(
    ("starts", "ends", "pairs"),
    [
        ("101000", "010010", [(0, 1), (2, 4)]),
        ("110000", "000100", [(1, 3)]),  # the last start before the end
        ("100000", "011000", [(0, 1)]),  # one end for each start
        ("000100", "010000", []),
        ("010000", "010000", [(1, 1)]),
    ],
)
def test_spans_are_paired_as_paddlenlp_does(starts: str, ends: str, pairs: list[tuple[int, int]]) -> None:
    from paddlenlp.utils.tools import get_span

    flags = [np.array([sign == "1" for sign in line]) for line in (starts, ends)]
    assert pairs_of(*flags) == pairs
    assert set(pairs) == set(get_span(*(list(np.flatnonzero(one)) for one in flags)))


def test_of_a_long_text_the_last_tokens_say_what_follows(tmp_path: Path) -> None:
    fast = fast_tokenizer(byte_pairs(tmp_path, "GPTTokenizer"))
    fast.no_padding()
    size, seen = fast.get_vocab_size(), []

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        ids = inputs["input_ids"]
        seen.append(ids.shape[1])
        return [np.log(0.5 * np.eye(size)[(ids + 1) % size] + 0.5 / size)]  # the next id is the likeliest

    task = {"form": "next", "labels": [], "pairs": False, "max_length": 6}
    model = TextModel(run, {"inputs": {"input_ids": "int64"}, "task": task}, Encoder(fast, task, 1), 1)
    texts = ["a fine film and the plot " * 20, "plot", ""]
    for text, answer in zip(texts, model(texts), strict=True):
        ids = fast.encode(text).ids[-6:] or [1]
        chances = [0.5 * (other == (one + 1) % size) + 0.5 / size for one, other in pairwise(ids)]
        assert answer["next"] == fast.decode([(ids[-1] + 1) % size])
        assert answer["score"] == pytest.approx(0.5 + 0.5 / size)
        assert answer["perplexity"] == pytest.approx(np.exp(-np.mean(np.log(chances))) if chances else 1.0)
    assert max(seen) == 6

"""Data files of one's own: what is read, and for every wrong file or recipe its message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ofa_slim.cli import main
from ofa_slim.errors import DataError
from ofa_slim.job.data.keys import DataKeys
from ofa_slim.job.data.own import own_task
from ofa_slim.job.plan import STAGES
from ofa_slim.job.recipe import load_recipe
from ofa_slim.job.run import Run
from own_data import TOPICS, topic_rows, write_csv, write_lines

HEAD = "text,label\n"
GOOD = HEAD + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(20))


def file(folder: Path, content: str | bytes, name: str = "my.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def read(path: Path, task: str = "classification", **keys: Any) -> Any:
    return own_task(task, DataKeys(train=str(path), **keys))


# The file's name, its content, the kind of task, keys of data, and the message after the file's name.
WRONG_FILES: dict[str, tuple[str, str | bytes, str, dict[str, Any], str]] = {
    "empty": ("my.csv", "", "classification", {}, " is empty"),
    "blank lines alone": ("my.csv", "\n\n \n", "classification", {}, " is empty"),
    "a header alone": ("my.csv", HEAD, "classification", {}, " has no rows"),
    "an empty tsv": ("my.tsv", "", "classification", {}, " is empty"),
    "a byte-order mark alone": ("my.csv", b"\xef\xbb\xbf", "classification", {}, " is empty"),
    "another kind of file": ("my.xlsx", "PK", "classification", {}, ": '.xlsx' is not one of .csv, .tsv, .jsonl"),
    "no ending": ("my", GOOD, "classification", {}, ": 'no ending' is not one of"),
    "unknown column": (
        "my.csv", "body,label\nx,a\n", "classification", {},
        ", line 1: no column 'text'; the columns are 'body', 'label'; data.text names the one to read",
    ),
    "a near column": (
        "my.csv", "texts,label\nx,a\n", "classification", {}, ", line 1: no column 'text'; did you mean 'texts'?"
    ),
    "a missing label column": (
        "my.csv", "text,topic\nx,a\n", "classification", {}, ", line 1: no column 'label'; the columns are"
    ),
    "semicolons": ("my.csv", "text;label\nx;a\n", "classification", {}, ", line 1: no column 'text'"),
    "a row with too many cells": (
        "my.csv", HEAD + "x,a\ny, z,b\n", "classification", {},
        ", line 3: 3 cells, but the header names 2 columns (text, label)",
    ),
    "a row with too few cells": ("my.tsv", "text\tlabel\nx\n", "classification", {}, ", line 2: 1 cells, but"),
    "two columns of one name": ("my.csv", "text,text\nx,a\n", "classification", {}, ", line 1: 2 columns are"),
    "a column without a name": ("my.csv", "text,\nx,a\n", "classification", {}, ", line 1: column 2 has no name"),
    "a quote that is never closed": (
        "my.csv", HEAD + 'x,a\n"y,b\nz,a\n', "classification", {}, ", line 3: a quote that opens here is never closed"
    ),
    "text after a quote": ("my.csv", HEAD + '"x"y,a\n', "classification", {}, ", line 2: not valid CSV ("),
    "an empty text": (
        "my.csv", HEAD + "x,a\n ,b\n", "classification", {}, ", line 3, column 'text': the text is empty"
    ),
    "several empty texts": (
        "my.csv", HEAD + ",a\n,b\n,b\n", "classification", {},
        ", line 2, column 'text': the text is empty (2 more such rows)",
    ),
    "an empty label": (
        "my.csv", HEAD + '"two\nlines",a\ny,\n', "classification", {}, ", line 4, column 'label': the label is empty"
    ),
    "one label": (
        "my.csv", HEAD + "x,a\ny,a\n", "classification", {},
        ", column 'label': 1 different labels (a); classification needs at least 2",
    ),
    "Latin-1": (
        "my.csv", (HEAD + "x,a\nfür,b\n").encode("latin-1"), "classification", {},
        ", line 3, character 2: byte 0xFC is not UTF-8 text; save the file as UTF-8",
    ),
    "GB18030": (
        "my.csv", (HEAD + "退款,a\n").encode("gb18030"), "classification", {}, ", line 2, character 1: byte 0xCD is not"
    ),
    "UTF-16": ("my.csv", GOOD.encode("utf-16"), "classification", {}, " is UTF-16 text; save it as UTF-8"),
    "a NUL byte": (
        "my.csv", HEAD + "x,a\nab\0c,b\n", "classification", {}, ", line 3, character 3: a NUL byte; the file is"
    ),
    "JSON that is cut off": (
        "my.jsonl", '{"text": "x", "label": "a"}\n{"text": "y", "la', "classification", {}, ", line 2: not valid JSON ("
    ),
    "a list in JSON lines": ("my.jsonl", '["x", "a"]\n', "classification", {}, ", line 1: not an object such as"),
    "a key that occurs twice": (
        "my.jsonl", '{"text": "x", "text": "y"}\n', "classification", {}, ", line 1: not valid JSON (the key 'text'"
    ),
    "a row of JSON without a label": (
        "my.jsonl", '{"text": "x", "label": "a"}\n\n{"text": "y"}\n', "classification", {}, ", line 3: no 'label'"
    ),
    "a number for a text": (
        "my.jsonl", '{"text": 3, "label": "a"}\n', "classification", {}, ", line 1, column 'text': 3 is not a text"
    ),
    "a NUL in JSON": (
        "my.jsonl", '{"text": "a\\u0000", "label": "a"}\n', "classification", {}, ", line 1, column 'text': a NUL"
    ),
    "a list for a label": (
        "my.jsonl", '{"text": "x", "label": ["a"]}\n', "classification", {}, ", line 1, column 'label': ['a'] is not a"
    ),
    "no Parquet": ("my.parquet", "text,label", "classification", {}, ": not a Parquet file ("),
    "a word for a number": (
        "my.csv", HEAD + "x,1.5\ny,many\n", "regression", {}, ", line 3, column 'label': 'many' is not a number"
    ),
    "an infinite number": (
        "my.csv", HEAD + "x,inf\n", "regression", {}, ", line 2, column 'label': 'inf' is not a finite number"
    ),
    "no number": ("my.csv", HEAD + "x,\n", "regression", {}, ", line 2, column 'label': the number is empty"),
    "a pair without a second column": ("my.csv", GOOD, "pairs", {}, ", line 1: no column 'text_pair'"),
    "an empty second text": (
        "my.csv", "text,label,other\nx,a,y\nx,b,\n", "pairs", {"pair": "other"},
        ", line 3, column 'other': the text is empty",
    ),
    "a flag of 2": (
        "my.csv", "text,a,b\nx,0,1\ny,2,0\n", "multi_label", {"label": ["a", "b"]},
        ", line 3, column 'a': '2' is neither 0 nor 1",
    ),
    "no labels at all": (
        "my.csv", HEAD + "x,\ny,\n", "multi_label", {}, ", column 'label': 0 different labels (); multi_label needs"
    ),
    "an empty label among several": (
        "my.csv", HEAD + "x,a||b\n", "multi_label", {}, ", line 2, column 'label': the label is empty"
    ),
    "a label that is not listed": (
        "my.csv", GOOD, "classification", {"labels": ["a", "c"]},
        ", line 3, column 'label': label 'b' is not one of the training labels ('a', 'c')",
    ),
    "too few rows to split": (
        "my.csv", HEAD + "x,a\ny,b\n", "classification", {}, ": 2 rows, of which data.dev_share (0.1) leaves 0 to"
    ),
    "a token without a tag": (
        "my.conll", "Anna B-PER\n\nin O\nRome\n", "tokens", {}, ", line 4: 'Rome' has no tag beside it"
    ),
    "fewer tags than tokens": (
        "my.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a", "b"], "tags": ["B-X"]}\n', "tokens", {},
        ", line 2, column 'tags': 1 tags for 2 tokens",
    ),
    "an empty token": (
        "my.jsonl", '{"tokens": ["a", " "], "tags": ["O", "B-X"]}\n', "tokens", {}, ", line 1, column 'tokens': entry 2"
    ),
    "a row without tokens": (
        "my.jsonl", '{"tokens": [], "tags": []}\n', "tokens", {}, ", line 1, column 'tokens': the list is empty"
    ),
    "an answer that its context does not have": (
        "my.jsonl", '{"question": "who", "context": "bert", "answers": ["ann"]}\n', "question_answering", {},
        ", line 1, column 'answers': the answer 'ann' is not in its context",
    ),
    "an answer at another place": (
        "my.json",
        '{"data": [{"paragraphs": [{"context": "no bert", "qas": [{"question": "who", "answers": '
        '[{"text": "bert", "answer_start": 2}]}]}]}]}',
        "question_answering", {}, ", question 1, column 'answers': the answer 'bert' is not in its context at its",
    ),
    "an answer that is a number": (
        "my.jsonl", '{"question": "who", "context": "bert", "answers": [7]}\n', "question_answering", {},
        ", line 1, column 'answers': 7 is not an answer",
    ),
    "a question that is empty": (
        "my.json", '{"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "", "answers": []}]}]}]}',
        "question_answering", {}, ", question 1, column 'question': the text is empty",
    ),
    "an article without paragraphs": (
        "my.json", '{"data": [{"title": "x"}]}', "question_answering", {}, ": data[0] has no list 'paragraphs'"
    ),
    "a paragraph without questions": (
        "my.json", '{"data": [{"paragraphs": [{"context": "x"}]}]}', "question_answering", {},
        ": data[0].paragraphs[0] has no list 'qas'",
    ),
    "texts where questions are needed": (
        "my.csv", GOOD, "question_answering", {}, ", line 1: no column 'question'"
    ),
    "a span that its content does not have": (
        "my.jsonl", '{"prompt": "who", "content": "bert", "result_list": [{"text": "ann", "start": 0, "end": 3}]}\n',
        "spans", {}, ", line 1, column 'result_list': the span 'ann' is not in its context at its place",
    ),
    "spans that are no list": (
        "my.jsonl", '{"prompt": "who", "content": "bert", "result_list": {"text": "bert"}}\n', "spans", {},
        ", line 1, column 'result_list': {'text': 'bert'} is not a list of spans",
    ),
    "a span that is a number": (
        "my.jsonl", '{"prompt": "who", "content": "bert", "result_list": [7]}\n', "spans", {},
        ", line 1, column 'result_list': 7 is not a span",
    ),
    "an empty prompt": (
        "my.jsonl", '{"prompt": " ", "content": "bert", "result_list": []}\n', "spans", {},
        ", line 1, column 'prompt': the text is empty",
    ),
    "texts where spans are needed": ("my.csv", GOOD, "spans", {}, ", line 1: no column 'prompt'"),
    "one text alone": ("my.txt", "only this\n", "language_modelling", {}, ": 1 rows, of which data.dev_share (0.1)"),
    "a text file that is no UTF-8": (
        "my.txt", "für\n".encode("latin-1"), "language_modelling", {}, ", line 1, character 2: byte 0xFC is not UTF-8"
    ),
    "texts where tokens are needed": ("my.csv", GOOD, "tokens", {}, ", line 1: no column 'tokens'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_are_named_with_line_and_column(case: str, tmp_path: Path) -> None:
    name, content, task, keys, message = WRONG_FILES[case]
    path = file(tmp_path, content, name)
    with pytest.raises(DataError) as caught:
        read(path, task, **keys)
    assert str(caught.value).startswith(f"{path}{message}")
    assert len(str(caught.value).splitlines()) == 1


def test_labels_of_dev_that_training_does_not_have_are_named(tmp_path: Path) -> None:
    dev = file(tmp_path, HEAD + "x,a\ny,B\n", "dev.csv")
    with pytest.raises(DataError, match=r"dev\.csv, line 3, column 'label': label 'B' is not one of the training lab"):
        read(file(tmp_path, GOOD), dev=str(dev))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("task: classification", "task 'classification' needs the key 'data', such as data: {train: my.csv}"),
        ("data: {train: my.csv}", "with 'data' the key 'task' is one of classification, pairs"),
        ("task: classification\ndata: {dev: my.csv}", "key 'data' lacks 'train'"),
        ("task: classification\ndata: {train: my.csv, txt: body}", "no key 'txt' in 'data'; did you mean 'text'?"),
        ("task: classification\ndata: {train: my.csv, dev_share: 2}", "key 'data' is {'train': 'my.csv', 'dev_share"),
        ("task: classification\ndata: my.csv", "key 'data' is 'my.csv'"),
        ("omit: true", "key 'omit' is for training: none; the training is 'supernet'"),
        ("task: sentiment\ndata: {train: my.csv}", "key 'task' is 'sentiment'"),
    ],
)  # fmt: skip
def test_wrong_recipes_are_one_line(recipe: str, message: str, tmp_path: Path, capsys: Any) -> None:
    path = file(tmp_path, recipe, "recipe.yaml")
    assert main(["compress", str(path), "--output_dir", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def as_csv(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_csv(folder / "my.csv", rows)


def as_csv_with_mark(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_csv(folder / "my.csv", rows, "utf-8-sig")


def as_tsv(folder: Path, rows: list[dict[str, str]]) -> Path:
    return file(folder, "body\ttopic\r\n" + "".join(f"{row['body']}\t{row['topic']}\r\n" for row in rows), "my.tsv")


def as_lines(folder: Path, rows: list[dict[str, str]]) -> Path:
    return write_lines(folder / "my.jsonl", rows)


def as_parquet(folder: Path, rows: list[dict[str, str]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "my.parquet")
    return folder / "my.parquet"


@pytest.mark.parametrize("write", [as_csv, as_csv_with_mark, as_tsv, as_lines, as_parquet])
def test_every_kind_of_file_gives_the_same_rows(write: Callable[..., Path], tmp_path: Path) -> None:
    rows = topic_rows(40)
    rows[0]["body"] = 'he said "退款", twice'
    rows[1]["body"] = "naïve, café"
    task = read(write(tmp_path, rows), text="body", label="topic", dev_share=0.25)
    assert task.labels == TOPICS
    train, parts = task.read(tmp_path)
    dev = parts["dev"]
    expected = {(row["body"], row["topic"]) for row in rows}
    found = [
        (text, TOPICS[label]) for part in (train, dev) for text, label in zip(part.first, part.labels, strict=True)
    ]
    assert set(found) == expected
    assert len(found) == 40
    assert np.bincount(dev.labels).tolist() == [2] * 5


def test_answers_come_from_every_layout_of_them(tmp_path: Path) -> None:
    cells = [
        "film",
        ["film"],
        [{"text": "film", "answer_start": 7}],
        {"text": ["film"], "answer_start": [7]},
        "",
        [],
        {},
    ]
    rows = [{"question": "what", "context": "a fine film", "answers": cell} for cell in cells]
    path = file(tmp_path, "".join(json.dumps(row) + "\n" for row in rows) * 3, "my.jsonl")
    train, dev = read(path, "question_answering", dev_share=0.3).read(tmp_path)
    found = sorted(map(tuple, [*train.labels.tolist(), *dev["dev"].labels.tolist()]))
    assert found == [(-1, -1)] * 9 + [(7, 11)] * 12
    assert 0 < (dev["dev"].labels[:, 0] >= 0).sum() < len(dev["dev"])  # both kinds of question are scored


def test_spans_come_from_texts_or_places(tmp_path: Path) -> None:
    cells: list[Any] = [["film", "fine"], [{"text": "film", "start": 7, "end": 11}], [], None, ""]
    rows = [{"prompt": "what", "content": "a fine film", "result_list": cell} for cell in cells]
    train, dev = read(write_lines(tmp_path / "my.jsonl", rows * 4), "spans", dev_share=0.4).read(tmp_path)
    found = [row.tolist() for part in (train, dev["dev"]) for row in part.labels]
    assert sorted(found) == [[]] * 12 + [[[7, 11]]] * 4 + [[[7, 11], [2, 6]]] * 4
    assert 0 < sum(map(len, dev["dev"].labels)) < len(dev["dev"])  # some of them have spans, some none


def test_a_text_file_has_a_row_for_each_line(tmp_path: Path) -> None:
    path = file(tmp_path, "\ufeffone, two\r\n\r\n  three \u2028 four\n" * 5, "my.txt")
    train, dev = read(path, "language_modelling", dev_share=0.2).read(tmp_path)
    assert {*train.first, *dev["dev"].first} == {"one, two", "\ufeffone, two", "  three \u2028 four"}


def test_quoted_cells_may_hold_lines_and_commas(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD + '"one, two\nthree ""four""",a\n')
    train, dev = read(path).read(tmp_path)
    assert 'one, two\nthree "four"' in train.first + dev["dev"].first


def test_a_label_with_one_row_stays_in_training(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD + "alone,c\n")
    train, parts = read(path, dev_share=0.5).read(tmp_path)
    assert "alone" in train.first
    assert len(parts["dev"]) == 10


def test_several_labels_come_from_cells_lists_and_columns(tmp_path: Path) -> None:
    rows = [["a"], ["b", "a"], [], ["b"]] * 5
    texts = [f"text {number}" for number in range(20)]
    files = (
        (file(tmp_path, HEAD + "".join(f"{t},{'|'.join(r)}\n" for t, r in zip(texts, rows, strict=True))), ["label"]),
        (
            write_lines(tmp_path / "my.jsonl", [{"text": t, "label": r} for t, r in zip(texts, rows, strict=True)]),
            ["label"],
        ),
        (
            file(
                tmp_path,
                "text,a,b\n"
                + "".join(f"{t},{int('a' in r)},{int('b' in r)}\n" for t, r in zip(texts, rows, strict=True)),
                "flags.csv",
            ),
            ["a", "b"],
        ),
    )
    for path, label in files:
        task = read(path, "multi_label", label=label, dev_share=0.5)
        assert task.labels == ("a", "b")
        train, parts = task.read(tmp_path)
        for part in (train, parts["dev"]):
            for text, values in zip(part.first, part.labels, strict=True):
                wanted = rows[texts.index(text)]
                assert values.tolist() == [float("a" in wanted), float("b" in wanted)]


def test_data_edited_under_the_same_recipe_is_noticed(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD)
    recipe = load_recipe(None, {"task": "classification", "data": {"train": str(path)}})
    before = Run(recipe).settings(STAGES["finetune"])
    assert json.loads(json.dumps(before)) == before
    assert Run(recipe).settings(STAGES["finetune"]) == before
    file(tmp_path, GOOD.replace("text 3", "text three"))
    after = Run(recipe).settings(STAGES["finetune"])
    assert {key for key in after if after[key] != before[key]} == {"data_files"}
    path.unlink()
    assert "data_files" not in Run(recipe).settings(STAGES["finetune"])


def test_files_and_columns_are_options_too(tmp_path: Path) -> None:
    from ofa_slim.job.recipe import texts_to_values

    values = texts_to_values({"data": "train=my.csv, text=body,dev_share=0.2"})
    assert values == {"data": {"train": "my.csv", "text": "body", "dev_share": 0.2}}
    assert yaml.safe_dump(load_recipe(None, {"task": "pairs", **values}).model_dump(mode="json"))

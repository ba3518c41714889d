"""The example's readers of task files, on small files of each layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_slim.job.glue import TASKS, DataError

# Per task: folder, header, a row of the file, and the texts and the label that it holds.
LAYOUTS = {
    "sst-2": ("SST-2", "sentence\tlabel", "a fine film\t1", ("a fine film", None), 1),
    "cola": ("CoLA", None, "gj04\t0\t*\tThe who?", ("The who?", None), 0),
    "mrpc": ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\tA "b\tB a', ('A "b', "B a"), 1),
    "sts-b": ("STS-B", "index\tsentence1\tsentence2\tscore", "0\tA dog\tA cat\t2.500", ("A dog", "A cat"), 2.5),
    "qnli": ("QNLI", "index\tquestion\tsentence\tlabel", "0\tWho?\tHe.\tnot_entailment", ("Who?", "He."), 1),
    "rte": ("RTE", "index\tsentence1\tsentence2\tlabel", "0\tIt is.\tIs it?\tentailment", ("It is.", "Is it?"), 0),
    "qqp": ("QQP", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tWho?\tWhy?\t0", ("Who?", "Why?"), 0),
    "mnli": ("MNLI", "index\tsentence1\tsentence2\tgold_label", "0\tA.\tB.\tneutral", ("A.", "B."), 2),
}  # fmt: skip


def glue_files(task: str, folder: Path) -> Path:
    name, header, row, _, _ = LAYOUTS[task]
    (folder / name).mkdir()
    text = "".join(f"{line}\n" for line in (header, row, row) if line is not None)
    files = ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv") if task == "mnli" else ("train.tsv", "dev.tsv")
    for file in files:
        (folder / name / file).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("task", LAYOUTS)
def test_glue_files_are_read_as_they_are_laid_out(task: str, tmp_path: Path) -> None:
    train, dev = TASKS[task].read(glue_files(task, tmp_path))
    (first, second), label = LAYOUTS[task][3:]
    assert set(dev) == ({"matched", "mismatched"} if task == "mnli" else {"dev"})
    for rows in (train, *dev.values()):
        assert rows.first == [first] * 2
        assert rows.second == ([] if second is None else [second] * 2)
        assert rows.labels.tolist() == [label] * 2
        assert rows.labels.dtype == (np.float32 if task == "sts-b" else np.int64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence\tlabel\na film\t2\n", "line 2: label '2' is not one of"),
        ("text\tlabel\na film\t1\n", "no column 'sentence'"),
        ("sentence\tlabel\na film\n", "fewer than 2 columns"),
        ("sentence\tlabel\n", "0 of 0 rows"),
    ],
)
def test_wrong_files_are_named_with_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    folder = glue_files("sst-2", tmp_path)
    (folder / "SST-2" / "train.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        TASKS["sst-2"].read(folder)
    assert "train.tsv" in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MRPC: no such folder"):
        TASKS["mrpc"].read(tmp_path)


def test_movie_snippets_keep_clear_ratings_and_no_row_on_both_sides(tmp_path: Path) -> None:
    lines = [f"{i}\t{2.0 if i % 2 else -1.5}\tsnippet {i}" for i in range(50)]
    lines += ["50\t0.4\tlukewarm", "51\t3.0\tSnippet  1"]
    (tmp_path / "movieReviewSnippets_GroundTruth.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    train, dev = TASKS["movie-polarity"].read(tmp_path)
    every = train.first + dev["dev"].first
    assert sorted(every) == sorted(f"snippet {i}" for i in range(50))
    assert (len(train), len(dev["dev"])) == (40, 10)
    for rows in (train, dev["dev"]):
        assert rows.labels.tolist() == [int(text.split()[1]) % 2 for text in rows.first]


def test_metrics_are_those_of_the_task() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    labels = np.array([0, 1, 0, 1])
    assert TASKS["sst-2"].score(logits, labels) == {"accuracy": 0.5}
    assert TASKS["mrpc"].score(logits, labels) == {"f1": 0.5, "accuracy": 0.5}
    assert TASKS["cola"].score(logits, labels) == {"matthews": 0.0}
    numbers = np.array([[0.1], [0.4], [0.2]])
    scores = TASKS["sts-b"].score(numbers, np.array([1.0, 4.0, 2.0]))
    assert scores == pytest.approx({"pearson": 1.0, "spearman": 1.0})

"""The slot tagger example: its sentences, its table and its errors, at a tiny size."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import trainer_token_cls
from ofa_slim import load_subnet
from trainer_token_cls import TAGS, TEMPLATES, rows, sentence, vocabulary

TINY = ["--sentences", "48", "--epochs", "1", "--hidden_size", "16", "--layers", "2", "--teacher_engine", "dygraph"]


def test_the_compressed_taggers_are_scored_beside_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    widths = ["--widths", "0.75", "0.5", "--importance_batches", "1"]
    assert trainer_token_cls.main([*TINY, *widths, "--output_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    lines = [re.fullmatch(r"\| (.+?) +\| +([\d,]+) \| +([\d.]+) \|", line) for line in printed[2:]]
    assert [line[1] for line in lines if line] == ["original", "width 0.75", "width 0.5"]
    counts = [int(line[2].replace(",", "")) for line in lines if line]
    small = load_subnet(tmp_path / "supernet" / "width_0.5")
    assert counts[2] == sum(parameter.size for parameter in small.parameters())
    assert counts[0] > counts[1] > counts[2]
    assert (tmp_path / "supernet" / "width_0.5" / "vocab.txt").is_file()


def test_every_word_of_a_sentence_is_one_token_with_a_tag(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokenizer = vocabulary(tmp_path)
    for unknown in (False, True):
        seen = set()
        for _ in range(300):
            words, tags = sentence(rng, unknown)
            assert len(words) == len(tags)
            assert all(before[2:] == tag[2:] for before, tag in pairwise(tags) if tag[0] == "I")
            assert (tokenizer.unk_token_id in tokenizer(words, is_split_into_words=True)["input_ids"]) == (
                unknown and any(tag[2:] in trainer_token_cls.NAMED for tag in tags)
            )
            seen.update(tags)
        assert seen <= set(TAGS)
    for row in rows(50, tokenizer, rng):
        assert len(row["input_ids"]) == len(row["labels"])
        assert row["labels"][0] == row["labels"][-1] == trainer_token_cls.IGNORED
    assert all(slot in "".join(TAGS) for template in TEMPLATES for slot in re.findall(r"\{(\w+)\}", template))


def test_mistakes_are_printed_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trainer_token_cls.main([*TINY, "--output_dir", str(tmp_path), "--widths", "1.5"]) == 1
    assert "error: widths: 1.5 is not a share" in capsys.readouterr().err

from __future__ import annotations

from pathlib import Path

import pytest

from ofa_slim.base.tokens import encode

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film", "and", "long"]


@pytest.mark.parametrize(
    "name", ["BertTokenizer", "ErnieTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer"]
)
def test_every_tokenizer_cuts_to_the_length(name: str, tmp_path: Path) -> None:
    from paddlenlp import transformers

    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokenizer = getattr(transformers, name)(str(tmp_path / "vocab.txt"))
    assert len(encode(tokenizer, "a fine film and a long film", None, 5)["input_ids"]) == 5
    assert len(encode(tokenizer, "a fine film", "a long film and a fine film", 9)["input_ids"]) == 9
    assert len(encode(tokenizer, "film", None, 9)["input_ids"]) == 3

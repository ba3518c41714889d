"""Small tokenizers of PaddleNLP with vocabularies of a few words, and texts for them."""

from __future__ import annotations

import collections
import json
import string
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

nlp: Any = pytest.importorskip("paddlenlp.transformers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["film", "fine", "long", "the", "and", "##ing", "##ly", "bor", "plot", "unused", "rare", "boring", "fi", "##ne"]
ENGLISH = [*SPECIAL, *string.ascii_lowercase, *(f"##{one}" for one in string.ascii_lowercase), *".,!", *WORDS]
CHINESE = [*SPECIAL, *string.ascii_lowercase, *(f"##{one}" for one in string.ascii_lowercase), *"这部电影很好看不错也"]
CHINESE = [*CHINESE, *(f"##{one}" for one in "这部电影很好看不错也")]
TEXTS = ["The film and the plot", "a fine film", "boring", "fine, long and boringly long!", ""]
STRANGE = [
    "",
    " ",
    "😀 fine 😀",
    "Привет мир",
    "שלום عالم",
    "ไทย 한국어 日本語",
    "fi\u0301ne\u200d\x00",
    "x" * 300,
    "[MASK] film",
]
PAIRS = [("a fine film", "the plot"), ("", "long")]


def word_pieces(folder: Path, words: list[str], name: str = "BertTokenizer") -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return getattr(nlp, name)(str(folder / "vocab.txt"))


def merges_of(texts: list[str], count: int) -> list[tuple[str, str]]:
    """Byte pairs in the order that they are most frequent in."""
    from paddlenlp.transformers.gpt.tokenizer import bytes_to_unicode

    symbols = bytes_to_unicode()
    words = [[symbols[byte] for byte in f" {word}".encode()] for text in texts for word in text.split()]
    found = []
    for _ in range(count):
        pairs = collections.Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        for word in words:
            place = 0
            while place + 1 < len(word):
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = ["".join(best)]
                place += 1
    return found


def byte_pairs(folder: Path, name: str) -> Any:
    from paddlenlp.transformers.gpt.tokenizer import bytes_to_unicode

    folder.mkdir(exist_ok=True)
    merges = merges_of(
        ["a fine film and the plot", "boring boringly long lengthy things", "unused rarely used use"], 60
    )
    begin = ["<s>", "<pad>", "</s>", "<unk>"] if name.startswith("Roberta") else []
    end = ["<mask>"] if begin else ["<|endoftext|>"]
    tokens = [*begin, *bytes_to_unicode().values(), *dict.fromkeys("".join(pair) for pair in merges), *end]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]), encoding="utf-8")
    return getattr(nlp, name)(str(folder / "vocab.json"), str(folder / "merges.txt"))

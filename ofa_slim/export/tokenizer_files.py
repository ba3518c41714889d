"""PaddleNLP's tokenizers with a part of their vocabulary: which tokens need which, and the rewriting of their files."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from ofa_slim.errors import ExportError


class TokenizerKind(Protocol):
    """How one kind of tokenizer keeps its vocabulary."""

    tokens: dict[str, int]

    def characters(self) -> set[str]:
        """The tokens that other tokens fall back to."""

    def ideographs(self) -> set[str]:
        """Chinese characters, each of which is a word of its own, so that no other token falls back to it."""

    def closed(self, kept: Iterable[str]) -> set[str]:
        """Some tokens and all that the tokenizer needs to form them."""

    def write(self, kept: Sequence[str], folder: Path) -> None:
        """Writes the files of a vocabulary of these tokens, in the order of their new ids."""


class WordPiece:
    """``vocab.txt``, a token a line; the longest token that fits is taken, so any part of it will do.

    Attributes:
        tokens: the id of each token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokens: dict[str, int] = dict(tokenizer.vocab.token_to_idx)
        basic = getattr(tokenizer, "basic_tokenizer", None)
        self._splits_chinese = basic is not None and getattr(basic, "tokenize_chinese_chars", True)

    def characters(self) -> set[str]:
        """Single characters, at the start of a word and inside one."""
        return {token for token in self.tokens if _is_character(token) and not self._is_split_off(token[-1])}

    def ideographs(self) -> set[str]:
        """Chinese characters; inside a word there are none, because the tokenizer splits them off before."""
        return {token for token in self.tokens if len(token) == 1 and self._is_split_off(token)}

    def _is_split_off(self, character: str) -> bool:
        return self._splits_chinese and _is_chinese(character)

    def closed(self, kept: Iterable[str]) -> set[str]:
        """The tokens themselves: none is formed from others."""
        return set(kept)

    def write(self, kept: Sequence[str], folder: Path) -> None:
        """Writes ``vocab.txt``."""
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in kept), encoding="utf-8", newline="\n")


class BytePairs:
    """``vocab.json`` and ``merges.txt``: tokens are formed of bytes by merges, the earliest merge first.

    Without a merge that no kept token is formed by, kept tokens are formed as before.

    Attributes:
        tokens: the id of each token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokens: dict[str, int] = dict(tokenizer.encoder)
        self._ranks: dict[tuple[str, ...], int] = dict(tokenizer.bpe_ranks)
        self._bytes = set(tokenizer.byte_encoder.values())

    def characters(self) -> set[str]:
        """The symbols of all 256 bytes, which every text consists of."""
        return {token for token in self._bytes if token in self.tokens}

    def ideographs(self) -> set[str]:
        """None: they are three bytes each."""
        return set()

    def closed(self, kept: Iterable[str]) -> set[str]:
        """The tokens and those that they are merged from."""
        chosen = set(kept)
        return chosen | {part for token in chosen for part in self._formed(token) if part in self.tokens}

    def _formed(self, token: str) -> list[str]:
        """What merges form on the way from bytes to a token."""
        parts, formed = list(token), []
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            parts = _merged(parts, best)
            formed.append("".join(best))
        return formed

    def merges(self) -> list[tuple[str, str]]:
        """The pairs that become one, the earliest merge first."""
        return [(pair[0], pair[1]) for pair in self._ranks if len(pair) == 2]

    def write(self, kept: Sequence[str], folder: Path) -> None:
        """Writes ``vocab.json`` and ``merges.txt``."""
        there = {*kept, *self._bytes, *(part for token in kept for part in self._formed(token))}
        merges = [pair for pair in self.merges() if {*pair, "".join(pair)} <= there]
        vocabulary = json.dumps({token: place for place, token in enumerate(kept)}, ensure_ascii=False)
        (folder / "vocab.json").write_text(vocabulary, encoding="utf-8", newline="\n")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8", newline="\n")


def _merged(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Parts of a word with each occurrence of a pair joined, from left to right."""
    merged: list[str] = []
    place = 0
    while place < len(parts):
        joined = tuple(parts[place : place + 2]) == pair
        merged.append("".join(pair) if joined else parts[place])
        place += 2 if joined else 1
    return merged


def _is_character(token: str) -> bool:
    return len(token) == 1 or (len(token) == 3 and token.startswith("##"))


def _is_chinese(character: str) -> bool:
    from paddlenlp.transformers.tokenizer_utils import is_chinese_char

    return bool(is_chinese_char(ord(character)))


def kind_of(tokenizer: Any) -> TokenizerKind:
    """How a tokenizer keeps its vocabulary.

    Raises: ExportError that names the class of a tokenizer whose files cannot be rewritten.
    """
    from paddlenlp.transformers import PretrainedTokenizer, WordpieceTokenizer

    files = getattr(tokenizer, "resource_files_names", {})
    if isinstance(tokenizer, PretrainedTokenizer):
        word_pieces = type(getattr(tokenizer, "wordpiece_tokenizer", None)) is WordpieceTokenizer
        if files == {"vocab_file": "vocab.txt"} and word_pieces:
            return WordPiece(tokenizer)
        byte_pairs = all(hasattr(tokenizer, name) for name in ("encoder", "bpe_ranks", "byte_encoder"))
        if files == {"vocab_file": "vocab.json", "merges_file": "merges.txt"} and byte_pairs:
            return BytePairs(tokenizer)
    raise ExportError(
        f"the vocabulary of a {type(tokenizer).__name__} cannot be rewritten; allowed are PaddleNLP's tokenizers of "
        "word pieces (vocab.txt: BERT, ERNIE, ELECTRA, ...) and of byte pairs (vocab.json and merges.txt: GPT, RoBERTa)"
    )


def all_tokens(kind: TokenizerKind, tokenizer: Any) -> dict[int, str]:
    """Every token of a tokenizer by its id, those that were added later included."""
    return {place: token for token, place in {**kind.tokens, **tokenizer.added_tokens_encoder}.items()}


def rewritten(kind: TokenizerKind, tokenizer: Any, kept: Sequence[str]) -> Any:
    """A tokenizer of the same class and settings with these tokens of its vocabulary.

    Args:
        kind: of the tokenizer.
        tokenizer: stays as it is.
        kept: tokens of its vocabulary, in the order of their new ids; those that were added later follow them.

    Raises: ExportError where the files do not read back to this vocabulary.
    """
    # Some of PaddleNLP's tokenizers copy their files from where they were read, whenever they are saved.
    folder = Path(tempfile.mkdtemp(prefix="ofa-slim-tokenizer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    added = sorted(tokenizer.added_tokens_encoder, key=tokenizer.added_tokens_encoder.__getitem__)
    expected = {token: place for place, token in enumerate([*kept, *added])}
    try:
        tokenizer.save_pretrained(str(folder))
        kind.write(kept, folder)
        if added:
            text = json.dumps({token: expected[token] for token in added}, ensure_ascii=False)
            (folder / "added_tokens.json").write_text(text, encoding="utf-8")
        found = type(tokenizer).from_pretrained(str(folder))
        there = {**kind_of(found).tokens, **found.added_tokens_encoder}
    except (OSError, ValueError, AssertionError, AttributeError, KeyError, TypeError) as error:
        raise ExportError(
            f"{type(tokenizer).__name__}: its files cannot be written and read again ({error})"
        ) from error
    if there != expected:
        wrong = next(iter({*there.items()} ^ {*expected.items()}))
        raise ExportError(f"{type(tokenizer).__name__}: the token {wrong[0]!r} does not read back from its files")
    return found

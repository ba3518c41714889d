"""Calling tokenizers, whose arguments differ from family to family."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any


def encode_tokens(tokenizer: Any, tokens: Sequence[str], max_length: int) -> tuple[list[int], list[int]]:
    """The ids of a list of tokens, and the place of the first id of each token.

    Args:
        tokenizer: one of PaddleNLP's.
        tokens: each is split into pieces by itself; one without any becomes the unknown token.
        max_length: pieces that do not fit are cut off.

    Returns: int lists; the places are fewer than the tokens where some were cut off.
    """
    pieces: list[int] = []
    starts: list[int] = []
    for token in tokens:
        starts.append(len(pieces))
        pieces += tokenizer.convert_tokens_to_ids(tokenizer.tokenize(token) or [tokenizer.unk_token])
    special = len(tokenizer.build_inputs_with_special_tokens([]))
    pieces = pieces[: max(0, max_length - special)]
    ids = list(tokenizer.build_inputs_with_special_tokens(pieces))
    before = list(tokenizer.build_inputs_with_special_tokens([-1])).index(-1)
    return ids, [before + start for start in starts if start < len(pieces)]


def encode(tokenizer: Any, text: str, pair: str | None, max_length: int) -> Any:
    """What one of PaddleNLP's tokenizers makes of a text or a pair of texts: lists by the name of the model's input.

    Args:
        tokenizer: called with ``max_length`` or, where it knows that name alone, ``max_seq_len``.
        text: the first text.
        pair: the second one; None for none.
        max_length: longer inputs are cut to this many tokens, the longer text first.
    """
    parameters = inspect.signature(tokenizer.__call__).parameters
    by_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    name = "max_length" if by_keyword or "max_length" in parameters else "max_seq_len"
    cut: dict[str, Any] = {name: max_length}
    if by_keyword or "truncation" in parameters:  # DistilBERT's calls it truncation_strategy, and has that by default
        cut["truncation"] = "longest_first"
    with warnings.catch_warnings():
        # Nobody asks for the tokens that were cut off.
        warnings.filterwarnings("ignore", message="Be aware, overflowing tokens are not returned")
        return tokenizer(text, **cut) if pair is None else tokenizer(text, pair, **cut)


def padding_of(tokenizer: Any) -> int:
    """The id that fills shorter rows: of padding, or of the end of a text where a tokenizer of a decoder has none."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return 0 if found is None else int(found)

"""Calling tokenizers, whose arguments differ from family to family."""

from __future__ import annotations

import inspect
import warnings
from typing import Any


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

"""`prune_vocabulary`: a model and its tokenizer with the tokens that a task's texts use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from paddle import nn

from ofa_slim.errors import ExportError
from ofa_slim.export.tokenizer_files import TokenizerKind, all_tokens, kind_of, rewritten
from ofa_slim.export.word_table import WordTable, word_table
from ofa_slim.supernet.handle import require_plain

Text = str | tuple[str, str]

_COMPARED = 256  # texts that are tokenised again, to prove that the rewritten tokenizer agrees


@dataclass(frozen=True)
class Coverage:
    """How much of some texts a pruned vocabulary holds.

    Attributes:
        texts: how many there are.
        tokens: how many tokens the original tokenizer makes of them.
        kept: share of these tokens that are kept, from 0 to 1.
        exact: share of the texts of which both tokenizers make the same tokens, so that both models compute the same.
        unknown_before: share of tokens that the original tokenizer does not know.
        unknown_after: share of tokens that the pruned one does not know; others are spelled by shorter tokens.
        length: tokens of the pruned tokenizer for one of the original.
    """

    texts: int
    tokens: int
    kept: float
    exact: float
    unknown_before: float
    unknown_after: float
    length: float


@dataclass(frozen=True)
class Pruning:
    """What was kept of a vocabulary.

    Attributes:
        kept: the original id of each token, in the order of the new ids.
        rows: of the original word table.
        parameters_before: of the model.
        parameters_after: of the pruned model.
        coverage: share of the counted tokens that are kept, from 0 to 1.
        held_out: of the texts that nothing was counted on; None where none were given.
    """

    kept: tuple[int, ...]
    rows: int
    parameters_before: int
    parameters_after: int
    coverage: float
    held_out: Coverage | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; of the tokens only their number."""
        held_out = None if self.held_out is None else vars(self.held_out)
        return {**vars(self), "kept": len(self.kept), "held_out": held_out}


class Pruned(NamedTuple):
    """A model and a tokenizer that belong together, and what was kept of the original ones."""

    model: nn.Layer
    tokenizer: Any
    report: Pruning


def prune_vocabulary(
    model: nn.Layer,
    tokenizer: Any,
    texts: Iterable[Text] | None = None,
    counts: Any = None,
    coverage: float = 1.0,
    *,
    ideographs: bool = True,
    held_out: Iterable[Text] | None = None,
) -> Pruned:
    """Makes a model and a tokenizer that know the tokens which some texts use, and no others.

    Besides these are kept: special tokens, tokens that were added to the tokenizer, the ids in the model's config,
    single characters (of byte pairs the bytes), and the tokens that byte pairs are merged from. Every other token is
    spelled by shorter ones, or is unknown. The word table, heads tied to it, other parameters of its size, ids and
    sizes in the config and the tokenizer's files change together. On texts whose tokens are all known and kept the
    new model computes what the given one does; this is checked before it is returned.

    Args:
        model: a plain model of PaddleNLP with one word table; stays as it is.
        tokenizer: PaddleNLP's, of word pieces (``vocab.txt``) or byte pairs (``vocab.json``); stays as it is.
        texts: strings or pairs of strings, whose tokens are counted.
        counts: in place of texts: how often each token occurs, by token, or ``[rows]`` by id; numbers of at least 0.
        coverage: share of all counted tokens to keep, above 0 and up to 1; the rarest are left out.
        ideographs: whether Chinese characters that do not occur are kept too. Without them a Chinese vocabulary becomes
            much smaller, and characters that were not seen become unknown.
        held_out: other texts, to report the coverage of.

    Returns: ``(model, tokenizer, report)``.

    Raises: ExportError for a supernet, a model without one word table, a tokenizer whose files cannot be rewritten, one
        that does not fit the model, and for counts, texts or a coverage that cannot be.
    """
    require_plain(model, "prune_vocabulary")
    if isinstance(coverage, bool) or not isinstance(coverage, (int, float)) or not 0 < coverage <= 1:
        raise ExportError(f"coverage is {coverage!r}, not a share above 0 and up to 1")
    if (texts is None) == (counts is None):
        raise ExportError("give prune_vocabulary either texts or counts")
    kind = kind_of(tokenizer)
    table = word_table(model)
    by_id = all_tokens(kind, tokenizer)
    if max(by_id) >= table.rows:
        raise ExportError(f"the tokenizer gives ids up to {max(by_id)}, the model's word table has {table.rows} rows")
    given = None if texts is None else _checked(texts, "texts")
    other = None if held_out is None else _checked(held_out, "held_out")
    numbers = _frequencies(counts, by_id, table.rows) if given is None else _counted(tokenizer, given, table.rows)
    kept = _chosen(kind, tokenizer, table, by_id, numbers, float(coverage), ideographs)
    small = rewritten(kind, tokenizer, [by_id[place] for place in kept if by_id[place] in kind.tokens])
    _check_tokens(tokenizer, small, kept, [*(given or ()), *(other or ())][:_COMPARED])
    pruned = table.pruned(kept, small.pad_token_id if isinstance(small.pad_token_id, int) else 0)
    report = Pruning(
        kept=tuple(kept),
        rows=table.rows,
        parameters_before=_parameters(model),
        parameters_after=_parameters(pruned),
        coverage=float(numbers[kept].sum() / numbers.sum()),
    )
    if other is not None:
        report = Pruning(**{**vars(report), "held_out": vocabulary_coverage(tokenizer, small, other)})
    return Pruned(pruned, small, report)


def vocabulary_coverage(tokenizer: Any, pruned: Any, texts: Iterable[Text]) -> Coverage:
    """How much of some texts a pruned tokenizer holds.

    Args:
        tokenizer: the original one.
        pruned: the one of `prune_vocabulary`.
        texts: strings or pairs of strings.

    Raises: ExportError for a tokenizer of another kind, or texts that are none.
    """
    kept = {**kind_of(pruned).tokens, **pruned.added_tokens_encoder}
    kind_of(tokenizer)
    rows = _checked(texts, "texts")
    exact = tokens = there = after = unknown = unknown_after = 0
    for row in rows:
        first = [token for text in _parts(row) for token in tokenizer.tokenize(text)]
        second = [token for text in _parts(row) for token in pruned.tokenize(text)]
        exact += first == second
        tokens, there, after = tokens + len(first), there + sum(token in kept for token in first), after + len(second)
        unknown += first.count(tokenizer.unk_token)
        unknown_after += second.count(pruned.unk_token)
    return Coverage(
        texts=len(rows),
        tokens=tokens,
        kept=there / tokens if tokens else 1.0,
        exact=exact / len(rows),
        unknown_before=unknown / max(tokens, 1),
        unknown_after=unknown_after / max(after, 1),
        length=after / tokens if tokens else 1.0,
    )


def _parts(text: Text) -> Sequence[str]:
    return (text,) if isinstance(text, str) else text


def _checked(texts: Any, name: str) -> list[Text]:
    if isinstance(texts, (str, Mapping)) or not isinstance(texts, Iterable):
        raise ExportError(f"{name} is a {type(texts).__name__}, not a list of strings")
    rows = list(texts)
    for place, row in enumerate(rows):
        pair = isinstance(row, (tuple, list)) and len(row) == 2 and all(isinstance(part, str) for part in row)
        if not isinstance(row, str) and not pair:
            raise ExportError(f"{name}: number {place} is {row!r}, not a string or a pair of strings")
    if not rows:
        raise ExportError(f"{name} is empty")
    return rows


def _counted(tokenizer: Any, texts: Sequence[Text], rows: int) -> np.ndarray:
    """How often each token occurs in some texts, float64 ``[rows]``."""
    numbers = np.zeros(rows)
    for row in texts:
        for text in _parts(row):
            ids = np.asarray(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)), dtype=np.int64)
            np.add.at(numbers, ids, 1)
    if not numbers.any():
        raise ExportError("texts hold no token: all of them are empty")
    return numbers


def _frequencies(counts: Any, by_id: Mapping[int, str], rows: int) -> np.ndarray:
    """Given counts, checked, float64 ``[rows]``."""
    numbers = np.zeros(rows)
    try:
        if isinstance(counts, Mapping):
            ids = {token: place for place, token in by_id.items()}
            for token, count in counts.items():
                if token not in ids:
                    raise ExportError(f"counts name {token!r}, which is not a token of the tokenizer")
                numbers[ids[token]] = count
        else:
            numbers = np.array(counts, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ExportError(f"counts are not numbers by token or by id ({error})") from error
    if numbers.shape != (rows,):
        raise ExportError(f"counts have shape {list(numbers.shape)}, the model's word table needs [{rows}]")
    if not (np.isfinite(numbers).all() and (numbers >= 0).all() and numbers.any()):
        raise ExportError("counts hold numbers below 0 or infinite ones, or are all 0")
    return numbers


def _chosen(
    kind: TokenizerKind,
    tokenizer: Any,
    table: WordTable,
    by_id: Mapping[int, str],
    numbers: np.ndarray,
    coverage: float,
    ideographs: bool,
) -> list[int]:
    """The ids to keep, in ascending order."""
    ids = {token: place for place, token in by_id.items()}
    needed = {*tokenizer.all_special_tokens, *tokenizer.unique_no_split_tokens, *tokenizer.added_tokens_encoder}
    needed |= kind.characters() | (kind.ideographs() if ideographs else set())
    chosen = {ids[token] for token in needed if token in ids}
    for name, place in table.special_ids():
        if place not in by_id:
            raise ExportError(f"the model's {name} is {place}, which is no token of the tokenizer")
        chosen.add(place)
    whole, covered = numbers.sum(), numbers[sorted(chosen)].sum()
    for place in np.argsort(-numbers, kind="stable"):
        if covered >= coverage * whole or not numbers[place]:
            break
        if int(place) not in chosen and int(place) in by_id:
            chosen.add(int(place))
            covered += numbers[place]
    return sorted(ids[token] for token in kind.closed(by_id[place] for place in chosen))


def _check_tokens(tokenizer: Any, small: Any, kept: Sequence[int], texts: Sequence[Text]) -> None:
    """Raises ExportError where a text whose tokens are all known and kept is tokenised in another way."""
    new = {place: number for number, place in enumerate(kept)}
    for row in texts:
        for text in _parts(row):
            tokens = tokenizer.tokenize(text)
            before = [new.get(place) for place in tokenizer.convert_tokens_to_ids(tokens)]
            # A word that is unknown for a part of it may become known where another part is spelled otherwise.
            proven = None not in before and tokenizer.unk_token not in tokens
            if proven and before != small.convert_tokens_to_ids(small.tokenize(text)):
                raise ExportError(
                    f"{type(tokenizer).__name__}: with the kept tokens alone it makes other tokens of {text!r}; its "
                    "vocabulary cannot be rewritten"
                )


def _parameters(model: nn.Layer) -> int:
    return sum(int(np.prod(parameter.shape)) for parameter in model.parameters())

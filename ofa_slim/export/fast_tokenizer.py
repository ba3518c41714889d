"""PaddleNLP's tokenizers as those of the library `tokenizers`: one file, ``tokenizer.json``, without PaddleNLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ofa_slim.base.tokens import encode, padding_of
from ofa_slim.errors import ExportError
from ofa_slim.export.tokenizer_files import BytePairs, WordPiece, kind_of

# PaddleNLP makes a word of each symbol, as BERT does of punctuation; by the category of Unicode, and these besides.
_SYMBOL = r"[\p{S}\u00AD\u00B2\u00BA\u3007\u00B5\u00D8\u014B\u01B1]"
_PROBES = (
    "",
    "It's 1st-rate, I'd say: naïve & ÉCLAIR!",
    "  two   spaces\tand\na line ",
    "價格是 3 元。",
    "ok ✓ 👍 $5 <s>",
)
_UNASSIGNED = r"\p{Cn}"  # it drops these, as it drops control characters


def fast_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer of the library `tokenizers` that gives the same ids.

    Args:
        tokenizer: of PaddleNLP: of word pieces or byte pairs.

    Returns: a `tokenizers.Tokenizer`; it pads batches and cuts nothing.

    Raises: ExportError for another kind of tokenizer, or one that gives other ids.
    """
    from tokenizers import AddedToken, Tokenizer, processors

    kind = kind_of(tokenizer)
    fast: Tokenizer
    fast = (
        _word_pieces(tokenizer, kind) if isinstance(kind, WordPiece) else _byte_pairs(tokenizer, cast(BytePairs, kind))
    )
    known = {**kind.tokens, **tokenizer.added_tokens_encoder}
    eats_space = {str(one): (one.lstrip, one.rstrip) for one in _described(tokenizer)}
    fast.add_special_tokens(
        [
            AddedToken(token, normalized=False, lstrip=left, rstrip=right)
            for token in dict.fromkeys(tokenizer.unique_no_split_tokens)
            if token in known
            for left, right in [eats_space.get(token, (True, True))]
        ]
    )
    single, pair = _pieces(tokenizer, 1), _pieces(tokenizer, 2)
    names = {piece.rsplit(":", 1)[0] for piece in single + pair if not piece.startswith("$")}
    fast.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, known[name]) for name in names]
    )
    fast.enable_padding(pad_id=(padding := padding_of(tokenizer)), pad_token=fast.id_to_token(padding))
    for text in _PROBES:
        wanted, found = encode(tokenizer, text, None, 1 << 20)["input_ids"], fast.encode(text).ids
        if found != wanted:
            raise ExportError(f"{type(tokenizer).__name__}: tokenizer.json gives {found} for {text!r}, not {wanted}")
    return fast


def _described(tokenizer: Any) -> list[Any]:
    """The special tokens that say which spaces beside them they take along; all others take both."""
    return [token for token in tokenizer.all_special_tokens_extended if not isinstance(token, str)]


def _word_pieces(tokenizer: Any, kind: WordPiece) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    basic = getattr(tokenizer, "basic_tokenizer", None)
    if basic is None:
        raise ExportError(f"{type(tokenizer).__name__} splits texts into words in a way of its own")
    pieces = tokenizer.wordpiece_tokenizer
    fast = Tokenizer(
        models.WordPiece(
            {**kind.tokens, **tokenizer.added_tokens_encoder},
            unk_token=str(pieces.unk_token),
            max_input_chars_per_word=pieces.max_input_chars_per_word,
        )
    )
    normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=basic.tokenize_chinese_chars,
        strip_accents=basic.do_lower_case if basic.strip_accents is None else basic.strip_accents,
        lowercase=basic.do_lower_case,
    )
    fast.normalizer = normalizers.Sequence([normalizers.Replace(Regex(_UNASSIGNED), ""), normalizer])
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(_SYMBOL), "isolated")]
    )
    return fast


def _byte_pairs(tokenizer: Any, kind: BytePairs) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = {**kind.tokens, **tokenizer.added_tokens_encoder}
    fast = Tokenizer(models.BPE(tokens, kind.merges(), unk_token=str(tokenizer.unk_token)))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(tokenizer.add_prefix_space))
    fast.decoder = decoders.ByteLevel()
    return fast


def _pieces(tokenizer: Any, texts: int) -> list[str]:
    """What a template of `tokenizers` says of one text or two: special tokens and places, each with its type."""
    marks = [-1, -2][:texts]
    lists = [[mark] for mark in marks]
    ids: Sequence[int] = tokenizer.build_inputs_with_special_tokens(*lists)
    types: Sequence[int] = tokenizer.create_token_type_ids_from_sequences(*lists)
    if len(types) != len(ids):
        types = [0] * len(ids)
    names = {-1: "$A", -2: "$B"}
    return [
        f"{names.get(one) or tokenizer.convert_ids_to_tokens(int(one))}:{kind}"
        for one, kind in zip(ids, types, strict=True)
    ]

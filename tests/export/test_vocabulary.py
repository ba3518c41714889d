from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

import ofa_slim
from families import HIDDEN, maker
from ofa_slim import OFA, Convert, factorise_embeddings, load_subnet, prune_vocabulary, save_subnet, supernet
from ofa_slim.errors import ExportError
from ofa_slim.export.formats import write_formats
from ofa_slim.export.formats.pipeline import TextTask
from ofa_slim.export.vocabulary import vocabulary_coverage
from releases import PADDLENLP_3
from small_tokenizers import CHINESE, ENGLISH, PAIRS, STRANGE, TEXTS, WORDS, byte_pairs, word_pieces

nlp: Any = pytest.importorskip("paddlenlp.transformers")


def bert(rows: int, name: str = "Bert", ending: str = "ForSequenceClassification", **more: Any) -> Any:
    return maker(name, ending)(**{"vocab_size": rows, "max_position_embeddings": 400, **more})


def logits(model: Any, tokenizer: Any, text: Any) -> np.ndarray:
    parts = (text,) if isinstance(text, str) else text
    ids = paddle.to_tensor([tokenizer(*parts)["input_ids"] or [tokenizer.pad_token_id]])
    with paddle.no_grad():
        found = model(ids)
    return np.asarray(found[0] if isinstance(found, tuple) else found)


def state_of(model: nn.Layer) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def assert_same_answers(model: Any, tokenizer: Any, pruned: Any, texts: list[Any]) -> None:
    for text in texts:
        np.testing.assert_array_equal(logits(model, tokenizer, text), logits(pruned.model, pruned.tokenizer, text))


def test_texts_whose_tokens_are_kept_get_the_same_logits(tmp_path: Path) -> None:
    tokenizer, model = word_pieces(tmp_path / "t", ENGLISH), bert(len(ENGLISH))
    before, words, config = state_of(model), tokenizer.get_vocab(), model.config.to_dict()
    pruned = prune_vocabulary(model, tokenizer, [*TEXTS, *PAIRS])
    assert_same_answers(model, tokenizer, pruned, [*TEXTS, *PAIRS])
    dropped = {"unused", "rare", "fi", "##ne", "bor"}
    assert set(pruned.tokenizer.get_vocab()) == set(ENGLISH) - dropped - {"##ing"}
    rows = len(pruned.report.kept)
    assert pruned.model.config.vocab_size == rows == pruned.model.bert.embeddings.word_embeddings.weight.shape[0]
    assert pruned.report.coverage == 1.0
    assert pruned.report.parameters_before - pruned.report.parameters_after == 6 * HIDDEN
    for key, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[key])
    assert tokenizer.get_vocab() == words
    assert model.config.to_dict() == config


def test_other_texts_are_spelled_by_shorter_tokens_or_unknown(tmp_path: Path) -> None:
    tokenizer, model = word_pieces(tmp_path / "t", ENGLISH), bert(len(ENGLISH))
    pruned = prune_vocabulary(model, tokenizer, TEXTS, held_out=["rare", "unused film", "a film", "😀"])
    assert tokenizer.tokenize("rare") == ["rare"]
    assert pruned.tokenizer.tokenize("rare") == ["r", "##a", "##r", "##e"]
    assert pruned.tokenizer.tokenize("😀") == ["[UNK]"]
    found = pruned.report.held_out
    assert found is not None
    assert (found.texts, found.tokens, found.kept, found.exact) == (4, 6, 4 / 6, 0.5)
    assert (found.unknown_before, found.unknown_after) == (1 / 6, 1 / 14)
    assert vocabulary_coverage(tokenizer, pruned.tokenizer, [""]).kept == 1.0
    for text in STRANGE:
        assert np.isfinite(logits(pruned.model, pruned.tokenizer, text)).all()


def test_coverage_leaves_the_rarest_tokens_out(tmp_path: Path) -> None:
    tokenizer, model = word_pieces(tmp_path / "t", ENGLISH), bert(len(ENGLISH))
    counts = {"film": 90, "the": 7, "rare": 2, "unused": 1}
    for coverage, kept in ((0.9, {"film"}), (0.97, {"film", "the"}), (1.0, set(counts))):
        pruned = prune_vocabulary(model, tokenizer, counts=counts, coverage=coverage)
        assert set(pruned.tokenizer.get_vocab()) & set(WORDS) == kept
        assert coverage <= pruned.report.coverage == sum(counts[word] for word in kept) / 100
    by_id = np.zeros(len(ENGLISH))
    by_id[ENGLISH.index("plot")] = 3
    assert set(prune_vocabulary(model, tokenizer, counts=by_id).tokenizer.get_vocab()) & set(WORDS) == {"plot"}


def test_a_chinese_vocabulary_keeps_characters_where_asked(tmp_path: Path) -> None:
    tokenizer = word_pieces(tmp_path / "t", CHINESE, "ErnieTokenizer")
    model = bert(len(CHINESE), "Ernie")
    texts = ["这部电影很好看", "电影", "", "abc 电"]
    pruned = prune_vocabulary(model, tokenizer, texts)
    assert_same_answers(model, tokenizer, pruned, [*texts, "不错也"])  # these characters did not occur
    assert not any(token.startswith("##") and ord(token[-1]) > 127 for token in pruned.tokenizer.get_vocab())
    smaller = prune_vocabulary(model, tokenizer, texts, ideographs=False)
    assert_same_answers(model, tokenizer, smaller, texts)
    assert smaller.tokenizer.tokenize("不好 xy") == ["[UNK]", "好", "x", "##y"]
    for text in STRANGE:
        assert np.isfinite(logits(smaller.model, smaller.tokenizer, text)).all()


@pytest.mark.parametrize(("name", "family"), [("RobertaBPETokenizer", "Roberta"), ("GPTTokenizer", "GPT")])
def test_byte_pairs_lose_merges_that_no_kept_token_needs(name: str, family: str, tmp_path: Path) -> None:
    tokenizer = byte_pairs(tmp_path / "t", name)
    pad = tokenizer.pad_token_id
    model = bert(len(tokenizer), family, pad_token_id=pad, eos_token_id=tokenizer.eos_token_id)
    texts = ["a fine film and the plot", "boring", "long things", ""]
    pruned = prune_vocabulary(model, tokenizer, texts)
    assert len(pruned.tokenizer) < len(tokenizer)
    assert len(pruned.tokenizer.bpe_ranks) < len(tokenizer.bpe_ranks)
    assert pruned.model.config.pad_token_id == pruned.tokenizer.pad_token_id
    assert pruned.model.config.eos_token_id == pruned.tokenizer.eos_token_id
    assert_same_answers(model, tokenizer, pruned, [*texts, "film and plot", "the thing"])
    for text in [*STRANGE, "boringly unused lengthy"]:
        assert np.isfinite(logits(pruned.model, pruned.tokenizer, text)).all()
        if "[MASK]" not in text:
            assert pruned.tokenizer.convert_tokens_to_string(pruned.tokenizer.tokenize(text)) == text


@pytest.mark.parametrize(
    ("family", "ending"),
    [
        ("Bert", "ForMaskedLM"), ("Ernie", "ForMaskedLM"), ("Roberta", "ForMaskedLM"), ("Electra", "Generator"),
        ("Electra", "ForTokenClassification"), ("GPT", "ForCausalLM"), ("TinyBert", "ForSequenceClassification"),
        ("DistilBert", "ForMaskedLM"), ("Albert", "ForMaskedLM"),
    ],
)  # fmt: skip
def test_heads_over_the_vocabulary_are_cut_with_the_table(family: str, ending: str, tmp_path: Path) -> None:
    tokenizer = word_pieces(tmp_path / "t", ENGLISH)
    more = {"embedding_size": 8} if family in ("Electra", "Albert") else {}
    more |= {"num_hidden_groups": 1, "inner_group_num": 1} if family == "Albert" else {}
    model = bert(len(ENGLISH), family, ending, **more)
    pruned = prune_vocabulary(model, tokenizer, TEXTS)
    kept = list(pruned.report.kept)
    for text in TEXTS:
        before, after = logits(model, tokenizer, text), logits(pruned.model, pruned.tokenizer, text)
        before = before[..., kept] if before.shape[-1] == len(ENGLISH) else before
        np.testing.assert_allclose(after, before, atol=1e-6)
    one, other = model.state_dict(), pruned.model.state_dict()
    tied = [(first, second) for first in one for second in one if one[first] is one[second]]
    assert tied == [(first, second) for first in other for second in other if other[first] is other[second]]
    pruned.model.save_pretrained(str(tmp_path / "m"))
    again = type(model).from_pretrained(str(tmp_path / "m"))
    again.eval()
    np.testing.assert_array_equal(
        logits(again, pruned.tokenizer, TEXTS[0]), logits(pruned.model, pruned.tokenizer, TEXTS[0])
    )


def test_model_and_tokenizer_are_saved_and_read_again(tmp_path: Path) -> None:
    tokenizer, model = word_pieces(tmp_path / "t", ENGLISH), bert(len(ENGLISH))
    pruned = prune_vocabulary(model, tokenizer, TEXTS)
    pruned.tokenizer.save_pretrained(str(tmp_path / "saved"))
    pruned.model.save_pretrained(str(tmp_path / "saved"))
    save_subnet(pruned.model, tmp_path / "subnet")
    again = nlp.AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    for found in (type(model).from_pretrained(str(tmp_path / "saved")), load_subnet(tmp_path / "subnet")):
        found.eval()
        for text in TEXTS:
            np.testing.assert_array_equal(logits(found, again, text), logits(model, tokenizer, text))
    twice = prune_vocabulary(pruned.model, pruned.tokenizer, ["film"])
    assert_same_answers(model, tokenizer, twice, ["film"])


@pytest.mark.skipif(PADDLENLP_3, reason="tokens added to PaddleNLP 3's tokenizers do not read back; this is refused")
def test_added_tokens_and_rows_without_a_token(tmp_path: Path) -> None:
    tokenizer = word_pieces(tmp_path / "t", ENGLISH)
    tokenizer.add_tokens(["<user>"])
    model = bert(len(ENGLISH) + 8)
    pruned = prune_vocabulary(model, tokenizer, TEXTS)
    assert pruned.tokenizer.convert_tokens_to_ids("<user>") == len(pruned.report.kept) - 1
    assert_same_answers(model, tokenizer, pruned, ["<user> film", *TEXTS])


def test_a_pruned_model_trains_searches_and_factorises(tmp_path: Path) -> None:
    tokenizer, model = word_pieces(tmp_path / "t", ENGLISH), bert(len(ENGLISH))
    pruned = prune_vocabulary(model, tokenizer, TEXTS)
    table = pruned.model.bert.embeddings.word_embeddings.weight
    old = table.numpy()
    ids = paddle.to_tensor([pruned.tokenizer("a fine film")["input_ids"]])
    optimizer = paddle.optimizer.Adam(0.01, parameters=pruned.model.parameters())
    F.cross_entropy(pruned.model(ids), paddle.to_tensor([1])).backward()
    optimizer.step()
    assert not np.array_equal(old, table.numpy())
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(pruned.model))
    with pytest.raises(ExportError, match="plain model"):
        prune_vocabulary(ofa.model, pruned.tokenizer, TEXTS)
    small = ofa.export(config=ofa.supernet.space.smallest())
    again = prune_vocabulary(small, pruned.tokenizer, ["film"])
    assert_same_answers(small, pruned.tokenizer, again, ["film"])
    factorise_embeddings(small, 4)
    assert_same_answers(small, pruned.tokenizer, prune_vocabulary(small, pruned.tokenizer, ["film"]), ["film"])


@pytest.mark.slow
@pytest.mark.usefixtures("forked_models")
def test_every_format_and_the_pipeline_answer_as_the_original(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    tokenizer, model = word_pieces(tmp_path / "t", ENGLISH), bert(len(ENGLISH))
    pruned = prune_vocabulary(model, tokenizer, TEXTS)
    rng = np.random.default_rng(0)
    samples = [{"input_ids": rng.integers(0, len(pruned.report.kept), (32, length))} for length in (5, 12)]
    formats = ("plain", "inference", "onnx", "onnx-int8", "onnx-int8-static")
    task = TextTask("mood", ("bad", "so-so", "good"), 12).to_dict()
    write_formats(
        pruned.model, tmp_path / "out", samples, formats, tokenizer=pruned.tokenizer, task=task, score=lambda run: 0.0
    )
    for name in formats:
        answers = ofa_slim.pipeline(tmp_path / "out" / name)([*TEXTS, *STRANGE])
        assert len(answers) == len(TEXTS) + len(STRANGE)
        if name in ("plain", "inference", "onnx"):
            for text, answer in zip(TEXTS, answers, strict=False):
                expected = F.softmax(paddle.to_tensor(logits(model, tokenizer, text))).numpy().max()
                assert answer["score"] == pytest.approx(float(expected), abs=1e-4)


class NoTable(nn.Layer):
    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coverage": 0}, "coverage is 0"),
        ({"coverage": True}, "coverage is True"),
        ({"texts": None}, "either texts or counts"),
        ({"counts": {"film": 1}}, "either texts or counts"),
        ({"texts": "film"}, "texts is a str"),
        ({"texts": []}, "texts is empty"),
        ({"texts": ["film", 3]}, "number 1 is 3"),
        ({"texts": ["", " "]}, "no token"),
        ({"texts": None, "counts": {"no-such": 1}}, "'no-such'"),
        ({"texts": None, "counts": [1, 2]}, r"\[2\]"),
        ({"texts": None, "counts": {"film": -1}}, "below 0"),
        ({"texts": None, "counts": {"film": "often"}}, "not numbers"),
        ({"model": NoTable()}, "NoTable is not a model of PaddleNLP"),
        ({"tokenizer": str.split}, "vocabulary of a method_descriptor"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"model": bert(len(ENGLISH)), "tokenizer": word_pieces(tmp_path / "t", ENGLISH), "texts": TEXTS}
    with pytest.raises(ExportError, match=message):
        prune_vocabulary(**{**given, **arguments})


def test_tokenizers_and_models_that_cannot_be_pruned_are_named(tmp_path: Path) -> None:
    tokenizer = word_pieces(tmp_path / "t", ENGLISH)
    with pytest.raises(ExportError, match=r"ids up to \d+, the model's word table has 20 rows"):
        prune_vocabulary(bert(20), tokenizer, TEXTS)
    as_many = bert(len(ENGLISH), max_position_embeddings=len(ENGLISH))
    assert_same_answers(as_many, tokenizer, prune_vocabulary(as_many, tokenizer, TEXTS), TEXTS)
    with pytest.raises(ExportError, match="as intermediate_size"):
        prune_vocabulary(bert(len(ENGLISH), intermediate_size=len(ENGLISH)), tokenizer, TEXTS)

    class PiecesOfSentences(nlp.BertTokenizer):
        resource_files_names: ClassVar = {"vocab_file": "sentencepiece.model"}

    other = PiecesOfSentences(str(tmp_path / "t" / "vocab.txt"))
    with pytest.raises(ExportError, match="PiecesOfSentences cannot be rewritten"):
        prune_vocabulary(bert(len(ENGLISH)), other, TEXTS)


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    tokenizer, model = word_pieces(tmp_path / "t", ENGLISH), bert(len(ENGLISH))
    names = {"model": model, "tokenizer": tokenizer, "texts": [*TEXTS, *PAIRS]}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(code, names)
    small = nlp.BertForSequenceClassification.from_pretrained("small")
    assert small.config.vocab_size == len(names["tokenizer"]) < len(ENGLISH)

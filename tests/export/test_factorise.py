from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from models import VOCABULARY, Tagger, batch, bert, difference, labels, ofa_of
from ofa_slim import SubnetConfig, factorise_embeddings, load_subnet, save_subnet, to_static
from ofa_slim.base.examples import random_example
from ofa_slim.errors import ExportError
from ofa_slim.export.factorise import factors, largest_rank
from ofa_slim.export.factorised_embedding import FactorisedEmbedding
from ofa_slim.measure.cost import measured_cost

WORDS = "bert.embeddings.word_embeddings"
RANK = 5


def table_of(model: Any) -> np.ndarray:
    return np.asarray(model.bert.embeddings.word_embeddings.weight)


def best(table: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(table.astype(np.float64), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def with_best_table(model: Any, rank: int) -> Any:
    weight = model.bert.embeddings.word_embeddings.weight
    weight.set_value(paddle.to_tensor(best(table_of(model), rank).astype("float32")))
    return model


class Reader(nn.Layer):
    """Reads its table again to say which word is meant, without keeping it under a second name."""

    def __init__(self, padding_idx: int | None = None, sparse: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16, padding_idx=padding_idx, sparse=sparse)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return paddle.matmul(self.embed(ids), self.embed.weight, transpose_y=True)


class Tied(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.decoder_weight = self.embed.weight

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return paddle.matmul(self.embed(ids), self.decoder_weight, transpose_y=True)


class Shared(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(VOCABULARY, 16)
        self.target = self.source

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.source(ids) + self.target(ids + 1 - 1)


def test_a_model_computes_what_it_does_with_the_best_table_of_that_rank() -> None:
    model = bert()
    wanted = with_best_table(copy.deepcopy(model), RANK)
    before = table_of(model).astype(np.float64)
    (found,) = factorise_embeddings(model, RANK)
    assert difference(model(*batch()), wanted(*batch())) < 1e-5
    lost = before - best(before, RANK)
    assert found.error == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(before), rel=1e-6)
    assert (found.name, found.rows, found.width, found.rank) == (WORDS, VOCABULARY, 16, RANK)
    assert found.weighted_error is None
    cosines = F.cosine_similarity(paddle.to_tensor(before), paddle.to_tensor(before - lost), axis=-1)
    assert found.cosine == pytest.approx(float(cosines.mean()), rel=1e-6)


def test_parameters_and_operations_are_counted_as_they_are() -> None:
    model = ofa_of(bert()).export(config=SubnetConfig({"encoder.0.heads": 2, "encoder.1.ffn": 7}))
    probe = random_example(model, [[2, 9], [2, 9]])
    before = measured_cost(model, probe)
    (found,) = factorise_embeddings(model, RANK)
    after = measured_cost(model, probe)
    assert found.parameters_before == 16 * VOCABULARY
    assert (
        found.parameters_after
        == RANK * (VOCABULARY + 16)
        == sum(int(parameter.size) for parameter in model.bert.embeddings.word_embeddings.parameters())
    )
    assert before.params - after.params == found.parameters_before - found.parameters_after
    assert after.params == sum(int(parameter.size) for parameter in model.parameters())
    assert after.flops - before.flops == 2 * 9 * RANK * 16
    assert after.activation_bytes - before.activation_bytes == 2 * 9 * RANK * 4


def test_rows_that_are_used_more_keep_more() -> None:
    counts = np.zeros(VOCABULARY)
    counts[:RANK] = 3  # as many rows as the rank: these lose nothing
    model = bert()
    before = table_of(model)
    (weighted,) = factorise_embeddings(model, RANK, frequencies=counts)
    after = table_of(model)
    np.testing.assert_allclose(after[:RANK], before[:RANK], atol=1e-5)
    assert weighted.weighted_error == pytest.approx(0, abs=1e-6)
    assert weighted.error > 0.1
    # Fewer rows that count than the rank has directions: the others choose the rest, as well as they can.
    counts[2:] = 0
    rows, columns = factors(before.astype(np.float64), RANK, counts)
    rest = before - before @ columns[:2].T @ columns[:2]
    np.testing.assert_allclose(rows @ columns - (before - rest), best(rest, RANK - 2), atol=1e-3)


def test_it_trains_on_as_the_table_did() -> None:
    model = bert()
    model.train()
    factorise_embeddings(model, RANK)
    layer = model.bert.embeddings.word_embeddings
    assert all(part.training for part in layer.sublayers(include_self=True))
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    before = [parameter.clone() for parameter in layer.parameters()]
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(model(*batch()), labels())
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(difference(now, then) > 0 for now, then in zip(layer.parameters(), before, strict=True))
    frozen = bert()
    frozen.eval()
    frozen.bert.embeddings.word_embeddings.weight.stop_gradient = True
    factorise_embeddings(frozen, RANK)
    assert not any(part.training for part in frozen.sublayers(include_self=True))
    assert all(parameter.stop_gradient for parameter in frozen.bert.embeddings.word_embeddings.parameters())


def test_the_largest_rank_is_the_last_one_that_saves() -> None:
    for rows, width in ((6, 3), (50, 16), (30522, 384), (7, 1), (1, 1)):
        most = largest_rank(rows, width)
        assert most * (rows + width) < rows * width <= (most + 1) * (rows + width)


def test_it_draws_no_random_numbers() -> None:
    model = bert()
    paddle.seed(7)
    factorise_embeddings(model, RANK)
    drawn = paddle.rand([3])
    paddle.seed(7)
    assert difference(drawn, paddle.rand([3])) == 0


def test_padding_stays_zero_and_sparse_gradients_stay_sparse() -> None:
    model = Reader(padding_idx=3, sparse=True)
    factorise_embeddings(model, RANK)
    out = model.embed(paddle.to_tensor([[3, 4]]))
    assert float(out[0, 0].abs().max()) == 0 < float(out[0, 1].abs().max())
    out.sum().backward()
    assert model.embed.table.weight.grad.is_selected_rows()


def test_a_forward_that_reads_the_table_reads_the_product() -> None:
    model = Reader()
    table = np.asarray(model.embed.weight)
    factorise_embeddings(model, RANK)
    ids, _ = batch()
    product = best(table, RANK)
    np.testing.assert_allclose(model(ids).numpy(), product[ids.numpy()] @ product.T, atol=1e-4)
    model(ids).sum().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in model.embed.parameters())


def test_names_choose_the_tables() -> None:
    model, others = bert(), ["bert.embeddings.position_embeddings", WORDS]
    found = factorise_embeddings(model, 2, others)
    assert [one.name for one in found] == others
    assert isinstance(model.bert.embeddings.position_embeddings, FactorisedEmbedding)
    counts = {others[0]: np.ones(32), others[1]: np.ones(VOCABULARY)}
    (alike, _) = factorise_embeddings(bert(), 2, others, frequencies=counts)
    assert alike.weighted_error == pytest.approx(alike.error)
    (one,) = factorise_embeddings(bert(), 2, others[0])
    assert one.rows == 32


def supernet() -> nn.Layer:
    return ofa_of(bert()).model


def masked_lm() -> nn.Layer:
    from paddlenlp.transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    return BertForMaskedLM(config)


def twice() -> nn.Layer:
    model = bert()
    factorise_embeddings(model, RANK)
    return model


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (bert, {"rank": 0}, "rank is 0, not a whole number of at least 1"),
        (bert, {"rank": True}, "rank is True"),
        (bert, {"rank": 2.5}, r"rank is 2\.5"),
        (bert, {"rank": 13}, r"rank 13 saves nothing .*13 x \(50 \+ 16\) .* 50 x 16; allowed is at most 12"),
        (bert, {"names": "bert.embeddings.word_embedings"}, f"did you mean '{WORDS}'"),
        (bert, {"names": "bert.pooler.dense"}, "'bert.pooler.dense' is not a paddle.nn.Embedding"),
        (bert, {"names": []}, "names is empty"),
        (twice, {}, f"'{WORDS}' is factorised already, with rank {RANK}"),
        (lambda: nn.Linear(2, 2), {}, "this Linear holds no paddle.nn.Embedding"),
        (lambda: nn.Embedding(50, 16), {}, "this Embedding holds no paddle.nn.Embedding that"),
        (supernet, {}, r"cut one out of the supernet with OFA\.export first"),
        (Tied, {}, "'embed' is tied: its table is also 'decoder_weight'"),
        (Shared, {}, "'source' is tied: its table is also 'target.weight'"),
        (masked_lm, {}, r"is tied: its table is also 'cls\.predictions\.decoder\.weight'"),
        (bert, {"frequencies": np.ones(49)}, r"have shape \[49\], its table needs \[50\]"),
        (bert, {"frequencies": -np.ones(50)}, "numbers below 0"),
        (bert, {"frequencies": np.zeros(50)}, "all 0"),
        (bert, {"frequencies": {"words": np.ones(50)}}, "frequencies are given for words; to be factorised are bert"),
    ],
)
def test_what_cannot_be_meant_is_named_and_nothing_changes(
    make: Callable[[], nn.Layer], arguments: dict[str, Any], message: str
) -> None:
    model = make()
    before = {key: (id(value), value.numpy()) for key, value in model.state_dict().items()}
    with pytest.raises(ExportError, match=message):
        factorise_embeddings(model, **{"rank": RANK, **arguments})
    after = {key: (id(value), value.numpy()) for key, value in model.state_dict().items()}
    assert list(after) == list(before)
    for key, (number, value) in after.items():
        assert number == before[key][0]
        np.testing.assert_array_equal(value, before[key][1])


def test_a_model_that_computes_something_else_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bert()
    expected, before = model(*batch()), dict(model.named_parameters())
    monkeypatch.setattr(FactorisedEmbedding, "forward", lambda self, x: 1.01 * self.projection(self.table(x)))
    with pytest.raises(ExportError, match="factorise_embeddings: outputs differ"):
        factorise_embeddings(model, RANK)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[key] is before[key] for key in after)
    assert model.bert.embeddings.word_embeddings._embedding_dim == 16
    assert difference(model(*batch()), expected) == 0


def test_a_saved_one_comes_back_and_trains_on(tmp_path: Path) -> None:
    config = SubnetConfig({"encoder.0.heads": 1, "encoder.2.ffn": 5, "encoder.depth": 2})
    model = ofa_of(bert(layers=3)).export(config=config)
    factorise_embeddings(model, RANK)
    save_subnet(model, tmp_path / "out")
    loaded = load_subnet(tmp_path / "out")
    assert difference(loaded(*batch()), model(*batch())) == 0
    assert loaded.bert.embeddings.word_embeddings.rank == RANK
    save_subnet(loaded, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "subnet.json").read_text())["factorised"] == {WORDS: RANK}
    F.cross_entropy(loaded(*batch()), labels()).backward()
    assert all(part.grad is not None for part in loaded.bert.embeddings.word_embeddings.parameters())


def test_a_hand_written_one_is_rebuilt_in_a_fresh_one(tmp_path: Path) -> None:
    model = Tagger()
    model.eval()
    factorise_embeddings(model, RANK)
    save_subnet(model, tmp_path / "out")
    ids, _ = batch()
    assert difference(load_subnet(tmp_path / "out", Tagger())(ids), model(ids)) < 1e-6
    there = Tagger()
    factorise_embeddings(there, RANK)
    assert difference(load_subnet(tmp_path / "out", there)(ids), model(ids)) < 1e-6
    other = Tagger()
    factorise_embeddings(other, RANK - 1)
    with pytest.raises(ExportError, match="names embedding 'embed', which the model does not have so"):
        load_subnet(tmp_path / "out", other)


@pytest.mark.parametrize(
    ("factorised", "message"),
    [
        ([], r"'factorised' in subnet\.json is \[\]"),
        ({WORDS: 0}, "the rank 0"),
        ({WORDS: 16}, "the rank 16"),
        ({WORDS: "5"}, "the rank '5'"),
        ({"bert.pooler": 5}, "names embedding 'bert.pooler'"),
        ({}, "names layer '.*word_embeddings"),
    ],
)
def test_damaged_ranks_are_named(tmp_path: Path, factorised: Any, message: str) -> None:
    save_subnet(twice(), tmp_path / "out")
    file = tmp_path / "out" / "subnet.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "factorised": factorised}))
    with pytest.raises(ExportError, match=message):
        load_subnet(tmp_path / "out")


def test_saves_from_before_there_were_ranks_are_still_read(tmp_path: Path) -> None:
    model = bert()
    save_subnet(model, tmp_path / "out")
    file = tmp_path / "out" / "subnet.json"
    about = json.loads(file.read_text())
    del about["factorised"]
    file.write_text(json.dumps(about))
    assert difference(load_subnet(tmp_path / "out")(*batch()), model(*batch())) == 0


def test_it_is_written_for_paddle_inference(tmp_path: Path) -> None:
    model = twice()
    model.eval()
    to_static(model, tmp_path / "out")  # which compares
    whole = bert()
    to_static(whole, tmp_path / "whole")
    smaller, larger = (sum(file.stat().st_size for file in (tmp_path / name).iterdir()) for name in ("out", "whole"))
    assert smaller < larger


def test_a_factorised_model_becomes_a_supernet_and_is_exported_again(tmp_path: Path) -> None:
    ofa = ofa_of(twice())
    small = ofa.export(config=SubnetConfig({"encoder.0.heads": 1, "encoder.1.ffn": 7}))
    small.eval()
    layer = small.bert.embeddings.word_embeddings
    assert (type(layer), type(layer.table), type(layer.projection)) == (FactorisedEmbedding, nn.Embedding, nn.Linear)
    save_subnet(small, tmp_path / "out")
    assert difference(load_subnet(tmp_path / "out")(*batch()), small(*batch())) == 0

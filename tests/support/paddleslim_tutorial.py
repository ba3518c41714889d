"""A script for PaddleSlim's `nas.ofa`, as it was written before this library; only the first import is new.

It counts on everything such scripts do: a BERT whose forward takes the masks in a list, elastic layers under `fn`,
heads that the script cuts by itself behind an export.
"""

# ruff: noqa: I001  the bridge comes before what it stands in for
import ofa_slim.compat.paddleslim  # noqa: F401

import copy

import numpy as np
import paddle
import paddle.nn.functional as F
import paddleslim
from paddlenlp.transformers import BertConfig, BertForSequenceClassification, BertModel
from paddleslim.nas.ofa import OFA, DistillConfig, RunConfig, utils
from paddleslim.nas.ofa.convert_super import Convert, supernet
from paddleslim.nas.ofa.utils import nlp_utils

LAYERS, HEADS, WIDTHS = 2, 4, (1.0, 0.75, 0.5, 0.25)
CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    intermediate_size=24,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    num_labels=3,
    initializer_range=0.3,
)


def forward_of_masks(self, input_ids, token_type_ids=None, position_ids=None, attention_mask=[None, None]):  # noqa: B006
    dense = self.pooler.dense
    dtype = dense.fn.weight.dtype if hasattr(dense, "fn") else dense.weight.dtype
    if attention_mask[0] is None:
        attention_mask[0] = (input_ids == self.pad_token_id).astype(dtype).unsqueeze([1, 2]) * -1e9
    hidden = self.embeddings(input_ids=input_ids, position_ids=position_ids, token_type_ids=token_type_ids)
    hidden = self.encoder(hidden, attention_mask)
    return hidden, self.pooler(hidden)


def batches(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        ids = rng.integers(1, 50, [8, 7])
        ids[::2, 5:] = 0
        yield [paddle.to_tensor(array) for array in (ids, rng.integers(0, 2, [8, 7]), rng.integers(0, 3, [8]))]


def reorder(model, head_importance, neuron_importance):
    for layer, scores in zip(model.bert.encoder.layers, neuron_importance):  # noqa: B905  such scripts are old
        number = list(model.bert.encoder.layers).index(layer)
        nlp_utils.reorder_head(layer.self_attn, paddle.argsort(head_importance[number], descending=True))
        order = paddle.argsort(paddle.to_tensor(scores), descending=True)
        nlp_utils.reorder_neuron(layer.linear1.fn, order, dim=1)
        nlp_utils.reorder_neuron(layer.linear2.fn, order, dim=0)


paddle.seed(0)
forward_before = BertModel.forward
BertModel.forward = forward_of_masks
model = BertForSequenceClassification(CONFIG)
model.train()

weights = {name: parameter for name, parameter in model.named_parameters()}
teacher = copy.deepcopy(model)
model = Convert(supernet(expand_ratio=[1.0, WIDTHS[-1]])).convert(model)
utils.set_state_dict(model, weights)
mapped = ["bert.embeddings"] + [f"bert.encoder.layers.{number}" for number in range(LAYERS)]
distill = DistillConfig(**{"lambda_distill": 0.1, "teacher_model": teacher, "mapping_layers": mapped})
ofa_model = OFA(model, RunConfig(), distill_config=distill, elastic_order=["width"])
assert isinstance(ofa_model, paddleslim.nas.ofa.OFA)

ids, types, _ = next(batches(1))
before = ofa_model.model(ids, types, attention_mask=[None, None])
scores = nlp_utils.compute_neuron_head_importance("sst-2", ofa_model.model, batches(3), LAYERS, HEADS)
reorder(ofa_model.model, *scores)
after = ofa_model.model(ids, types, attention_mask=[None, None])
assert float((before - after).abs().max()) < 1e-4, "reordering changed what the model computes"

optimizer = paddle.optimizer.AdamW(1e-3, parameters=ofa_model.model.parameters())
losses = []
for epoch in range(4):
    ofa_model.set_epoch(epoch)
    ofa_model.set_task("width")
    for ids, types, _ in batches(6):
        total = 0.0
        for width in WIDTHS:
            ofa_model.set_net_config(utils.dynabert_config(ofa_model, width))
            student, answer = ofa_model(ids, types, attention_mask=[None, None])
            soft = -(F.softmax(answer.detach()) * F.log_softmax(student)).sum(-1).mean()
            loss = ofa_model.calc_distill_loss() + soft
            loss.backward()
            total += float(loss)
        optimizer.step()
        optimizer.clear_grad()
        losses.append(total)
assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.05, losses

BertModel.forward = forward_before  # scripts export in a process of its own, where nothing has replaced it
ofa_model.model.eval()
half = utils.dynabert_config(ofa_model, 0.5)
ofa_model.set_net_config(half)
expected = ofa_model.model(ids, types)
origin = BertForSequenceClassification(CONFIG)
for layer in ofa_model.model.sublayers():
    if isinstance(layer, paddle.nn.MultiHeadAttention):
        layer.num_heads = int(0.5 * layer.num_heads)
ofa_model.export(half, input_shapes=[[1, 7], [1, 7]], input_dtypes=["int64", "int64"], origin_model=origin)
for layer in origin.sublayers():
    if isinstance(layer, paddle.nn.MultiHeadAttention):
        layer.num_heads = int(0.5 * layer.num_heads)
origin.eval()
assert origin.bert.encoder.layers[0].linear1.weight.shape == [16, 12]
assert float((origin(ids, types) - expected).abs().max()) < 1e-4, "the export computes something else"
print("done")

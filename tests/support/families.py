"""A tiny model of every family of PaddleNLP, without dropout and with weights large enough that every part matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import paddle
import paddlenlp.transformers as nlp
import pytest
from paddle import nn

VOCABULARY = 50
LAYERS, HEADS, HEAD_DIM, NEURONS, CLASSES = 3, 4, 4, 24, 3
HIDDEN = HEADS * HEAD_DIM

Make = Callable[..., nn.Layer]

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": NEURONS,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
    "classifier_dropout_prob": 0.0,
    "initializer_range": 0.3,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


def maker(name: str, ending: str = "ForSequenceClassification", /, **own: Any) -> Make:
    """Makes models of a class of PaddleNLP, with these entries of its config."""

    def make(**more: Any) -> nn.Layer:
        classes = {"num_labels": CLASSES} if ending.startswith("For") else {}
        paddle.seed(0)
        model_class = getattr(nlp, f"{name}{ending}")
        model = model_class(model_class.config_class(**{**_COMMON, **own, **classes, **more}))
        return spread(model)

    return make


def spread(model: nn.Layer) -> nn.Layer:
    """The model in eval mode with random weights everywhere, biases and norms included."""
    rng = np.random.default_rng(0)
    with paddle.no_grad():
        for parameter in model.parameters():
            noise = 0.3 * rng.standard_normal(parameter.shape)
            value = parameter.numpy() if parameter.ndim == 1 else 0.0
            parameter.set_value((value + noise).astype("float32"))
    model.eval()
    return model


FAMILIES: dict[str, Make] = {
    "bert": maker("Bert"),
    "ernie": maker("Ernie", use_task_id=True, task_type_vocab_size=3),
    "roberta": maker("Roberta"),
    "electra": maker("Electra", embedding_size=8),
    "tinybert": maker("TinyBert"),
    "ppminilm": maker("PPMiniLM"),
    "nezha": maker("NeZha", max_relative_position=8, use_relative_position=True),
    "roformer": maker("RoFormer", embedding_size=8, rotary_value=True),
    "ernie-m": maker("ErnieM"),
    "ernie-gram": maker("ErnieGram", embedding_size=HIDDEN, rel_pos_size=5),
    "skep": maker("Skep"),
    "distilbert": maker("DistilBert", dim=HIDDEN),
    "mpnet": maker("MPNet"),
    "albert": maker("Albert", embedding_size=8, num_hidden_groups=1, inner_group_num=1),
    "uie": maker("UIE", ""),
    "ernie-layout": maker(
        "ErnieLayout",
        "ForTokenClassification",
        image_feature_pool_shape=[2, 2, 8],
        max_2d_position_embeddings=1024,
        has_relative_attention_bias=True,
        has_spatial_attention_bias=True,
        rel_pos_bins=8,
        max_rel_pos=16,
        rel_2d_pos_bins=8,
        max_rel_2d_pos=16,
    ),
    "gpt": maker("GPT"),
    "gpt-lm": maker("GPT", "ForCausalLM"),
    # A step of their heads is a head of keys and values with its two query heads.
    "llama": maker("Llama", "ForCausalLM", num_attention_heads=2 * HEADS, num_key_value_heads=HEADS),
    "llama-fused": maker(
        "Llama",
        "ForCausalLM",
        num_attention_heads=2 * HEADS,
        num_key_value_heads=HEADS,
        fuse_attention_qkv=True,
        fuse_attention_ffn=True,
    ),
}


def bart(**more: Any) -> nn.Layer:
    """An encoder and a decoder, each with its own number of neurons."""
    layers = more.pop("num_hidden_layers", 2)
    sizes = {"d_model": HIDDEN, "encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": HEADS}
    sizes |= {"decoder_attention_heads": HEADS, "encoder_ffn_dim": NEURONS, "decoder_ffn_dim": NEURONS}
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    special = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 1, "eos_token_id": 2}
    paddle.seed(0)
    config = nlp.BartConfig(**{**sizes, **rates, **special, **more})
    return spread(nlp.BartForConditionalGeneration(config))


def t5(**more: Any) -> nn.Layer:
    """An encoder and a decoder whose blocks share position biases."""
    sizes = {"d_model": HIDDEN, "d_kv": HEAD_DIM, "d_ff": NEURONS, "num_layers": 2, "num_decoder_layers": 2}
    own = {"vocab_size": VOCABULARY, "num_heads": HEADS, "relative_attention_num_buckets": 8, "dropout_rate": 0.0}
    paddle.seed(0)
    return spread(nlp.T5ForConditionalGeneration(nlp.T5Config(**{**sizes, **own, **more})))


# PaddleNLP 2.8 does not have them.
_GROUPED = {"num_attention_heads": 2 * HEADS, "num_key_value_heads": HEADS}
FAMILIES |= {
    name: maker(ending, "ForCausalLM", **_GROUPED, **own)
    for name, ending, own in (
        ("qwen2", "Qwen2", {}),
        ("qwen2-tied", "Qwen2", {"tie_word_embeddings": True}),
        ("mistral", "Mistral", {}),
        ("gemma", "Gemma", {"head_dim": HIDDEN // HEADS // 2}),
    )
    if hasattr(nlp, f"{ending}ForCausalLM")
}

DECODERS = ("llama", "qwen2", "mistral", "gemma")
"""How the names of those with grouped-query attention begin."""


QUICK = ("bert", "electra", "llama")


def each_family(names: Iterable[str] = FAMILIES, quick: Iterable[str] = QUICK) -> pytest.MarkDecorator:
    """Runs a test for each of some families; `make quick` runs it for a few."""
    marks = {name: () if name in quick else pytest.mark.slow for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in marks.items()])


def tokens(rows: int = 3, length: int = 9, seed: int = 0) -> paddle.Tensor:
    """Token ids, int64 ``[rows, length]``, the last row padded."""
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, (rows, length))
    ids[-1, length - 2 :] = 0
    return paddle.to_tensor(ids)


def inputs(name: str, rows: int = 3, length: int = 9, seed: int = 0) -> dict[str, paddle.Tensor]:
    """One batch for the model of a family, by name."""
    found = {"input_ids": tokens(rows, length, seed)}
    if name == "ernie-layout":
        # Corners of boxes: left and top, then right and bottom.
        corners = np.random.default_rng(seed).integers(0, 500, (rows, length, 2, 2))
        corners[:, :, 1] += corners[:, :, 0]
        found["bbox"] = paddle.to_tensor(corners.reshape(rows, length, 4))
    return found


def outputs(model: nn.Layer, batch: dict[str, paddle.Tensor]) -> list[paddle.Tensor]:
    """The model's tensors, the first of nested ones."""
    found = model(**batch)
    return [one for one in found if isinstance(one, paddle.Tensor)] if isinstance(found, (tuple, list)) else [found]

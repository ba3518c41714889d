"""Hugging Face's names and layouts of weights, as PaddleNLP's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Rules = Sequence[tuple[str, str]]

_LAYER = r"^encoder\.layer\.(\d+)\."
_NORM = (r"LayerNorm\.", "layer_norm.")

# For each part its name in Hugging Face's models and in PaddleNLP's. The first rule that matches is applied.
_BERT: Rules = (
    (rf"{_LAYER}attention\.self\.query\.", r"encoder.layers.\1.self_attn.q_proj."),
    (rf"{_LAYER}attention\.self\.key\.", r"encoder.layers.\1.self_attn.k_proj."),
    (rf"{_LAYER}attention\.self\.value\.", r"encoder.layers.\1.self_attn.v_proj."),
    (rf"{_LAYER}attention\.output\.dense\.", r"encoder.layers.\1.self_attn.out_proj."),
    (rf"{_LAYER}attention\.output\.LayerNorm\.", r"encoder.layers.\1.norm1."),
    (rf"{_LAYER}intermediate\.dense\.", r"encoder.layers.\1.linear1."),
    (rf"{_LAYER}output\.dense\.", r"encoder.layers.\1.linear2."),
    (rf"{_LAYER}output\.LayerNorm\.", r"encoder.layers.\1.norm2."),
    _NORM,
)
_BLOCK = r"^transformer\.layer\.(\d+)\."
_DISTILBERT: Rules = (
    (rf"{_BLOCK}attention\.([qkv])_lin\.", r"encoder.layers.\1.self_attn.\2_proj."),
    (rf"{_BLOCK}attention\.out_lin\.", r"encoder.layers.\1.self_attn.out_proj."),
    (rf"{_BLOCK}sa_layer_norm\.", r"encoder.layers.\1.norm1."),
    (rf"{_BLOCK}ffn\.lin([12])\.", r"encoder.layers.\1.linear\2."),
    (rf"{_BLOCK}output_layer_norm\.", r"encoder.layers.\1.norm2."),
    _NORM,
)
_MPNET: Rules = (
    (rf"{_LAYER}attention\.attn\.", r"encoder.layer.\1.attention."),
    (rf"{_LAYER}attention\.LayerNorm\.", r"encoder.layer.\1.attention.layer_norm."),
    (rf"{_LAYER}intermediate\.dense\.", r"encoder.layer.\1.ffn."),
    (rf"{_LAYER}output\.dense\.", r"encoder.layer.\1.ffn_output."),
    (rf"{_LAYER}output\.LayerNorm\.", r"encoder.layer.\1.layer_norm."),
    _NORM,
)
_RULES = {"distilbert": _DISTILBERT, "mpnet": _MPNET, "transformer": (_NORM,)}
_PREFIXES = {"transformer": "albert"}  # PaddleNLP's name of the model inside an ALBERT, and Hugging Face's
_HEADS = ("classifier.", "pre_classifier.", "qa_outputs.")
_TABLES = ("embeddings.", "relative_attention_bias.")  # of embeddings, which have no other layout

_DISTILBERT_CONFIG = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
}


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether weights have Hugging Face's names: PaddleNLP calls no norm ``LayerNorm``."""
    return any("LayerNorm." in name for name in names)


def paddle_weights(weights: Mapping[str, np.ndarray], base: str) -> dict[str, np.ndarray]:
    """Weights with PaddleNLP's names and layouts.

    Args:
        weights: of a Hugging Face model, with or without a head.
        base: PaddleNLP's ``base_model_prefix`` of the same model.
    """
    return {_name(key, base): _value(key, value) for key, value in weights.items()}


def config_entries(described: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a Hugging Face config that PaddleNLP's config has under other names, under those."""
    return {ours: described[theirs] for theirs, ours in _DISTILBERT_CONFIG.items() if theirs in described}


def _name(key: str, base: str) -> str:
    key = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)
    key = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", key)
    if key.startswith(_HEADS):
        return re.sub(r"^qa_outputs\.", "classifier.", key)
    key = key.removeprefix(f"{_PREFIXES.get(base, base)}.")
    for pattern, replacement in _RULES.get(base, _BERT):
        renamed, times = re.subn(pattern, replacement, key)
        if times:
            return f"{base}.{renamed}"
    return f"{base}.{key}"


def _value(key: str, value: np.ndarray) -> np.ndarray:
    """Transposes the weight of a linear layer, [out, in] in torch, to [in, out]; other weights stay."""
    linear = value.ndim == 2 and not any(table in key for table in _TABLES)
    return np.ascontiguousarray(value.T) if linear else value

"""Loads PaddleNLP sequence classifiers from PaddleNLP's and Hugging Face's directories."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ofa_slim.base.foreign import check_contents, check_tokenizer, file_name, model_config
from ofa_slim.base.json_files import read_json
from ofa_slim.base.pickles import holds_pickle, refusal
from ofa_slim.errors import OfaSlimError

LOG = logging.getLogger(__name__)

HEAD = ("classifier.",)

# Hugging Face's names for the parts of a BERT, and PaddleNLP's. The first rule that matches is applied.
_PARTS = (
    (r"^encoder\.layer\.(\d+)\.attention\.self\.query\.", r"encoder.layers.\1.self_attn.q_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.key\.", r"encoder.layers.\1.self_attn.k_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.value\.", r"encoder.layers.\1.self_attn.v_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"encoder.layers.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"encoder.layers.\1.linear1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"encoder.layers.\1.linear2."),
    (r"^encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"encoder.layers.\1.norm2."),
    (r"^embeddings\.LayerNorm\.", r"embeddings.layer_norm."),
)


class ModelLoadError(OfaSlimError, ValueError):
    """A model directory that lacks what a sequence classifier needs."""


def load_sequence_classifier(
    name_or_path: str | os.PathLike[str], num_classes: int, *, need_head: bool = False, allow_pickle: bool = False
) -> tuple[paddle.nn.Layer, Any]:
    """Loads a PaddleNLP sequence classifier and its tokenizer.

    Every weight except the classification head must be found; a head that is missing, or has another
    number of classes, is initialised at random and logged.

    Args:
        name_or_path: a local directory, or a name of PaddleNLP's hub. A directory holds ``config.json``,
            the tokenizer's files, and either ``model.safetensors`` (PaddleNLP's parameter names, or those of
            a Hugging Face BERT with or without the prefix ``bert.``) or, with `allow_pickle`, PaddleNLP's
            ``model_state.pdparams``. What the hub sends is a pickle too.
        num_classes: the size of the head; 1 for regression.
        need_head: whether the head is required too (a fine-tuned model).
        allow_pickle: whether the weights may be a pickle. Reading one runs whatever code it contains: only from
            people you trust.

    Returns: the model, in eval mode and with plain logits as its output, and the tokenizer.
    Raises: ModelLoadError for a directory without these files, or with weights missing or misshapen, and for a pickle
        without `allow_pickle`.
    """
    if num_classes < 1:
        raise ModelLoadError(f"num_classes is {num_classes}: a classifier has at least 1 output")
    path = Path(name_or_path)
    if path.is_dir():
        model = _from_directory(path, num_classes, need_head, allow_pickle)
    elif path.is_file():
        raise ModelLoadError(f"{path} is a file; give the directory that contains it and its config.json")
    elif path.is_absolute() or str(name_or_path).startswith((".", "~")) or str(name_or_path).count("/") > 1:
        raise ModelLoadError(f"{path}: no such directory")
    elif not allow_pickle:
        raise ModelLoadError(
            f"{path}: no such directory, and what PaddleNLP's hub would send under that name is a pickle, which runs "
            "whatever code it contains when it is read. Get a directory with config.json and model.safetensors; "
            "or, if you trust the hub, say allow_pickle=True"
        )
    else:
        model = _from_hub(str(name_or_path), num_classes, need_head)
    # Hugging Face's configs say use_cache, with which PaddleNLP's models return tuples instead of logits.
    model.config.use_cache = model.config.output_hidden_states = model.config.output_attentions = False
    model.eval()
    return model, _tokenizer(name_or_path)


def _from_directory(path: Path, num_classes: int, need_head: bool, allow_pickle: bool) -> paddle.nn.Layer:
    """The model of a local directory."""
    if not (path / "config.json").is_file():
        raise ModelLoadError(f"{path}: expected config.json there, found {_listing(path)}")
    check_contents(path, ModelLoadError)
    weights = _read_weights(path, allow_pickle)
    model = _empty_model(path, num_classes)
    parameters = model.state_dict()
    if any(re.match(r"(bert\.)?encoder\.layer\.\d+\.", key) for key in weights):
        weights = {_paddle_name(key): _paddle_value(key, value) for key, value in weights.items()}

    base = f"{model.base_model_prefix}."
    if not any(key.startswith(base) for key in weights):  # those of the model without a head
        weights = {key if key in parameters else base + key: value for key, value in weights.items()}

    def required(key: str) -> bool:
        return need_head or key.startswith(base)

    missing = [key for key in parameters if key not in weights and required(key)]
    if missing:
        raise ModelLoadError(
            f"{path}: the weights lack {len(missing)} of {len(parameters)} parameters of {type(model).__name__}, "
            f"such as {missing[0]!r}; the file has names like {next(iter(weights), 'none')!r}"
        )
    random = []
    for key, parameter in parameters.items():
        value = weights.get(key)
        if value is not None and list(value.shape) == list(parameter.shape):
            parameter.set_value(paddle.to_tensor(value).astype(parameter.dtype))
        elif value is not None and required(key):
            raise ModelLoadError(
                f"{path}: {key!r} has shape {list(value.shape)}, "
                f"the model of config.json with {num_classes} classes needs {list(parameter.shape)}"
            )
        else:
            random.append(key)
    if random:
        LOG.info("%s has no head for %d classes: %s start at random", path, num_classes, ", ".join(random))
    return model


def _read_weights(path: Path, allow_pickle: bool) -> dict[str, np.ndarray]:
    """All tensors of a directory, by the names they have in the file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file():
        files = [path / "model.safetensors"]
    elif index.is_file():
        files = [path / name for name in _shards(index)]
    else:
        pickles = sorted(file for file in path.iterdir() if file.is_file() and holds_pickle(file))
        own = path / "model_state.pdparams"
        if own in pickles and allow_pickle:
            state = paddle.load(str(own), return_numpy=True)
            return {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        if pickles and not allow_pickle:
            raise ModelLoadError(f"{path} holds no safetensors: {refusal(own if own in pickles else pickles[0])}")
        raise ModelLoadError(
            f"{path}: expected model.safetensors or model_state.pdparams there, found {_listing(path)}"
        )
    weights: dict[str, np.ndarray] = {}
    for file in files:
        try:
            weights.update(load_file(file))
        except (SafetensorError, OSError, KeyError, TypeError) as error:  # types that NumPy does not have
            raise ModelLoadError(f"{file}: not a readable safetensors file ({error})") from error
    return weights


def _shards(index: Path) -> list[str]:
    """The names of the files that a sharded model consists of."""
    try:
        content = read_json(index)
    except ValueError as error:
        raise ModelLoadError(f"{index}: not valid JSON ({error})") from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict):
        raise ModelLoadError(f"{index}: 'weight_map' is {names!r}, not a file for each weight")
    for key, name in names.items():
        if not file_name(name):
            raise ModelLoadError(f"{index}: the file of {key!r} is {name!r}, not the name of a file beside it")
    return sorted(set(names.values()))


def _empty_model(path: Path, num_classes: int) -> paddle.nn.Layer:
    """A randomly initialised model with the directory's config."""
    from paddlenlp.transformers import (
        AutoModelForSequenceClassification,
        BertConfig,
        BertForSequenceClassification,
    )

    described = model_config(path / "config.json", ModelLoadError)
    try:
        if described.get("model_type", "bert") == "bert":
            return BertForSequenceClassification(BertConfig.from_pretrained(str(path), num_labels=num_classes))
        from paddlenlp.transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(path), num_labels=num_classes)
        return AutoModelForSequenceClassification.from_config(config)
    except Exception as error:
        kind = described.get("model_type", "bert")
        raise ModelLoadError(f"{path}: PaddleNLP cannot make a {kind!r} classifier ({error})") from error


def _paddle_name(key: str) -> str:
    """PaddleNLP's name of a parameter of a Hugging Face BERT classifier."""
    key = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)
    key = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", key)
    if key.startswith(HEAD):
        return key
    key = key.removeprefix("bert.")
    for pattern, replacement in _PARTS:
        renamed, times = re.subn(pattern, replacement, key)
        if times:
            return f"bert.{renamed}"
    return f"bert.{key}"


def _paddle_value(key: str, value: np.ndarray) -> np.ndarray:
    """Transposes the weight of a linear layer, [out, in] in torch, to [in, out]; other weights stay."""
    linear = value.ndim == 2 and "embeddings." not in key
    return np.ascontiguousarray(value.T) if linear else value


def _from_hub(name: str, num_classes: int, need_head: bool) -> paddle.nn.Layer:
    """The model of that name on PaddleNLP's hub.

    It is loaded twice: PaddleNLP only logs that it initialised missing weights at random, and those differ between
    two loads.
    """
    from paddlenlp.transformers import AutoModelForSequenceClassification

    try:
        model, again = (
            AutoModelForSequenceClassification.from_pretrained(name, num_labels=num_classes) for _ in range(2)
        )
    except Exception as error:  # PaddleNLP raises many types, some bare, for an unknown name or no network
        raise ModelLoadError(
            f"{name!r} is neither a directory nor a model that PaddleNLP's hub could send ({error})"
        ) from error
    second = again.state_dict()
    for key, value in model.state_dict().items():
        if (need_head or not key.startswith(HEAD)) and not bool(paddle.equal_all(value, second[key])):
            raise ModelLoadError(f"{name!r}: the hub's weights lack {key!r}, which would start at random")
    return model


def _tokenizer(name_or_path: str | os.PathLike[str]) -> Any:
    """The tokenizer that belongs to the model."""
    from paddlenlp.transformers import AutoTokenizer, BertTokenizer

    path = Path(name_or_path)
    if path.is_dir() and not (path / "tokenizer_config.json").is_file():
        if not (path / "vocab.txt").is_file():
            raise ModelLoadError(
                f"{path}: expected the tokenizer's vocab.txt or tokenizer_config.json, found {_listing(path)}"
            )
        try:
            return BertTokenizer.from_pretrained(str(path))
        except Exception as error:
            raise ModelLoadError(f"{path}: PaddleNLP cannot read the tokenizer ({error})") from error
    if path.is_dir():
        check_tokenizer(path, ModelLoadError)
    try:
        return AutoTokenizer.from_pretrained(str(name_or_path))
    except Exception as error:
        raise ModelLoadError(f"{name_or_path}: PaddleNLP cannot read the tokenizer ({error})") from error


def _listing(path: Path) -> str:
    """The first files of a directory, for error messages."""
    names = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"

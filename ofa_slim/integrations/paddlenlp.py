"""Loads PaddleNLP models with their heads from PaddleNLP's and Hugging Face's directories."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ofa_slim.base.foreign import check_contents, check_tokenizer, file_name, model_config
from ofa_slim.base.json_files import read_json
from ofa_slim.base.optional import require_paddlenlp
from ofa_slim.base.pickles import holds_pickle, refusal
from ofa_slim.errors import OfaSlimError
from ofa_slim.integrations.hugging_face import config_entries, is_hugging_face, paddle_weights

LOG = logging.getLogger(__name__)

HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "Spans", "CausalLM")
_SPANS = {"ernie": "UIE", "ernie_m": "UIEM"}


class ModelLoadError(OfaSlimError, ValueError):
    """A model directory that lacks what a sequence classifier needs."""


def load_sequence_classifier(
    name_or_path: str | os.PathLike[str], num_classes: int, *, need_head: bool = False, allow_pickle: bool = False
) -> tuple[paddle.nn.Layer, Any]:
    """Loads a PaddleNLP sequence classifier and its tokenizer; see `load_model`."""
    return load_model(name_or_path, num_classes, need_head=need_head, allow_pickle=allow_pickle)


def load_model(
    name_or_path: str | os.PathLike[str],
    num_classes: int,
    head: str = "SequenceClassification",
    *,
    need_head: bool = False,
    allow_pickle: bool = False,
) -> tuple[paddle.nn.Layer, Any]:
    """Loads a PaddleNLP model with a head, and its tokenizer.

    Every weight except the head must be found; a head that is missing, or has another number of classes, is initialised
    at random and logged.

    Args:
        name_or_path: a local directory, or a name of PaddleNLP's hub. A directory holds ``config.json``,
            the tokenizer's files, and either ``model.safetensors`` (PaddleNLP's parameter names; or Hugging Face's for
            a BERT, RoBERTa, ERNIE, ELECTRA, DistilBERT, MPNet or ALBERT) or, with `allow_pickle`, PaddleNLP's
            ``model_state.pdparams``. What the hub sends is a pickle too.
        num_classes: the size of the head; 1 for regression.
        head: one of `HEADS`; ``Spans`` is UIE's.
        need_head: whether the head is required too (a fine-tuned model).
        allow_pickle: whether the weights may be a pickle. Reading one runs whatever code it contains: only from
            people you trust.

    Returns: the model, in eval mode and with plain logits as its output, and the tokenizer.
    Raises: ModelLoadError for a directory without these files, or with weights missing or misshapen, and for a pickle
        without `allow_pickle`.
    """
    if num_classes < 1:
        raise ModelLoadError(f"num_classes is {num_classes}: a classifier has at least 1 output")
    require_paddlenlp("loading a sequence classifier")
    path = Path(name_or_path)
    if path.is_dir():
        model = _from_directory(path, num_classes, head, need_head, allow_pickle)
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
        model = _from_hub(str(name_or_path), num_classes, head, need_head)
    # Hugging Face's configs say use_cache, with which PaddleNLP's models return tuples instead of logits.
    model.config.use_cache = model.config.output_hidden_states = model.config.output_attentions = False
    model.eval()
    return model, load_tokenizer(name_or_path)


def _from_directory(path: Path, num_classes: int, head: str, need_head: bool, allow_pickle: bool) -> paddle.nn.Layer:
    """The model of a local directory."""
    if not (path / "config.json").is_file():
        raise ModelLoadError(f"{path}: expected config.json there, found {_listing(path)}")
    check_contents(path, ModelLoadError)
    weights = _read_weights(path, allow_pickle)
    example = next(iter(weights), "none")
    model = _empty_model(path, num_classes, head)
    parameters = model.state_dict()
    base = f"{model.base_model_prefix}."
    if is_hugging_face(weights):
        weights = paddle_weights(weights, model.base_model_prefix)
    elif not any(key.startswith(base) for key in weights):  # those of the model without a head
        weights = {key if key in parameters else base + key: value for key, value in weights.items()}

    def required(key: str) -> bool:
        return (need_head or key.startswith(base)) and not key.endswith("position_ids")  # 0, 1, 2, ...

    missing = [key for key in parameters if key not in weights and required(key)]
    if missing:
        raise ModelLoadError(
            f"{path}: the weights lack {len(missing)} of {len(parameters)} parameters of {type(model).__name__}, "
            f"such as {missing[0]!r}; the file has names like {example!r}"
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


def _empty_model(path: Path, num_classes: int, head: str) -> paddle.nn.Layer:
    """A randomly initialised model with the directory's config."""
    from paddlenlp import transformers

    described = model_config(path / "config.json", ModelLoadError)
    entries = {"num_labels": num_classes, **config_entries(described)}
    kind = described.get("model_type", "bert")
    if head == "Spans" and kind not in _SPANS:
        raise ModelLoadError(f"{path}: a {kind!r} model has no head for spans; {' and '.join(_SPANS)} have UIE's")
    try:
        if kind == "bert" and hasattr(transformers, f"BertFor{head}"):
            config = transformers.BertConfig.from_pretrained(str(path), **entries)
            return getattr(transformers, f"BertFor{head}")(config)
        config = transformers.AutoConfig.from_pretrained(str(path), **entries)
        if head == "Spans":
            return getattr(transformers, _SPANS[kind])(config)
        return getattr(transformers, f"AutoModelFor{head}").from_config(config)
    except Exception as error:
        raise ModelLoadError(f"{path}: PaddleNLP cannot make a {kind!r} model for {head} ({error})") from error


def _from_hub(name: str, num_classes: int, head: str, need_head: bool) -> paddle.nn.Layer:
    """The model of that name on PaddleNLP's hub.

    It is loaded twice: PaddleNLP only logs that it initialised missing weights at random, and those differ between
    two loads.
    """
    from paddlenlp import transformers

    auto = transformers.UIE if head == "Spans" else getattr(transformers, f"AutoModelFor{head}")
    try:
        model, again = (auto.from_pretrained(name, num_labels=num_classes) for _ in range(2))
    except Exception as error:  # PaddleNLP raises many types, some bare, for an unknown name or no network
        raise ModelLoadError(
            f"{name!r} is neither a directory nor a model that PaddleNLP's hub could send ({error})"
        ) from error
    second, base = again.state_dict(), f"{model.base_model_prefix}."
    for key, value in model.state_dict().items():
        if (need_head or key.startswith(base)) and not bool(paddle.equal_all(value, second[key])):
            raise ModelLoadError(f"{name!r}: the hub's weights lack {key!r}, which would start at random")
    return model


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> Any:
    """The tokenizer of a model's directory, or of PaddleNLP's hub; raises ModelLoadError where there is none."""
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

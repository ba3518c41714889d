"""What a folder from somewhere else may not do: lead out of itself, or ask for more memory than there is."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ofa_slim.base.json_files import read_json

Refusal = Callable[[str], Exception]
"""The class of the error to raise."""

# Names of one size in the configs of PaddleNLP's and Hugging Face's models.
_HIDDEN = ("hidden_size", "d_model", "dim", "n_embd")
_INNER = ("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "dim_feedforward", "hidden_dim", "n_inner")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers")
_ROWS = ("vocab_size", "max_position_embeddings", "type_vocab_size", "task_type_vocab_size", "embedding_size")
_HEADS = ("num_attention_heads", "n_heads", "n_head", "num_labels", "num_classes")
_OBJECT_BYTES = 50_000  # what the layer objects of one block take, however small its weights


def check_contents(folder: Path, error: Refusal) -> None:
    """Refuses a folder in which a link leads outside, or something is neither a file nor a folder.

    The links of Hugging Face's cache, from a snapshot to the blobs beside it, are inside.

    Raises: `error` that names the entry and where it leads.
    """
    own = folder.resolve()
    root = own.parent.parent if own.parent.name == "snapshots" and (own.parent.parent / "blobs").is_dir() else own
    for place, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(place) / name
            kind = path.lstat().st_mode
            if stat.S_ISLNK(kind):
                try:
                    target = path.resolve()
                except (OSError, RuntimeError):  # a circle of links
                    raise error(f"{path} is a link that leads nowhere") from None
                if not target.is_relative_to(root):
                    raise error(f"{path} is a link to {target}, outside {folder}; copy the file into the folder")
            elif not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise error(f"{path} is a pipe, a socket or a device, not a file")


def file_name(name: object) -> bool:
    """Whether a name from a file is the name of a file beside it: no path, no way up."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def model_config(file: Path, error: Refusal, entries: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of a ``config.json``, once a model of its sizes can be built on this machine.

    Args:
        file: the file.
        error: the class of the error to raise.
        entries: others that replace those of the file.

    Raises: `error` that names the file, the key and its value, and what is allowed.
    """
    try:
        content = read_json(file)
    except OSError as problem:
        raise error(f"{file}: {problem.strerror}") from problem
    except ValueError as problem:
        raise error(f"{file}: not valid JSON ({problem})") from problem
    if not isinstance(content, dict):
        raise error(f"{file}: not a JSON object")
    kind = content.get("model_type", "bert")
    if not isinstance(kind, str) or not re.fullmatch(r"[\w-]*", kind):
        raise error(f"{file}: 'model_type' is {kind!r}, not the name of a kind of model")
    config: dict[str, Any] = {**content, **(entries or {})}
    sizes: dict[str, int] = {}
    for key in (*_HIDDEN, *_INNER, *_LAYERS, *_ROWS, *_HEADS):
        value = config.get(key)
        if value is None:
            continue
        least = 0 if key in (*_ROWS, *_LAYERS) else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise error(f"{file}: {key!r} is {value!r}, not a whole number of at least {least}")
        sizes[key] = value
    needed, there = _bytes(sizes), memory_bytes()
    if needed > there:
        largest = max(sizes, key=lambda key: sizes[key])
        raise error(
            f"{file}: a model of these sizes ({largest!r} is {sizes[largest]}) needs {needed / 2**30:,.0f} GiB, and "
            f"this machine has {there / 2**30:,.0f}"
        )
    return config


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _bytes(sizes: Mapping[str, int]) -> int:
    """About how much memory the weights of a model take, in 32 bits."""

    def largest(keys: tuple[str, ...]) -> int:
        return max((sizes[key] for key in keys if key in sizes), default=0)

    hidden, inner, layers = largest(_HIDDEN), largest(_INNER), sum(sizes.get(key, 0) for key in _LAYERS)
    block = 4 * hidden * hidden + 2 * hidden * inner
    rows = sum(sizes.get(key, 0) for key in (*_ROWS, "num_labels", "num_classes"))
    return 4 * (rows * max(hidden, 1) + layers * block) + layers * _OBJECT_BYTES


def check_tokenizer(folder: Path, error: Refusal) -> None:
    """Refuses a ``tokenizer_config.json`` that names files outside its folder.

    Raises: `error` that names the file, the key and its value.
    """
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return
    try:
        content = read_json(file)
    except ValueError as problem:
        raise error(f"{file}: not valid JSON ({problem})") from problem
    if not isinstance(content, dict):
        raise error(f"{file}: not a JSON object")
    for key, value in content.items():
        # Hugging Face's tokenizers note where their special tokens came from; nothing reads that file.
        if key.endswith("_file") and key != "special_tokens_map_file" and value is not None and not file_name(value):
            raise error(f"{file}: {key!r} is {value!r}, not the name of a file in this folder")
        named = isinstance(value, str) and value.isidentifier() and "Tokenizer" in value
        if key in ("tokenizer_class", "init_class") and not named:
            raise error(f"{file}: {key!r} is {value!r}, not the name of a tokenizer's class")


def fits(sizes: Mapping[str, int], shapes: list[tuple[int, ...]]) -> bool:
    """Whether a layer of some sizes can have weights of some shapes, so that making it larger wastes no memory."""
    numbers = sum(math.prod(shape) for shape in shapes)
    widest = max((size for shape in shapes for size in shape), default=1)
    return math.prod(sizes.values()) <= numbers * widest

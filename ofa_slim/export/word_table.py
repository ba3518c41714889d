"""The word table of a PaddleNLP model, and a copy of the model with some of its rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.copies import copied
from ofa_slim.base.examples import Example, compare
from ofa_slim.errors import ExportError
from ofa_slim.export.factorised_embedding import FactorisedEmbedding
from ofa_slim.supernet.spec import parameter_like

_PADDING = ("padding_idx", "_padding_idx")


class WordTable:
    """The table that a model looks its token ids up in.

    Attributes:
        model: of PaddleNLP.
        path: of the embedding.
        rows: of the table.
    """

    def __init__(self, model: Any, path: str, rows: int) -> None:
        self.model = model
        self.path = path
        self.rows = rows

    def special_ids(self) -> Iterator[tuple[str, int]]:
        """The token ids that the model or its config names, each with its name."""
        for thing in _holders(self.model, self.path):
            for name, value in vars(thing).items():
                yield from ((name, place) for place in _ids(name, value, self.rows))

    def pruned(self, kept: Sequence[int], pad: int) -> nn.Layer:
        """A copy of the model that knows some of the tokens.

        Args:
            kept: ids of the rows to keep, in the order of the new ids.
            pad: new id of the padding, for the check.

        Raises: ExportError where not all that depends on the vocabulary could be told, or the copy computes something
            else.
        """
        model = copied(self.model)
        model.config.vocab_size = len(kept)
        self._cut_parameters(model, kept)
        new = {old: number for number, old in enumerate(kept)}
        for thing in _holders(model, self.path):
            for name, value in list(vars(thing).items()):
                if name == "vocab_size" and value == self.rows:
                    setattr(thing, name, len(kept))
                elif any(_ids(name, value, self.rows)):
                    setattr(thing, name, [new[one] for one in value] if isinstance(value, list) else new[value])
        self._check(model, kept, pad)
        return model

    def _cut_parameters(self, model: nn.Layer, kept: Sequence[int]) -> None:
        """Gives each layer the rows of its parameters that are kept; a parameter of several layers stays one."""
        index = paddle.to_tensor(np.asarray(kept))
        cut: dict[int, paddle.Tensor] = {}
        for path, layer in model.named_sublayers(include_self=True):
            own = layer.state_dict(include_sublayers=False)
            depending = {name: tensor for name, tensor in own.items() if self.rows in tensor.shape}
            for name, tensor in depending.items():
                if id(tensor) not in cut:
                    if not self._depends(path, name, tensor, layer):
                        continue
                    with paddle.no_grad():
                        part = paddle.index_select(tensor, index, axis=list(tensor.shape).index(self.rows))
                    cut[id(tensor)] = parameter_like(layer, tensor, part)
                setattr(layer, name, cut[id(tensor)])
            if depending:
                for name in ("_num_embeddings", "out_features"):
                    if getattr(layer, name, None) == self.rows:
                        setattr(layer, name, len(kept))

    def _depends(self, path: str, name: str, tensor: paddle.Tensor, layer: nn.Layer) -> bool:
        """Whether a tensor with as many entries as the vocabulary depends on it.

        Raises: ExportError where that cannot be told.
        """
        where = f"{path}.{name}" if path else name
        if where in (f"{self.path}.weight", f"{self.path}.table.weight"):
            return True
        sizes = [key for key, value in vars(self.model.config).items() if key != "vocab_size" and value == self.rows]
        if isinstance(layer, nn.Embedding):
            if not sizes:
                raise ExportError(f"{where!r} is a second table of {self.rows} rows; a model has to have one alone")
            return False  # of positions, for example; the check would tell if not
        parameter = any(tensor is one for one in layer.parameters(include_sublayers=False))
        if sizes or list(tensor.shape).count(self.rows) > 1 or not parameter:
            raise ExportError(
                f"{where!r} has shape {list(tensor.shape)}, of which the vocabulary has the same size"
                f"{f' as {sizes[0]}' if sizes else ''}: what to cut cannot be told"
            )
        return True

    def _check(self, model: nn.Layer, kept: Sequence[int], pad: int) -> None:
        """Raises ExportError where a copy does not compute what the model does, on random kept tokens and padding."""
        ids = np.random.default_rng(0).integers(0, len(kept), (2, 16))
        ids[-1, -4:] = pad
        try:
            expected = Example((paddle.to_tensor(np.asarray(kept)[ids]),)).outputs(self.model)
        except Exception as error:  # whatever the model's forward raises
            raise ExportError(
                f"{type(self.model).__name__} does not run on token ids alone ({type(error).__name__}: {error})"
            ) from error
        found = Example((paddle.to_tensor(ids),)).outputs(model)
        index = paddle.to_tensor(np.asarray(kept))
        if len(expected) == len(found):
            expected = [
                paddle.index_select(one, index, axis=-1) if one.shape != other.shape and one.ndim else one
                for one, other in zip(expected, found, strict=True)
            ]
        compare(expected, found, "prune_vocabulary")


def word_table(model: nn.Layer) -> WordTable:
    """The word table of a model.

    Raises: ExportError for a model that is not of PaddleNLP, or whose tokens are not looked up in one plain table.
    """
    package = sys.modules.get("paddlenlp.transformers")
    if package is None or not isinstance(model, package.PretrainedModel):
        raise ExportError(f"{type(model).__name__} is not a model of PaddleNLP, whose vocabularies can be pruned")
    rows = getattr(model.config, "vocab_size", None)
    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError) as error:  # DistilBERT, for example
        tables = [one for one in model.sublayers() if isinstance(one, nn.Embedding) and one.weight.shape[0] == rows]
        if len(tables) != 1:
            raise ExportError(f"{type(model).__name__} does not say which layer is its word table") from error
        table = tables[0]
    plain = table.table if isinstance(table, FactorisedEmbedding) else table
    path = next((path for path, layer in model.named_sublayers() if layer is table), None)
    if path is None or type(plain) is not nn.Embedding or plain.weight.shape[0] != rows:
        raise ExportError(
            f"the word table of {type(model).__name__} is a {type(table).__name__}, and its config has the vocab_size "
            f"{rows!r}; supported is a paddle.nn.Embedding of that many rows"
        )
    return WordTable(model, path, int(rows))


def _holders(model: Any, path: str) -> list[Any]:
    """The layers and configs of a model whose attributes can be token ids; of embeddings the word table alone."""
    layers = [
        layer
        for name, layer in model.named_sublayers(include_self=True)
        if not isinstance(layer, nn.Embedding) or name in (path, f"{path}.table")
    ]
    configs = [getattr(layer, name, None) for layer in layers for name in ("config", "generation_config")]
    found = {id(thing): thing for thing in (*layers, *configs) if hasattr(thing, "__dict__")}
    return list(found.values())


def _ids(name: str, value: Any, rows: int) -> list[int]:
    """The token ids that an attribute holds."""
    if not (name.endswith("_token_id") or name in _PADDING):
        return []
    return [one for one in (value if isinstance(value, list) else [value]) if type(one) is int and 0 <= one < rows]

"""`factorise_embeddings`: an embedding table as the product of two smaller ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.checks import check_many, check_whole
from ofa_slim.base.examples import Example, compare, random_example
from ofa_slim.errors import ExportError, nearest
from ofa_slim.export.factorised_embedding import Undo, factorised_ranks, put
from ofa_slim.supernet.handle import require_plain


@dataclass(frozen=True)
class Factorisation:
    """The factorisation of one table.

    Attributes:
        name: its path.
        rows: of the table.
        width: of a row.
        rank: of the product.
        error: Frobenius norm of the difference, as a share of the table's, from 0 to 1.
        weighted_error: the same with each row counted as often as it is used; None where no frequencies were given.
        cosine: of a row and its approximation, the mean over the rows that are not zero.
    """

    name: str
    rows: int
    width: int
    rank: int
    error: float
    weighted_error: float | None
    cosine: float

    @property
    def parameters_before(self) -> int:
        """Parameters of the table."""
        return self.rows * self.width

    @property
    def parameters_after(self) -> int:
        """Parameters of the two that replaced it."""
        return self.rank * (self.rows + self.width)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {"parameters_before": self.parameters_before, "parameters_after": self.parameters_after}
        return {**asdict(self), **counts}


def factorise_embeddings(
    model: nn.Layer,
    rank: int,
    names: str | Iterable[str] | None = None,
    *,
    frequencies: Any = None,
    input_shapes: Any = None,
    input_dtypes: Any = None,
) -> tuple[Factorisation, ...]:
    """Replaces embedding tables of a plain model, in place, by products of rank `rank`.

    Each table becomes a `FactorisedEmbedding`: a table ``[rows, rank]`` and a linear layer to the old width, which hold
    the best product of that rank (the truncated singular value decomposition), and train as the table did. The model is
    run before and after: its outputs are those with the product in the table, or it is put back as it was.

    Args:
        model: a plain model, such as `OFA.export` gives.
        rank: of the products, at least 1, and so small that parameters are saved.
        names: paths of `paddle.nn.Embedding` layers; by default the one with the most rows.
        frequencies: how often each row is used, numbers ``[rows]`` of at least 0 (for several tables a dictionary of
            them by path): errors of rows then count that much. A row of 0 still gets its best approximation, but does
            not influence the product; counts plus 1 let every row do so.
        input_shapes: of one call, as in `OFA.export`.
        input_dtypes: as in `OFA.export`.

    Returns: the factorisation of each table, in the order of the names.

    Raises: ExportError for a supernet, a rank that saves nothing, a name that is not an embedding, a table that is also
        used elsewhere (tied), or frequencies that do not fit.
    """
    require_plain(model, "factorise_embeddings")
    check_whole(rank, "rank", 1, ExportError)
    tables = _chosen(model, names)
    for name, table in tables.items():
        _check_saves(name, table, int(rank))
        _check_untied(model, name, table)
    weights = _weights(tables, frequencies)
    probe = random_example(model, input_shapes, input_dtypes)
    before = {name: np.asarray(table.weight.astype("float64")) for name, table in tables.items()}
    after = {name: factors(value, int(rank), weights[name]) for name, value in before.items()}
    expected = _with_products(model, probe, tables, after)
    undo: list[Undo] = []
    try:
        for name, (rows, columns) in after.items():
            layer, back = put(model, name, int(rank))
            undo.append(back)
            for parameter, value in ((layer.table.weight, rows), (layer.projection.weight, columns)):
                parameter.set_value(paddle.to_tensor(value).astype(parameter.dtype))
        compare(expected, probe.outputs(model), "factorise_embeddings")
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    return tuple(_described(name, before[name], *factored, weights[name]) for name, factored in after.items())


def factors(table: np.ndarray, rank: int, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The product of a rank that is nearest to a table, in the sum of squares over its rows.

    Args:
        table: float64 ``[rows, width]``.
        rank: of the product, at most `width`.
        weights: how much the squares of each row count, ``[rows]``, not all 0.

    Returns: ``[rows, rank]`` and ``[rank, width]``, float64; the second has orthonormal rows, so that the first is on
        the scale of the table.
    """
    # The right singular vectors of a table are the eigenvectors of this small matrix, which is much less work.
    gram = table.T @ (table if weights is None else table * weights[:, None])
    if weights is not None:
        # Where the rows that count span less than the rank, the others choose what is left.
        gram = gram / weights.mean() + 1e-9 * (table.T @ table)
    _, vectors = np.linalg.eigh(gram)
    columns = vectors[:, : -rank - 1 : -1].T
    return table @ columns.T, columns


def largest_rank(rows: int, width: int) -> int:
    """The largest rank with which a product has fewer parameters than the table; 0 where none has."""
    return (rows * width - 1) // (rows + width)


def _chosen(model: nn.Layer, names: str | Iterable[str] | None) -> dict[str, nn.Embedding]:
    """The tables by path."""
    layers = dict(model.named_sublayers(include_self=True))
    factorised = factorised_ranks(model)
    inside = tuple(f"{path}." for path in factorised)
    plain = {path: layer for path, layer in layers.items() if type(layer) is nn.Embedding}
    plain = {path: layer for path, layer in plain.items() if path and not path.startswith(inside)}
    if names is None:
        found = {path: layers[path] for path in (*plain, *factorised)}
        if not found:
            raise ExportError(f"this {type(model).__name__} holds no paddle.nn.Embedding that could be factorised")
        names = [max(found, key=lambda path: found[path].weight.shape[0])]
    if not isinstance(names, str):
        check_many(names, "names", "paths of embeddings", ExportError)
    wanted = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not wanted:
        raise ExportError(f"names is empty; the embeddings of this model are {', '.join(plain)}")
    for name in wanted:
        if name in factorised:
            raise ExportError(f"embedding {name!r} is factorised already, with rank {factorised[name]}")
        if name not in plain:
            raise ExportError(
                f"{name!r} is not a paddle.nn.Embedding in this {type(model).__name__}{nearest(str(name), plain)}; "
                f"those are {', '.join(plain) or 'none'}"
            )
    return {name: plain[name] for name in wanted}


def _check_saves(name: str, table: nn.Embedding, rank: int) -> None:
    rows, width = (int(size) for size in table.weight.shape)
    most = largest_rank(rows, width)
    if rank > most:
        raise ExportError(
            f"rank {rank} saves nothing in {name!r}: {rank} x ({rows} + {width}) parameters are no fewer than "
            f"{rows} x {width}; allowed is at most {most}"
        )


def _check_untied(model: nn.Layer, name: str, table: nn.Embedding) -> None:
    own = f"{name}.weight"
    ties = [key for key, value in model.state_dict().items() if value is table.weight and key != own]
    if ties:
        raise ExportError(
            f"embedding {name!r} is tied: its table is also {', '.join(map(repr, ties))}, which would keep the whole "
            "of it; only tables that nothing else uses can be factorised"
        )


def _weights(tables: Mapping[str, nn.Embedding], frequencies: Any) -> dict[str, np.ndarray | None]:
    """The frequencies of each table's rows, checked."""
    if frequencies is None:
        return dict.fromkeys(tables)
    given = frequencies if isinstance(frequencies, Mapping) else {next(iter(tables)): frequencies}
    if set(given) != set(tables):
        raise ExportError(f"frequencies are given for {', '.join(given)}; to be factorised are {', '.join(tables)}")
    found: dict[str, np.ndarray | None] = {}
    for name, table in tables.items():
        try:
            values = np.asarray(given[name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ExportError(f"frequencies of {name!r} are {given[name]!r}, not numbers") from error
        rows = int(table.weight.shape[0])
        if values.shape != (rows,):
            raise ExportError(f"frequencies of {name!r} have shape {list(values.shape)}, its table needs [{rows}]")
        if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
            raise ExportError(f"frequencies of {name!r} hold numbers below 0 or infinite ones, or are all 0")
        found[name] = values
    return found


def _with_products(
    model: nn.Layer,
    probe: Example,
    tables: Mapping[str, nn.Embedding],
    products: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> list[paddle.Tensor]:
    """The outputs of a model with products in the place of its tables, which are put back."""
    own = {name: table.weight.clone() for name, table in tables.items()}
    try:
        for name, table in tables.items():
            rows, columns = products[name]
            table.weight.set_value(paddle.to_tensor(rows @ columns).astype(table.weight.dtype))
        return probe.outputs(model)
    finally:
        for name, table in tables.items():
            table.weight.set_value(own[name])


def _described(
    name: str, table: np.ndarray, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray | None
) -> Factorisation:
    product = rows @ columns
    norms = np.linalg.norm(table, axis=1) * np.linalg.norm(product, axis=1)
    present = norms > 0
    cosines = (table * product).sum(axis=1)[present] / norms[present]
    lost, whole = np.square(table - product).sum(axis=1), np.square(table).sum(axis=1)
    return Factorisation(
        name=name,
        rows=len(table),
        width=table.shape[1],
        rank=len(columns),
        error=_share(lost.sum(), whole.sum()),
        weighted_error=None if weights is None else _share(weights @ lost, weights @ whole),
        cosine=float(cosines.mean()) if present.any() else 1.0,
    )


def _share(part: float, whole: float) -> float:
    """The root of a share of squares; 0 for an empty whole."""
    return math.sqrt(part / whole) if whole else 0.0

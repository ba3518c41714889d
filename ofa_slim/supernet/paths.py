"""Layers of a model by their attribute paths."""

from __future__ import annotations

from paddle import nn


def joined(*parts: str) -> str:
    """An attribute path of the parts that are not empty."""
    return ".".join(part for part in parts if part)


def layer_at(model: nn.Layer, path: str) -> nn.Layer:
    """The layer at an attribute path; the path "" is the model itself.

    Raises: AttributeError where there is none.
    """
    if not path:
        return model
    parent, name = parent_at(model, path)
    layer: nn.Layer = getattr(parent, name)
    return layer


def parent_at(model: nn.Layer, path: str) -> tuple[nn.Layer, str]:
    """The layer that holds the one at an attribute path, and that one's name in it, which may contain dots.

    Raises: AttributeError where there is none.
    """
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        # By attribute, also in a list: a stack indexes only its active layers, and `named_children` names a layer once.
        child = getattr(model, name, None)
        if not isinstance(child, nn.Layer):
            continue
        if count == len(parts):
            return model, name
        try:
            return parent_at(child, ".".join(parts[count:]))
        except AttributeError:
            continue
    raise AttributeError(f"{type(model).__name__} has no layer at {path!r}")


def blocks_at(stack: nn.Layer, path: str, pattern: str) -> dict[str, nn.Layer]:
    """The layers of a stack at a pattern such as ``"layers.*"``, by their paths in the model."""
    found = {path: stack}
    for part in pattern.split("."):
        found = {
            joined(place, name): child
            for place, layer in found.items()
            for name, child in layer.named_children()
            if part in ("*", name)
        }
    return found


def layer_or_none(model: nn.Layer, path: str) -> nn.Layer | None:
    """The layer at an attribute path, None where there is none."""
    try:
        return layer_at(model, path)
    except (AttributeError, KeyError):
        return None


def has_layer(model: nn.Layer, path: str) -> bool:
    """Whether there is a layer at an attribute path."""
    return isinstance(layer_or_none(model, path), nn.Layer)

"""`Answer`: what a teacher computes for a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import paddle

from ofa_slim.base.nested import join, split, unsupported_leaf
from ofa_slim.errors import DistillError

# Computes the fingerprint of the teacher's weights.
Fingerprint = Callable[[], paddle.Tensor]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a teacher computes for a batch; no gradient flows into it.

    Attributes:
        output: the model's output.
        hidden: the outputs of its mapped layers by name.
        masks: for those among them that are not known everywhere: bool [batch, length], true where they are.
    """

    output: Any
    hidden: dict[str, paddle.Tensor]
    masks: Mapping[str, paddle.Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> list[paddle.Tensor]:
        """Those of the output, then the mapped layers'."""
        return split((self.output, self.hidden))[0]

    def detached(self) -> Answer:
        """The same values without their graph.

        Raises: DistillError where the output may hide tensors.
        """
        tensors, nesting = split((self.output, self.hidden))
        kind = unsupported_leaf(nesting)
        if kind is not None:
            raise DistillError(
                f"the largest sub-network's output holds a {kind}, from which its gradients cannot be cut off; return "
                "tensors, or tuples, lists and dictionaries of them"
            )
        output, hidden = join(nesting, [tensor.detach() for tensor in tensors])
        return Answer(output, hidden, self.masks)


# Computes the answer to `(args, kwargs)`; the last argument is for engines that keep a copy of the weights, or of
# something computed from them.
Engine = Callable[[tuple[Any, ...], dict[str, Any], Fingerprint], Answer]

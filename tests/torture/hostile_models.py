"""Random small models with odd traits, each with inputs that it takes. The same seed and number give the same case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.nn import functional as F

import families
from models import Tagger

VOCABULARY = families.VOCABULARY
Rng = np.random.Generator
Batch = dict[str, paddle.Tensor]


@dataclass
class Case:
    """One model with its inputs.

    Attributes:
        kind: the family, or what the network is made for.
        traits: what is odd about it, in words.
        build: makes the model, the same one at each call, in eval mode.
        batch: inputs by name.
        example: inputs by name to trace it with.
        choices: arguments of `supernet`.
    """

    kind: str
    traits: list[str]
    build: Callable[[], nn.Layer]
    batch: Batch
    example: Batch
    choices: dict[str, Any] = field(default_factory=dict)


def case_of(seed: int, number: int) -> Case:
    """The case of a seed and a number."""
    rng = np.random.default_rng([seed, number])
    case = _family_case(rng) if rng.random() < 0.5 else _network_case(rng)
    changes = [name for name in CHANGES if rng.random() < 0.1]
    if rng.random() < 0.15:
        changes.append(str(rng.choice(DTYPES, p=[0.6, 0.25, 0.15])))
    case.traits += changes
    case.build = partial(_changed, case.build, changes, int(rng.integers(1 << 30)))
    dtype = next((name for name in changes if name in DTYPES), "float32")
    for batch in (case.batch, case.example):
        batch.update({name: one.astype(dtype) for name, one in batch.items() if one.is_floating_point()})
    return case


def _rows(rng: Rng) -> tuple[int, list[str]]:
    count = int(rng.choice([0, 1, 2, 3], p=[0.06, 0.14, 0.4, 0.4]))
    return count, {0: ["empty batch"], 1: ["one row"]}.get(count, [])


# --- Families ---------------------------------------------------------------------------------------------------------


def _family_case(rng: Rng) -> Case:
    kind = str(rng.choice([*families.FAMILIES, "encoder", "encoder"]))
    layers, heads, neurons = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.choice([1, 5, 12, 24]))
    hidden = heads * int(rng.choice([2, 4]))
    named = {"one layer": layers, "one head": heads, "one neuron": neurons}
    traits = [name for name, size in named.items() if size == 1]
    rows, odd = _rows(rng)
    batch, example = (families.inputs(kind, count, 6, int(rng.integers(99))) for count in (max(rows, 1), 2))
    if rows and rng.random() < 0.15:
        odd.append("all padding")
        batch["input_ids"][-1] = 0
    batch = {name: one[:rows] for name, one in batch.items()}
    if kind == "encoder":
        build, batch, example = _encoder(rng, layers), {"ids": batch["input_ids"]}, {"ids": example["input_ids"]}
        traits.remove("one head") if heads == 1 else None
    else:
        own: dict[str, dict[str, int]] = {"ernie-gram": {"embedding_size": hidden}, "distilbert": {"dim": hidden}}
        grouped = {"num_key_value_heads": heads, "num_attention_heads": 2 * heads, "hidden_size": 2 * hidden}
        own |= {"llama": grouped, "llama-fused": grouped}
        build = partial(
            families.FAMILIES[kind],
            **{
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "hidden_size": hidden,
                "intermediate_size": neurons,
                **own.get(kind, {}),
            },
        )
    choices: dict[str, Any] = {"expand_ratio": [1.0, 1 / heads] if kind != "encoder" else [1.0, 0.5]}
    if rng.random() < 0.04:
        choices["hidden_size"] = [16 if kind == "encoder" else hidden, int(rng.integers(1, hidden + 1))]
        traits.append("hidden size")
    return Case(kind, traits + odd, build, batch, example, choices)


def _encoder(rng: Rng, layers: int) -> Callable[[], nn.Layer]:
    return lambda: families.spread(Tagger(layers))


# --- Networks ---------------------------------------------------------------------------------------------------------

Step = tuple[nn.Layer, int]


class Twice(nn.Layer):
    """A step that keeps its width, called twice."""

    def __init__(self, inner: nn.Layer) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.inner(self.inner(x))


class Residual(Twice):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.inner(x)


class Recomputed(Twice):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return recompute(self.inner, x) if self.training else self.inner(x)


class Beside(nn.Layer):
    """Two steps on one input, put beside each other; or the second as a gate of the first."""

    def __init__(self, one: nn.Layer, other: nn.Layer, axis: int, gate: bool = False) -> None:
        super().__init__()
        self.one, self.other, self.axis, self.gate = one, other, axis, gate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        one, other = self.one(x), self.other(x)
        return one * F.sigmoid(other) if self.gate else paddle.concat([one, other], axis=self.axis)


class Halves(nn.Layer):
    """A step on one half of the channels, the other half as it is; then the channels take turns."""

    def __init__(self, inner: nn.Layer) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        one, other = paddle.chunk(x, 2, axis=1)
        return F.channel_shuffle(paddle.concat([self.inner(one), other], axis=1), 2)


class Excite(nn.Layer):
    """Squeeze and excitation."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2D(width, inner, 1), nn.Conv2D(inner, width, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * F.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Tied(nn.Layer):
    """There and back with one weight."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.linear(F.relu(self.up(x)), self.up.weight.t())


class Scaled(nn.Layer):
    """Buffers and a parameter of its own: one per channel, and one for all."""

    def __init__(self, width: int, axis: int, wide: bool) -> None:
        super().__init__()
        shape = [width, 1, 1] if axis == 1 else [width]
        self.register_buffer("shift", paddle.rand(shape if wide else [1]))
        self.register_buffer("calls", paddle.zeros([1], "int64"), persistable=False)
        self.gain = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.5))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * self.gain + self.shift


def _activation(rng: Rng, width: int) -> nn.Layer:
    kinds: list[Callable[[], nn.Layer]] = [
        nn.ReLU,
        nn.GELU,
        nn.Hardswish,
        nn.Identity,
        partial(nn.PReLU, width),
        partial(nn.Dropout, 0.0),
    ]
    return kinds[rng.integers(len(kinds))]()


def _conv(rng: Rng, given: int, made: int | None = None) -> Step:
    """A convolution that keeps height and width, a norm and an activation."""
    made = made or int(rng.integers(1, 9))
    kernel, dilation = int(rng.choice([1, 3, 5])), int(rng.choice([1, 1, 1, 2]))
    shared = [groups for groups in (1, 2, 3, 4, given) if given % groups == 0 and made % groups == 0]
    options = {"padding": dilation * (kernel // 2), "dilation": dilation, "groups": int(rng.choice(shared))}
    if rng.random() < 0.3:
        options["bias_attr"] = False
    kind = nn.Conv2D if rng.random() < 0.85 else nn.Conv2DTranspose
    groups = int(rng.choice([n for n in (1, 2, made) if made % n == 0]))
    norms: list[Callable[[], nn.Layer]] = [
        partial(nn.BatchNorm2D, made),
        partial(nn.GroupNorm, groups, made),
        partial(nn.InstanceNorm2D, made),
        nn.Identity,
    ]
    norm = norms[rng.integers(len(norms))]()
    return nn.Sequential(kind(given, made, kernel, **options), norm, _activation(rng, made)), made


def _dense(rng: Rng, given: int, made: int | None = None) -> Step:
    made = made or int(rng.integers(1, 13))
    norm = nn.LayerNorm(made) if rng.random() < 0.4 else nn.Identity()
    options = {"bias_attr": False} if rng.random() < 0.2 else {}
    activation = nn.GELU() if rng.random() < 0.5 else nn.ReLU()
    return nn.Sequential(nn.Linear(given, made, **options), norm, activation), made


def _step(rng: Rng, width: int, axis: int, names: set[str]) -> Step:
    """A random step over the channels of an axis; its odd traits are added to `names`."""
    plain = _conv if axis == 1 else _dense
    kinds = ["plain"] * 3 + ["residual", "twice", "recompute", "gate", "beside", "buffers", "deep"]
    kinds += ["halves", "excite", "pool", "depthwise"] if axis == 1 else ["tied"]
    name = str(rng.choice(kinds))
    if name in ("twice", "recompute", "buffers", "tied"):
        names.add({"twice": "layer called twice", "tied": "tied parameter"}.get(name, name))
    if name in ("residual", "twice"):
        return (Residual if name == "residual" else Twice)(plain(rng, width, width)[0]), width
    if name in ("gate", "beside"):
        one, made = plain(rng, width)
        other, second = plain(rng, width, made if name == "gate" else None)
        return Beside(one, other, axis, name == "gate"), made if name == "gate" else made + second
    if name == "halves" and width % 2 == 0:
        return Halves(plain(rng, width // 2, width // 2)[0]), width
    if name == "depthwise":
        return nn.Conv2D(width, width * int(rng.integers(1, 3)), 3, padding=1, groups=width), width
    simple: dict[str, Callable[[], nn.Layer]] = {
        "buffers": lambda: Scaled(width, axis, bool(rng.random() < 0.5)),
        "excite": lambda: Excite(width, int(rng.integers(1, 5))),
        "pool": lambda: nn.AvgPool2D(3, 1, 1) if rng.random() < 0.5 else nn.MaxPool2D(3, 1, 1),
        "tied": lambda: Tied(width, int(rng.integers(1, 9))),
    }
    if name in simple:
        return simple[name](), width
    inner, made = plain(rng, width)
    return (Recomputed(inner) if name == "recompute" else inner), made


class Network(nn.Layer):
    """Steps over pictures, words or rows of numbers, then dense ones and a head."""

    def __init__(self, kind: str, rng: Rng, names: set[str]) -> None:
        super().__init__()
        width = {"pictures": 3, "words": 6, "rows": 5}[kind]
        self.kind = kind
        self.words = nn.Embedding(VOCABULARY, width) if kind == "words" else None
        steps: list[nn.Layer] = []
        axis = 1 if kind == "pictures" else -1
        for _ in range(rng.integers(1, 4)):
            step, width = _step(rng, width, axis, names)
            steps.append(step)
            if isinstance(step, nn.Conv2D):
                width = step.weight.shape[0]
        self.flat = bool(rng.random() < 0.3)
        self.steps = nn.LayerList(steps)
        width *= 36 if self.flat and kind == "pictures" else 1
        dense, width = _step(rng, width, -1, names) if rng.random() < 0.6 else (nn.Identity(), width)
        self.dense, self.head = dense, nn.Linear(width, int(rng.integers(1, 4)))
        if isinstance(self.head, nn.Linear) and self.head.weight.shape[1] == 1:
            names.add("one output")

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.answer(x)

    def answer(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.words is not None:
            x = self.words(x)
        for step in self.steps:
            x = step(x)
        if self.kind == "pictures":
            x = x.flatten(1) if self.flat else x.mean([2, 3])
        elif self.kind == "words":
            x = x.mean(1)
        return self.head(self.dense(x))


class Untranslated(Network):
    """The same; Paddle runs its forward as it is where it traces it, which takes a tenth of the time."""

    @paddle.jit.not_to_static
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.answer(x)


def _network(kind: str, seed: int) -> nn.Layer:
    paddle.seed(seed)
    model = (Network if seed % 10 == 0 else Untranslated)(kind, np.random.default_rng(seed), set())
    model.eval()
    return model


def _network_case(rng: Rng) -> Case:
    kind, seed = str(rng.choice(["pictures", "pictures", "words", "rows"])), int(rng.integers(1 << 30))
    names: set[str] = set()
    Network(kind, np.random.default_rng(seed), names)
    rows, odd = _rows(rng)
    shape = {"pictures": [3, 6, 6], "words": [5], "rows": [5]}[kind]

    def batch(count: int) -> Batch:
        if kind == "words":
            return {"x": paddle.to_tensor(rng.integers(0, VOCABULARY, [count, *shape]))}
        return {"x": paddle.to_tensor(rng.standard_normal([count, *shape]).astype("float32"))}

    same = bool(rng.random() < 0.2)  # the odd batch itself is the example, too
    given = batch(rows)
    choices: dict[str, Any] = {"expand_ratio": [[1.0, 0.5], [1.0, 0.5, 0.25], [1.0, 0.3]][rng.integers(3)]}
    if rng.random() < 0.2:
        choices["kernel_size"] = [5, 3, 1] if rng.random() < 0.5 else [3, 1]
        odd.append("kernel sizes")
    if rng.random() < 0.1:
        choices["expand_ratio"] = [2.0, 1.0, 0.5]
        odd.append("grown")
    example = dict(given) if same else batch(2)
    return Case(kind, [*sorted(names), *odd], partial(_network, kind, seed), given, example, choices)


# --- Changes to any model ---------------------------------------------------------------------------------------------


class PlainSubclass(nn.Linear):
    """A subclass that adds nothing."""


class OwnForward(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        return super().forward(input) * 2 + 1


def _of(model: nn.Layer, kind: type[nn.Layer]) -> list[nn.Layer]:
    return [layer for layer in model.sublayers() if type(layer) is kind]


def _picked(model: nn.Layer, rng: Rng, kind: type[nn.Layer] = nn.Linear) -> list[nn.Layer]:
    found = _of(model, kind)
    return [found[rng.integers(len(found))]] if found else []


def _hook(model: nn.Layer, rng: Rng) -> None:
    for layer in _picked(model, rng):
        layer.register_forward_post_hook(lambda layer, inputs, output: output * 1.5)
    for layer in _picked(model, rng):
        layer.register_forward_pre_hook(lambda layer, inputs: (inputs[0] * 0.5, *inputs[1:]))


def _freeze(model: nn.Layer, rng: Rng) -> None:
    for parameter in model.parameters():
        if rng.random() < 0.3:
            parameter.stop_gradient = True


def _norm_weight(model: nn.Layer, rng: Rng) -> None:
    for layer in _picked(model, rng):
        nn.utils.weight_norm(layer, dim=int(rng.integers(2)))


def _subclass(model: nn.Layer, rng: Rng) -> None:
    for layer in _picked(model, rng):
        layer.__class__ = PlainSubclass if rng.random() < 0.5 else OwnForward


def _pair(model: nn.Layer, rng: Rng) -> tuple[nn.Layer, nn.Layer] | None:
    """Two linear layers of one shape."""
    for one in _picked(model, rng):
        same = [other for other in _of(model, nn.Linear) if other is not one and other.weight.shape == one.weight.shape]
        if same:
            return one, same[rng.integers(len(same))]
    return None


def _share_parameter(model: nn.Layer, rng: Rng) -> None:
    pair = _pair(model, rng)
    if pair is not None:
        pair[1].weight = pair[0].weight


def _share_layer(model: nn.Layer, rng: Rng) -> None:
    pair = _pair(model, rng)
    if pair is not None:
        for parent in model.sublayers(include_self=True):
            for name, child in parent.named_children():
                if child is pair[1]:
                    parent.add_sublayer(name, pair[0])


def _repeat_block(model: nn.Layer, rng: Rng) -> None:
    for blocks in _picked(model, rng, nn.LayerList):
        if len(blocks) > 1 and type(blocks[0]) is type(blocks[1]) and not isinstance(model, Network):
            blocks[1] = blocks[0]


def _recompute_blocks(model: nn.Layer, rng: Rng) -> None:
    for layer in model.sublayers():
        if hasattr(layer, "enable_recompute"):
            layer.enable_recompute = True


CHANGES: dict[str, Callable[[nn.Layer, Rng], None]] = {
    "hooks": _hook,
    "frozen": _freeze,
    "weight norm": _norm_weight,
    "subclassed layer": _subclass,
    "shared parameter": _share_parameter,
    "shared layer": _share_layer,
    "block twice": _repeat_block,
    "blocks recomputed": _recompute_blocks,
}
DTYPES = ("float64", "float16", "bfloat16")


def _changed(build: Callable[[], nn.Layer], names: list[str], seed: int) -> nn.Layer:
    model = build()
    for name in names:
        if name in CHANGES:
            CHANGES[name](model, np.random.default_rng(seed))
        else:
            model.to(dtype=name)
    return model

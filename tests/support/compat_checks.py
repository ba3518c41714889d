"""What the bridge for PaddleSlim's scripts promises, each as a function that is run in a process of its own kind.

`python compat_checks.py NAME ...` runs some in this process, in order, and writes one line of JSON for each: its name
and what it raised, or null. The bridge changes the whole process, so the functions import it themselves.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

CLASSES = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiHeadAttention)
CLEAN = ({one: dict(vars(one)) for one in CLASSES}, set(sys.modules), list(sys.meta_path))


def bridge() -> Any:
    import ofa_slim.compat.paddleslim as found

    return found


def encoder(layers: int = 2, heads: int = 4, head_dim: int = 4, ffn: int = 24, **more: Any) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(heads * head_dim, heads, ffn, dropout=0.0, **more), layers)


def noise(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def attention_by_hand(layer: nn.MultiHeadAttention, x: paddle.Tensor, mask: Any, head_mask: Any) -> paddle.Tensor:
    rows, length, _ = x.shape

    def split(projection: nn.Linear) -> paddle.Tensor:
        return projection(x).reshape([rows, length, layer.num_heads, layer.head_dim]).transpose([0, 2, 1, 3])

    q, k, v = split(layer.q_proj), split(layer.k_proj), split(layer.v_proj)
    scores = paddle.matmul(q, k, transpose_y=True) / layer.head_dim**0.5
    weights = F.softmax(scores if mask is None else scores + mask)
    if head_mask is not None:
        weights = weights * head_mask
    return layer.out_proj(paddle.matmul(weights, v).transpose([0, 2, 1, 3]).reshape([rows, length, -1]))


def encoder_by_hand(model: nn.TransformerEncoder, x: paddle.Tensor, mask: Any, head_masks: Any) -> paddle.Tensor:
    for layer, head_mask in zip(model.layers, head_masks, strict=True):
        x = layer.norm1(x + attention_by_hand(layer.self_attn, x, mask, head_mask))
        x = layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))
    return x


def same(one: paddle.Tensor, other: paddle.Tensor, within: float = 1e-5) -> None:
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= within


# Imports.


def every_published_module_is_there() -> None:
    bridge()
    import paddleslim

    paddle.utils.try_import("paddleslim")
    from paddleslim.nas import ofa
    from paddleslim.nas.ofa import OFA, DistillConfig, RunConfig, utils
    from paddleslim.nas.ofa.convert_super import Convert, supernet
    from paddleslim.nas.ofa.layers import Block, SuperConv2D, SuperSeparableConv2D
    from paddleslim.nas.ofa.layers_base import BaseBlock
    from paddleslim.nas.ofa.utils import dynabert_config, nlp_utils, set_state_dict
    from paddleslim.nas.ofa.utils.utils import compute_start_end, get_paddle_version, get_same_padding, search_idx

    assert ofa is paddleslim.nas.ofa
    assert ofa.OFA is OFA
    assert ofa.utils is utils
    assert utils.nlp_utils is nlp_utils
    assert issubclass(Block, BaseBlock)
    everything = (DistillConfig, RunConfig, Convert, supernet, SuperConv2D, SuperSeparableConv2D, dynabert_config)
    assert all(callable(one) for one in (*everything, set_state_dict, nlp_utils.reorder_head))
    assert get_paddle_version() == 200
    assert [compute_start_end(7, size) for size in (3, 5, 7)] == [(2, 5), (1, 6), (0, 7)]
    assert get_same_padding(5) == 2
    assert [search_idx(epoch, [[1], [2, 3]]) for epoch in (0, 2, 3, 9)] == [(0, 0), (1, 0), (1, 1), (1, 1)]
    found: dict[str, Any] = {}
    exec("from paddleslim.nas.ofa.layers import *", found)
    assert "SuperLinear" in found
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'paddleslim\.quant'"):
        import paddleslim.quant


def one_line_says_so() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ofa_slim").addHandler(handler)
    assert bridge().installed()
    assert lines == ["paddleslim.nas.ofa is ofa_slim from now on: PaddleSlim is not installed"]


def a_broken_paddleslim_is_replaced_and_put_back() -> None:
    folder(sys.argv[-1], "import os\nraise AttributeError('module paddle has no attribute fluid')\n")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ofa_slim").addHandler(handler)
    found = bridge()
    import paddleslim.nas.ofa

    assert lines == [
        "paddleslim.nas.ofa is ofa_slim from now on: PaddleSlim cannot be imported "
        "(AttributeError: module paddle has no attribute fluid)"
    ]
    assert paddleslim.nas.ofa.OFA.__module__ == "ofa_slim.compat.paddleslim.ofa"
    found.uninstall()
    assert "paddleslim" not in sys.modules
    with pytest.raises(AttributeError, match="no attribute fluid"):
        import paddleslim


def a_working_paddleslim_stays_unless_it_is_forced() -> None:
    folder(sys.argv[-1], "", ofa="class OFA: pass\n")
    found = bridge()
    assert not found.installed()
    assert all(dict(vars(one)) == CLEAN[0][one] for one in CLASSES)
    import paddleslim.nas.ofa as theirs

    assert "ofa_slim" not in theirs.OFA.__module__
    assert found.install(force=True)
    import paddleslim.nas.ofa as ours

    assert ours.OFA.__module__ == "ofa_slim.compat.paddleslim.ofa"
    found.uninstall()
    import paddleslim.nas.ofa as again

    assert again is theirs


def folder(directory: str, package: str, ofa: str = "") -> None:
    """Puts a package called paddleslim into a directory and that on the path."""
    root = Path(directory) / "paddleslim"
    for place, text in ((root, package), (root / "nas", ""), (root / "nas" / "ofa", ofa)):
        place.mkdir(parents=True)
        (place / "__init__.py").write_text(text)
    sys.path.insert(0, directory)


# Forwards.


def uninstall_takes_everything_back() -> None:
    found = bridge()
    found.uninstall()
    classes, modules, watchers = CLEAN
    assert all(dict(vars(one)) == classes[one] for one in CLASSES)
    assert not [name for name in set(sys.modules) - modules if name.startswith("paddleslim")]
    own = "ofa_slim.base.former_paths"  # answers to names of ours alone, bridge or no bridge
    assert [finder for finder in sys.meta_path if type(finder).__module__ != own] == watchers
    with pytest.raises(ModuleNotFoundError):
        import paddleslim  # noqa: F401
    with pytest.raises(AttributeError):
        encoder()(noise(2, 3, 16), [None, None])
    found.uninstall()
    assert found.install()
    assert found.install()
    encoder()(noise(2, 3, 16), [None, None])
    found.uninstall()
    assert all(dict(vars(one)) == classes[one] for one in CLASSES)


def ordinary_calls_are_as_before() -> None:
    x, mask = noise(2, 5, 16), noise(1, 1, 5, 5, seed=1)
    bools = mask > 0.5
    models = (encoder(), encoder(normalize_before=True))

    def results() -> list[np.ndarray]:
        found = []
        for model in models:
            attention = model.layers[0].self_attn
            found += [model(x), model(x, mask), model(x, src_mask=bools), attention(x, attn_mask=mask)]
            found += [attention(x, x, x, bools), model.layers[1](x, mask)]
            out, caches = model(x, None, model.gen_cache(x))
            found += [out, caches[0].k]
        return [tensor.numpy() for tensor in found]

    before = [inspect.signature(one.forward) for one in CLASSES]
    expected = results()
    bridge()
    assert [inspect.signature(one.forward) for one in CLASSES] == before
    assert all(np.array_equal(one, other) for one, other in zip(results(), expected, strict=True))


def head_masks_scale_heads() -> None:
    bridge()
    x, mask = noise(3, 5, 16), noise(3, 1, 5, 5, seed=1)
    model = encoder(3)
    per_layer = noise(3, 4, seed=2)
    shaped = [per_layer[i].reshape([1, 4, 1, 1]) for i in range(3)]
    same(model(x, [mask, per_layer]), encoder_by_hand(model, x, mask, shaped))
    same(model(x, src_mask=(None, per_layer)), encoder_by_hand(model, x, None, shaped))
    same(model(x, [mask, per_layer[0]]), encoder_by_hand(model, x, mask, [shaped[0]] * 3))
    by_row = noise(3, 3, 4, 1, 1, seed=3)
    same(model(x, [mask, by_row]), encoder_by_hand(model, x, mask, list(by_row)))
    assert np.array_equal(model(x, [mask, None]).numpy(), model(x, mask).numpy())
    layer = model.layers[0]
    same(layer.self_attn(x, x, x, [mask, shaped[0]]), attention_by_hand(layer.self_attn, x, mask, shaped[0]))
    same(layer(x, [mask, shaped[0]]), encoder_by_hand(_only(model, 1), x, mask, shaped[:1]))
    layer.self_attn.need_weights = True
    plain, masked = layer.self_attn(x, attn_mask=mask)[1], layer.self_attn(x, attn_mask=[mask, shaped[0]])[1]
    same(masked, plain * shaped[0])
    assert not layer.self_attn.out_proj._forward_pre_hooks


def _only(model: nn.TransformerEncoder, count: int) -> Any:
    class Part:
        layers = list(model.layers)[:count]

    return Part


def gradients_reach_the_head_mask() -> None:
    bridge()
    x, model = noise(3, 5, 16), encoder()
    masks = [paddle.ones([2, 4]), paddle.ones([2, 4])]
    for mask in masks:
        mask.stop_gradient = False
    probe = noise(16, 1, seed=4)
    paddle.matmul(model(x, [None, masks[0]]), probe).square().sum().backward()
    shaped = [masks[1][i].reshape([1, 4, 1, 1]) for i in range(2)]
    paddle.matmul(encoder_by_hand(model, x, None, shaped), probe).square().sum().backward()
    assert float(masks[1].grad.abs().min()) > 0.01
    same(masks[0].grad, masks[1].grad, 1e-2)


class Masked(nn.Layer):
    """An encoder that is given head masks."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()

    def forward(self, x: paddle.Tensor, heads: paddle.Tensor) -> paddle.Tensor:
        return self.encoder(x, [None, heads])


def head_masks_can_be_traced() -> None:
    bridge()
    model, x, heads = Masked(), noise(2, 5, 16), noise(2, 4, seed=1)
    model.eval()
    expected = model(x, heads)
    for full_graph in (True, False):
        same(paddle.jit.to_static(copy.deepcopy(model), full_graph=full_graph)(x, heads), expected)


def masks_that_cannot_be_are_refused() -> None:
    from ofa_slim.errors import ConfigError

    bridge()
    x, model = noise(3, 5, 16), encoder()
    for masks, said in (
        ([None], r"must be \[mask, head_mask\]; this one has 1"),
        ([None, noise(3, 4)], "not for 2 layers"),
        ([None, noise(2, 3)], "for 4 heads"),
        ([None, noise(2, 1, 4, 5, 5)], "neither"),
    ):
        with pytest.raises(ConfigError, match=said):
            model(x, masks)
    with pytest.raises(ConfigError, match="cannot go together"):
        model(x, [None, paddle.ones([2, 4])], model.gen_cache(x))


# Supernets.


def layers_answer_to_the_published_names() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA, utils
    from paddleslim.nas.ofa.convert_super import Convert, supernet
    from paddleslim.nas.ofa.layers import SuperLinear

    model = encoder()
    parameters, keys = list(model.parameters()), list(model.state_dict())
    Convert(supernet(expand_ratio=[1.0])).convert(model)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == keys
    ofa = OFA(model, elastic_order=["width"])
    ofa.set_epoch(0)
    ofa.set_task("width")
    attention = model.layers[0].self_attn
    assert attention.q_proj.fn.weight is attention.q_proj.weight
    assert hasattr(attention.q_proj, "fn")
    assert isinstance(attention.q_proj.fn, SuperLinear)
    config = utils.dynabert_config(ofa, 0.5)
    assert config["layers.0.linear1"] == {"expand_ratio": 0.5}
    assert config["layers.0.linear2"] == config["layers.0.self_attn.out_proj"] == {"expand_ratio": 1.0}
    assert not set(config) & {"depth"}
    config["layers.0.linear1"]["expand_ratio"] = 0.25  # a fresh one each time
    assert utils.dynabert_config(ofa, 0.5)["layers.0.linear1"] == {"expand_ratio": 0.5}
    ofa.set_net_config(config)
    assert attention.q_proj.fn.cur_config == {"expand_ratio": 0.5, "channel": None, "prune_dim": [16, 8]}
    assert model.layers[0].linear1.fn.cur_config["prune_dim"] == [16, 6]
    assert model.layers[0].norm1.fn.cur_config == {"prune_dim": 16}
    twin, x = copy.deepcopy(model), noise(2, 5, 16)
    ofa.set_net_config(utils.dynabert_config(ofa, 0.25))
    assert twin.layers[0].self_attn.num_heads == 2
    assert twin.layers[0].linear1.fn is twin.layers[0].linear1
    assert twin(x).shape == [2, 5, 16]


def heads_are_not_cut_twice() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA, utils
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    model, x = encoder(), noise(2, 5, 16)
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model))
    half = utils.dynabert_config(ofa, 0.5)
    ofa.set_net_config(half)
    expected, attention = ofa(x), model.layers[0].self_attn
    ratio = attention.q_proj.fn.cur_config["expand_ratio"]
    attention.num_heads = int(attention.num_heads * ratio)  # as published forwards do, and undo
    assert attention.num_heads == 2
    same(ofa(x), expected)
    attention.num_heads = int(attention.num_heads / ratio)
    assert attention.num_heads == 2
    plain = ofa.export(half, input_shapes=[2, 5, 16], input_dtypes=["float32"], origin_model=encoder())
    for layer in plain.sublayers():
        if isinstance(layer, nn.MultiHeadAttention):  # as published scripts do behind an export
            layer.num_heads = int(layer.num_heads * 0.5)
    same(plain(x), expected)
    assert plain.layers[0].self_attn.q_proj.weight.shape == [16, 8]
    again = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(plain))
    again.set_net_config(utils.dynabert_config(again, 0.5))
    assert plain.layers[0].self_attn.num_heads == 1
    assert again(x).shape == [2, 5, 16]


def configs_are_read_leniently() -> None:
    from ofa_slim.errors import IllegalSubnetError

    bridge()
    from paddleslim.nas.ofa import OFA
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ofa_slim.compat.paddleslim.ofa").addHandler(handler)
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(encoder()))
    given = {
        "expand_ratio": None,
        "nobody": {"expand_ratio": 0.5},
        "layers.0.linear1": {"expand_ratio": 0.5},
        "layers.0.linear2": {"expand_ratio": 0.5},
        "layers.0.self_attn.q_proj": {"expand_ratio": 0.5, "channel": None},
        "layers.0.self_attn.k_proj": {"expand_ratio": 1.0},
    }
    ofa.net_config = given
    assert ofa.net_config is given
    assert lines == [
        "config: no layer is called 'expand_ratio'; ignored",
        "config: no layer is called 'nobody'; ignored",
        "config: expand_ratio 0.5 of 'layers.0.linear2' is ignored, as that is fixed",
    ]
    ofa(noise(2, 5, 16))
    assert ofa.current_config["layers.0.linear1"] == {"expand_ratio": 0.5}
    assert ofa.current_config["layers.0.self_attn.k_proj"] == {"expand_ratio": 0.5}
    with pytest.raises(IllegalSubnetError):
        ofa.set_net_config({"layers.0.linear1": {"expand_ratio": 1.5}})
    assert ofa.net_config is given
    ofa.net_config = None
    assert ofa.net_config is None


class Residual(nn.Layer):
    """Two layers whose widths must agree, one with a width of its own, and one that makes the output."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 8)
        self.three, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.one(x))
        return self.last(F.relu(self.three(x + self.two(x))))


def the_search_space_is_the_published_one() -> None:
    from ofa_slim.errors import ConfigError

    bridge()
    from paddleslim.nas.ofa import OFA, RunConfig
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    def supernet_of(**run: Any) -> Any:
        return OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(Residual()), RunConfig(**run))

    x, widths = noise(3, 4), {"expand_ratio": [0.5, 1.0]}
    ofa = supernet_of()
    assert ofa._ofa_layers == {"one": widths, "two": widths, "three": widths, "last": {}}  # as it was converted
    assert ofa._sample_config("expand_ratio", sample_type="smallest")["two"] == {"expand_ratio": 0.5}
    ofa._clear_search_space(x)
    assert ofa._ofa_layers == ofa.ofa_layers == {"one": widths, "three": widths}
    keys = {layer.key: path for path, layer in ofa.model.named_children()}
    assert ofa._key2name == keys
    assert set(ofa.layers) == {layer.full_name() for layer in ofa.model.children()} == set(keys)
    seen = {json.dumps(ofa._sample_config("expand_ratio")) for _ in range(40)}
    assert len(seen) == 4
    assert ofa._sample_config(None) == {"one": {"expand_ratio": 1.0}, "three": {"expand_ratio": 1.0}}
    with pytest.raises(ConfigError, match="needs one task"):
        ofa.tokenize()
    ofa.set_task("expand_ratio")
    ofa.tokenize()
    assert ofa.token_map == {"expand_ratio": {"one": {0: 0.5, 1: 1.0}, "three": {0: 0.5, 1: 1.0}}}
    assert ofa.search_cands == [[0, 1], [0, 1]]
    assert ofa.decode_token([0, 1]) == {"one": 0.5, "three": 1.0}
    ofa(x)
    assert ofa.current_config["two"] == {"expand_ratio": 0.5}
    assert ofa.current_config["three"] == {"expand_ratio": 1.0}
    skipping = supernet_of(skip_layers=["one"])
    skipping._clear_search_space(input_spec=[paddle.static.InputSpec([3, 4])])
    assert list(skipping._ofa_layers) == ["three"]


class WithDictionary(nn.Layer):
    """Adds an entry of a dictionary, which has the name of the argument that takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: paddle.Tensor, data: dict[str, paddle.Tensor]) -> paddle.Tensor:
        return self.three(self.two(F.relu(self.one(x))) + data["data"])


def the_search_space_is_found_from_any_form_of_inputs() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    def found(model: nn.Layer, *inputs: Any, **named: Any) -> list[str]:
        ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model))
        ofa._clear_search_space(*inputs, **named)
        return list(ofa._ofa_layers)

    x, entry = noise(3, 4), {"data": noise(3, 8)}
    free = ["one", "three"]
    assert found(Residual(), x) == found(Residual(), x=x) == found(Residual(), anything=x) == free
    assert found(Residual(), input_spec=[x]) == found(Residual(), input_spec=x) == free
    assert found(Residual(), input_spec=[paddle.static.InputSpec([3, 4])]) == free
    for form in ((x, entry), [x, {"data": paddle.static.InputSpec([3, 8])}]):
        assert found(WithDictionary(), input_spec=list(form)) == ["one"]
    assert found(WithDictionary(), x, entry) == found(WithDictionary(), x, data=entry) == ["one"]


def an_export_probes_a_dictionary_by_position() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    model = Convert(supernet(expand_ratio=[0.5, 1.0])).convert(WithDictionary())
    plain = OFA(model).export(
        {"one": {"expand_ratio": 0.5}}, input_shapes=[[1, 4], {"data": [1, 8]}], input_dtypes=["float32", "float32"]
    )
    assert plain.one.weight.shape == [4, 4]


def tokens_number_the_candidates_of_converting() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA, RunConfig
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    def chain() -> nn.Layer:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2))

    def tokenized(ratios: list[float], **run: Any) -> Any:
        ofa = OFA(Convert(supernet(expand_ratio=ratios)).convert(chain()), RunConfig(**run))
        ofa.set_task("expand_ratio")
        ofa._clear_search_space(noise(3, 4))
        ofa.tokenize()
        return ofa

    upper = {"expand_ratio": [0.5, 1.0]}
    ofa = tokenized([0.25, 0.5, 1.0], ofa_layers={"0": upper, "2": upper, "4": {}, "5": {}})
    assert list(ofa._ofa_layers) == ["0", "2"]
    assert ofa.token_map == {"expand_ratio": {"0": {1: 0.5, 2: 1.0}, "2": {1: 0.5, 2: 1.0}}}
    assert ofa.decode_token([1, 2]) == {"0": 0.5, "2": 1.0}
    ofa(noise(3, 4))
    assert [ofa.current_config[name]["expand_ratio"] for name in "024"] == [0.5, 1.0, 1.0]
    # A third of six outputs is two, as is 0.4: the choices are those that were given, not the shares of the sizes.
    assert tokenized([0.3, 0.4, 1.0])._ofa_layers["4"] == {"expand_ratio": [0.3, 0.4, 1.0]}
    # Layers of different sizes may be told to have the same share.
    tied = tokenized([0.5, 1.0], same_search_space=[["0", "4"]])
    assert list(tied._ofa_layers) == ["0", "2"]
    for _ in range(8):
        tied(noise(3, 4))
        assert tied.current_config["0"] == tied.current_config["4"]
    tied.decode_token([0, 1])
    tied(noise(3, 4))
    assert [tied.current_config[name]["expand_ratio"] for name in "024"] == [0.5, 1.0, 0.5]


def converted_lists_blocks_and_hand_written_layers_mix() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA, RunConfig
    from paddleslim.nas.ofa.convert_super import supernet
    from paddleslim.nas.ofa.layers import Block, SuperSeparableConv2D

    with supernet(kernel_size=(3, 5), channel=((4, 8), (6, 10), (4, 8))) as context:
        first = context.convert(
            [nn.Conv2D(3, 4, 3, padding=1), nn.Conv2D(4, 4, 3, groups=4), nn.BatchNorm2D(4), nn.Conv2D(4, 3, 3)]
        )
    block = Block(SuperSeparableConv2D(3, 6, 1, padding=1, candidate_config={"channel": (3, 6)}), fixed=True)
    with supernet(kernel_size=(3, 5), expand_ratio=(1, 2)) as context:
        second = context.convert(
            [nn.Conv2D(6, 4, 3), nn.Conv2DTranspose(4, 4, 3, groups=2), nn.BatchNorm2D(4), nn.Conv2D(4, 2, 1)]
        )
    model, x = nn.Sequential(*first, block, *second), noise(2, 3, 9, 9)
    ofa = OFA(model, RunConfig())
    assert ofa(x).shape[1] == 2
    assert ofa._ofa_layers["0"] == {"channel": [4, 8], "kernel_size": [3, 5]}
    assert "expand_ratio" in ofa._ofa_layers["5"]
    assert not [name for name in ofa._ofa_layers if name.startswith("4")]  # the block is fixed
    for kind in ("smallest", "random", "largest"):
        config = ofa._sample_config(["kernel_size", "width"], kind)
        ofa.set_net_config(config)
        model.eval()
        expected = model(x)
        plain = ofa.export(config, input_shapes=[2, 3, 9, 9], input_dtypes=["float32"])
        plain.eval()
        same(plain(x), expected, 1e-4)


def the_layers_that_must_agree_can_be_asked_for() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA
    from paddleslim.nas.ofa.convert_super import Convert, supernet
    from paddleslim.nas.ofa.get_sub_model import broadcast_search_space, check_search_space

    from ofa_slim.errors import ConfigError

    model = Residual()
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model))
    with pytest.raises(ConfigError):
        check_search_space(ofa)
    ofa._clear_search_space(noise(3, 4))
    groups, depthwise, by_input, outputs = check_search_space(ofa)
    assert groups == [sorted([model.one.weight.name, model.two.weight.name])]
    assert (depthwise, by_input, outputs) == ([], [], [model.last.weight.name])
    config = {"a": {"expand_ratio": 0.5}, "b": {"expand_ratio": 1.0, "kernel_size": 3}, "d": {"channel": 4}}
    broadcast_search_space([["wa", "wb", "wc"], ["we", "wd"]], {f"w{name}": name for name in "abcde"}, config)
    assert config == {
        "a": {"expand_ratio": 0.5},
        "b": {"expand_ratio": 0.5, "kernel_size": 3},
        "c": {"expand_ratio": 0.5},
        "d": {"channel": 4},
    }


def nothing_asked_for_is_no_error() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA
    from paddleslim.nas.ofa.convert_super import supernet

    with supernet(expand_ratio=None) as converter:
        layers = converter.convert([nn.Embedding(8, 4), nn.Linear(4, 6), nn.LayerNorm(6)])
    ofa = OFA(nn.Sequential(*layers))
    ofa.set_net_config({"expand_ratio": None})
    assert ofa(paddle.zeros([2, 3], "int64")).shape == [2, 3, 6]


def blocks_by_hand() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA, DistillConfig
    from paddleslim.nas.ofa.layers import Block, SuperBatchNorm2D, SuperConv2D
    from paddleslim.nas.ofa.layers_base import BaseBlock

    def model() -> nn.Layer:
        first = Block(SuperConv2D(3, 8, 3, candidate_config={"channel": (4, 8)}), key="first")
        return nn.Sequential(first, SuperBatchNorm2D(8), Block(SuperConv2D(8, 2, 1), fixed=True))

    student, x = model(), noise(2, 3, 6, 6)
    assert isinstance(student[0], BaseBlock)
    assert student[0].key == "first"
    assert student[2].key != Block(SuperConv2D(8, 2, 1)).key
    distill = DistillConfig(lambda_distill=0.1, teacher_model=model(), mapping_layers=["0.fn"], mapping_op="conv2d")
    ofa = OFA(student, distill_config=distill)
    assert ofa.ofa_teacher_model.model is distill.teacher_model
    ofa.set_net_config({"first": {"channel": 4}})
    out, answer = ofa(x)
    assert out.shape == answer.shape
    assert student[0].fn.cur_config["prune_dim"] == [4, 3, 3, 3]
    ofa.calc_distill_loss().backward()


def layers_run_in_static_mode() -> None:
    bridge()
    from paddleslim.nas.ofa import layers

    paddle.enable_static()
    try:
        program, startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(program, startup):
            ids = paddle.static.data("ids", [2, 5], "int64")
            maps = paddle.static.data("maps", [2, 4, 6, 6])
            outputs = [
                layers.SuperLayerNorm(8)(layers.SuperLinear(8, 8)(layers.SuperEmbedding(9, 8)(ids, channel=4))),
                layers.SuperConv2D(4, 8, 3, candidate_config={"kernel_size": (3, 5)}, padding=1)(maps, kernel_size=3),
                layers.SuperBatchNorm2D(8)(layers.SuperConv2DTranspose(4, 8, 3)(maps, channel=4)),
                layers.SuperInstanceNorm2D(8)(layers.SuperSeparableConv2D(8, 8, 3)(maps, expand_ratio=0.5)),
                layers.SuperGroupConv2D(8, 8, 3, groups=2)(maps, channel=4),
                layers.SuperDepthwiseConv2DTranspose(8, 8, 3, groups=8)(maps),
            ]
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(startup)
        feed = {"ids": np.arange(10).reshape(2, 5) % 9, "maps": np.ones([2, 4, 6, 6], "float32")}
        found = executor.run(program, feed=feed, fetch_list=outputs)
    finally:
        paddle.disable_static()
    shapes = [list(one.shape) for one in found]
    assert shapes == [[2, 5, 8], [2, 8, 6, 6], [2, 4, 8, 8], [2, 4, 4, 4], [2, 4, 4, 4], [2, 4, 8, 8]]
    assert all(np.isfinite(one).all() for one in found)


def a_traced_supernet_is_what_it_is() -> None:
    bridge()
    from paddleslim.nas.ofa import OFA, utils
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    model, x = encoder(), noise(2, 5, 16)
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model))
    ofa.set_net_config(utils.dynabert_config(ofa, 0.5))
    model.eval()
    expected = model(x)
    traced = paddle.jit.to_static(model, input_spec=[paddle.static.InputSpec([None, None, 16])], full_graph=True)
    same(traced(x), expected)


# Importance.


class Scored(nn.Layer):
    """A classifier that takes masks in a list, and keeps what it filled in where the list is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder(2)
        self.fc = nn.Linear(16, 3)

    def forward(self, one: paddle.Tensor, two: paddle.Tensor, attention_mask: Any = [None, None]) -> paddle.Tensor:  # noqa: B006
        if attention_mask[0] is None:
            attention_mask[0] = (one[:, :, 0] > 1).astype("float32").unsqueeze([1, 2]) * -1e4
        return self.fc(self.encoder(one + two, attention_mask)[:, 0])


def importance_of_batches() -> list[Any]:
    labels = paddle.to_tensor([[0], [1], [2]])
    return [[noise(3, 5, 16, seed=seed), noise(3, 5, 16, seed=seed + 9), labels] for seed in range(3)]


def by_hand(model: Scored, batches: list[Any], accumulate: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the heads, and of the first layer's neurons, from gradients that are cleared or not."""
    heads, neurons = np.zeros([2, 4]), np.zeros(24)
    mask = paddle.ones([2, 4])
    mask.stop_gradient = False
    first, second = model.encoder.layers[0].linear1, model.encoder.layers[0].linear2
    model.eval()
    for one, two, labels in batches:
        F.cross_entropy(model(one, two, attention_mask=[None, mask]), labels).backward()
        into = (first.weight * first.weight.grad).sum(0) + first.bias * first.bias.grad
        heads += mask.grad.abs().numpy()
        neurons += (into.abs() + (second.weight * second.weight.grad).sum(1).abs()).numpy()
        if not accumulate:
            model.clear_gradients()
            mask.clear_gradient()
    model.clear_gradients()
    return heads, neurons


def importance_is_that_of_each_batch_or_the_old_one() -> None:
    found = bridge()
    from paddleslim.nas.ofa.utils import nlp_utils

    model, batches = Scored(), importance_of_batches()

    def scores(task: str = "sst-2", loader: Any = batches, **more: Any) -> tuple[np.ndarray, np.ndarray]:
        heads, neurons = nlp_utils.compute_neuron_head_importance(task, model, loader, 2, 4, **more)
        assert all(isinstance(one, np.ndarray) for one in neurons)
        return heads.numpy(), neurons[0]

    def close(one: Any, other: Any) -> bool:
        return all(np.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(one, other, strict=True))

    fresh, old = by_hand(model, batches, accumulate=False), by_hand(model, batches, accumulate=True)
    assert not close(fresh, old)
    assert close(scores(), fresh)
    assert close(scores(accumulate=True), old)
    found.accumulate_gradients()
    assert close(scores(), old)
    assert close(scores(accumulate=False), fresh)
    found.accumulate_gradients(False)
    assert close(scores("MNLI", [batches[:1], batches[1:]]), fresh)
    assert close(scores("mnli"), fresh)
    named = [{"input_ids": one, "token_type_ids": two, "labels": labels, "more": 1} for one, two, labels in batches]
    assert close(scores(loader=named), fresh)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def reordering_changes_nothing_computed() -> None:
    bridge()
    from paddleslim.nas.ofa.convert_super import Convert, supernet
    from paddleslim.nas.ofa.utils import nlp_utils

    model, (one, two, _) = Scored(), importance_of_batches()[0]
    expected = model(one, two, [None, None])
    heads, neurons = nlp_utils.compute_neuron_head_importance("sst-2", model, importance_of_batches(), 2, 4)
    Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model)
    before = model.encoder.layers[0].linear1.weight.numpy()
    for layer, scores in zip(model.encoder.layers, neurons, strict=True):
        order = paddle.argsort(paddle.to_tensor(scores), descending=True)
        nlp_utils.reorder_neuron(layer.linear1.fn, order, dim=1)
        nlp_utils.reorder_neuron(layer.linear2.fn, order, dim=0)
        nlp_utils.reorder_head(layer.self_attn, paddle.argsort(heads[0], descending=True))
    assert not np.array_equal(model.encoder.layers[0].linear1.weight.numpy(), before)
    same(model(one, two, [None, None]), expected)


def state_dicts_of_old_supernets_load() -> None:
    bridge()
    from paddleslim.nas.ofa.convert_super import Convert, supernet
    from paddleslim.nas.ofa.utils import set_state_dict

    model, other = Residual(), Residual()
    old = {}
    for key, value in other.state_dict().items():
        layer, name = key.split(".")
        old[f"{layer}.fn.{name}" if layer != "last" else key] = value
    Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model)
    set_state_dict(model, old)
    same(model(noise(3, 4)), other(noise(3, 4)), 0.0)


def trainer_compress_writes_the_best_of_each_width() -> None:
    bridge()
    from trainer_compress import MODELS, compress

    for kind in MODELS:
        found = compress(kind, Path(sys.argv[-1]) / kind, ["1", "0.5"])
        logged, written, sizes = found["logged"], found["written"], found["sizes"]
        assert set(logged) == set(written) == {1.0, 0.5}, found
        assert all(abs(logged[width] - written[width]) <= 1e-4 for width in logged), found
        assert logged[0.5] < logged[1.0], found  # something was cut
        # The query, key, value and output layers lose 4 x 16 x 8 and 3 x 8 numbers, the others 2 x 16 x 12 and 12.
        assert sizes[1.0] - sizes[0.5] == 2 * (4 * 16 * 8 + 3 * 8 + 2 * 16 * 12 + 12), found


def trainer_compress_cuts_each_width_from_the_whole_model() -> None:
    bridge()
    from ofa_slim.errors import ConfigError
    from trainer_compress import compress

    directory = Path(sys.argv[-1])
    several = compress("seq_cls", directory / "several", ["0.75", "0.5"])
    one = compress("seq_cls", directory / "one", ["0.5"])
    assert several["sizes"][0.5] == one["sizes"][0.5] < several["sizes"][0.75]
    assert all(abs(several["logged"][width] - several["written"][width]) <= 1e-4 for width in (0.75, 0.5)), several
    with pytest.raises(ConfigError, match=r"0\.6 of the 4 heads of encoder layer 0 is not a whole number of heads"):
        compress("seq_cls", directory / "part", ["1", "0.6"])
    with pytest.raises(ConfigError, match="save_steps is 500, but training ends after step 12: nothing would be eval"):
        compress("seq_cls", directory / "late", ["0.5"], save_steps=500)


# With PaddleNLP, which replaces the encoder's forward when it is imported.


def other_families_run_too() -> None:
    """Some attentions have a part called `key`, which is also a published name."""
    bridge().install()
    from paddleslim.nas.ofa import OFA
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    from families import FAMILIES, inputs, outputs

    for name in ("nezha", "albert", "mpnet", "gpt", "ernie-layout"):
        batch = inputs(name)
        ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(FAMILIES[name]()))
        with ofa.subnet(ofa.search_space.smallest()):
            expected = outputs(ofa.model, batch)
        plain = ofa.export(config=ofa.search_space.smallest(), input_shapes=[batch])
        plain.eval()
        for one, other in zip(outputs(plain, batch), expected, strict=True):
            same(one, other)


def a_hidden_size_alone_is_asked_for_too() -> None:
    bridge().install()
    from paddleslim.nas.ofa import OFA
    from paddleslim.nas.ofa.convert_super import Convert, supernet

    from families import FAMILIES

    ofa = OFA(Convert(supernet(hidden_size=[16, 8])).convert(FAMILIES["bert"]()))
    assert ofa.search_space["hidden_size"].choices == (8, 16)


def _bert() -> Any:
    from models import bert

    return bert(layers=2, heads=4)


def paddlenlp_before_the_bridge() -> None:
    import paddlenlp.transformers  # noqa: F401

    _with_paddlenlp()


def paddlenlp_after_the_bridge() -> None:
    bridge()
    import paddlenlp.transformers  # noqa: F401

    _with_paddlenlp()


def _with_paddlenlp() -> None:
    from models import batch
    from ofa_slim import OFA, Convert, supernet

    found = bridge()
    model, (ids, types) = _bert(), batch()
    stack = model.bert.encoder
    x, mask, heads = noise(3, 7, 16), noise(3, 1, 7, 7, seed=1), noise(2, 4, seed=2)
    shaped = [heads[i].reshape([1, 4, 1, 1]) for i in range(2)]
    with_gelu = [layer.activation for layer in stack.layers]
    for layer in stack.layers:
        layer.activation = F.relu
    same(stack(x, [mask, heads]), encoder_by_hand(stack, x, mask, shaped))
    for layer, activation in zip(stack.layers, with_gelu, strict=True):
        layer.activation = activation
    states = stack(x, [mask, None], output_hidden_states=True, return_dict=True).hidden_states
    assert len(states) == 3
    assert "output_hidden_states" in inspect.signature(stack.forward).parameters
    expected = model(ids, types).numpy()
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model))  # finds what runs Paddle's own forward
    assert sum(axis.elastic for axis in ofa.search_space.axes) == 4
    wrapped = [one.forward for one in CLASSES]
    found.uninstall()
    assert not {one.forward for one in CLASSES} & set(wrapped)
    assert nn.TransformerEncoder.forward.__module__ == "paddlenlp.transformers.model_outputs"
    for one in CLASSES:
        assert not [name for name, value in vars(one).items() if inspect.isfunction(value) and value in wrapped]
    with ofa.subnet(ofa.search_space.largest()):
        same(model(ids, types), paddle.to_tensor(expected), 0.0)


def main(names: list[str]) -> None:
    for name in names:
        error = None
        paddle.seed(0)
        try:
            globals()[name]()
        except Exception:
            error = traceback.format_exc()
        print(json.dumps([name, error]), flush=True)


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name in globals()])

"""Files from somewhere else: each bad one is refused by name, runs nothing, and reaches nothing outside its folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from example_runs import model_files
from models import Tagger, bert
from ofa_slim import load_subnet, pipeline, save_subnet
from ofa_slim.base.predictor import PASSES_FILE, passes_off
from ofa_slim.cli import main
from ofa_slim.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    IllegalSubnetError,
    LatencyError,
    OfaSlimError,
    RecipeError,
    SearchError,
)
from ofa_slim.export.formats import Opened, time_models
from ofa_slim.export.formats.pipeline import TextTask
from ofa_slim.export.formats.processes import run_in_subprocess
from ofa_slim.integrations.paddlenlp import ModelLoadError, load_sequence_classifier
from ofa_slim.integrations.trainer.best import METRICS_FILE, Best
from ofa_slim.job.page import _curves, write_page
from ofa_slim.job.recipe import load_recipe
from ofa_slim.job.stage_folders import StageError, check_mark, read_json
from ofa_slim.job.tools import _sizes
from ofa_slim.measure import LatencyTable
from ofa_slim.measure.block_times import Conditions, Times
from ofa_slim.measure.blocks import Block, Dimension
from ofa_slim.search.study_storage import open_storage
from ofa_slim.supernet import SubnetConfig
from ofa_slim.train.checkpoint import CheckpointManager
from ofa_slim.train.checkpoint.gradients import GRADIENTS
from ofa_slim.train.checkpoint.manifest import _sealed, summed
from ofa_slim.train.checkpoint.randomness import RANDOM
from ofa_slim.train.teacher.store import LAYOUT_FILE, _json_checksum
from teacher_caches import Cached, full, words


def subnet_folder(folder: Path) -> None:
    paddle.seed(1)
    save_subnet(bert(layers=1, classes=2), folder)


def format_folder(folder: Path) -> None:
    subnet_folder(folder)
    with (folder / "vocab.txt").open("w", encoding="utf-8") as file:
        file.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film"]) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    task = TextTask("films", ("bad", "good"), 16).to_dict()
    inputs = {"input_ids": "int64", "token_type_ids": "int64"}
    card = {"format": "plain", "opener": "plain", "inputs": inputs, "build": None, "task": task}
    (folder / "format.json").write_text(json.dumps(card), encoding="utf-8")


def classifier_folder(folder: Path) -> None:
    model_files(folder)


def checkpoint_folder(folder: Path) -> None:
    CheckpointManager(folder).save(1, {"rng": np.random.default_rng(0), "tensors": [paddle.ones([2])]})


def cache_folder(folder: Path) -> None:
    cached = Cached(folder, words())
    cached(full()[0])
    cached.engine.close()


def table_folder(folder: Path) -> None:
    folder.mkdir()
    about = Conditions("a processor", 1, "inference", "3.3", "hash", "int64 [1, 8]", "2026-01-01")
    blocks = [Block("layer", "kind", (Dimension({"layer.ffn": 1}),), True, None)]
    LatencyTable(about, blocks, {"kind": Times(((1, 2),), ((1.0, 2.0),), 1.5, True)}, 0.5, 1.0).save(folder / "t.json")


def stage_folder(folder: Path) -> None:
    folder.mkdir()
    mark = {"stage": "search", "id": "a", "inputs": {}, "settings": {"seed": 0}}
    (folder / "stage.json").write_text(json.dumps(mark), encoding="utf-8")


def best_folder(folder: Path) -> None:
    (folder / "small").mkdir(parents=True)
    (folder / "small" / METRICS_FILE).write_text('{"value": 0.5}', encoding="utf-8")


def sizes_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "sizes.json").write_text('{"config": {"encoder.0.ffn": 8}}', encoding="utf-8")


def restored(folder: Path) -> None:
    CheckpointManager(folder).restore({"rng": np.random.default_rng(0), "tensors": [paddle.zeros([2])]})


def read_cache(folder: Path) -> None:
    cached = Cached(folder, words())
    try:
        cached(full()[0])
    finally:
        cached.engine.close()


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any], type[OfaSlimError]]] = {
    "subnet": (subnet_folder, load_subnet, ExportError),
    "format": (format_folder, lambda folder: pipeline(folder)(["film"]), ExportError),
    "classifier": (classifier_folder, lambda folder: load_sequence_classifier(folder, 2), ModelLoadError),
    "checkpoint": (checkpoint_folder, restored, CheckpointError),
    "cache": (cache_folder, read_cache, ConfigError),
    "table": (table_folder, lambda folder: LatencyTable.load(folder / "t.json"), LatencyError),
    "stage": (stage_folder, lambda folder: check_mark(folder, {"seed": 0}), StageError),
    "best": (best_folder, lambda folder: Best(folder, True, lambda _: None).read({"small": 1}), ConfigError),
    "sizes": (sizes_folder, lambda folder: _sizes(folder / "sizes.json"), ConfigError),
}

# The JSON files of each kind; a star stands for one folder.
FILES = {
    "subnet": ("subnet.json", "config.json"),
    "format": ("format.json", "tokenizer_config.json", "subnet.json", "config.json"),
    "classifier": ("config.json",),
    "checkpoint": ("step-00000001/manifest.json",),
    "cache": (f"*/{LAYOUT_FILE}",),
    "table": ("t.json",),
    "stage": ("stage.json",),
    "best": (f"small/{METRICS_FILE}",),
    "sizes": ("sizes.json",),
}


def put_first(text: bytes, entries: bytes) -> bytes:
    return b"{" + entries + b", " + text.lstrip()[1:]


BAD_JSON: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "cut off": lambda text: text[: len(text) // 2],
    "not UTF-8": lambda text: b'{"\xff\xfe": 1}',
    "zeros": lambda text: b"\x00" * 100,
    "a key twice": lambda text: put_first(text, b'"odd": 1, "odd": 2'),
    "NaN": lambda text: put_first(text, b'"odd": NaN'),
    "a number beyond all": lambda text: put_first(text, b'"odd": 1e999'),
    "deep": lambda text: put_first(text, b'"odd": ' + b"[" * 100_000 + b"]" * 100_000),
    "a little deep": lambda text: put_first(text, b'"odd": ' + b"[" * 300 + b"]" * 300),
    "a list": lambda text: b"[]",
    "a text": lambda text: b'"text"',
    "nothing": lambda text: b"null",
    "many digits": lambda text: put_first(text, b'"odd": ' + b"9" * 5000),
}
OWN_NUMBERS = ("stage", "best")  # this library's own, in which NaN may be a score


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder of each kind, which opens."""
    folder = tmp_path_factory.mktemp("good")
    for kind, (write, read, _) in KINDS.items():
        write(folder / kind)
        read(folder / kind)
    return folder


@pytest.fixture(autouse=True)
def _runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test runs a command, or changes the secret beside the folders."""

    def run(*arguments: object) -> None:
        pytest.fail(f"a file made the library run {arguments}")

    for module, name in ((os, "system"), (os, "popen"), (os, "execv")):
        monkeypatch.setattr(module, name, run)
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    yield
    assert (tmp_path / "secret").read_text(encoding="utf-8") == "secret"


def refused(kind: str, folder: Path, *parts: str) -> None:
    """Reading a folder raises the kind's own error, which names the file and what is wrong, in a few words."""
    _, read, error = KINDS[kind]
    with pytest.raises(error) as caught:
        read(folder)
    assert type(caught.value).__module__.startswith("ofa_slim")
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 2000


def copied(good: Path, kind: str, tmp_path: Path) -> Path:
    shutil.copytree(good / kind, tmp_path / kind)
    return tmp_path / kind


@pytest.mark.parametrize("bad", BAD_JSON)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FILES.items() for name in names])
def test_json_that_is_none(kind: str, name: str, bad: str, good: Path, tmp_path: Path) -> None:
    folder = copied(good, kind, tmp_path)
    (file,) = folder.glob(name)
    file.write_bytes(BAD_JSON[bad](file.read_bytes()))
    if kind in OWN_NUMBERS and bad in ("NaN", "a number beyond all"):
        KINDS[kind][1](folder)
        return
    refused(kind, folder, file.name)


def changed(kind: str, name: str, values: dict[str, Any]) -> Any:
    return pytest.param(kind, name, values, id=f"{kind}-{name}-{json.dumps(values)[:60]}")


HUGE = 10**9
CARD = "format.json"


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        *(
            changed(kind, "config.json", {key: value})
            for kind in ("subnet", "classifier")
            for key in ("hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
            for value in (HUGE, -1, "16", 1.5, True, [16])
            if (key, value) not in (("num_attention_heads", True), ("vocab_size", True))
        ),
        changed("subnet", "config.json", {"hidden_act": "os.system"}),
        changed("subnet", "subnet.json", {"class": "os.system"}),
        changed("subnet", "subnet.json", {"class": "BertTokenizer"}),
        changed("subnet", "subnet.json", {"class": "PretrainedModel"}),
        changed("subnet", "subnet.json", {"class": "__builtins__"}),
        changed("subnet", "subnet.json", {"class": ["BertModel"]}),
        changed("subnet", "subnet.json", {"format": 2}),
        changed("subnet", "subnet.json", {"axes": {"encoder.0.ffn": HUGE}}),
        changed("subnet", "subnet.json", {"axes": {"encoder.0.ffn": -1}}),
        changed("subnet", "subnet.json", {"axes": {"encoder.0.ffn": "8"}}),
        changed("subnet", "subnet.json", {"axes": {"../secret": 1}}),
        changed("subnet", "subnet.json", {"layers": {"classifier": {"out": HUGE}}}),
        changed("subnet", "subnet.json", {"layers": {"classifier": {"in": 16, "out": HUGE}}}),
        changed("subnet", "subnet.json", {"layers": {"classifier": {"in": 16, "out": -3}}}),
        changed("subnet", "subnet.json", {"layers": {"classifier": [16]}}),
        changed("subnet", "subnet.json", {"layers": {"os.system": {"out": 1}}}),
        changed("subnet", "subnet.json", {"built_with": {"num_hidden_layers": HUGE}}),
        changed("subnet", "subnet.json", {"built_with": {"from_tf": 1}}),
        changed("subnet", "subnet.json", {"built_with": []}),
        changed("subnet", "subnet.json", {"factorised": {"bert.embeddings.word_embeddings": HUGE}}),
        changed("subnet", "subnet.json", {"factorised": [1]}),
        changed("format", CARD, {"opener": "os.system"}),
        changed("format", CARD, {"opener": ["plain"]}),
        changed("format", CARD, {"format": "../secret"}),
        changed("format", CARD, {"inputs": ["input_ids"]}),
        changed("format", CARD, {"inputs": {"input_ids": 64}}),
        changed("format", CARD, {"build": "os:getpid"}),
        changed("format", CARD, {"build": 5}),
        changed("format", CARD, {"task": None}),
        changed("format", CARD, {"task": {"name": "films"}}),
        changed("format", CARD, {"task": {"name": "films", "labels": ["a"], "max_length": "9", "pairs": False}}),
        changed("format", CARD, {"task": {"name": "films", "labels": [1, 2], "max_length": 9, "pairs": False}}),
        changed("format", CARD, {"task": {"name": "films", "labels": ["a"], "max_length": 9, "pairs": False}}),
        changed("format", CARD, {"task": {"name": "films", "labels": ["a", "b"], "max_length": -9, "pairs": 0}}),
        changed("format", "tokenizer_config.json", {"vocab_file": "/etc/passwd"}),
        changed("format", "tokenizer_config.json", {"vocab_file": "../secret"}),
        changed("format", "tokenizer_config.json", {"tokenizer_class": "os.system"}),
        changed("format", "tokenizer_config.json", {"tokenizer_class": "BertModel"}),
        changed("format", "tokenizer_config.json", {"tokenizer_class": 3}),
        changed("classifier", "config.json", {"model_type": "os.system"}),
        changed("classifier", "config.json", {"model_type": ["bert"]}),
        changed("cache", f"*/{LAYOUT_FILE}", {"about": {"format": 1}}),
        changed("table", "t.json", {"fixed_ms": "long"}),
        changed("table", "t.json", {"kinds": [{"kind": "kind", "grid": [[2, 1]], "values": [[1, 2]], "base": 1}]}),
        changed("table", "t.json", {"about": {"device": 3}}),
        changed("table", "t.json", {"measured_subnets": {"[]": 1.0}}),
        changed("stage", "stage.json", {"settings": 3}),
        changed("best", f"small/{METRICS_FILE}", {"value": [1]}),
        changed("sizes", "sizes.json", {"config": [1]}),
    ],
)
def test_values_that_cannot_be(kind: str, name: str, values: dict[str, Any], good: Path, tmp_path: Path) -> None:
    folder = copied(good, kind, tmp_path)
    (file,) = folder.glob(name)
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **values}), encoding="utf-8")
    refused(kind, folder, folder.name)


WEIGHTS = {
    "subnet": "model.safetensors",
    "format": "model.safetensors",
    "classifier": "model.safetensors",
    "checkpoint": "step-00000001/tensors.safetensors",
}


def header(about: bytes) -> bytes:
    return len(about).to_bytes(8, "little") + about


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 50,
        b"\xff" * 50,
        b"\x80\x04\x95",
        header(b'{"x": {"dtype": "F32", "shape": [1000000000], "data_offsets": [0, 4]}}'),
        header(b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'),
        header(b'{"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}') + b"1234",
        header(b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}}') + b"1234",
        header(b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}') + b"1234",
        header(b"{" * 100_000),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_none(kind: str, content: bytes, good: Path, tmp_path: Path) -> None:
    folder = copied(good, kind, tmp_path)
    (folder / WEIGHTS[kind]).write_bytes(content)
    refused(kind, folder, folder.name)


@pytest.mark.parametrize("kind", ["subnet", "format", "classifier", "checkpoint", "cache"])
@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../nowhere", "itself", "pipe"])
def test_links_that_lead_out_and_pipes(kind: str, target: str, good: Path, tmp_path: Path) -> None:
    folder = copied(good, kind, tmp_path)
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        content = file.read_bytes()
        file.unlink()
        if target == "pipe":
            os.mkfifo(file)
        elif target.startswith("/"):
            file.symlink_to(target)
        else:
            file.symlink_to(file if target == "itself" else tmp_path / Path(target).name)
        refused(kind, folder, file.name)
        file.unlink()
        file.write_bytes(content)
    KINDS[kind][1](folder)


@pytest.mark.parametrize("kind", ["subnet", "classifier"])
def test_links_inside_and_those_of_a_cache_of_snapshots_are_followed(kind: str, good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots" / "1"
    folder.parent.mkdir()
    shutil.copytree(good / kind, folder)
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate([*folder.iterdir()]):
        file.rename(tmp_path / "blobs" / str(number))
        file.symlink_to(f"../../blobs/{number}")
    KINDS[kind][1](folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "..", "", "a/b", "a\\b", 3, None, ["x"]])
def test_names_of_shards_and_of_checkpoint_files_stay_in_their_folder(name: Any, good: Path, tmp_path: Path) -> None:
    folder = copied(good, "classifier", tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}), encoding="utf-8")
    refused("classifier", folder, "index.json", "'x'", repr(name))
    for weight_map in (None, [], "x", 3):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
        refused("classifier", folder, "index.json", "weight_map")
    if isinstance(name, str):
        for about in ({"size": 6, "sha256": "x"}, {"size": 6}, 3):
            manifest(copied(good, "checkpoint", tmp_path), files={name: about})
            refused("checkpoint", tmp_path / "checkpoint", "manifest.json", repr(name))
            shutil.rmtree(tmp_path / "checkpoint")


def manifest(folder: Path, **changes: Any) -> None:
    """Writes other values into a manifest, with the checksum that fits."""
    file = folder / "step-00000001" / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    del content["sha256"]
    file.write_text(_sealed({**content, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 9}, {"step": "1"}, {"step": True}, {"score": "high"}, {"recipe": []}, {"parts": 3}, {"files": [1]},
        {"more": 1}, {"step": {"$tensor": "x"}}, {"score": {"$float": "x"}}, {"step": {"$tuple": 3}},
        {"score": {"$empty": {"shape": [HUGE, HUGE], "dtype": "float32"}}},
    ],
)  # fmt: skip
def test_manifests_whose_checksum_fits(changes: dict[str, Any], good: Path, tmp_path: Path) -> None:
    folder = copied(good, "checkpoint", tmp_path)
    manifest(folder, **changes)
    refused("checkpoint", folder, "manifest.json")


@pytest.mark.parametrize(
    "state", [None, [], 3, {"a": {"$tensor": "x"}}, {"$empty": {"shape": [HUGE], "dtype": "int8"}}, {"$float": "x"}]
)
@pytest.mark.parametrize("part", ["rng", "tensors", RANDOM, GRADIENTS])
def test_states_whose_checksum_fits(state: Any, part: str, good: Path, tmp_path: Path) -> None:
    folder = copied(good, "checkpoint", tmp_path)
    file = folder / "step-00000001" / f"{part}.json"
    file.write_text(json.dumps(state), encoding="utf-8")
    files = [path for path in (folder / "step-00000001").iterdir() if path.name != "manifest.json"]
    manifest(folder, files=summed(files))
    refused("checkpoint", folder, "step-00000001")


@pytest.mark.parametrize(
    "about",
    [
        {"fields": 3}, {"nesting": {"os": "system"}}, {"nesting": []}, {"nesting": {"tensor": 5}}, {"nesting": {}},
        {"fields": [{"dtype": "object", "shape": [1], "positions": False}]},
        {"fields": [{"dtype": "float32", "shape": [-1], "positions": False}]},
        {"fields": [{"dtype": "float32", "shape": "1", "positions": False}]},
        {"fields": [{"dtype": "float32", "shape": [HUGE], "positions": 1}]},
    ],
)  # fmt: skip
def test_layouts_whose_checksum_fits(about: dict[str, Any], good: Path, tmp_path: Path) -> None:
    folder = copied(good, "cache", tmp_path)
    (file,) = folder.glob(f"*/{LAYOUT_FILE}")
    whole = {**json.loads(file.read_text("utf-8"))["about"], **about}
    file.write_text(json.dumps({"about": whole, "checksum": _json_checksum(whole)}), encoding="utf-8")
    refused("cache", folder, LAYOUT_FILE)


def build_noted() -> paddle.nn.Layer:
    sys.modules[__name__].__dict__["BUILT"] = True
    return Tagger()


def test_the_function_that_a_card_names_is_not_run(tmp_path: Path) -> None:
    save_subnet(Tagger(), tmp_path / "plain")
    card = {"format": "plain", "opener": "plain", "inputs": {"ids": "int64"}, "build": f"{__name__}:build_noted"}
    (tmp_path / "plain" / CARD).write_text(json.dumps(card), encoding="utf-8")
    sample = {"ids": np.ones((1, 4), "int64")}
    for opening in (
        lambda: Opened(tmp_path / "plain"),
        lambda: run_in_subprocess(tmp_path / "plain", [sample]),
        lambda: time_models({"one": tmp_path / "plain"}, [sample]),
        lambda: run_in_subprocess(tmp_path / "plain", [sample], "models:Tagger"),
    ):
        with pytest.raises(ExportError, match=rf"format.json says that '{__name__}:build_noted' builds the model"):
            opening()
    assert "BUILT" not in globals()
    assert Opened(tmp_path / "plain", Tagger)(sample)[0].shape == (1, 4, 5)


@pytest.mark.parametrize("text", ["", "[", "3", '{"a": 1}', "[1]", "[" * 100_000, '["a", NaN]'])
def test_lists_of_passes(text: str, tmp_path: Path) -> None:
    (tmp_path / PASSES_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match=PASSES_FILE):
        passes_off(tmp_path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link"])
def test_weights_of_onnx_outside_its_folder(location: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link").symlink_to("../secret")
    if location != "link":
        (tmp_path / "model" / "link").unlink()
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.UINT8, [6], b"\0" * 6, raw=True)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [value("y", onnx.TensorProto.UINT8, [6])], [weight]
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "model" / "model.onnx").write_bytes(made.SerializeToString())
    card = {"format": "onnx", "opener": "onnx", "inputs": {}}
    (tmp_path / "model" / CARD).write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ExportError, match=r"model"):
        Opened(tmp_path / "model")({})


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe", b"task: [", b"epochs: 1\nepochs: 2", b"budget: {params: 1, params: 2}", b"a: &a [1]\nwidths: *a",
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", b"task: !!python/object/apply:os.system [true]", b"[" * 5000,
        b"task: !!python/name:os.system", b"epochs: .nan", b"learning_rate: .inf", b"epochs: -1", b"epochs: 1e9",
        b"seed: 2024-13-45", b"? [a]\n: b", b"widths: {1: 2}", b"output_dir: 3", b"formats: ['<script>']",
        b"\x00\x00", b"--- a\n--- b",
    ],
)  # fmt: skip
def test_recipes(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(text)
    with pytest.raises(RecipeError, match=r"recipe.yaml") as caught:
        load_recipe(str(tmp_path / "recipe.yaml"), {})
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '{"a": -1}', '{"a": "1"}', '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 9999]
)
def test_configs_of_sub_networks(text: str) -> None:
    with pytest.raises(IllegalSubnetError):
        SubnetConfig.from_json(text)


def test_the_database_of_a_search(tmp_path: Path) -> None:
    for number, content in enumerate((b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "search.db").write_bytes(content)
        with pytest.raises(SearchError, match=r"search.db.* cannot be opened"):
            open_storage(None, folder)
    for name in ("search.db", "search.db.lock"):
        folder = tmp_path / f"linked {name}"
        folder.mkdir()
        (folder / name).symlink_to("../secret")
        with pytest.raises(SearchError, match=rf"{name} is a link to .*secret, outside"):
            open_storage(None, folder)


def test_scalars_that_are_none_draw_no_curve(tmp_path: Path) -> None:
    lines = ["", "3", "[]", '{"name": 3}', '{"name": "a/loss", "step": "x", "value": 1}', "{" * 9999, '{"name"', "\x00"]
    (tmp_path / "scalars.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    assert _curves(tmp_path / "scalars.jsonl") == []


def test_results_of_stages_that_are_damaged(tmp_path: Path) -> None:
    for text in ("", "{", '{"a": 1, "a": 2}', "[" * 100_000):
        (tmp_path / "results.json").write_text(text, encoding="utf-8")
        with pytest.raises(StageError, match=r"results.json is damaged"):
            read_json(tmp_path / "results.json")


def test_texts_in_a_page_are_escaped(tmp_path: Path) -> None:
    bad = "</pre><script>alert(1)</script>\"'"
    report = {
        "task": bad, "metric": bad, "scored_on": bad, "seconds": {bad: 1.0}, "peak_memory_mib": 1,
        "environment": {"threads": 1, "paddle": bad}, "settings": {"output_dir": bad},
        "search": {
            "budget": bad, "rank_correlation": None, "metric": bad, "cost": "params", "limits": {"params": 1},
            "points": [
                {"config": {bad: 1}, "score": 0.5, "metrics": {bad: 0.5}, "kind": bad, "final": True,
                 "costs": {"params": 1, "params_ratio": 1.0}}
            ],
        },
        "formats": {
            "rows": [
                {"model": name, "format": bad, "score": 0.5, "bytes": 1, "latency_ms": {bad: {"median": 1, "p95": 1}}}
                for name in ("original", bad, "searched")
            ]
        },
    }  # fmt: skip

    class Recipe:
        output_dir = bad
        formats = ("plain",)

    class Run:
        folder = tmp_path
        recipe = Recipe

    (tmp_path / "search").mkdir()
    for picture in (tmp_path / "p.png", tmp_path / "search" / "pareto.png", tmp_path / "search" / "winner.png"):
        picture.write_bytes(b"picture")
    text = write_page(Run, report, [[bad], [bad]], tmp_path / "p.png").read_text("utf-8")
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;") > 8
    assert text.count("</pre>") == text.count("<pre>")
    assert text.count("</script>") == text.count("<script") == 2  # the page's own: its data and its code


def test_the_command_line_says_it_in_a_line(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(good, "format", tmp_path)
    (folder / CARD).write_text("[" * 100_000, encoding="utf-8")
    assert main(["predict", str(folder), "film"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "format.json is not readable as JSON: it is nested deeper" in error

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.vision import models

import forked
from models import VOCABULARY, Tagger, bert, labels, ofa_of
from ofa_slim import OFA, Convert, dynabert_config, factorise_embeddings, load_subnet, supernet
from ofa_slim.base.clock import Rule
from ofa_slim.errors import ExportError
from ofa_slim.export.formats import FORMATS, Opened, predict, processes, time_models, write_formats
from ofa_slim.export.formats import reader as reader_file

pytest.importorskip("onnxruntime")
pytest.importorskip("paddle2onnx")

# But for the model of `written`, which is read in processes that are new.
pytestmark = pytest.mark.usefixtures("forked_models")

NEW_PROCESS = subprocess.Popen
TEXT = ("plain", "inference", "onnx", "onnx-int8")


def texts(names: tuple[str, ...] = ("input_ids", "token_type_ids")) -> list[dict[str, np.ndarray]]:
    """64 rows of three lengths, some of them padded."""
    rng = np.random.default_rng(0)
    found = []
    for rows, length in ((30, 5), (30, 12), (4, 23)):
        ids = rng.integers(1, VOCABULARY, (rows, length))
        ids[::3, length - 3 :] = 0
        found.append({names[0]: ids, **{name: np.zeros_like(ids) for name in names[1:]}})
    return found


def images(channels: int, side: int, name: str) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{name: rng.standard_normal((rows, channels, side, side)).astype("float32")} for rows in (40, 24)]


def tagger() -> nn.Layer:
    return Tagger()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], nn.Layer]:
    """A sub-network in all formats, compared with the supernet that it was cut from."""
    paddle.seed(0)
    ofa = ofa_of(bert(layers=3, head_dim=8, ffn=64))
    config = ofa.subnet_config(dynabert_config(ofa, 0.5, 2 / 3))
    plain = ofa.export(config=config)
    folder = tmp_path_factory.mktemp("formats") / "half"
    with ofa.subnet(config), pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_models, "__defaults__", (Rule(warm_up=0, most=1, runs=2), 1))
        patch.setattr(subprocess, "Popen", forked.Popen)
        record = write_formats(
            plain, folder, texts(), TEXT, reference=ofa.model, config=config, timed=[texts()[0]], task={"a": 1}
        )
    return folder, record, plain


def test_each_format_computes_what_the_supernet_does(written: tuple[Path, dict[str, Any], nn.Layer]) -> None:
    folder, record, plain = written
    expected = [plain(**{name: paddle.to_tensor(v) for name, v in sample.items()}).numpy() for sample in texts()]
    for name in TEXT:
        opened = Opened(folder / name)
        allowed = 1e-4 if FORMATS[name].exact else 0.2
        for sample, wanted in zip(texts(), expected, strict=True):
            assert np.abs(opened(sample)[0] - wanted).max() / np.abs(wanted).max() < allowed, name
        assert record["formats"][name]["difference"] < allowed
    assert record["formats"]["onnx-int8"]["difference"] > 0  # 8 bits are not 32


def test_integers_of_another_size_are_taken_by_every_format(written: tuple[Path, dict[str, Any], nn.Layer]) -> None:
    folder, _, _ = written
    sample = texts()[0]
    for name in TEXT:
        opened = Opened(folder / name)
        for other in ("int32", "uint8"):
            found = opened({key: value.astype(other) for key, value in sample.items()})
            np.testing.assert_array_equal(found[0], opened(sample)[0])


def test_inputs_that_a_model_cannot_run_on_are_named(written: tuple[Path, dict[str, Any], nn.Layer]) -> None:
    folder, _, _ = written
    sample = texts()[0]
    for name in TEXT:
        opened = Opened(folder / name)
        with pytest.raises(ExportError, match="'input_ids' is float32, and the model takes int64"):
            opened({**sample, "input_ids": sample["input_ids"].astype("float32")})
        with pytest.raises(ExportError, match=r"cannot run on input_ids \[30\], token_type_ids \[30\] \("):
            opened({key: value[:, 0] for key, value in sample.items()})


def test_the_record_says_what_was_written(written: tuple[Path, dict[str, Any], nn.Layer]) -> None:
    import hashlib

    folder, record, plain = written
    assert json.loads((folder / "export.json").read_text()) == record
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", *sorted(TEXT)]
    assert record["samples"] == {"rows": 64, "shapes": ["[30, 12]", "[30, 5]", "[4, 23]"]}
    assert record["parameters"] == sum(parameter.size for parameter in plain.parameters())
    assert record["config"]
    assert {"ofa-slim", "paddlepaddle", "onnx", "onnxruntime", "paddle2onnx"} <= set(record["versions"])
    for name, entry in record["formats"].items():
        inside = {str(path.relative_to(folder / name)) for path in (folder / name).rglob("*") if path.is_file()}
        assert set(entry["files"]) == inside
        for file, about in entry["files"].items():
            content = (folder / name / file).read_bytes()
            assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert 0 < entry["latency_ms"]["30x5"]["median"] <= entry["latency_ms"]["30x5"]["p95"]


def test_weights_are_in_8_bits(written: tuple[Path, dict[str, Any], nn.Layer]) -> None:
    onnx = pytest.importorskip("onnx")
    folder, _, _ = written
    exact, short = (onnx.load(str(folder / name / "model.onnx")).graph for name in ("onnx", "onnx-int8"))
    assert not [node for node in exact.node if node.op_type == "Constant"]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in exact.input] == ["batch", "batch"]
    matrices = [tensor for tensor in short.initializer if len(tensor.dims) == 2 and min(tensor.dims) > 4]
    assert matrices
    assert {tensor.data_type for tensor in matrices} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


def test_files_are_read_without_this_library(written: tuple[Path, dict[str, Any], nn.Layer], tmp_path: Path) -> None:
    folder, _, plain = written
    sample = texts()[1]
    reader_file.write_samples(tmp_path / "inputs.npz", [sample])
    wanted = plain(**{name: paddle.to_tensor(value) for name, value in sample.items()}).numpy()
    for opener in ("inference", "onnx"):
        job = {
            "opener": opener,
            "folder": str(folder / opener),
            "build": None,
            "path": [],
            "names": list(sample),
            "threads": 1,
            "device": "cpu" if opener == "inference" else None,
            "clock": None,
            "predict": predict.__file__,
            "inputs": str(tmp_path / "inputs.npz"),
            "outputs": str(tmp_path / "outputs.npz"),
        }
        (tmp_path / "job.json").write_text(json.dumps(job))
        script = (
            "import runpy, sys; sys.modules['ofa_slim'] = None; "
            f"sys.argv = ['reader', {str(tmp_path / 'job.json')!r}]; "
            f"runpy.run_path({reader_file.__file__!r}, run_name='__main__')"
        )
        subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", script], check=True, capture_output=True)
        assert np.abs(reader_file.read_samples(tmp_path / "outputs.npz")[0]["0"] - wanted).max() < 1e-4


def test_the_plain_model_trains_on(written: tuple[Path, dict[str, Any], nn.Layer]) -> None:
    folder, _, _ = written
    model = load_subnet(folder / "plain")
    optimizer = paddle.optimizer.AdamW(5e-3, parameters=model.parameters())
    model.train()
    inputs = {name: paddle.to_tensor(value) for name, value in texts()[0].items()}
    losses = []
    for _ in range(50):
        loss = F.cross_entropy(model(**inputs), labels(30))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]


def test_a_users_own_model_around_an_encoder(tmp_path: Path) -> None:
    model = tagger()
    record = write_formats(model, tmp_path / "out", texts(("ids",)), list(FORMATS), build=tagger, score=lambda run: 0.0)
    assert list(record["formats"]) == list(FORMATS)
    assert record["formats"]["onnx-int8-static"]["agreement"] > 0.5
    sample = texts(("ids",))[2]
    wanted = Opened(tmp_path / "out" / "plain", tagger)(sample)[0]
    assert wanted.shape == (4, 23, 5)
    assert np.abs(Opened(tmp_path / "out" / "onnx")(sample)[0] - wanted).max() < 1e-4


def lenet() -> nn.Layer:
    return models.LeNet()


def resnet() -> nn.Layer:
    return models.resnet18(num_classes=8)


def mobilenet_v2() -> nn.Layer:
    return models.mobilenet_v2(num_classes=8)


def mobilenet_v3() -> nn.Layer:
    return models.mobilenet_v3_small(num_classes=8)


def shufflenet() -> nn.Layer:
    return models.shufflenet_v2_x0_5(num_classes=8)


@pytest.mark.parametrize(
    ("build", "channels", "name"),
    [
        (lenet, 1, "inputs"),
        (resnet, 3, "x"),
        (mobilenet_v2, 3, "x"),
        (mobilenet_v3, 3, "x"),
        (shufflenet, 3, "inputs"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_vision_models(build: Callable[[], nn.Layer], channels: int, name: str, tmp_path: Path) -> None:
    samples = images(channels, 28 if channels == 1 else 32, name)
    ofa = OFA(
        Convert(supernet(expand_ratio=[0.5, 1.0])).convert(build()),
        example_inputs=paddle.to_tensor(samples[0][name][:1]),
    )
    ofa.eval()
    config = ofa.search_space.smallest()
    plain = ofa.export(config=config, input_shapes=[[1, *samples[0][name].shape[1:]]], input_dtypes=["float32"])
    with ofa.subnet(config):
        record = write_formats(
            plain, tmp_path / "out", samples, list(FORMATS), reference=ofa.model, build=build, score=lambda run: 0.0
        )
    sizes = {form: entry["bytes"] for form, entry in record["formats"].items()}
    assert sizes["onnx-int8-static"] < 0.6 * sizes["onnx"]
    assert record["formats"]["onnx-int8-static"]["agreement"] > 0.5
    assert record["formats"]["onnx-int8"]["agreement"] > 0.9


class TestNothingIsKept:
    @pytest.fixture
    def model(self) -> nn.Layer:
        return bert()

    def test_of_files_that_compute_something_else(self, model: nn.Layer, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(ExportError, match=r"inference does not compute what the model does: .*Nothing was kept"):
            write_formats(model, tmp_path / "out", texts(), ["inference", "onnx"], reference=bert(layers=1))
        assert [*tmp_path.iterdir()] == [tmp_path / "out"]
        assert not [*(tmp_path / "out").iterdir()]

    def test_and_an_earlier_export_stays(self, model: nn.Layer, tmp_path: Path) -> None:
        write_formats(model, tmp_path / "out", texts(), ["inference"])
        before = (tmp_path / "out" / "export.json").read_text()
        with pytest.raises(ExportError, match="does not compute"):
            write_formats(model, tmp_path / "out", texts(), ["inference"], reference=bert(layers=1))
        assert (tmp_path / "out" / "export.json").read_text() == before
        assert Opened(tmp_path / "out" / "inference")(texts()[0])

    def test_of_8_bits_that_lose_too_much(self, model: nn.Layer, tmp_path: Path) -> None:
        def score(run: Any) -> float:
            return 0.5 if isinstance(run, Opened) and run.format == "onnx-int8" else 0.9

        with pytest.raises(ExportError, match=r"onnx-int8 scores 0.5000, the model 0.9000: more than the 0.015"):
            write_formats(model, tmp_path / "out", texts(), ["onnx-int8"], score=score)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": ["onxx"]}, "no format 'onxx'; did you mean 'onnx'.*there are plain"),
        ({"formats": []}, r"formats is \[\]"),
        ({"formats": "onnx"}, "formats is 'onnx'"),
        ({"samples": []}, "samples: expected dictionaries"),
        ({"samples": texts()[:2]}, "samples: 60 rows; at least 64"),
        ({"samples": [*texts(), {"input_ids": np.zeros((2, 3), "int64")}]}, "number 3 has inputs"),
        ({"model": Tagger()}, "Tagger is not a class of PaddleNLP.*build="),
        ({"model": Tagger(), "build": lambda: Tagger()}, "stands at the top of a module"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"model": bert(), "samples": texts(), "formats": ["plain"], **change}
    with pytest.raises(ExportError, match=message):
        write_formats(arguments.pop("model"), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_supernet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs a plain model"):
        write_formats(ofa_of(bert()).model, tmp_path / "out", texts())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "format.json").unlink(), "format.json is not there"),
        (lambda folder: (folder / "format.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "format.json").write_text("[]"), "does not describe a written model"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"\x00" * 99), "onnx files cannot be read"),
        (lambda folder: (folder / "model.onnx").unlink(), "onnx files cannot be read"),
    ],
)
def test_damaged_files_are_named(
    damage: Callable[[Path], Any], message: str, written: tuple[Path, dict[str, Any], nn.Layer], tmp_path: Path
) -> None:
    shutil.copytree(written[0] / "onnx", tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises(ExportError, match=message):
        Opened(tmp_path)


def test_a_model_that_cannot_be_timed_says_why(written: tuple[Path, dict[str, Any], nn.Layer]) -> None:
    with pytest.raises(ExportError, match=r"cannot be timed: .*token_type_ids"):
        time_models({"one": written[0] / "onnx"}, [{"input_ids": np.zeros((1, 4), "int64")}])


def test_a_process_that_does_not_answer_ends_the_timing(
    written: tuple[Path, dict[str, Any], nn.Layer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that also ignores every signal that can be ignored, as one that hangs in its own handler does."""
    stuck = tmp_path / "stuck.py"
    stuck.write_text("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n")
    monkeypatch.setattr(processes.reader, "__file__", str(stuck))
    monkeypatch.setattr(processes, "ANSWER_SECONDS", 1.0)
    begin = time.monotonic()
    with pytest.raises(ExportError, match="cannot be timed: no answer within 1 s"):
        time_models({"one": written[0] / "onnx"}, [texts()[0]])
    assert time.monotonic() - begin < 60


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the processor time of a process from /proc")
@pytest.mark.parametrize("form", ["inference", "onnx"])
def test_a_process_is_idle_when_it_has_answered(
    form: str, written: tuple[Path, dict[str, Any], nn.Layer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "Popen", NEW_PROCESS)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rows = {name: np.repeat(np.repeat(value, 10, 0), 4, 1)[:, :30] for name, value in texts()[0].items()}
    reader_file.write_samples(tmp_path / "inputs.npz", [rows])

    def worked(process: int) -> int:
        """The hundredths of a second that a process has worked."""
        return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]))

    with processes.serving(written[0] / form, tmp_path, 0) as served:
        served.answer()
        busy = []
        for _ in range(3):
            served.turn(0, Rule(runs=3))
            before = worked(served._process.pid)
            time.sleep(0.05)
            busy.append(worked(served._process.pid) - before)
    assert min(busy) <= 1, "it takes a core from the process whose turn it is"


def test_many_models_are_timed_a_few_at_a_time(
    written: tuple[Path, dict[str, Any], nn.Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "AT_ONCE", 2)
    models = {name: written[0] / "onnx" for name in ("first", "second", "third")}
    times = time_models(models, [texts()[0]], Rule(warm_up=0, most=1, runs=2), loads=1)
    assert list(times) == list(models)
    assert times["first"]["30x5"]["runs"] == 2 * times["third"]["30x5"]["runs"] == 4, "the first is in every group"


def test_brief_models_are_timed_on_the_first_input_alone(
    written: tuple[Path, dict[str, Any], nn.Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "AT_ONCE", 2)
    models = {name: written[0] / "onnx" for name in ("first", "brief", "second")}
    inputs = [texts()[0], {name: value[:2] for name, value in texts()[0].items()}]
    times = time_models(models, inputs, Rule(warm_up=0, most=1, runs=2), loads=1, brief={"brief"})
    runs = {name: {shape: found["runs"] for shape, found in by_shape.items()} for name, by_shape in times.items()}
    assert runs == {
        "first": {"30x5": 4, "2x5": 2},
        "second": {"30x5": 2, "2x5": 2},
        "brief": {"30x5": 2},
    }


def test_a_factorised_embedding_is_written_in_every_format(tmp_path: Path) -> None:
    import onnx

    model = bert(layers=1)
    factorise_embeddings(model, 4)
    record = write_formats(model, tmp_path / "out", texts(), TEXT)
    assert list(record["formats"]) == list(TEXT)
    found = load_subnet(tmp_path / "out" / "plain")
    inputs = {name: paddle.to_tensor(value) for name, value in texts()[0].items()}
    np.testing.assert_allclose(found(**inputs).numpy(), model(**inputs).numpy(), atol=1e-6)
    # Of the vocabulary there is the small table alone, in 8 bits where all is in 8 bits.
    for name, kind in (("onnx", onnx.TensorProto.FLOAT), ("onnx-int8", onnx.TensorProto.UINT8)):
        graph = onnx.load(str(tmp_path / "out" / name / "model.onnx")).graph
        tables = [(list(each.dims), each.data_type) for each in graph.initializer if VOCABULARY in each.dims]
        assert tables == [([VOCABULARY, 4], kind)]

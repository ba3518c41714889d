"""Trainings with the supernet trainer on PaddleNLP's loop: what is scored, kept, resumed and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.io import IterableDataset
from paddle.nn import functional as F
from paddlenlp.trainer.trainer_utils import ShardingOption

import trainer_parallel
from families import FAMILIES, each_family, inputs, outputs
from launching import launched
from models import Tagger
from ofa_slim import load_subnet
from ofa_slim.errors import ConfigError
from ofa_slim.integrations.trainer import OFATrainer
from ofa_slim.tasks import LanguageModelling, SpanScoring, TokenClassification
from trainer_runs import CLASS_OF, WIDTHS, Log, arguments, collate, ernie, history, plain, rows, same, trainer, weights

METRIC = {"sequence": "accuracy", "token": "accuracy", "qa": "f1"}


def scores(run: OFATrainer, model: nn.Layer) -> dict[str, float]:
    """The metrics of a plain model on the evaluation rows."""
    model.eval()
    found, labels = [], []
    with paddle.no_grad():
        for start in range(0, len(run.eval_dataset), 8):
            batch = collate(run.eval_dataset[start : start + 8], length=9)
            wanted = tuple(batch.pop(name) for name in run.label_names)
            found.append(run.task.answer(model(**batch)))
            labels.append(wanted)

    def column(values: list[Any]) -> Any:
        return np.concatenate([value.numpy() for value in values])

    answers = tuple(map(column, zip(*found, strict=True))) if isinstance(found[0], tuple) else column(found)
    columns = tuple(map(column, zip(*labels, strict=True)))
    return run.task.metrics(answers, columns if len(columns) > 1 else columns[0])


@pytest.mark.parametrize("kind", METRIC)
def test_every_width_is_scored_and_its_best_is_kept(kind: str, tmp_path: Path) -> None:
    # Rows of one length, so that no batch is padded otherwise than another.
    run = trainer(
        kind,
        tmp_path,
        eval_dataset=[row for row in rows(kind, 90, seed=1) if len(row["input_ids"]) == 9],
        evaluation_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=6,
    )
    keys = set(ernie(kind).state_dict())
    run.train()
    metric = METRIC[kind]
    logged = [entry for entry in history(run) if "eval_loss" in entry]
    assert len(logged) == 3
    for name, (heads, neurons) in WIDTHS.items():
        own = [entry[f"eval_{name}_{metric}"] for entry in logged]
        small = load_subnet(tmp_path / name)
        assert type(small) is CLASS_OF[kind]
        for block in small.ernie.encoder.layers:
            assert block.linear1.weight.shape == [16, neurons]
            assert block.self_attn.q_proj.weight.shape == [16, heads * 4]
        assert scores(run, small)[metric] == pytest.approx(max(own), abs=1e-6)
        about = json.loads((tmp_path / name / "metrics.json").read_text())
        assert about["value"] == max(own)
        assert about["step"] == logged[own.index(max(own))]["step"]
    for entry in logged:
        assert entry[f"eval_{metric}"] == pytest.approx(np.mean([entry[f"eval_{name}_{metric}"] for name in WIDTHS]))
    saved = CLASS_OF[kind].from_pretrained(str(tmp_path / "checkpoint-6"))
    assert set(saved.state_dict()) == keys
    assert same(weights(saved), weights(run.model))


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """With dropout, from the middle of the second epoch and from its beginning."""

    def ran(folder: Path, resume: bool) -> OFATrainer:
        with paddle.utils.unique_name.guard():  # the names of parameters and moments are those of a new process
            run = trainer(
                "sequence",
                folder,
                ernie("sequence", dropout=0.3),
                evaluation_strategy="steps",
                eval_steps=1,
                ofa_args=plain(strategy="sandwich", subnets=1, widths=[1.0, 0.5], depths=[1.0, 0.5]),
                train_dataset=rows("sequence", 26),  # the last batch of an epoch makes no step
                gradient_accumulation_steps=2,
                per_device_train_batch_size=6,
                num_train_epochs=3,
                save_strategy="steps",
                save_steps=1,
            )
            np.random.seed(int(resume))  # noqa: NPY002  # whatever state a process starts in
            run.train(resume_from_checkpoint=resume)
            return run

    whole = ran(tmp_path / "whole", resume=False)
    assert whole.state.global_step == 6
    expected = weights(whole.model)
    for step in (2, 3):
        folder = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        again = ran(folder, resume=True)
        assert same(weights(again.model), expected)
        last = [history(run)[-2] for run in (whole, again)]
        assert last[0]["eval_width_0.5_depth_0.5_loss"] == last[1]["eval_width_0.5_depth_0.5_loss"]


@pytest.mark.slow
def test_a_resumed_run_knows_what_was_best(tmp_path: Path) -> None:
    with paddle.utils.unique_name.guard():
        trainer("sequence", tmp_path, evaluation_strategy="epoch", save_strategy="epoch").train()
    for name in WIDTHS:
        file = tmp_path / name / "metrics.json"
        about = json.loads(file.read_text())
        file.write_text(json.dumps({**about, "value": 1.0, "step": -1}))
    with paddle.utils.unique_name.guard():
        again = trainer("sequence", tmp_path, evaluation_strategy="epoch", num_train_epochs=3)
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert again.state.global_step == 9
    assert json.loads((tmp_path / "width_0.5" / "metrics.json").read_text())["step"] == -1
    # A new run does not believe an old one.
    trainer("sequence", tmp_path, evaluation_strategy="epoch").train()
    assert json.loads((tmp_path / "width_0.5" / "metrics.json").read_text())["step"] > 0


@pytest.mark.parametrize(
    ("settings", "folders"),
    [
        ({"strategy": "sandwich", "subnets": 1, "widths": [1.0, 0.5]}, ["width_0.5", "width_1.0"]),
        ({"strategy": "sampled", "teacher": "none", "widths": [0.5]}, ["width_0.5"]),
        ({"teacher": "self", "mapped_layers": ["embeddings", "1"]}, sorted(WIDTHS)),
        ({"widths": [0.5], "depths": [1.0, 0.5]}, ["width_0.5_depth_0.5", "width_0.5_depth_1.0"]),
    ],
)
def test_other_strategies_and_teachers(settings: dict[str, Any], folders: list[str], tmp_path: Path) -> None:
    run = trainer("token", tmp_path, ofa_args=plain(**settings), num_train_epochs=1)
    before = weights(run.model)
    run.train()
    assert not same(weights(run.model), before)
    # Nothing was evaluated, so the last of each is kept.
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
    for name in folders:
        small = load_subnet(tmp_path / name)
        assert len(small.ernie.encoder.layers) == (1 if name.endswith("depth_0.5") else 2)
        assert small.ernie.encoder.layers[0].linear1.weight.shape[1] == (12 if "0.5" in name[:9] else WIDTHS[name][1])
        assert json.loads((tmp_path / name / "metrics.json").read_text())["value"] is None


def test_uie_gets_the_loss_that_it_lacks_and_is_exported(tmp_path: Path) -> None:
    run = trainer("uie", tmp_path, num_train_epochs=1, evaluation_strategy="epoch")
    assert isinstance(run.task, SpanScoring)
    run.train()
    assert history(run)[-2]["eval_width_0.5_loss"] > 0
    small = run.export(width=0.5)
    assert small.ernie.encoder.layers[0].linear1.weight.shape == [16, 12]


def test_the_first_of_several_evaluation_sets_decides(tmp_path: Path) -> None:
    data = {"near": rows("sequence", seed=1), "far": rows("sequence", seed=2)}
    run = trainer("sequence", tmp_path, num_train_epochs=1, evaluation_strategy="epoch", eval_dataset=data)
    run.train()
    logged = {key for entry in history(run) for key in entry}
    assert {"eval_near_width_0.5_accuracy", "eval_far_width_0.5_accuracy", "eval_near_accuracy"} <= logged
    about = json.loads((tmp_path / "width_0.5" / "metrics.json").read_text())
    value = next(entry for entry in history(run) if "eval_near_loss" in entry)["eval_near_width_0.5_accuracy"]
    assert about["value"] == value


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    one, two = launched(trainer_parallel.main, tmp_path / "two")
    assert same(one, two)
    for important in (False, True):
        for key, value in trainer_parallel.run(tmp_path / "one", important).items():
            np.testing.assert_allclose(one[f"{important}/{key}"], value, atol=1e-5, err_msg=key)
    assert any(np.abs(one[f"False/{key}"] - value).max() > 1e-3 for key, value in weights(ernie("sequence")).items())
    assert load_subnet(tmp_path / "two" / "width_0.5").ernie.encoder.layers[0].linear1.weight.shape == [16, 12]


@pytest.mark.slow
def test_sharded_moments_train_as_one_process_does(tmp_path: Path) -> None:
    one, two = launched(trainer_parallel.sharded, tmp_path)
    assert same(one, two)
    for key, value in trainer_parallel.run_adamw(tmp_path / "one").items():
        np.testing.assert_allclose(one[f"whole/{key}"], value, atol=1e-6, err_msg=key)
        np.testing.assert_allclose(one[f"resumed/{key}"], value, atol=1e-6, err_msg=f"{key}, resumed")
    assert load_subnet(tmp_path / "whole" / "width_0.5").ernie.encoder.layers[0].linear1.weight.shape == [16, 12]


@pytest.mark.slow
def test_the_checkpoint_with_the_best_mean_is_loaded_at_the_end(tmp_path: Path) -> None:
    run = trainer(
        "sequence",
        tmp_path,
        evaluation_strategy="epoch",
        save_strategy="epoch",
        learning_rate=0.05,
        num_train_epochs=3,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    run.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in history(run) if "eval_loss" in entry}
    best = min(losses, key=lambda step: losses[step])
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    saved = CLASS_OF["sequence"].from_pretrained(run.state.best_model_checkpoint)
    assert same(weights(saved), weights(run.model))
    for name in WIDTHS:
        own = {entry["step"]: entry[f"eval_{name}_loss"] for entry in history(run) if "eval_loss" in entry}
        assert json.loads((tmp_path / name / "metrics.json").read_text())["value"] == min(own.values())


def test_language_models_are_scored_without_keeping_their_logits(tmp_path: Path) -> None:
    class Rows(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            return iter(data)

    rng = np.random.default_rng(0)
    data = [{"ids": ids, "labels": ids} for ids in rng.integers(0, 5, (16, 6))]
    run = OFATrainer(
        Tagger(),
        args=arguments(tmp_path, max_steps=3, evaluation_strategy="steps", eval_steps=3),
        train_dataset=Rows(),
        eval_dataset=data,
        task=LanguageModelling(),
        ofa_args=plain(widths=[1.0, 0.5]),
        callbacks=[Log()],
    )
    run.train()
    logged = next(entry for entry in history(run) if "eval_loss" in entry)
    for name in ("width_1.0", "width_0.5"):
        assert logged[f"eval_{name}_perplexity"] == pytest.approx(np.exp(logged[f"eval_{name}_loss"]), rel=1e-4)
        about = json.loads((tmp_path / name / "metrics.json").read_text())
        assert (about["metric"], about["value"]) == ("perplexity", logged[f"eval_{name}_perplexity"])
    assert run.predict(data).predictions.shape == (16, 5, 2)


def test_predict_runs_one_sub_network(tmp_path: Path) -> None:
    run = trainer("sequence", tmp_path)
    data = rows("sequence", seed=3)
    model = ernie("sequence")
    model.eval()
    whole = run.predict(data)
    logits = np.concatenate([model(collate(data[i : i + 8])["input_ids"]).numpy() for i in range(0, 24, 8)])
    np.testing.assert_allclose(whole.predictions, logits, atol=1e-6)
    with run.ofa.subnet(run.subnets["width_0.5"]):
        assert np.abs(run.predict(data).predictions - logits).max() > 0.01


def test_a_users_own_model_names_its_task(tmp_path: Path) -> None:
    """Positional inputs by name, no config, no loss of its own, no token that pads."""
    data = [{"ids": np.arange(5) + row, "labels": np.arange(5) % 5} for row in range(8)]
    run = OFATrainer(
        Tagger(),
        nn.CrossEntropyLoss(),
        arguments(tmp_path, num_train_epochs=1, evaluation_strategy="epoch"),
        train_dataset=data,
        eval_dataset=data,
        task=TokenClassification(),
        ofa_args=plain(widths=[1.0, 0.5], mapped_layers=["embed", "0"]),
    )
    run.train()
    small = load_subnet(tmp_path / "width_0.5", Tagger())
    assert small.body.layers[0].linear1.weight.shape == [16, 12]
    with pytest.raises(ConfigError, match=r"Tagger does not say .* OFATrainer\(task=...\)"):
        OFATrainer(Tagger(), args=arguments(tmp_path))


@each_family(["gpt-lm", "electra", "nezha", "albert", "mpnet"])
def test_other_families_train_with_it(name: str, tmp_path: Path) -> None:
    """PaddleNLP's GPT takes labels that are the next tokens already; the rest classify rows."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 50, (16, 7))
    labels = np.roll(ids, -1, axis=1) if name == "gpt-lm" else ids[:, 1] % 3
    data = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    run = OFATrainer(
        FAMILIES[name](),
        args=arguments(tmp_path, max_steps=3, evaluation_strategy="steps", eval_steps=3),
        data_collator=collate,
        train_dataset=data,
        eval_dataset=data,
        ofa_args=plain(widths=[1.0, 0.5]),
        callbacks=[Log()],
    )
    run.train()
    metric = "perplexity" if name == "gpt-lm" else "accuracy"
    logged = next(entry for entry in history(run) if "eval_loss" in entry)
    small = load_subnet(tmp_path / "width_0.5")
    about = json.loads((tmp_path / "width_0.5" / "metrics.json").read_text())
    assert (about["metric"], about["value"]) == (metric, logged[f"eval_width_0.5_{metric}"])
    answer = small(paddle.to_tensor(ids))
    if name == "gpt-lm":
        loss = F.cross_entropy(answer.reshape([-1, answer.shape[-1]]), paddle.to_tensor(labels).reshape([-1]))
        assert about["value"] == pytest.approx(float(loss.exp()), rel=1e-4)
    else:
        assert about["value"] == pytest.approx(float((answer.argmax(-1).numpy() == labels).mean()))


def test_a_model_that_needs_more_than_token_ids_trains_with_it(tmp_path: Path) -> None:
    batch = inputs("ernie-layout", rows=16, length=7)
    columns = {name: value.numpy() for name, value in batch.items()}
    data = [
        {name: values[row] for name, values in {**columns, "labels": columns["input_ids"] % 3}.items()}
        for row in range(16)
    ]
    run = OFATrainer(
        FAMILIES["ernie-layout"](),
        args=arguments(tmp_path, max_steps=2, evaluation_strategy="steps", eval_steps=2),
        data_collator=lambda rows: {name: paddle.to_tensor(np.stack([row[name] for row in rows])) for name in rows[0]},
        train_dataset=data,
        eval_dataset=data,
        ofa_args=plain(widths=[1.0, 0.5]),
        callbacks=[Log()],
    )
    run.train()
    small = load_subnet(tmp_path / "width_0.5")
    right = outputs(small, batch)[0].argmax(-1).numpy() == data_labels(data)
    about = json.loads((tmp_path / "width_0.5" / "metrics.json").read_text())
    assert about["value"] == pytest.approx(float(right.mean()))


def data_labels(data: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([row["labels"] for row in data])


def test_what_splits_the_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer("sequence", tmp_path)
    run.args.sharding = [ShardingOption.SHARD_OP]
    run._check_parallel()
    for stage in (ShardingOption.SHARD_GRAD_OP, ShardingOption.FULL_SHARD):
        run.args.sharding = [stage]
        with pytest.raises(ConfigError, match=f"sharding stage1; not sharding {stage.value}"):
            run._check_parallel()
    run.args.sharding = []
    for name in ("tensor_parallel_degree", "pipeline_parallel_degree"):
        monkeypatch.setattr(run.args, name, 2)
        with pytest.raises(ConfigError, match=f"not {name}"):
            run._check_parallel()
        monkeypatch.undo()

"""Settings of the supernet trainer, and those that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from paddle import nn
from paddlenlp.trainer import PdArgumentParser, TrainingArguments

from ofa_slim.errors import ConfigError, DistillError
from ofa_slim.integrations.trainer import OFAArguments
from trainer_runs import collate, plain, rows, trainer


def test_the_arguments_come_from_a_command_line(tmp_path: Path) -> None:
    parser = PdArgumentParser((TrainingArguments, OFAArguments))
    given = ["--output_dir", str(tmp_path), "--widths", "1.0", "0.5", "--strategy", "sandwich", "--importance", "false"]
    _, settings = parser.parse_args_into_dataclasses([*given, "--mapped_layers", "embeddings", "1"])
    assert settings == OFAArguments(
        widths=[1.0, 0.5], strategy="sandwich", importance=False, mapped_layers=["embeddings", "1"]
    )
    _, default = parser.parse_args_into_dataclasses(given[:2])
    assert default == OFAArguments()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": []}, r"widths \[\] is not a list"),
        ({"widths": [1.5]}, r"widths: 1.5 is not a share above 0"),
        ({"widths": [0.5, 0.5]}, r"names a share twice"),
        ({"depths": ["half"]}, r"depths: 'half' is not a number"),
        ({"strategy": "sandwhich"}, r"strategy 'sandwhich' is not one of .*mean 'sandwich'"),
        ({"teacher": "me"}, r"teacher 'me' is not one of original, self, none"),
        ({"lambda_task": -1}, r"lambda_task: -1 is not"),
        ({"temperature": 0.0}, r"temperature 0 would divide by zero"),
        ({"subnets": 0.5}, r"subnets is 0.5, not a whole number"),
        ({"lambda_logit": 0.0, "lambda_distill": 0.0}, r"nothing would be learnt"),
        ({"mapped_layers": ["all", "1"]}, r"'all' and 'none' stand alone"),
        ({"mapped_layers": []}, r"mapped_layers \[\] is not a list"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OFAArguments(**settings)


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("uie", {"ofa_args": plain(temperature=2.0)}, r"temperature 2.0: the outputs of span scoring are not logits"),
        ("token", {"ofa_args": plain(mapped_layers=["7"])}, r"mapped_layers: '7' is not a layer of this ErnieFor"),
        ("token", {"ofa_args": plain(lambda_logit=0.0, mapped_layers=["none"])}, r"nothing would be learnt"),
        ("token", {"ofa_args": plain(strategy="sampled", subnets=0)}, r"count is 0, not a whole number"),
        ("token", {"teacher": nn.Linear(1, 1), "ofa_args": plain(teacher="none")}, r"a teacher was given, but"),
        ("token", {"to_static": True}, r"not to_static"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kind: str, more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(kind, tmp_path, **more)


def test_what_a_run_lacks_is_named(tmp_path: Path) -> None:
    run = trainer("sequence", tmp_path)
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        run.train(resume_from_checkpoint=True)
    run.eval_dataset = [{"input_ids": row["input_ids"]} for row in rows("sequence")]
    with pytest.raises(ConfigError, match=r"importance needs labels \(labels\), but a batch has only input_ids"):
        run.train()
    unlabelled = {"input_ids": collate(rows("sequence", 4))["input_ids"]}
    assert float(run.training_step(run.model, dict(unlabelled))) > 0  # the teacher says what to learn
    alone = trainer("sequence", tmp_path, ofa_args=plain(teacher="none"))
    with pytest.raises(DistillError, match=r"needs labels \(labels\), but a batch has only input_ids"):
        alone.training_step(alone.model, unlabelled)
    wrong = trainer("sequence", tmp_path, evaluation_strategy="epoch", metric_for_best_model="f2", num_train_epochs=1)
    with pytest.raises(ConfigError, match=r"no metric 'f2' of width_1.0; there are loss, accuracy"):
        wrong.train()

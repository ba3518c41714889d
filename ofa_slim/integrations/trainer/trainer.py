"""`OFATrainer`: PaddleNLP's `Trainer` for supernets."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddlenlp.trainer import Trainer, get_last_checkpoint
from paddlenlp.trainer.trainer_utils import ShardingOption

from ofa_slim.base.modes import forward_signature
from ofa_slim.errors import ConfigError
from ofa_slim.integrations.trainer.arguments import ORIGINAL, OFAArguments
from ofa_slim.integrations.trainer.best import Best
from ofa_slim.integrations.trainer.callback import OFACallback
from ofa_slim.integrations.trainer.task_of_model import classes_of, kind_of
from ofa_slim.ofa import OFA
from ofa_slim.ordering.scores import reorder_neuron_head
from ofa_slim.tasks import LanguageModelling, TaskKind
from ofa_slim.train import parallel
from ofa_slim.train.builders import Teaching, elastic_blocks, strategy_of
from ofa_slim.train.distill_config import SELF, DistillConfig
from ofa_slim.train.stack_layers import NONE, block_importance, hidden_layers
from ofa_slim.train.task_losses import DistillLoss, TaskLosses

_REFUSED = ("enable_auto_parallel", "to_static")
_SPLIT = ("tensor_parallel_degree", "pipeline_parallel_degree", "sep_parallel_degree")


class OFATrainer(Trainer):
    """Trains a fine-tuned model as a supernet, with PaddleNLP's loop, checkpoints, mixed precision and processes.

    The model becomes elastic in place and keeps its `state_dict` keys, so checkpoints are those of the plain model.
    Each batch trains several sub-networks against one pass of the teacher. An evaluation scores every width at every
    depth, ``eval_width_0.5_accuracy``, and ``eval_accuracy`` is their mean, for ``metric_for_best_model``. The best of
    each so far is in ``output_dir/width_0.5``, for `ofa_slim.load_subnet`. The logged loss is the mean over the
    sub-networks.

    Args:
        args: the arguments of `paddlenlp.trainer.Trainer`, by position or name. A ``criterion`` is the task's own loss,
            as there; ``compute_metrics`` replaces the metrics of the kind of task.
        ofa_args: the settings of the supernet.
        task: the kind of task; None: what the model's class says.
        teacher: a model in the place of the original, with the same kind of output.
        distill_loss: ``distill_loss(student's output, teacher's output, batch)`` -> scalar, in place of the kind's own;
            the batch includes labels.
        kwargs: see `args`.

    Attributes:
        ofa: the supernet; ``with trainer.ofa.subnet(config)`` runs one sub-network.
        subnets: the sub-networks that are evaluated and kept, by name.

    Raises: ConfigError for a model without one stack of blocks, settings that do not fit it, a class whose
        kind of task is not known, or training arguments that split a model over processes.
    """

    criterion: Any
    compute_metrics: Any
    preprocess_logits_for_metrics: Any

    def __init__(
        self,
        *args: Any,
        ofa_args: OFAArguments | None = None,
        task: TaskKind | None = None,
        teacher: nn.Layer | None = None,
        distill_loss: DistillLoss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._check_parallel()
        self.ofa_args = ofa_args or OFAArguments()
        self.task = kind_of(self.model, self.train_dataset) if task is None else task
        self._check_losses(distill_loss)
        if self.args.label_names is None:
            self.label_names = list(self.task.label_names)
        settings = self.ofa_args
        self._losses = TaskLosses(
            self.task,
            self.label_names,
            self._pad_token_id(),
            settings.lambda_logit,
            settings.lambda_task,
            settings.temperature,
            self.criterion,
            distill_loss,
        )
        self._fill_in()
        distill = self._teaching(teacher)
        if all(parameter.stop_gradient for parameter in self.model.parameters()):
            raise ConfigError(f"no parameter of {type(self.model).__name__} trains; all have stop_gradient=True")
        run = elastic_blocks(self.model, settings.widths, settings.depths)
        self.ofa = OFA(self.model, run, distill)
        space = self.ofa.search_space
        self.subnets = {
            _name(width, depth, settings): space.uniform(width, depth)
            for depth in settings.depths
            for width in settings.widths
        }
        self._strategy = strategy_of(settings.strategy, space, settings.widths, settings.depths, settings.subnets)
        self._metric, greater_is_better = self._main_metric()
        self._best = Best(Path(self.args.output_dir), greater_is_better, self._save_tokenizer)
        self._ordered = not settings.importance
        self._every_subnet = False
        self._example: dict[str, paddle.Tensor] | None = None  # inputs that exported models are compared on
        self.add_callback(OFACallback())

    def train(
        self, resume_from_checkpoint: str | bool | None = None, ignore_keys_for_eval: list[str] | None = None
    ) -> Any:
        """Orders heads and neurons, trains, and writes the best model of every sub-network into its folder.

        Args:
            resume_from_checkpoint: a checkpoint's folder, or True for the last one in ``output_dir``. Heads and neurons
                in it are in order already. The trainer has to be made from the same original model as before.
            ignore_keys_for_eval: as in `paddlenlp.trainer.Trainer`.

        Returns: PaddleNLP's ``TrainOutput``.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ConfigError(f"resume_from_checkpoint=True: {self.args.output_dir} holds no checkpoint")
        if resume_from_checkpoint:
            self._best.read(self.subnets)
        elif not self._ordered:
            loader = self.get_train_dataloader() if self.eval_dataset is None else self.get_eval_dataloader(self._first)
            limit = self.ofa_args.importance_batches or None
            heads, neurons = block_importance(
                self.model, self._losses, map(self._prepare_inputs, loader), self.task.name, limit
            )
            mean = parallel.mean_over_ranks  # each process scores its own batches
            reorder_neuron_head(self.model, [mean(scores) for scores in heads], [mean(scores) for scores in neurons])
        self._ordered = True  # an optimizer's moments would not be reordered with the weights
        output = super().train(resume_from_checkpoint or None, ignore_keys_for_eval)
        for name in self.subnets:
            if name not in self._best:
                self._keep(name, {})
        return output

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """PaddleNLP's, and the labels as the kind of task takes them; checked."""
        return self._losses.prepared(super()._prepare_inputs(inputs), classes_of(self.model))

    def training_step(self, model: nn.Layer, inputs: dict[str, Any]) -> paddle.Tensor:
        """Forward and backward of a batch's sub-networks.

        Returns: the mean of their losses, divided by the number of accumulated batches; scalar.
        """
        model.train()
        features, loss = self._losses.loss_of(self._prepare_inputs(inputs))
        if self._example is None:
            self._example = {name: value[:2] for name, value in features.items() if isinstance(value, paddle.Tensor)}
        # Batches whose gradients add up to one step train the same sub-networks, as one larger batch would.
        configs = self._strategy(np.random.default_rng([self.args.seed, self.state.global_step]))
        scale = 1.0 / self.args.gradient_accumulation_steps
        with self.autocast_smart_context_manager():
            losses = self.ofa.train_step(
                features, loss, configs, scale, scaler=self.scaler if self.do_grad_scaling else None
            )
        return paddle.add_n(losses) * (scale / len(losses))

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Scores every sub-network; while training, those that are better than before are exported and kept.

        Returns: the metrics of each, ``eval_width_0.5_accuracy``, and their means, ``eval_accuracy``.
        """
        self._every_subnet = True
        try:
            metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self._every_subnet = False
        if self.is_in_train and metric_key_prefix == self._prefix:
            self._keep_better(metrics)
        return metrics

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        max_eval_iters: int | None = -1,
    ) -> Any:
        """PaddleNLP's loop: in `evaluate` once for every sub-network, in `predict` for the one that is active."""
        if not self._every_subnet:
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix, max_eval_iters
            )
        outputs = {}
        for name, config in self.subnets.items():
            prefix = f"{metric_key_prefix}_{name}"
            with self.ofa.subnet(config):
                outputs[prefix] = super().evaluation_loop(
                    dataloader, f"{description} {name}", prediction_loss_only, ignore_keys, prefix, max_eval_iters
                )
        metrics = _with_means({prefix: output.metrics for prefix, output in outputs.items()}, metric_key_prefix)
        return next(iter(outputs.values()))._replace(metrics=metrics)

    def prediction_step(
        self, model: nn.Layer, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """The loss, outputs and labels of a batch; several labels as one tensor: PaddleNLP 3 keeps only the first."""
        loss, outputs, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if self._own_metrics and isinstance(labels, (tuple, list)):
            labels = paddle.stack(list(labels), axis=-1)
        return loss, outputs, labels

    def _apart(self, labels: Any) -> Any:
        """The labels of `prediction_step` as the metrics take them."""
        return labels if len(self.label_names) == 1 else tuple(np.moveaxis(labels, -1, 0))

    def export(self, width: float = 1.0, depth: float = 1.0) -> nn.Layer:
        """The plain model of one width and depth, cut out of the supernet as it is now; see `OFA.export`."""
        return self.ofa.export(config=self.ofa.search_space.uniform(width, depth))

    def _check_parallel(self) -> None:
        split = [name for name in _SPLIT if (getattr(self.args, name, 1) or 1) > 1]
        stages = [str(stage.value) for stage in self.args.sharding if stage != ShardingOption.SHARD_OP]
        wrong = [name for name in _REFUSED if getattr(self.args, name, False)] + split
        if self.args.use_hybrid_parallel and not self.args.sharding:
            wrong.append("use_hybrid_parallel")
        if wrong or stages:
            named = wrong[0] if wrong else f"sharding {' '.join(stages)}"
            raise ConfigError(
                f"OFATrainer trains whole models in dygraph, data-parallel and with sharding stage1; not {named}"
            )

    def _check_losses(self, distill_loss: DistillLoss | None) -> None:
        settings = self.ofa_args
        if settings.temperature != 1.0 and not self.task.softens and distill_loss is None:
            raise ConfigError(f"temperature {settings.temperature}: the outputs of {self.task.name} are not logits")
        mapped = settings.lambda_distill and hidden_layers(self.model, settings.mapped_layers)
        if settings.teacher != NONE and not (settings.lambda_logit or settings.lambda_task or mapped):
            raise ConfigError("lambda_logit and lambda_task are 0 and no layer is mapped: nothing would be learnt")

    def _teaching(self, teacher: nn.Layer | None) -> DistillConfig | None:
        """What the sub-networks learn from a teacher, a model in the place of the original or None."""
        settings = self.ofa_args
        if teacher is not None and settings.teacher != ORIGINAL:
            raise ConfigError(f"a teacher was given, but OFAArguments says teacher {settings.teacher!r}")
        if settings.teacher == NONE:
            return None
        teaching = Teaching(
            teacher,
            own=settings.teacher == SELF,
            lambda_distill=settings.lambda_distill,
            mapped_layers=settings.mapped_layers,
            distance=self._losses.hidden_distance,
            engine=settings.teacher_engine,
        )
        return teaching.config(self.model)

    def _fill_in(self) -> None:
        """Takes the loss and the metrics from the kind of task where PaddleNLP's Trainer has none."""
        takes = forward_signature(self.model).parameters
        if self.criterion is None and not all(name in takes for name in self.label_names):
            self.criterion = self.task.loss  # UIE computes no loss of its own
        if self.compute_metrics is None:
            self.compute_metrics = lambda scored: self.task.metrics(scored.predictions, self._apart(scored.label_ids))
            if self.preprocess_logits_for_metrics is None:
                self.preprocess_logits_for_metrics = self.task.reduced
            self._own_metrics = True
        else:
            self._own_metrics = False

    def _pad_token_id(self) -> int | None:
        if self.tokenizer is not None:
            return self.tokenizer.pad_token_id
        # Without a tokenizer only models that mask their padding themselves say which token it is.
        masks_itself = not isinstance(self.task, LanguageModelling)
        return getattr(getattr(self.model, "config", None), "pad_token_id", None) if masks_itself else None

    @property
    def _first(self) -> Any:
        """The evaluation data that decides which model is best: the first of several sets."""
        return next(iter(self.eval_dataset.values())) if isinstance(self.eval_dataset, dict) else self.eval_dataset

    @property
    def _prefix(self) -> str:
        """The prefix of the metrics of `_first`."""
        return f"eval_{next(iter(self.eval_dataset))}" if isinstance(self.eval_dataset, dict) else "eval"

    def _main_metric(self) -> tuple[str, bool]:
        """The name of the metric that says which model is best, without prefixes, and whether more of it is better."""
        if self.args.metric_for_best_model is None:
            metric = self.task.main_metric if self._own_metrics else "loss"
            return metric, metric not in self.task.lower_is_better
        metric = self.args.metric_for_best_model
        for prefix in (f"{self._prefix}_", "eval_", *(f"{name}_" for name in self.subnets)):
            metric = metric.removeprefix(prefix)
        return metric, bool(self.args.greater_is_better)

    def _keep_better(self, metrics: Mapping[str, float]) -> None:
        for name in self.subnets:
            prefix = f"{self._prefix}_{name}_"
            own = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
            if self._metric not in own:
                raise ConfigError(
                    f"metric_for_best_model: no metric {self._metric!r} of {name}; there are {', '.join(own)}"
                )
            if self._best.improves(name, own[self._metric]):
                self._keep(name, own)

    def _keep(self, name: str, metrics: Mapping[str, float]) -> None:
        if self.args.should_save:
            shapes = None if self._example is None else [self._example]
            model = self.ofa.export(config=self.subnets[name], input_shapes=shapes)
            metric = self._metric if metrics else None
            self._best.write(name, model, self._example, metric, metrics, self.state.global_step)

    def _save_tokenizer(self, folder: Path) -> None:
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(str(folder))


def _name(width: float, depth: float, settings: OFAArguments) -> str:
    """``width_0.5``, or ``width_0.5_depth_0.5`` where depths differ."""
    name = f"width_{float(width)}"
    return name if list(settings.depths) == [1.0] else f"{name}_depth_{float(depth)}"


def _with_means(by_subnet: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    """The metrics of all sub-networks, and before them the mean of each that is a number."""
    own = [{key.removeprefix(f"{name}_"): value for key, value in one.items()} for name, one in by_subnet.items()]
    numbers = [key for key in own[0] if all(isinstance(one.get(key), (Real, np.number)) for one in own)]
    means = {f"{prefix}_{key}": float(np.mean([one[key] for one in own])) for key in numbers}
    return {**means, **{key: value for one in by_subnet.values() for key, value in one.items()}}

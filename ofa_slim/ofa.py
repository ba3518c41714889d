"""`OFA`: a supernet with its training, search and export. It orchestrates and computes nothing itself."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.base.checks import check_kind
from ofa_slim.base.examples import Example, random_example
from ofa_slim.base.modes import eval_mode
from ofa_slim.base.taps import Taps
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError, DistillError, ExportError
from ofa_slim.export.cut import export_arguments, export_subnet
from ofa_slim.export.recalibration import recalibrate
from ofa_slim.supernet.handle import AnyConfig, Supernet
from ofa_slim.supernet.published import LayerDict
from ofa_slim.supernet.run_config import RunConfig
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.distill_config import SELF, DistillConfig, load_teacher
from ofa_slim.train.distiller import Distiller
from ofa_slim.train.selection import ElasticModel
from ofa_slim.train.step import LossFn, train_subnets
from ofa_slim.train.teacher import Answer, CachedEngine

if TYPE_CHECKING:
    from ofa_slim.search import SearchConfig, SearchResult
    from ofa_slim.search.budget import Condition
    from ofa_slim.search.config import EvalFunc

__all__ = ["OFA", "DistillConfig", "RunConfig", "dynabert_config"]

logger = logging.getLogger(__name__)


class OFA(ElasticModel):
    """A supernet in training: every forward runs one of its sub-networks.

    Without a config that was set, every forward samples one, in train and eval mode alike. With a teacher
    the forward returns ``(student_output, teacher_output)``, else the student's output alone.

    Args:
        model: a converted model, or one inside `paddle.DataParallel`.
        run_config: the search space's limits and the schedule.
        distill_config: what to learn from a teacher.
        elastic_order: the order in which tasks (``"kernel_size"``, ``"width"``, ``"hidden_size"``, ``"depth"``)
            join; tasks left out stay at full size. By default every task that the model has, in that order.
        train_full: always run in full.
        example_inputs: inputs to trace the model with once, to find which widths must agree: a tensor, a
            tuple or list of positional inputs, or a dictionary of keyword inputs. Models of a known family
            (`paddle.nn.TransformerEncoder`) need none; for others the first batch serves where none is given.
        input_spec: in place of `example_inputs`, an `InputSpec` or a list of them; inputs are then random.

    Raises: ConvertError for a model that was not converted or cannot be traced; ConfigError for names or
        lists that do not fit it.
    """

    def __init__(
        self,
        model: nn.Layer,
        run_config: RunConfig | None = None,
        distill_config: DistillConfig | None = None,
        elastic_order: Sequence[str] | None = None,
        train_full: bool = False,
        example_inputs: Any = None,
        input_spec: InputSpec | Sequence[InputSpec] | None = None,
    ) -> None:
        if distill_config is not None:
            check_kind(distill_config, DistillConfig, "distill_config", ConfigError)
        super().__init__(model, run_config, elastic_order, train_full, example_inputs, input_spec)
        self.distill_config = distill_config
        self._distiller = None if distill_config is None else self._distilling(distill_config, unwrap(model))
        # The student's mapped layers and the teacher's answer of the last forward.
        self._to_compare: tuple[dict[str, paddle.Tensor], Answer | None] = ({}, None)

    def _distilling(self, config: DistillConfig, inner: nn.Layer) -> Distiller | None:
        if config.teacher_model == SELF:
            return Distiller(config, None, inner, self._largest_answer)
        teacher = load_teacher(config)
        return None if teacher is None else Distiller(config, teacher, inner)

    @property
    def netAs_param(self) -> list[paddle.Tensor]:
        """The parameters of the `mapping_op` projections; none of them is in `parameters()`."""
        return [] if self._distiller is None else self._distiller.parameters()

    @property
    def teacher_cache(self) -> CachedEngine | None:
        """The teacher's answers on disk, with the numbers of its `hits` and `misses`; None without `cache_teacher`."""
        return None if self._distiller is None else self._distiller.cache

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Runs the set or a sampled sub-network, and the teacher where there is one.

        Returns: the student's output, or ``(student_output, teacher_output)``.
        """
        batch = Example(inputs, kwargs)
        self._discover_from(batch)
        config = self._set if self._set is not None else self._sample()
        self._to_compare = ({}, None)
        answer = None if self._distiller is None else self._distiller.answer(batch)
        # The sub-network stays active after the forward: recomputation in the backward needs it.
        self.supernet.activate(config)
        self._last = config
        if self._distiller is None or answer is None:
            return self._run(config, inputs, kwargs)
        self._distiller.begin(batch)
        with self._distiller.record() as hidden:
            student_output = self._run(config, inputs, kwargs)
        self._to_compare = hidden, answer
        return student_output, answer.output

    def train_step(
        self,
        batch: Any,
        loss_fn: LossFn,
        configs: Sequence[AnyConfig] | None = None,
        scale: float = 1.0,
        scaler: paddle.amp.GradScaler | None = None,
    ) -> list[paddle.Tensor]:
        """Forward and backward of several sub-networks for one batch; their gradients add up.

        The optimizer is the caller's. Nothing is read back from the device, but by a teacher in Paddle Inference, by
        the comparison of its first answers, and by `cache_teacher`. The teacher runs once, layers that embed the inputs
        run once for all sub-networks, and each sub-network's activations are freed before the next one starts.
        Inside `paddle.DataParallel` no gradients are exchanged;
        `ofa_slim.train.parallel.reduce_gradients` does that once per optimizer step.

        Args:
            batch: the model's inputs: a dictionary of them, a tuple or list in order, or a tensor.
            loss_fn: ``loss_fn(student_output, teacher_output)`` -> scalar, without the mapped layers' loss, which is
                added (`calc_distill_loss`). Without a teacher, and for the largest sub-network where that
                teaches, it gets the student's output alone.
            configs: the sub-networks, as in `set_net_config`; None: one, set or sampled as in `forward`.
            scale: the losses are multiplied by this before the backward pass, not the returned ones:
                1/n where the gradients of n batches add up to one step.
            scaler: the loss scaling of mixed precision.

        Returns: the loss of each sub-network, scalars, in the order of `configs`.

        Raises: IllegalSubnetError for a config that this model does not have; ConfigError for a loss that is no
            scalar, for no configs, or where the largest sub-network teaches and is not among them.
        """
        if not callable(loss_fn):
            raise ConfigError(f"loss_fn is {loss_fn!r}, not a function of the student's output and the teacher's")
        example = Example.of(unwrap(self.model), batch)
        self._discover_from(example)
        chosen = self._chosen(configs)
        self._last = chosen[-1]
        self._to_compare = ({}, None)
        stem, distiller = self._found.stem, self._distiller
        return train_subnets(self.supernet, self.model, chosen, example, loss_fn, stem, distiller, scale, scaler)

    def _run(self, config: SubnetConfig, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The output of the active sub-network."""
        return self.model(*args, **{**self.supernet.forward_arguments(config), **kwargs})

    def _largest_answer(self, taps: Taps, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        largest = self.search_space.largest()
        with self.supernet.using(largest), eval_mode(self.supernet.model), paddle.no_grad(), taps.record() as hidden:
            return Answer(self._run(largest, args, kwargs), hidden)

    def calc_distill_loss(self) -> paddle.Tensor:
        """The mapped layers' loss of the last forward.

        Returns: scalar, `lambda_distill` (1 if None) times the sum over the mapped layers of the mean squared
            error (or `distill_fn`) of the student's to the teacher's output, and of `relations`; layers that the
            depth dropped are left out.

        Raises: DistillError without a teacher, mapped layers or a forward, or where the shapes differ.
        """
        if self._distiller is None:
            raise DistillError("calc_distill_loss needs OFA(distill_config=DistillConfig(teacher_model=...))")
        return self._distiller.loss(*self._to_compare)

    def export(self, *args: Any, **kwargs: Any) -> nn.Layer:
        """Cuts a plain model out of the supernet and checks that it computes the same.

        Called as ``export(origin_model, config, input_shapes, input_dtypes, load_weights_from_supernet=True,
        loader=None, batches=None, repair=None)`` or as ``export(config, input_shapes, input_dtypes, origin_model=None,
        load_weights_from_supernet=True, loader=None, batches=None, repair=None)``.

        Args:
            args: as above, by position or name.
            kwargs: as above. `origin_model`: a plain model of the original structure, cut in place; left out,
                a copy is made. `config`: as in `set_net_config`. `input_shapes`: one shape, a list of shapes,
                or dictionaries ``{input name: shape}``; may be left out for models that begin with an
                embedding. Before the first batch they also serve in place of `example_inputs`. `input_dtypes`: a
                dtype for each. `load_weights_from_supernet`: False cuts the origin's own weights. `loader`,
                `batches`: batches of inputs, and how many of them, to re-estimate the exported model's batch-norm
                statistics with, as `recalibrate` does. `repair`: batches of unlabelled inputs; the output matrices of
                the exported model's blocks are then refitted to the whole supernet, and kept where held-back rows say
                that it helps (`closed_form.repair_if_better`). That comes after the check.

        Returns: `origin_model`, or the copy: Paddle's own layer classes, smaller parameters, trainable.

        Raises: ExportError where the result differs by more than 1e-4 x max(1, largest output) from the
            supernet under that config, or the structures differ; `origin_model` is then as it was.
        """
        given = export_arguments(args, kwargs)
        if given["config"] is None:
            raise ExportError("export needs a config: a SubnetConfig or the published dictionary")
        if self._known is None:
            logger.info("the shapes given to export serve as the example that shows which widths must agree")
            self._discover(random_example(unwrap(self.model), given["input_shapes"], given["input_dtypes"]))
        config = self.subnet_config(given.pop("config"))
        return export_subnet(self.supernet, config, **given)

    def search(
        self, eval_func: EvalFunc, condition: Condition = None, search_config: SearchConfig | None = None
    ) -> SearchResult:
        """Finds the best sub-network within a budget.

        Sub-networks with a size of their own in every layer are proposed, scored and, at the end, the best is exported
        and measured. The search is kept in a directory, so the same call goes on where it was killed, and several
        processes with the same directory (or storage) work on one search. Ctrl-C returns what was found.

        Args:
            eval_func: ``eval_func(ofa_model)``, called in eval mode with the sub-network set: its score, the higher the
                better, or several by name. At the end it is called with the exported model, as ``ofa_model.model``.
                ``ofa_model(...)`` runs a teacher as well where there is one; ``ofa_model.model(...)`` does not.
            condition: the budget: ``{"latency_ms": 8.0}``, ``{"params": 15e6, "flops": 2e9}``, ``{"params_ratio":
                0.5}``, or a function of the `SubnetConfig` that says whether it may be. None: no limit.
            search_config: how to go about it.

        Returns: the best sub-network, the Pareto front and every scored one.

        Raises: SearchError for a budget that no sub-network is within, before any is scored, and for a directory that
            holds another search.

        Source: NSGA-II of Deb et al. 2002, doi:10.1109/4235.996017, in Optuna.
        """
        # Optuna, scikit-learn and Matplotlib take a second to import.
        from ofa_slim.search.search import search

        return search(self.supernet, eval_func, condition, search_config, self.subnet)

    def recalibrate(self, loader: Iterable[Any], batches: int | None = None) -> int:
        """Re-estimates the batch-norm statistics of the sub-network that was set, in the supernet itself.

        Channels are shared, so do this before each sub-network is scored; `export` does it to the exported
        model alone.

        Args:
            loader: batches of the model's inputs; of a tuple or list as many are used as its forward takes
                before ``depth``, which it gets from the config.
            batches: how many to use; None: all.

        Returns: how many batches were used.

        Raises: ConfigError where no config was set, or there is no batch.
        """
        if self._set is None:
            raise ConfigError("recalibrate needs a sub-network: call it after set_net_config, or inside subnet(...)")
        return recalibrate(self.supernet.model, loader, batches, self.supernet.forward_arguments(self._set))


def dynabert_config(ofa_model: OFA, width_mult: float, depth_mult: float = 1.0) -> LayerDict:
    """The per-layer dictionary of one width and depth for the whole model.

    Args:
        ofa_model: the supernet.
        width_mult: share of heads and feed-forward neurons, above 0 and at most 1.
        depth_mult: share of layers, above 0 and at most 1, rounded to the nearest count.

    Returns: a fresh, mutable dictionary that `set_net_config` takes.

    Raises: IllegalSubnetError for a share that the model cannot have.
    """
    supernet = Supernet.of(ofa_model)
    return supernet.codec.from_config(supernet.space.uniform(width_mult, depth_mult))

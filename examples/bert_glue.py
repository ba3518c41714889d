"""Compresses a BERT for a GLUE task or movie-review polarity: from a pre-trained model to exported ones.

    python examples/bert_glue.py --recipe examples/recipes/movie-polarity.yaml

Every stage leaves its output in a folder of output_dir and is skipped when that is there; one that was stopped goes on
from its last checkpoint. On several devices or processes:

    python -m paddle.distributed.launch --nproc_per_node 2 examples/bert_glue.py --recipe ...   (CPUs: --backend gloo)
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ofa_slim.compress.plan import STAGES
from ofa_slim.compress.recipe import (
    Recipe,
    RecipeError,
    add_options,
    load_recipe,
    options_to_overrides,
    unknown_options,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stages that the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", metavar="FILE", help="YAML file with any of the keys below")
    parser.add_argument(
        "--stages",
        default=",".join(STAGES),
        help="stages to run, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="delete the output of the first of these stages and of all after it",
    )
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the checkpoint of a stage that was stopped (default), or begin that stage anew",
    )
    add_options(parser)
    options, rest = parser.parse_known_args(arguments)
    try:
        known = ["recipe", "stages", "overwrite", "resume", *Recipe.model_fields]
        if rest:
            raise RecipeError(unknown_options(rest, known))
        recipe = load_recipe(options.recipe, options_to_overrides(vars(options)))
        return run(recipe, stage_names(options.stages), options.overwrite, options.resume)
    except RecipeError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2


def stage_names(text: str) -> list[str]:
    """The stages of a list with commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STAGES:
            raise RecipeError(f"--stages: no stage {name!r}; the stages are {', '.join(STAGES)}")
    if not names:
        raise RecipeError(f"--stages names no stage; the stages are {', '.join(STAGES)}")
    return names


def run(recipe: Recipe, stages: Sequence[str], overwrite: bool, resume: bool) -> int:
    """Runs stages; returns the exit status."""
    quiet_third_parties()
    # Paddle and PaddleNLP take seconds to import: not before the recipe is known to be right.
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ofa_slim import parallel
    from ofa_slim.compress.folders import StageError
    from ofa_slim.compress.loop import DivergedError, StoppedError
    from ofa_slim.compress.report import write_report
    from ofa_slim.compress.run import Run
    from ofa_slim.compress.stages import run_stages
    from ofa_slim.compress.tasks import DataError
    from ofa_slim.errors import OfaSlimError

    check_precision(recipe.amp)
    parallel.start()
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with logged(folder / "run.log" if parallel.is_writer() else None) as log:
        try:
            current = Run(recipe)
            with logging_redirect_tqdm():
                run_stages(current, stages, overwrite, resume)
            if {"rescore", "formats"} & set(stages) and parallel.is_writer():
                print(write_report(current))
                log.info("the report is in %s: report.md, report.json and a picture", folder)
        except (DataError, DivergedError, StageError, OfaSlimError) as error:
            log.error("error: %s", error)
            return 1
        except StoppedError as error:
            log.error("%s", error)
            return 128 + error.signal
        except KeyboardInterrupt:
            log.error("interrupted; finished stages are kept, the same command goes on")
            return 130
    return 0


def check_precision(amp: str) -> None:
    """Refuses mixed precision where the device has none: Paddle would go on without it."""
    import paddle

    device = paddle.device.get_device()
    supported = {
        "off": True,
        "bf16": device != "cpu" and paddle.amp.is_bfloat16_supported(),
        "fp16": device != "cpu" and paddle.amp.is_float16_supported(),
    }
    if not supported[amp]:
        allowed = ", ".join(name for name, there in supported.items() if there)
        raise RecipeError(
            f"key 'amp' is {amp!r}, which Paddle does not have on {device}; it should be one of {allowed}"
        )


def quiet_third_parties() -> None:
    """Silences what the libraries say about themselves on import, in tokenising pairs and in tracing."""
    for message in (
        "No ccache found",
        "Setuptools is replacing distutils",
        "Tensor do not have .place. interface",
        "Be aware, overflowing tokens are not returned",
        ".pydantic.config.Extra. is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def logged(path: Path | None) -> Iterator[logging.Logger]:
    """Logs to the console and to a file inside the block, without one warnings alone; so always PaddleNLP."""
    from paddlenlp.utils.log import logger as paddlenlp_logger

    paddlenlp_logger.set_level("WARNING")
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [console]
    if path is not None:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("glue", "ofa_slim"):
        log = logging.getLogger(name)
        log.setLevel(logging.WARNING if path is None else logging.INFO)
        log.propagate = False
        log.handlers = handlers
    try:
        yield logging.getLogger("ofa_slim")
    finally:
        for name in ("glue", "ofa_slim"):
            logging.getLogger(name).handlers = []
            logging.getLogger(name).propagate = True
        for handler in handlers:
            handler.close()


if __name__ == "__main__":
    sys.exit(main())

"""The chosen sub-network as it is written: cut, repaired or trained alone, with a smaller word table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddle import nn

from ofa_slim.errors import ExportError, RecipeError
from ofa_slim.export.factorise import factorise_embeddings, largest_rank
from ofa_slim.export.subnet_files import load_subnet
from ofa_slim.export.vocabulary import Pruned, prune_vocabulary
from ofa_slim.export.word_table import word_table
from ofa_slim.job.run import Run
from ofa_slim.job.stage_folders import RESULTS, read_json
from ofa_slim.job.tokenised import token_counts
from ofa_slim.ofa import OFA
from ofa_slim.supernet import SubnetConfig
from ofa_slim.train.batches import Batch

LOG = logging.getLogger(__name__)

FINISHED_MODEL = "model"  # in the folder of the stage that trains it alone


@dataclass(frozen=True)
class Chosen:
    """A model to be written.

    Attributes:
        model: a plain model.
        reference: what computes the same, to compare written files with.
        tokenizer: the model's.
        about: what was done to it beside cutting, for the report: ``"finish"``, ``"vocabulary"``, ``"embeddings"``.
    """

    model: nn.Layer
    reference: nn.Layer
    tokenizer: Any
    about: Mapping[str, Any]


def searched(run: Run, ofa: OFA, config: SubnetConfig, tokenizer: Any, repair: list[Batch] | None) -> Chosen:
    """The searched sub-network, which the supernet is set to.

    Args:
        run: the run, whose search is done.
        ofa: the supernet.
        config: the sub-network.
        tokenizer: of the supernet.
        repair: rows to refit matrices on, where the recipe asks for it.
    """
    if not run.recipe.finish_epochs:
        plain = ofa.export(config=config, repair=repair)
        # A repaired one no longer computes what the supernet does.
        return smaller_tables(run, Chosen(plain, ofa.model if repair is None else plain, tokenizer, {}))
    plain = load_subnet(run.folder / "finish" / FINISHED_MODEL)
    if run.recipe.vocabulary_coverage is not None:
        # It was trained with fewer tokens; the tokenizer is made anew, from the same counts.
        original, _ = run.classifier("finetune")
        tokenizer = fewer_tokens(run, original, tokenizer).tokenizer
    return smaller_tables(run, Chosen(plain, plain, tokenizer, read_json(run.folder / "finish" / RESULTS)))


def smaller_tables(run: Run, chosen: Chosen) -> Chosen:
    """A model with the tokens, unless it has them by now, and the rank of its word table that the recipe asks for."""
    if run.recipe.vocabulary_coverage is not None and "vocabulary" not in chosen.about:
        model, tokenizer, report = fewer_tokens(run, chosen.model, chosen.tokenizer)
        # The reference takes the ids of more tokens.
        chosen = Chosen(model, model, tokenizer, {**chosen.about, "vocabulary": report.to_dict()})
    rank = run.recipe.embedding_rank
    if rank is None:
        return chosen
    train, _ = run.examples(chosen.tokenizer)
    counts = token_counts(train, chosen.model.config.vocab_size) + 1
    # With few tokens left another table may have more rows.
    (factorised,) = factorise_embeddings(chosen.model, rank, word_table(chosen.model).path, frequencies=counts)
    LOG.info("%s", factorised)
    # It no longer computes what it did: it is scored as it is.
    return Chosen(chosen.model, chosen.model, chosen.tokenizer, {**chosen.about, "embeddings": factorised.to_dict()})


def fewer_tokens(run: Run, model: nn.Layer, tokenizer: Any) -> Pruned:
    """A model and its tokenizer with the tokens of the training texts, as many of them as the recipe asks for."""
    train, _ = run.examples(tokenizer)
    counts = token_counts(train, model.config.vocab_size)
    pruned = prune_vocabulary(model, tokenizer, counts=counts, coverage=run.recipe.vocabulary_coverage or 1.0)
    LOG.info("vocabulary: %d of %d tokens are kept", len(pruned.report.kept), pruned.report.rows)
    return pruned


def check_vocabulary(run: Run, model: nn.Layer, tokenizer: Any) -> None:
    """Prunes the vocabulary once before anything is trained, so that what cannot be is refused by then.

    Raises: RecipeError that names the key.
    """
    coverage, rank = run.recipe.vocabulary_coverage, run.recipe.embedding_rank
    if coverage is None:
        return
    try:
        kept = len(fewer_tokens(run, model, tokenizer).report.kept)
    except ExportError as error:
        raise RecipeError(f"key 'vocabulary_coverage' is {coverage}: {error}") from None
    most = largest_rank(kept, model.config.hidden_size)
    if rank is not None and rank > most:
        raise RecipeError(
            f"key 'embedding_rank' is {rank}, which saves nothing in a table of the {kept} tokens that "
            f"'vocabulary_coverage' {coverage} leaves; it can be at most {most}"
        )

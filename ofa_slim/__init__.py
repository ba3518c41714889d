"""Once-For-All compression of fine-tuned models on PaddlePaddle.

One training turns a fine-tuned model into a supernet that holds every smaller network inside it; a network
for any budget is then a selection and an export away. Importing this imports Paddle but not PaddleNLP.
"""

import sys
from typing import TYPE_CHECKING, Any

from ofa_slim.base import former_paths
from ofa_slim.base.version import __version__
from ofa_slim.distill import AttentionRelations, DistillConfig, TeacherCache
from ofa_slim.errors import OfaSlimError
from ofa_slim.export.factorise import factorise_embeddings
from ofa_slim.export.pipeline import pipeline
from ofa_slim.export.static import to_static
from ofa_slim.export.subnet_files import load_subnet, save_subnet
from ofa_slim.export.vocabulary import prune_vocabulary
from ofa_slim.ofa import OFA, dynabert_config
from ofa_slim.supernet import Convert, SearchSpace, SubnetConfig, set_state_dict, supernet
from ofa_slim.supernet.run_config import RunConfig
from ofa_slim.train import parallel, strategies
from ofa_slim.train.checkpoint import CheckpointManager, stop_on_signals

if TYPE_CHECKING:
    from ofa_slim.job.one_call import compress
    from ofa_slim.job.with_training import Training

__all__ = [
    "OFA",
    "AttentionRelations",
    "CheckpointManager",
    "Convert",
    "DistillConfig",
    "OfaSlimError",
    "RunConfig",
    "SearchSpace",
    "SubnetConfig",
    "TeacherCache",
    "Training",
    "__version__",
    "compress",
    "dynabert_config",
    "factorise_embeddings",
    "load_subnet",
    "parallel",
    "pipeline",
    "prune_vocabulary",
    "save_subnet",
    "set_state_dict",
    "stop_on_signals",
    "strategies",
    "supernet",
    "to_static",
]

former_paths.register()
# Known before anyone imports it: importing a module binds its name here, where `pipeline` is the function.
sys.modules["ofa_slim.pipeline"] = sys.modules["ofa_slim.export.pipeline"]


def __getattr__(name: str) -> Any:
    """Names whose modules take long to import are imported where they are first used."""
    if name not in ("Training", "compress"):
        raise AttributeError(f"module 'ofa_slim' has no attribute {name!r}")
    from ofa_slim.job import one_call

    return getattr(one_call, name)

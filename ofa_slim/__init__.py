"""Once-For-All compression of fine-tuned models on PaddlePaddle.

One training turns a fine-tuned model into a supernet that holds every smaller network inside it; a network
for any budget is then a selection and an export away. Importing this imports nothing else; each name imports its
module, and Paddle with it, where it is first used.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ofa_slim.base import former_paths
from ofa_slim.base.version import __version__

if TYPE_CHECKING:
    from ofa_slim.distill import AttentionRelations, DistillConfig, TeacherCache
    from ofa_slim.errors import OfaSlimError
    from ofa_slim.export.factorise import factorise_embeddings
    from ofa_slim.export.formats.pipeline import pipeline
    from ofa_slim.export.static import to_static
    from ofa_slim.export.subnet_files import load_subnet, save_subnet
    from ofa_slim.export.vocabulary import prune_vocabulary
    from ofa_slim.job.distilling import Finish
    from ofa_slim.job.one_call import compress
    from ofa_slim.job.own_code import OwnJob
    from ofa_slim.job.with_training import Training
    from ofa_slim.ofa import OFA, dynabert_config
    from ofa_slim.supernet import Convert, SearchSpace, SubnetConfig, set_state_dict, supernet
    from ofa_slim.supernet.run_config import RunConfig
    from ofa_slim.train import parallel, strategies
    from ofa_slim.train.checkpoint import CheckpointManager, stop_on_signals

__all__ = [
    "OFA",
    "AttentionRelations",
    "CheckpointManager",
    "Convert",
    "DistillConfig",
    "Finish",
    "OfaSlimError",
    "OwnJob",
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

_HOMES = {
    "distill": ("AttentionRelations", "DistillConfig", "TeacherCache"),
    "errors": ("OfaSlimError",),
    "export.factorise": ("factorise_embeddings",),
    "export.formats.pipeline": ("pipeline",),
    "export.static": ("to_static",),
    "export.subnet_files": ("load_subnet", "save_subnet"),
    "export.vocabulary": ("prune_vocabulary",),
    "job.one_call": ("Finish", "Training", "compress"),
    "job.own_code": ("OwnJob",),
    "ofa": ("OFA", "dynabert_config"),
    "supernet": ("Convert", "SearchSpace", "SubnetConfig", "set_state_dict", "supernet"),
    "supernet.run_config": ("RunConfig",),
    "train.checkpoint": ("CheckpointManager", "stop_on_signals"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


class _Root(ModuleType):
    """This module, in which a name that a function shares with a module is the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a module binds its name in its parent.
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        return globals()[name]
    if not name.startswith("__"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


former_paths.register()
sys.modules[__name__].__class__ = _Root

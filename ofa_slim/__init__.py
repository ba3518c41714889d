"""Once-For-All compression of fine-tuned models on PaddlePaddle.

One training turns a fine-tuned model into a supernet that holds every smaller network inside it; a network
for any budget is then a selection and an export away. Importing this imports Paddle but not PaddleNLP.
"""

from ofa_slim.checkpoint import CheckpointManager, stop_on_signals
from ofa_slim.distill_config import DistillConfig
from ofa_slim.errors import OfaSlimError
from ofa_slim.factorise import factorise_embeddings
from ofa_slim.ofa import OFA, dynabert_config
from ofa_slim.pipeline import pipeline
from ofa_slim.run_config import RunConfig
from ofa_slim.static import to_static
from ofa_slim.storage import load_subnet, save_subnet
from ofa_slim.supernet import Convert, SearchSpace, SubnetConfig, set_state_dict, supernet
from ofa_slim.teacher import TeacherCache

__version__ = "0.1.0"

__all__ = [
    "OFA",
    "CheckpointManager",
    "Convert",
    "DistillConfig",
    "OfaSlimError",
    "RunConfig",
    "SearchSpace",
    "SubnetConfig",
    "TeacherCache",
    "dynabert_config",
    "factorise_embeddings",
    "load_subnet",
    "pipeline",
    "save_subnet",
    "set_state_dict",
    "stop_on_signals",
    "supernet",
    "to_static",
]

"""Models as files: plain, for Paddle Inference, as ONNX and in 8 bits, each proven before it is kept."""

from ofa_slim.formats.kinds import FORMATS
from ofa_slim.formats.opened import Opened
from ofa_slim.formats.timing import time_models
from ofa_slim.formats.write import write_formats

__all__ = ["FORMATS", "Opened", "time_models", "write_formats"]

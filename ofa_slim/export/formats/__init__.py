"""Models as files: plain, for Paddle Inference, as ONNX and in 8 bits, each proven before it is kept."""

from ofa_slim.export.formats.opened import Opened
from ofa_slim.export.formats.processes import time_models
from ofa_slim.export.formats.registry import FORMATS
from ofa_slim.export.formats.write import write_formats

__all__ = ["FORMATS", "Opened", "time_models", "write_formats"]

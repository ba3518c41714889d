"""The parts of `cnn_digits.py`: data, network, training and report."""

import warnings

# What Paddle says of itself on import, and of every batch norm that trains.
warnings.filterwarnings("ignore", message="No ccache found")
warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")

"""From a supernet and a config to a plain model, and from a plain model to files of every format."""

"""Training a supernet: the step, the sub-networks of a batch, distillation, checkpoints and several processes."""

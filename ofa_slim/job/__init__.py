"""From a recipe to written models: data, training, stages and report."""

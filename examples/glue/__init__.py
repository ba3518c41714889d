"""The parts of `bert_glue.py`: recipe, data, training, stages and report."""

"""How much memory supernet training takes beside fine-tuning the same model.

MiniLM's shape at batch 32 × length 64, AdamW: fine-tuning, and supernet training over three widths with a teacher and
every layer mapped. Each figure is the peak of a process of its own, less that of one which only imports. What is
compared with: fine-tuning's peak and the teacher's weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

WANTED = "at most 1.15"

# A child's peak starts at what its parent held when it was started, so this process imports nothing large.


def peak_mib() -> float:
    """The most memory that this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def imports(options: argparse.Namespace) -> int:
    """What both trainings import; 0 weights."""
    import numpy  # noqa: F401
    import paddle  # noqa: F401
    from paddlenlp.transformers import BertForSequenceClassification  # noqa: F401

    import minilm  # noqa: F401
    import ofa_slim  # noqa: F401

    return 0


def finetuning(options: argparse.Namespace) -> int:
    """Fine-tunes for some steps; returns how many weights the model has."""
    imports(options)
    import numpy as np
    import paddle.nn.functional as F

    from minilm import adamw, minilm, random_batch

    model, rng = minilm(), np.random.default_rng(0)
    optimizer = adamw(model.parameters())
    model.train()
    for _ in range(options.steps):
        *inputs, labels = random_batch(rng, options.batch_size, options.length)
        F.cross_entropy(model(*inputs), labels).backward()
        optimizer.step()
        optimizer.clear_grad()
    return sum(parameter.size for parameter in model.parameters())


def supernet_training(options: argparse.Namespace) -> int:
    """Trains every width for some steps; returns how many weights the teacher has."""
    imports(options)
    import numpy as np

    from minilm import MAPPABLE, adamw, minilm, random_batch, soft_label_loss
    from ofa_slim import OFA, Convert, DistillConfig, dynabert_config, supernet
    from ofa_slim.base.modes import rest_dropout

    teacher, rng = minilm(), np.random.default_rng(0)
    distilling = DistillConfig(
        lambda_distill=1.0,
        teacher_model=teacher,
        mapping_layers=MAPPABLE,
        teacher_engine=options.teacher_engine,
    )
    ofa = OFA(Convert(supernet(expand_ratio=options.widths)).convert(minilm()), distill_config=distilling)
    configs = [dynabert_config(ofa, width) for width in options.widths]
    optimizer = adamw(ofa.parameters())
    ofa.train()
    if options.no_dropout:
        rest_dropout(ofa)
    for _ in range(options.steps):
        input_ids, token_type_ids, _ = random_batch(rng, options.batch_size, options.length)
        ofa.train_step((input_ids, token_type_ids), soft_label_loss, configs)
        optimizer.step()
        optimizer.clear_grad()
    return sum(parameter.size for parameter in teacher.parameters())


TRAININGS: dict[str, Callable[[argparse.Namespace], int]] = {
    "imports": imports,
    "fine-tuning": finetuning,
    "supernet": supernet_training,
}


def measured(name: str) -> tuple[float, float]:
    """Peak and weights of one training in a fresh process, both MiB."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(child.stdout.splitlines()[-1])
    return found["peak"], found["weights"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (default 3)")
    parser.add_argument("--steps", type=int, default=5, help="training steps of each process (default 5)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.75, 0.5])
    parser.add_argument("--teacher-engine", default="auto", help="as in DistillConfig (default auto)")
    parser.add_argument("--no-dropout", action="store_true", help="of the supernet")
    parser.add_argument("--child", choices=TRAININGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps are at least 1")
    if options.child:
        weights = TRAININGS[options.child](options)
        print(json.dumps({"peak": peak_mib(), "weights": weights * 4 / 2**20}))
        return

    peaks: dict[str, list[float]] = {name: [] for name in TRAININGS}
    for number in range(1, options.rounds + 1):
        for name in TRAININGS:
            peak, teacher = measured(name)
            peaks[name].append(peak)
        print(f"round {number}: " + ", ".join(f"{name} {peaks[name][-1]:.0f} MiB" for name in peaks), flush=True)
    bare, one, two = (statistics.median(values) for values in peaks.values())
    ratio = (two - bare) / (one - bare + teacher)
    print("| | MiB |\n| --- | ---: |")
    print(f"| fine-tuning | {one - bare:.0f} |\n| the teacher's weights | {teacher:.0f} |")
    print(f"| supernet training | {two - bare:.0f} |")
    print(f"memory: supernet / (fine-tuning + teacher): {ratio:.3f}; wanted: {WANTED}")
    result = {
        "benchmark": "memory",
        "rounds": options.rounds,
        "steps": options.steps,
        "widths": options.widths,
        "batch_size": options.batch_size,
        "length": options.length,
        "teacher_engine": options.teacher_engine,
        "finetuning_mib": round(one - bare, 1),
        "teacher_mib": round(teacher, 1),
        "supernet_mib": round(two - bare, 1),
        "ratio": round(ratio, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

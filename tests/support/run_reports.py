"""A finished run's report as it stands in `report.json`, without the run, for the tests of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ofa_slim.job.page import write_page

LAYERS, HEADS, NEURONS = 6, 12, 1536
PICTURE = bytes.fromhex("89504e470d0a1a0a")


def sample_report(points: int = 40, label: str = "movie-polarity") -> dict[str, Any]:
    """A report with some scored sub-networks.

    Args:
        points: how many sub-networks the search scored.
        label: the task, and a part of every other text.
    """
    rng = np.random.default_rng(0)
    full = {f"encoder.{layer}.{kind}": size for layer in range(LAYERS) for kind, size in SIZES.items()}
    full["encoder.depth"] = LAYERS
    scored = [_point(full, full, "original", rng)]
    for width in (0.75, 0.5, 0.25):
        scored.append(_point({**{name: int(width * size) for name, size in full.items()}, "encoder.depth": 6}, full,
                             "uniform", rng))  # fmt: skip
    while len(scored) < points:
        config = {name: int(size * rng.choice([0.25, 0.5, 0.75, 1.0])) for name, size in full.items()}
        config["encoder.depth"] = int(rng.integers(3, LAYERS + 1))
        scored.append(_point(config, full, "optimiser", rng, final=len(scored) % 3 == 0))
    rows = [
        {"model": model, "format": form, "score": score, "bytes": int(size * 1e6), "parameters": parameters,
         "latency_ms": {"1x64": {"median": one, "p95": 1.1 * one}, "32x64": {"median": 20 * one, "p95": 22 * one}}}
        for model, form, score, size, parameters, one in (
            ("original", "plain", 0.8375, 91.1, 22_710_000, 12.6),
            ("original", "onnx-int8", 0.8375, 23.2, 22_710_000, 2.4),
            ("searched", "plain", 0.8, 66.9, 16_000_000, 6.6),
            ("searched", "onnx-int8", 0.7988, 17.1, 16_000_000, 1.1),
        )
    ]  # fmt: skip
    subnets = [
        {"width": width, "depth_mult": 1.0, "scores": {"dev": {"accuracy": 0.8}}, "latency_ms": 8 * width,
         "megabytes": 90 * width, "parameters": int(22e6 * width)}
        for width in (1.0, 0.5)
    ]  # fmt: skip
    return {
        "task": label, "metric": "accuracy", "scored_on": f"the dev rows of {label}", "seconds": {"train": 145.0},
        "peak_memory_mib": 900, "environment": {"threads": 2, "paddle": "3.3.1"}, "settings": {"task": label},
        "subnets": subnets,
        "search": {
            "metric": "probability", "cost": "latency_ms", "budget": "latency_ratio <= 0.7",
            "limits": {"latency_ratio": 0.7}, "rank_correlation": 0.93, "points": scored, "front": scored[1:4],
        },
        "formats": {"rows": rows, "config": scored[-1]["config"], "embeddings": None},
    }  # fmt: skip


SIZES = {"heads": HEADS, "ffn": NEURONS}


def _point(
    config: dict[str, int], full: dict[str, int], kind: str, rng: np.random.Generator, final: bool = True
) -> dict[str, Any]:
    depth = config["encoder.depth"] / LAYERS
    share = depth * np.mean([config[name] / size for name, size in full.items()])
    costs = {"params": 12e6 + 10e6 * share, "flops": 7e8 * share, "latency_ms": 0.4 + 7.6 * share}
    score = float(0.5 + 0.33 * share**0.3 - 0.02 * rng.random() * (kind != "original"))
    return {
        "config": config, "score": score, "kind": kind, "final": final, "within": costs["latency_ms"] <= 5.6,
        "costs": costs, "metrics": {"probability": score, "accuracy": round(score * 800) / 800},
    }  # fmt: skip


def sample_page(folder: Path, report: dict[str, Any], output_dir: str = "runs/demo") -> Path:
    """The page of a report."""

    class Recipe:
        formats = ("plain", "onnx-int8")

    class Run:
        recipe = Recipe

    Recipe.output_dir = output_dir
    Run.folder = folder
    (folder / "search").mkdir(parents=True)
    for name in ("p.png", "search/pareto.png", "search/winner.png"):
        (folder / name).write_bytes(PICTURE)
    lines = [f'{{"name": "widths/loss", "step": {step}, "value": {2 / step}}}' for step in range(1, 40)]
    (folder / "scalars.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return write_page(Run, report, [["model", "layers"], ["original", "all"]], folder / "p.png")

from __future__ import annotations

from typing import Any

import pytest

from ofa_slim.job.explorer import explorer_data
from ofa_slim.job.page import format_rows, lead, markdown_rows
from run_reports import sample_report


def row(model: str, form: str, size: float, one: float, many: float, score: float) -> dict[str, Any]:
    times = {"1x64": {"median": one, "p95": 2 * one}, "32x64": {"median": many, "p95": 2 * many}}
    return {"model": model, "format": form, "bytes": size * 1e6, "score": score, "latency_ms": times}


FORMATS = {
    "rows": [
        row("original", "plain", 80, 18.0, 400.0, 0.9),
        row("original", "onnx-int8", 20, 3.0, 50.0, 0.895),
        row("searched", "plain", 60, 12.0, 200.0, 0.89),
        row("searched", "onnx-int8", 16, 1.5, 20.0, 0.885),
    ]
}


def test_speed_ups_and_sizes_are_against_the_original_in_the_same_format() -> None:
    rows = format_rows(FORMATS)
    assert [[time["speed_up"] for time in one["times"]] for one in rows] == [
        ["1.00", "1.00"], ["1.00", "1.00"], ["1.50", "2.00"], ["2.00", "2.50"]
    ]  # fmt: skip
    assert [[time["format_alone"] for time in one["times"]] for one in rows] == [
        ["1.00", "1.00"], ["6.00", "8.00"], ["1.00", "1.00"], ["6.00", "8.00"]
    ]  # fmt: skip
    assert [one["smaller"] for one in rows] == ["1.00", "1.00", "1.33", "1.25"]
    table = [line.strip("| ").split(" | ") for line in markdown_rows(FORMATS, "accuracy").splitlines()]
    assert [cell.strip() for cell in table[0]] == [
        "model", "format", "accuracy", "size", "smaller", "1x64 ms", "speed-up", "format alone", "32x64 ms", "speed-up",
        "format alone",
    ]  # fmt: skip
    assert [cell.strip() for cell in table[-1]][4:8] == ["1.25", "1.50", "2.00", "6.00"]


def test_the_lead_names_the_share_of_the_format() -> None:
    assert lead({"formats": FORMATS, "metric": "accuracy"}) == (
        "The searched model (16.0 MB) answers 2.00 times as fast as the original (20.0 MB), both in the format "
        "onnx-int8: in 1.50 instead of 3.00 ms for one input, with accuracy 88.50 % against 89.50 %. The format alone "
        "makes the original 6.00 times as fast as plain."
    )
    alone = {"rows": [FORMATS["rows"][0], FORMATS["rows"][2]]}
    assert "1.50 times as fast" in lead({"formats": alone, "metric": "accuracy"})
    assert "alone" not in lead({"formats": alone, "metric": "accuracy"})


@pytest.mark.parametrize(("epochs", "end"), [(0, "7"), (2, "7 --finish")])
def test_commands_train_alone_where_the_run_did(epochs: int, end: str) -> None:
    report = sample_report()
    report["settings"]["finish_epochs"] = epochs
    points = explorer_data(report, "runs/my run")["sets"][0]["points"]
    assert points[7]["command"] == f"ofa-slim pick 'runs/my run' {end}"

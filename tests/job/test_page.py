"""The page of a run in a real browser: the budget, the pointer, keys, widths, and that it asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import CHROMIUM, Tab, browser
from run_reports import sample_page, sample_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
MOST_BYTES, MOST_SECONDS = 5_000_000, 2.0


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
        assert opened.complaints == []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_page(tmp_path_factory.mktemp("page") / "run", sample_report())


def slide(tab: Tab, to: int) -> None:
    tab.value(f"budget.value = {to}; budget.dispatchEvent(new Event('input'))")


def text(tab: Tab, name: str) -> str:
    return tab.value(f"document.getElementById('{name}').textContent")


def place(tab: Tab, number: int) -> tuple[float, float]:
    """Where the mark of a point is in the window; marks are drawn by kind, then by number."""
    tab.value("chart.scrollIntoView()")
    box = tab.value(
        f"(() => {{ const box = document.querySelectorAll('#chart .point')[{number}].getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    return box[0], box[1]


def test_the_slider_highlights_the_best_within_a_budget(tab: Tab, page: Path) -> None:
    tab.open(page)
    points = sample_report()["search"]["points"]
    for to in (300, 700, 1000):
        slide(tab, to)
        most = float(text(tab, "within").partition(":")[0])
        inside = [point for point in points if point["costs"]["latency_ms"] <= most * 1.001]
        best = max((point for point in inside if point["final"]), key=lambda point: point["score"])
        assert text(tab, "heading") == f"Best within the budget: sub-network {points.index(best)}"
        assert f"{len(inside)} of {len(points)} within" in text(tab, "within")
        assert tab.value("document.querySelectorAll('#chart .over').length") == len(points) - len(inside)


def test_the_first_budget_is_the_searchs(tab: Tab, page: Path) -> None:
    tab.open(page)
    original = sample_report()["search"]["points"][0]["costs"]["latency_ms"]
    assert float(text(tab, "within").partition(":")[0]) == pytest.approx(0.7 * original, rel=2e-3)


def test_the_pointer_shows_a_point_and_a_click_keeps_it(tab: Tab, page: Path) -> None:
    tab.open(page)
    number = tab.value("document.querySelectorAll('#chart .point').length") - 1  # the original, which is drawn last
    across, down = place(tab, number)
    tab.move(across, down)
    assert not tab.value("tip.hidden")
    assert text(tab, "tip").startswith("sub-network 0")
    assert "heads: 12 12 12 12 12 12" in text(tab, "tip")
    assert "layer 5: heads 12 of 12, ffn 1536 of 1536" in tab.value("layers.getAttribute('aria-label')")
    assert text(tab, "command") == "ofa-slim pick runs/demo 0"
    tab.move(1, 1)
    assert text(tab, "heading").startswith("Best within")
    tab.move(across, down, click=True)
    tab.move(1, 1)
    assert text(tab, "heading") == "Chosen: sub-network 0"


def test_layers_that_the_depth_drops_are_drawn_as_dropped(tab: Tab, page: Path) -> None:
    tab.open(page)
    points = sample_report()["search"]["points"]
    number = next(at for at, point in enumerate(points) if point["config"]["encoder.depth"] == 3)
    tab.value("chart.focus()")
    for _ in range(len(points)):
        if text(tab, "heading").endswith(f"sub-network {number}"):
            break
        tab.press("ArrowLeft", 37)
    drawn = tab.value("layers.getAttribute('aria-label')")
    assert [part.endswith("dropped") for part in drawn.split("; ")] == [True, False, True, False, True, False]


def test_keys_move_between_points(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.value("chart.focus()")
    points = sample_report()["search"]["points"]
    order = sorted(range(len(points)), key=lambda at: (points[at]["costs"]["latency_ms"], at))
    tab.press("Home", 36)
    assert text(tab, "heading").endswith(f"sub-network {order[0]}")
    tab.press("ArrowRight", 39)
    assert text(tab, "heading").endswith(f"sub-network {order[1]}")
    tab.press("End", 35)
    assert text(tab, "heading").endswith(f"sub-network {order[-1]}")
    tab.press("Escape", 27)
    assert text(tab, "heading").startswith("Best within")
    tab.value("budget.focus()")
    before = tab.value("Number(budget.value)")
    tab.press("ArrowLeft", 37)
    assert tab.value("Number(budget.value)") == before - 1


def test_scores_costs_scales_and_points_can_be_chosen(tab: Tab, page: Path) -> None:
    tab.open(page)
    titles = tab.value("[...cost.options].map(one => one.textContent)")
    assert titles == [
        "latency (ms)", "parameters (millions)", "size of the weights (MB)", "multiply-accumulates (millions)",
    ]  # fmt: skip
    places = []
    for log in ("false", "true"):
        tab.value(f"log.checked = {log}; log.dispatchEvent(new Event('input'))")
        places.append(place(tab, 3)[0])
    assert places[0] != places[1]
    for name, value in (("cost", 2), ("score", 1), ("set", 1)):
        tab.value(f"document.getElementById('{name}').value = {value};"
                  f"document.getElementById('{name}').dispatchEvent(new Event('input'))")  # fmt: skip
    assert text(tab, "heading") == "Best within the budget: original, onnx-int8"
    assert text(tab, "command") == "ofa-slim predict runs/demo/formats/original/onnx-int8 'some text'"


def test_the_command_is_copied(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.value("copy.scrollIntoView()")
    box = tab.value("(() => { const box = copy.getBoundingClientRect(); return [box.x + 5, box.y + 5]; })()")
    tab.move(*box, click=True)
    tab.value("new Promise(done => setTimeout(done, 200))")
    assert text(tab, "copied") == "copied"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1100])
def test_both_widths_and_schemes(width: int, dark: bool, tab: Tab, page: Path) -> None:
    tab.open(page, width, dark)
    assert tab.value("document.documentElement.scrollWidth") <= width
    back, ink = (tab.value(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    light, deep = (sum(map(int, one[4:-1].split(","))) for one in (back, ink))
    assert (light < deep) is dark
    outside = (
        "[...document.querySelectorAll('#chart text, #layers text')].filter(one => {"
        "const box = one.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth; }).length"
    )
    assert tab.value(outside) == 0


def test_two_thousand_points_open_at_once_and_nobody_is_asked(tab: Tab, tmp_path: Path) -> None:
    page = sample_page(tmp_path / "run", sample_report(2000))
    assert page.stat().st_size <= MOST_BYTES
    assert min(tab.open(page) for _ in range(3)) < MOST_SECONDS
    assert tab.value("document.querySelectorAll('#chart .point').length") == 2000
    assert [one for one in tab.requests if not one.startswith(("file:", "data:"))] == []


def test_texts_of_a_run_stay_texts(tab: Tab, tmp_path: Path) -> None:
    page = sample_page(tmp_path / "run", sample_report(10, HOSTILE), output_dir=HOSTILE)
    tab.open(page)
    assert tab.value("document.title").startswith(HOSTILE)
    assert "pick" in text(tab, "command")
    assert HOSTILE.replace("'", "'\"'\"'") in text(tab, "command")
    assert tab.value("document.querySelectorAll('img[src=x]').length") == 0


def test_without_javascript_there_are_tables_and_pictures(tab: Tab, page: Path) -> None:
    tab.open(page, scripts=False)
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.value("explorer.offsetParent") is None
    assert tab.value("document.querySelectorAll('table').length") == 4
    assert tab.value("document.querySelectorAll('noscript img').length") == 3

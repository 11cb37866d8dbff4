"""The report in a real browser: slider, zoom, keyboard, 360 pixels, dark, paper, no scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from report_cases import small_report
from thinlens.report.interactive import write_interactive


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    write_interactive(path, small_report())
    return path.as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1600, "height": 1000}, reduced_motion="reduce")
    opened = context.new_page()
    problems: list[str] = []
    requests: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(address)
    yield opened
    assert not problems
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    context.close()


def test_the_slider_wipes_by_keyboard_and_pointer(page: Any) -> None:
    slider = page.locator(".wipe").first
    assert slider.get_attribute("aria-label") == "Border between dense and thin 1/4"
    slider.focus()
    page.keyboard.press("Home")
    right = page.locator(".stage .layer").nth(1)
    assert right.evaluate("node => node.style.clipPath") in ("inset(0px 0px 0px 0%)", "inset(0px)")
    page.keyboard.press("ArrowRight")
    assert "1%" in right.evaluate("node => node.style.clipPath")
    box = page.locator(".stage").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 5)
    page.mouse.up()
    assert float(slider.input_value()) == pytest.approx(75, abs=1)


def test_zoom_and_pan_are_the_same_in_all_versions(page: Any) -> None:
    viewer = page.locator(".viewer").first
    viewer.get_by_role("button", name="Side by side").click()
    moves = "nodes => nodes.map(node => node.style.transform)"
    images = viewer.locator(".layer img")
    assert images.count() == 3
    before = images.evaluate_all(moves)
    assert len(set(before)) == 1
    assert "scale(1)" in before[0]
    viewer.locator(".stage").focus()
    for key in ("+", "+", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    after = images.evaluate_all(moves)
    assert len(set(after)) == 1
    assert "scale(3)" in after[0]
    page.keyboard.press("0")
    assert "scale(1)" in images.evaluate_all(moves)[0]


def test_the_difference_is_of_the_chosen_version(page: Any) -> None:
    viewer = page.locator(".viewer").first
    viewer.get_by_role("button", name="Difference").click()
    assert viewer.locator(".tag").inner_text() == "thin 1/4 minus dense, times 8"
    assert viewer.locator(".wipe").is_hidden()
    viewer.get_by_label("Right").select_option("original")
    assert viewer.locator(".tag").inner_text() == "original minus dense, times 8"


def test_charts_are_read_by_hover_and_by_arrows(page: Any) -> None:
    chart = page.locator(".chart").first
    chart.locator("circle").nth(1).hover()
    assert "thin 1/4, 29.75 dB on A, 2.0 ms" in chart.locator(".reading").inner_text()
    page.keyboard.press("Tab")
    chart.locator("[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    assert "dense" in chart.locator(".reading").inner_text()
    layers = page.locator("#layer-chart")
    layers.locator(".bars").first.hover()
    assert "body.0, 8x8x3x3, 8:32, 0.8 of 3.0 million" in layers.locator(".reading").inner_text()
    assert "82 µs" in layers.locator(".reading").inner_text()


@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_its_window(
    width: int, scheme: str, browser: Any, address: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    colours = page.evaluate("[getComputedStyle(document.body).backgroundColor]")
    assert colours == ["rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)"]
    sizes = page.locator("button:visible").evaluate_all(
        "nodes => nodes.map(node => node.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 30  # large enough for a finger
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1600, "light")])
def test_axe_core_finds_nothing_serious(
    width: int,
    scheme: str,
    browser: Any,
    address: str,
    findings: Callable[[Any], list[str]],
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address)
    viewer = page.locator(".viewer").first
    for summary in page.locator("summary").all():
        summary.click()
    viewer.get_by_role("button", name="Side by side").click()
    viewer.get_by_role("button", name="Routes").click()
    assert findings(page) == []
    context.close()


def test_axe_core_finds_a_drawing_without_text(
    browser: Any, findings: Callable[[Any], list[str]]
) -> None:
    page = browser.new_page()
    page.set_content("<html lang='en'><title>a</title><svg role='img'></svg></html>")
    assert [text.partition(":")[0] for text in findings(page)] == ["svg-img-alt"]
    page.close()


def test_routes_are_laid_over_the_result_and_counted(page: Any) -> None:
    viewer = page.locator(".viewer").first
    figure = viewer.locator(".routes")
    assert figure.locator("li").all_inner_texts()[1] == "2 bicubic: 2 tiles"
    assert "5 tiles: 3 by" in figure.get_by_role("img").get_attribute("aria-label")
    assert figure.locator("rect").count() == 4  # the fifth is not shown
    button = viewer.get_by_role("button", name="Routes")
    assert page.locator(".viewer").nth(1).get_by_role("button", name="Routes").count() == 0
    viewer.get_by_label("Right").select_option("original")
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert viewer.get_by_label("Right").input_value() == "1"
    overlay = viewer.locator(".layer svg")
    assert overlay.count() == 1  # of the version that the bundle restored
    viewer.locator(".stage").focus()
    page.keyboard.press("+")
    beside = viewer.locator(".layer", has=page.locator("svg")).locator("img")
    moved = "node => node.style.transform"
    assert "scale(2)" in overlay.evaluate(moved) == beside.evaluate(moved)
    viewer.get_by_role("button", name="Difference").click()
    assert overlay.count() == 0


def test_times_of_engines_are_a_chart(page: Any) -> None:
    chart = page.locator(".times")
    bars = chart.locator("rect.thin, rect.dense")
    widths = [bar.bounding_box()["width"] for bar in bars.all()]
    assert widths[1] / widths[0] == pytest.approx(4, rel=0.01)
    chart.locator("[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    reading = chart.locator(".reading").inner_text()
    assert reading == "torch fp32: 8.0 ms, most runs 7.5 to 9.0, zeros are multiplied too"


def test_without_scripts_everything_is_readable(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("noscript p").is_visible()
    assert page.locator(".version img").count() == 6
    assert page.locator(".version img").first.is_visible()
    context.close()


def test_on_paper_pictures_stand_side_by_side(page: Any) -> None:
    page.emulate_media(media="print")
    assert page.locator(".version img").first.is_visible()
    assert page.locator(".stage").first.is_hidden()
    assert page.locator(".bar").first.is_hidden()

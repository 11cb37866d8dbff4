"""The page of `serve` in a real browser: drop, slide, cancel, error, two at once, keyboard."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_cases import RunningServer, SteppedTable, opened, png, running_server
from thinlens.serve.limits import ServerLimits

DROP = """([name, content, kind]) => {
  const bytes = Uint8Array.from(atob(content), (x) => x.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
    : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector(".drop").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def table() -> SteppedTable:
    return SteppedTable()


@pytest.fixture(scope="module")
def server(table: SteppedTable) -> Iterator[RunningServer]:
    with running_server(table, ServerLimits(pixels=10_000, bytes=100_000, waiting=2)) as running:
        yield running


@dataclass
class Seen:
    """What a page complained of, and asked for."""

    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[tuple[Any, Seen]]:
    context = browser.new_context(reduced_motion="reduce")
    opened_page, seen = context.new_page(), Seen()
    opened_page.set_default_timeout(10_000)
    opened_page.on("pageerror", lambda error: seen.problems.append(str(error)))
    opened_page.on("console", lambda message: seen.problems.append(message.text))
    opened_page.on("request", lambda request: seen.requests.append(request.url))
    yield opened_page, seen
    context.close()


@pytest.fixture
def page(window: tuple[Any, Seen], server: RunningServer, table: SteppedTable) -> Iterator[Any]:
    table.gate.set()
    opened_page, seen = window
    opened_page.set_viewport_size({"width": 900, "height": 1000})
    opened_page.goto(server.url)
    yield opened_page
    table.gate.set()
    opened_page.goto("about:blank")  # it asks for nothing more
    # a refusal is a message of the console, and none of the page's
    assert not [text for text in seen.problems if not text.startswith("Failed to load resource")]
    own = (server.url, f"blob:{server.url}", "data:,", "about:")
    assert not [url for url in seen.requests if not url.startswith(own)]


def drop(page: Any, name: str, content: bytes, kind: str = "drop") -> None:
    page.evaluate(DROP, [name, base64.b64encode(content).decode(), kind])


def article(page: Any, name: str) -> Any:
    return page.locator(f"article[aria-label='{name}']")


def send(page: Any, name: str, content: bytes) -> Any:
    drop(page, name, content)
    page.get_by_role("button", name="Restore", exact=True).click()
    return article(page, name)


def test_a_dropped_image_is_restored_compared_and_downloaded(page: Any, tmp_path: Path) -> None:
    drop(page, "over.png", png(), "dragover")
    assert "over" in page.locator(".drop").get_attribute("class")
    drop(page, "photo.png", png())
    estimate = page.locator("#estimate")
    estimate.get_by_text("photo.png, 32x40: less than a second").wait_for()
    page.get_by_role("button", name="Restore", exact=True).click()
    sent = article(page, "photo.png")
    sent.get_by_text("64x80").wait_for()
    slider = sent.locator(".wipe")
    assert slider.get_attribute("aria-label") == "Border between input and result"
    sent.locator(".stage").scroll_into_view_if_needed()
    box = sent.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 5)
    page.mouse.up()
    assert float(slider.input_value()) == pytest.approx(25, abs=3)
    widths = sent.locator(".layer img").evaluate_all("nodes => nodes.map(x => x.naturalWidth)")
    assert widths == [64, 64]
    with page.expect_download() as download:
        sent.get_by_role("link").click()
    download.value.save_as(tmp_path / "result.png")
    assert download.value.suggested_filename == "photo.png"
    pixels = np.asarray(opened((tmp_path / "result.png").read_bytes()))
    assert (pixels[::2, ::2] == np.asarray(opened(png()))).all()
    sent.get_by_role("button", name="Remove photo.png").click()
    assert article(page, "photo.png").count() == 0


def test_an_image_is_pasted(page: Any) -> None:
    drop(page, "pasted.png", png(), "paste")
    page.locator("#estimate").get_by_text("pasted.png").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Restore"


def test_rows_appear_while_it_runs_and_it_can_be_canceled(page: Any, table: SteppedTable) -> None:
    table.gate.clear()
    sent = send(page, "slow.png", png())
    sent.get_by_text("Restoring by stepped").wait_for()
    canvas = sent.locator("canvas")
    canvas.wait_for()
    picture = "node => [...node.getContext('2d').getImageData(0, 0, 64, 80).data]"
    expected = np.asarray(opened(png())).repeat(2, 0).repeat(2, 1)
    page.locator("canvas[data-rows='16']").wait_for()
    shown = np.array(canvas.evaluate(picture)).reshape(80, 64, 4)
    assert (shown[:16, :, :3] == expected[:16]).all()
    assert (shown[:16, :, 3] == 255).all()
    assert (shown[16:, :, 3] < 128).all()  # the input, pale
    assert sent.locator("progress").evaluate("node => node.value") == pytest.approx(0.2)
    sent.get_by_role("button", name="Cancel slow.png").click()
    sent.get_by_text("Canceled.").wait_for()
    table.gate.set()
    sent.get_by_role("button", name="Try again slow.png").click()
    sent.get_by_text("64x80").wait_for()


def test_two_at_once_wait_for_each_other_and_a_third_is_refused(
    page: Any, table: SteppedTable
) -> None:
    table.gate.clear()
    first = send(page, "first.png", png())
    first.locator("canvas").wait_for()
    second = send(page, "second.png", png(seed=1))
    second.get_by_text("Waiting for 1 image").wait_for()
    third = send(page, "third.png", png(seed=2))
    third.get_by_text("the queue is full: 2 images are not finished").wait_for()
    table.gate.set()
    for sent in (first, second):
        sent.get_by_text("64x80").wait_for()
    third.get_by_role("button", name="Try again third.png").click()
    third.get_by_text("64x80").wait_for()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("text.png", b"no image", "cannot read text.png: it is not one of PNG"),
        ("large.png", bytes(200_000), "the file is too large: wanted at most 100,000 bytes"),
        ("many.png", png(101, 100), "many.png has 100x101 pixels: wanted at most 10000"),
    ],
)
def test_a_bad_image_is_one_sentence(name: str, content: bytes, sentence: str, page: Any) -> None:
    sent = send(page, name, content)
    sent.get_by_text(sentence).wait_for()
    assert "failed" in sent.get_by_role("status").get_attribute("class")


def test_a_lost_server_is_one_sentence(page: Any) -> None:
    page.route("**/jobs", lambda route: route.abort())
    sent = send(page, "lost.png", png())
    sent.get_by_text("the server does not answer").wait_for()
    page.unroute("**/jobs")
    sent.get_by_role("button", name="Try again lost.png").click()
    sent.get_by_text("64x80").wait_for()


def test_the_keyboard_alone_is_enough(page: Any, tmp_path: Path) -> None:
    (tmp_path / "keys.png").write_bytes(png())
    choosers: list[Any] = []

    def choose(chooser: Any) -> None:
        choosers.append(chooser)

    page.on("filechooser", choose)  # before the key: it is set up meanwhile
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "image"
    page.wait_for_timeout(100)
    page.keyboard.press("Enter")
    while not choosers:
        page.wait_for_timeout(20)
    choosers[0].set_files(tmp_path / "keys.png")
    page.locator("#estimate").get_by_text("keys.png").wait_for()
    for identity in ("network", "precision", "format"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == identity
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    sent = article(page, "keys.png")
    sent.get_by_text("64x80").wait_for()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "wipe":
            break
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert sent.locator(".wipe").input_value() == "1"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_bundle_takes_an_image_budget(page: Any) -> None:
    field = page.locator("#image_budget")
    assert field.is_hidden()
    page.get_by_label("Network").select_option("bundled")
    field.fill("much")
    sent = send(page, "routed.png", png())
    sent.get_by_text("--image-budget 'much': wanted").wait_for()


def test_no_page_is_wider_than_its_window(page: Any) -> None:
    send(page, "photo.png", png()).get_by_text("64x80").wait_for()
    send(page, "text.png", b"no image").get_by_text("cannot read").wait_for()
    for width in (360, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        sizes = page.locator("button:visible, select:visible, .acts a").evaluate_all(
            "nodes => nodes.map(node => node.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 30  # large enough for a finger
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 22, 28)")):
        page.emulate_media(color_scheme=scheme)
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(background) == colour


def test_axe_core_finds_nothing_serious(
    page: Any, table: SteppedTable, findings: Callable[[Any], list[str]]
) -> None:
    send(page, "text.png", b"no image").get_by_text("cannot read").wait_for()
    send(page, "photo.png", png()).get_by_text("64x80").wait_for()
    table.gate.clear()
    send(page, "slow.png", png()).locator("canvas").wait_for()
    page.get_by_label("Network").select_option("bundled")
    for width, scheme in ((1600, "light"), (360, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert findings(page) == []
    page.emulate_media(color_scheme="light")
    bad = {"name": "text.png", "mimeType": "image/png", "buffer": b"no image"}
    page.locator("#image").set_input_files(bad)
    page.evaluate("document.getElementById('form').submit()")  # as it is without JavaScript
    page.get_by_role("alert").wait_for()
    assert findings(page) == []


def test_without_scripts_the_form_gives_the_result(
    browser: Any, server: RunningServer, tmp_path: Path
) -> None:
    (tmp_path / "plain.png").write_bytes(png())
    (tmp_path / "text.png").write_bytes(b"no image")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    assert page.locator("noscript p").is_visible()
    page.get_by_label("Image", exact=True).set_input_files(tmp_path / "plain.png")
    with page.expect_download() as download:
        page.get_by_role("button", name="Restore", exact=True).click()
    download.value.save_as(tmp_path / "result.png")
    assert opened((tmp_path / "result.png").read_bytes()).size == (64, 80)
    page.get_by_label("Image", exact=True).set_input_files(tmp_path / "text.png")
    page.get_by_role("button", name="Restore", exact=True).click()
    assert re.match("cannot read text.png", page.get_by_role("alert").inner_text())
    page.get_by_role("link").click()
    assert page.locator("form").is_visible()
    context.close()

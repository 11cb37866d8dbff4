// Viewer of versions of a picture: two under a slider, all side by side, or their difference, zoomed and moved together.
"use strict";

const ZOOMS = [0.25, 0.5, 1, 2, 3, 4, 6, 8];
const SEVERAL = 560; // pixels of width from which pictures stand side by side

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

class Viewer {
  constructor(figure) {
    this.width = +figure.dataset.width;
    this.height = +figure.dataset.height;
    this.name = figure.querySelector("h3").textContent;
    const versions = [...figure.querySelectorAll(".version")];
    this.versions = versions.map((node) => ({
      label: node.dataset.label,
      caption: `${node.dataset.label} ${node.dataset.quality}`.trim(),
      source: node.querySelector("img").src,
    }));
    this.differences = new Map([...figure.querySelectorAll(".difference")].map((node) => [
      node.dataset.label,
      { caption: node.querySelector("figcaption").textContent, source: node.querySelector("img").src },
    ]));
    this.routes = figure.querySelector(".routes");
    this.routed = false;
    Object.assign(this, { view: "wipe", left: 0, right: 1, scale: 1, cut: 0.5 });
    [this.x, this.y] = [this.width / 2, this.height / 2];
    this.pointers = new Map();
    this.build(figure);
    this.render();
  }

  build(figure) {
    const choice = (side, text) => {
      const options = this.versions.map((v, i) => element("option", { value: i, textContent: v.label }));
      const select = element("select", {}, ...options);
      select.value = this[side];
      select.addEventListener("change", () => { this[side] = +select.value; this.render(); });
      return element("label", {}, text, select);
    };
    const button = (text, label, act) => {
      const node = element("button", { type: "button", textContent: text, title: label });
      if (text.length < 3) node.setAttribute("aria-label", label);
      node.addEventListener("click", act);
      return node;
    };
    const views = { wipe: "Slider", side: "Side by side" };
    if (this.differences.size) views.difference = "Difference";
    this.buttons = Object.entries(views).map(([view, text]) => {
      const node = button(text, text, () => { this.view = view; this.render(); });
      node.dataset.view = view;
      return node;
    });
    this.choices = [choice("left", "Left"), choice("right", "Right")];
    this.overlay = button("Routes", "Networks that restored the tiles", () => {
      this.routed = !this.routed;
      if (this.routed) this.showRouted();
      this.render();
    });
    this.overlay.hidden = !this.routes;
    this.zoomed = element("span", { role: "status" });
    const group = (...parts) => element("div", { className: "group" }, ...parts);
    const bar = element("div", { className: "bar", role: "group" },
      group(...this.buttons, this.overlay), group(...this.choices),
      group(button("−", "Smaller", () => this.step(-1)), button("+", "Larger", () => this.step(1)),
        button("1:1", "One pixel for one pixel", () => this.zoom(1)),
        button("Fit", "Whole image", () => this.zoom(this.fitting())), this.zoomed));
    bar.setAttribute("aria-label", `View of ${this.name}`);
    this.stage = element("div", { className: "stage", tabIndex: 0, role: "group" });
    this.stage.setAttribute("aria-label",
      `${this.name}: plus and minus enlarge, arrows move, 0 is one to one`);
    this.slider = element("input", { type: "range", className: "wipe", min: 0, max: 100, value: 50 });
    this.slider.addEventListener("input", () => { this.cut = this.slider.value / 100; this.place(); });
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoom(this.scale * Math.exp(-event.deltaY / 200));
    }, { passive: false });
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) {
      this.stage.addEventListener(kind, (event) => this.pointer(event));
    }
    figure.classList.add("scripted");
    figure.querySelector(".versions").before(bar, this.stage, this.slider);
  }

  panes() {
    const of = (index) => this.versions[index];
    if (this.view === "side") return this.versions.map((version) => [version]);
    if (this.view === "wipe") return [[of(this.left), of(this.right)]];
    const chosen = [this.right, this.left, 1].map((i) => this.differences.get(of(i).label));
    return [[chosen.find((difference) => difference)]];
  }

  render() {
    const panes = this.panes();
    this.stage.replaceChildren(...panes.map((versions) => {
      const layers = versions.map((version) => element("div", { className: "layer" },
        element("img", { src: version.source, alt: `${this.name}, ${version.caption}`, draggable: false }),
        ...this.tiles(version)));
      const tags = versions.map((version, i) => element("span",
        { className: `tag ${i ? "right" : "left"}`, textContent: version.caption }));
      const single = versions.length === 1 ? " single" : "";
      return element("div", { className: `pane${single}` }, ...layers, ...tags);
    }));
    const wipes = this.view === "wipe";
    if (wipes) {
      this.handle = element("div", { className: "handle" });
      this.stage.firstChild.append(this.handle);
    }
    this.slider.hidden = !wipes;
    this.slider.setAttribute("aria-label",
      `Border between ${this.versions[this.left].label} and ${this.versions[this.right].label}`);
    for (const choice of this.choices) choice.hidden = this.view === "side" || this.versions.length < 3;
    this.choices[0].hidden ||= this.view !== "wipe";
    this.overlay.setAttribute("aria-pressed", this.routed);
    for (const button of this.buttons) button.setAttribute("aria-pressed", button.dataset.view === this.view);
    this.place();
  }

  // Select the version that has routes, where it is not shown.
  showRouted() {
    if (this.view === "difference") this.view = "wipe";
    const index = this.versions.findIndex((version) => version.label === this.routes.dataset.label);
    if (this.left === index) return;
    this.right = index;
    this.choices[1].querySelector("select").value = index;
  }

  // The routes of tiles over the version that they belong to.
  tiles(version) {
    if (!this.routed || version.label !== this.routes.dataset.label) return [];
    const drawing = this.routes.querySelector("svg").cloneNode(true);
    Object.assign(drawing.style, { width: `${this.width}px`, height: `${this.height}px` });
    drawing.setAttribute("aria-hidden", true);
    return [drawing];
  }

  // The size of one pane in pixels.
  size() {
    const total = this.stage.parentElement.clientWidth;
    const panes = this.stage.children.length;
    const columns = panes === 1 || total < SEVERAL ? 1
      : panes * this.width * this.scale <= total ? panes : 2;
    const widest = Math.min(total, Math.max(columns * this.width * Math.max(this.scale, 1), 160));
    const most = window.innerHeight * (columns * 1 < panes ? 0.45 : 0.72);
    const high = clamp(this.height * this.scale, 120, Math.max(most, 200));
    return [columns, widest / columns, high];
  }

  fitting() {
    const [, wide, high] = this.size();
    return Math.min(1, wide / this.width, Math.max(high, 200) / this.height);
  }

  place() {
    const [columns, wide, high] = this.size();
    const { stage, scale } = this;
    stage.style.maxWidth = this.slider.style.maxWidth = `${columns * wide}px`;
    stage.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
    stage.style.gridAutoRows = `${high}px`;
    const inside = (at, pane, side) => side * scale <= pane ? side / 2
      : clamp(at, pane / 2 / scale, side - pane / 2 / scale);
    this.x = inside(this.x, wide, this.width);
    this.y = inside(this.y, high, this.height);
    const move = `translate(${wide / 2 - this.x * scale}px, ${high / 2 - this.y * scale}px) scale(${scale})`;
    for (const image of stage.querySelectorAll("img, svg")) {
      image.style.transform = move;
      image.style.imageRendering = scale > 1 ? "pixelated" : "auto";
    }
    if (this.view === "wipe") {
      stage.querySelectorAll(".layer")[1].style.clipPath = `inset(0 0 0 ${100 * this.cut}%)`;
      this.handle.style.left = `${100 * this.cut}%`;
    }
    stage.classList.toggle("zoomed", scale !== 1);
    this.zoomed.textContent = `${Math.round(100 * scale)} %`;
  }

  zoom(scale) {
    this.scale = clamp(scale, ZOOMS[0], ZOOMS.at(-1));
    this.place();
  }

  step(direction) {
    const next = direction > 0 ? ZOOMS.find((z) => z > this.scale + 0.01)
      : ZOOMS.findLast((z) => z < this.scale - 0.01);
    this.zoom(next ?? this.scale);
  }

  pan(x, y) {
    this.x -= x / this.scale;
    this.y -= y / this.scale;
    this.place();
  }

  key(event) {
    const pans = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.key in pans) this.pan(...pans[event.key]);
    else if (event.key === "+" || event.key === "=") this.step(1);
    else if (event.key === "-") this.step(-1);
    else if (event.key === "0") this.zoom(1);
    else return;
    event.preventDefault();
  }

  pointer(event) {
    const { pointers, stage } = this;
    if (event.type === "pointerdown") {
      if (event.button) return;
      stage.setPointerCapture(event.pointerId);
      this.wiping = this.view === "wipe" && (this.scale === 1 || event.target === this.handle);
    } else if (!pointers.has(event.pointerId)) return;
    if (event.type === "pointerup" || event.type === "pointercancel") {
      pointers.delete(event.pointerId);
      return;
    }
    const before = pointers.get(event.pointerId);
    const spread = () => {
      const [a, b] = [...pointers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y);
    };
    const old = pointers.size === 2 ? spread() : 0;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (pointers.size === 2) {
      if (old) this.zoom(this.scale * spread() / old);
    } else if (this.wiping) {
      const box = stage.getBoundingClientRect();
      this.cut = clamp((event.clientX - box.left) / box.width, 0, 1);
      this.slider.value = 100 * this.cut;
      this.place();
    } else if (before) this.pan(event.clientX - before.x, event.clientY - before.y);
  }
}

// Viewers of pictures, and charts, of a report; the page is complete, if plainer, without them.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
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

  function shape(name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const count = (value) => Math.round(value).toLocaleString("en");

  // ---- pictures: two under a slider, all side by side, or a difference; zoomed and moved together

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
      const views = { wipe: "Slider", side: "Side by side", difference: "Difference" };
      this.buttons = Object.entries(views).map(([view, text]) => {
        const node = button(text, text, () => { this.view = view; this.render(); });
        node.dataset.view = view;
        return node;
      });
      this.choices = [choice("left", "Left"), choice("right", "Right")];
      this.zoomed = element("span", { role: "status" });
      const group = (...parts) => element("div", { className: "group" }, ...parts);
      const bar = element("div", { className: "bar", role: "group" },
        group(...this.buttons), group(...this.choices),
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
          element("img", { src: version.source, alt: `${this.name}, ${version.caption}`, draggable: false })));
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
      for (const choice of this.choices) choice.hidden = this.view === "side";
      this.choices[0].hidden = this.view !== "wipe";
      for (const button of this.buttons) button.setAttribute("aria-pressed", button.dataset.view === this.view);
      this.place();
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
      for (const image of stage.querySelectorAll("img")) {
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

  // ---- charts

  // About `wanted` round numbers from low to high.
  function ticks(low, high, wanted) {
    const raw = (high - low) / wanted || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= raw * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    const number = Math.floor(high / step + 1e-9) - first + 1;
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    return Array.from({ length: number }, (_, i) => [(first + i) * step, ((first + i) * step).toFixed(digits)]);
  }

  class Plane {
    constructor(figure, [left, right], [low, high], height, units, written = (value, text) => text) {
      const width = Math.max(figure.clientWidth, 240);
      const box = { left: 46, right: width - 14, top: 14, bottom: height - 40 };
      this.svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" });
      this.x = (value) => box.left + (value - left) / (right - left || 1) * (box.right - box.left);
      this.y = (value) => box.bottom - (value - low) / (high - low || 1) * (box.bottom - box.top);
      this.box = box;
      for (const [value, text] of ticks(low, high, 5)) {
        const y = this.y(value);
        this.svg.append(shape("path", { class: "axis", d: `M${box.left} ${y}H${box.right}` }),
          shape("text", { x: box.left - 6, y: y + 4, "text-anchor": "end" }, written(value, text)));
      }
      for (const [value, text] of ticks(left, right, width / 90)) {
        this.svg.append(shape("text", { x: this.x(value), y: box.bottom + 17, "text-anchor": "middle" }, text));
      }
      this.svg.append(shape("text", { x: box.right, y: height - 6, "text-anchor": "end" }, units));
    }
  }

  // One of several marks takes the focus; arrows move it, and its text is read below.
  function readable(marks, texts, reading, act = () => {}) {
    const select = (index, focus) => {
      marks.forEach((mark, i) => mark.setAttribute("tabindex", i === index ? 0 : -1));
      reading.textContent = texts[index];
      act(index);
      if (focus) marks[index].focus();
    };
    marks.forEach((mark, index) => {
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", texts[index]);
      mark.setAttribute("tabindex", index ? -1 : 0);
      for (const kind of ["pointerenter", "focus", "click"]) mark.addEventListener(kind, () => select(index));
      mark.addEventListener("keydown", (event) => {
        const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!move) return;
        event.preventDefault();
        select((index + move + marks.length) % marks.length, true);
      });
    });
  }

  function legend(entries) {
    return element("div", { className: "legend" }, ...entries.map(([text, colour]) => {
      const span = element("span", { textContent: text });
      span.style.setProperty("--key", colour);
      return span;
    }));
  }

  function describe(network) {
    const sets = Object.entries(network.psnr).map(([name, value]) => `${value.toFixed(2)} dB on ${name}`);
    const parts = [network.name, ...sets];
    if (network.ms !== null) parts.push(`${network.ms.toFixed(1)} ms`);
    if (network.macs !== null) parts.push(`${(network.macs / 1e9).toFixed(2)} billion multiply-adds`);
    if (network.bytes !== null) parts.push(`${count(network.bytes)} bytes`);
    return parts.join(", ");
  }

  function scatter(figure) {
    const key = figure.dataset.x;
    const unit = key === "ms" ? 1 : 1e9;
    const networks = data.networks.filter((n) => n[key] !== null && n.mean_psnr !== null)
      .sort((a, b) => a[key] - b[key]);
    const xs = networks.map((n) => n[key] / unit), ys = networks.map((n) => n.mean_psnr);
    const pad = 0.15 * (Math.max(...ys) - Math.min(...ys)) || 0.5;
    const plane = new Plane(figure, [0, 1.08 * Math.max(...xs)],
      [Math.min(...ys) - pad, Math.max(...ys) + pad], 300,
      key === "ms" ? "milliseconds" : "billion multiply-adds");
    plane.svg.append(shape("text", { x: 2, y: 9 }, "dB"));
    const reading = element("p", { className: "reading", role: "status", textContent: "Point at a network." });
    const marks = networks.map((network, i) => {
      const [x, y] = [plane.x(xs[i]), plane.y(ys[i])];
      const mark = network.dense
        ? shape("rect", { x: x - 7, y: y - 7, width: 14, height: 14, class: "mark dense" })
        : shape("circle", { cx: x, cy: y, r: network.name === data.featured ? 9 : 7, class: "mark thin" });
      plane.svg.append(mark);
      if (network.dense || network.name === data.featured) {
        const end = x > (plane.box.left + plane.box.right) / 2;
        plane.svg.append(shape("text", { x: x + (end ? 8 : 4), y: y + (network.dense ? -13 : 23),
          "text-anchor": end ? "end" : "start", class: "strong" }, network.name));
      }
      return mark;
    });
    readable(marks, networks.map(describe), reading);
    plane.svg.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
    return [legend([["dense", "var(--dense)"], ["thin", "var(--thin)"]]), plane.svg, reading];
  }

  function layerChart(holder) {
    const thin = data.networks.filter((n) => n.layers.length)
      .sort((a, b) => (b.name === data.featured) - (a.name === data.featured));
    const chosen = thin.find((n) => n.name === holder.dataset.network) ?? thin[0];
    const select = element("select", {}, ...thin.map((n) => element("option", { textContent: n.name })));
    select.value = chosen.name;
    select.addEventListener("change", () => { holder.dataset.network = select.value; draw(); });
    const layers = chosen.layers;
    const step = Math.max((holder.clientWidth - 60) / layers.length, 7);
    const width = 60 + step * layers.length, [top, middle, bottom] = [16, 176, 316];
    const most = Math.max(...layers.map((l) => l.dense_macs));
    const svg = shape("svg", { viewBox: `0 0 ${width} 330`, role: "group",
      "aria-label": "Layers, the most expensive first: multiply-adds above, the share of weights kept below" });
    svg.style.width = `${width}px`;
    svg.append(shape("text", { x: 2, y: 11 }, "billion multiply-adds"), shape("text", { x: 2, y: middle + 16 }, "N of M kept"));
    for (const [value, text] of ticks(0, most / 1e9, 4)) {
      const y = middle - 1e9 * value / most * (middle - top - 10);
      svg.append(shape("path", { class: "axis", d: `M42 ${y}H${width - 12}` }),
        shape("text", { x: 38, y: y + 4, "text-anchor": "end" }, text));
    }
    for (const share of [0, 0.5, 1]) {
      const y = bottom - share * (bottom - middle - 28);
      svg.append(shape("path", { class: "axis", d: `M42 ${y}H${width - 12}` }),
        shape("text", { x: 38, y: y + 4, "text-anchor": "end" }, `${100 * share} %`));
    }
    const reading = element("p", { className: "reading", role: "status", textContent: "Point at a layer." });
    const marks = layers.map((layer, i) => {
      const mark = shape("g", { class: "bars" });
      const bar = (from, high, kind) => shape("rect", { x: 44 + i * step, y: from - high, height: high,
        width: Math.max(step - 2, 2), class: kind });
      const high = layer.dense_macs / most * (middle - top - 10);
      mark.append(bar(middle, high, "whole"), bar(middle, high * layer.kept, "thin"),
        bar(bottom, (bottom - middle - 28) * layer.n / layer.m, "thin"));
      const hit = bar(bottom, bottom - top, "");
      hit.setAttribute("fill", "transparent");
      mark.append(hit);
      svg.append(mark);
      return mark;
    });
    const texts = layers.map((layer) => {
      const time = layer.microseconds === null ? "" : `, ${count(layer.microseconds)} µs`;
      return `${layer.name}, ${layer.shape}, ${layer.n}:${layer.m}, `
        + `${(layer.dense_macs * layer.kept / 1e6).toFixed(1)} of ${(layer.dense_macs / 1e6).toFixed(1)} million multiply-adds${time}`;
    });
    readable(marks, texts, reading, (index) => marks.forEach((mark, i) => {
      mark.lastChild.setAttribute("class", i === index ? "chosen" : "");
    }));
    const scroll = element("div", { className: "scroll" }, svg);
    const label = element("label", {}, "Network ", select);
    holder.replaceChildren(element("div", { className: "bar" }, label),
      legend([["dense", "var(--light)"], ["kept", "var(--thin)"]]), scroll, reading);
  }

  function curve(figure) {
    const lines = Object.entries(data.curves[figure.dataset.curve].lines);
    const points = lines.flatMap(([, line]) => line);
    const values = points.map(([, y]) => y);
    const logarithmic = Math.min(...values) > 0 && Math.max(...values) > 50 * Math.min(...values);
    const at = (y) => logarithmic ? Math.log10(y) : y;
    const [low, high] = [Math.min(...values.map(at)), Math.max(...values.map(at))];
    const pad = 0.06 * (high - low) || 0.1;
    const plane = new Plane(figure, [0, Math.max(...points.map(([x]) => x))], [low - pad, high + pad], 220,
      "step", (value, text) => logarithmic ? `${Number((10 ** value).toPrecision(2))}` : text);
    const colours = ["var(--thin)", "var(--dense)", "var(--focus)", "var(--soft)"];
    lines.forEach(([name, line], i) => {
      const d = line.map(([x, y], j) => `${j ? "L" : "M"}${plane.x(x)} ${plane.y(at(y))}`).join("");
      const path = shape("path", { d, fill: "none", "stroke-width": 2, "stroke-dasharray": i ? `${8 - 2 * i} 3` : "none" });
      path.style.stroke = colours[i % colours.length];
      plane.svg.append(path);
    });
    plane.svg.setAttribute("role", "img");
    plane.svg.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
    return [plane.svg, legend(lines.map(([name], i) => [name, colours[i % colours.length]]))];
  }

  const viewers = [...document.querySelectorAll(".viewer")].map((figure) => new Viewer(figure));

  function draw() {
    for (const [query, make] of [[".chart", scatter], [".curve", curve]]) {
      for (const figure of document.querySelectorAll(query)) {
        figure.replaceChildren(figure.querySelector("figcaption"), ...make(figure));
      }
    }
    const holder = document.getElementById("layer-chart");
    if (holder) layerChart(holder);
  }

  draw();
  let before = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    for (const viewer of viewers) viewer.place();
    if (before === document.documentElement.clientWidth) return;
    before = document.documentElement.clientWidth;
    draw();
  });
})();

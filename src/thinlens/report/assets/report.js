// The viewers (viewer.js) and charts of a report; the page is complete, if plainer, without them.
// Charts are SVG of our own: the small libraries draw on a canvas, which keys and screen readers do not reach.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";

  function shape(name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const count = (value) => Math.round(value).toLocaleString("en");

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
      // "pointerenter" would also come to a pointer that rests, when focus scrolls a mark below it
      for (const kind of ["pointermove", "focus", "click"]) mark.addEventListener(kind, () => select(index));
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

  // One bar for each engine and precision, with the spread of its runs.
  function bars(figure) {
    const width = Math.max(figure.clientWidth, 240), step = 40, right = width - 4;
    const most = Math.max(...data.times.map((row) => row.high));
    const x = (value) => value / most * right;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${step * data.times.length}`, role: "group" });
    const kind = (row) => row.sparse ? "thin" : "dense";
    const reading = element("p", { className: "reading", role: "status", textContent: "Point at an engine." });
    const marks = data.times.map((row, i) => {
      const y = i * step, mark = shape("g", { class: "bars" });
      mark.append(shape("text", { x: 0, y: y + 14 }, row.label),
        shape("text", { x: right, y: y + 14, "text-anchor": "end", class: "strong" }, `${row.ms.toFixed(1)} ms`),
        shape("rect", { x: 0, y: y + 19, width: Math.max(x(row.ms), 1), height: 12, class: kind(row) }),
        shape("path", { class: "spread", d: `M${x(row.low)} ${y + 25}H${x(row.high)}M${x(row.low)} ${y + 21}v8M${x(row.high)} ${y + 21}v8` }));
      const hit = shape("rect", { x: 0, y: y + 1, width: right, height: step - 4, fill: "transparent" });
      mark.append(hit);
      svg.append(mark);
      return mark;
    });
    const texts = data.times.map((row) => `${row.label}: ${row.ms.toFixed(1)} ms, most runs ${row.low.toFixed(1)} to `
      + `${row.high.toFixed(1)}, ${row.sparse ? "zeros are skipped" : "zeros are multiplied too"}`);
    readable(marks, texts, reading, (index) => marks.forEach((mark, i) => {
      mark.lastChild.setAttribute("class", i === index ? "chosen" : "");
    }));
    svg.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
    return [legend([["multiplies zeros too", "var(--dense)"], ["skips zeros", "var(--thin)"]]), svg, reading];
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
    for (const [query, make] of [[".chart", scatter], [".curve", curve], [".times", bars]]) {
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

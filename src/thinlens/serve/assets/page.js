// The page of the server: files are dropped, pasted or chosen, sent, watched and compared.
"use strict";
(() => {
  const POLL = 300; // milliseconds between two looks at an image
  const form = document.getElementById("form");
  const input = document.getElementById("image");
  const network = document.getElementById("network");
  const budget = document.getElementById("image_budget");
  const beta = document.getElementById("beta");
  const estimate = document.getElementById("estimate");
  const images = document.getElementById("images");
  const mostBytes = +form.dataset.mostBytes;
  const viewers = new Set();

  const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

  function duration(seconds) {
    if (seconds < 1) return "less than a second";
    if (seconds < 90) return `about ${Math.round(seconds)} s`;
    return `about ${Math.round(seconds / 60)} min`;
  }

  // Answers of the server; whatever goes wrong is one sentence.
  async function ask(address, options = {}) {
    let answer;
    try {
      answer = await fetch(address, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("the server does not answer: it was stopped, or the connection is lost");
    }
    if (answer.ok) return answer;
    const { error } = await answer.json().catch(() => ({}));
    throw new Error(error || `the server answers with ${answer.status}`);
  }

  const options = () => {
    const fields = { network: network.value, precision: form.precision.value, format: form.format.value };
    if (network.selectedOptions[0].dataset.bundle !== undefined) {
      for (const node of [budget, beta]) if (node.value.trim()) fields[node.name] = node.value.trim();
    }
    return fields;
  };

  // ---- the time beforehand

  async function pixelSize(file) {
    const image = new Image();
    image.src = URL.createObjectURL(file);
    try {
      await image.decode();
      return [image.naturalWidth, image.naturalHeight];
    } catch {
      return null; // a format that only thinlens reads
    } finally {
      URL.revokeObjectURL(image.src);
    }
  }

  let latest = 0;
  async function showEstimate() {
    const current = ++latest;
    const files = [...input.files];
    estimate.textContent = "";
    estimate.className = "";
    const chosen = network.selectedOptions[0].dataset;
    for (const node of document.querySelectorAll(".bundles")) node.hidden = chosen.bundle === undefined;
    document.getElementById("details").textContent = chosen.details;
    if (!files.length) return;
    const what = files.length === 1 ? files[0].name : `${files.length} images`;
    const sizes = (await Promise.all(files.map(pixelSize))).filter((size) => size);
    if (current !== latest) return;
    if (!sizes.length) {
      estimate.textContent = `${what}: the time is known when it is sent.`;
      return;
    }
    const [width, height] = sizes[0];
    const pixels = sizes.reduce((sum, [w, h]) => sum + w * h, 0);
    const query = new URLSearchParams({ ...options(), width, height });
    const size = files.length === 1 ? `, ${width}x${height}` : "";
    try {
      for (;;) {
        const { seconds, wait: queue } = await (await ask(`/estimate?${query}`)).json();
        if (current !== latest) return;
        if (seconds !== null) {
          const line = queue > 1 ? `, after ${duration(queue)} for the images before it` : "";
          estimate.textContent = `${what}${size}: ${duration(seconds * pixels / (width * height))}${line}.`;
          return;
        }
        estimate.textContent = `${what}${size}: the network is being measured ...`;
        await wait(2 * POLL);
        if (current !== latest) return;
      }
    } catch (error) {
      if (current !== latest) return;
      estimate.textContent = `${what}: ${error.message}.`;
      estimate.className = "failed";
    }
  }

  // ---- one image, from its upload to its result

  class SentImage {
    constructor(file, fields) {
      Object.assign(this, { file, fields, rows: 0, address: null });
      this.title = element("h2", { textContent: file.name });
      this.status = element("p", { role: "status" });
      this.bar = element("progress", { max: 1 });
      this.bar.setAttribute("aria-label", `Progress of ${file.name}`);
      this.body = element("div");
      this.acts = element("div", { className: "acts" });
      this.article = element("article", {}, this.title, this.status, this.bar, this.body, this.acts);
      this.article.setAttribute("aria-label", file.name);
      images.prepend(this.article);
      this.run();
    }

    button(text, act) {
      const node = element("button", { type: "button", textContent: text });
      node.setAttribute("aria-label", `${text} ${this.file.name}`);
      node.addEventListener("click", act);
      return node;
    }

    show(text, ...acts) {
      if (this.status.textContent !== text) this.status.textContent = text;
      this.status.className = "";
      const before = this.acts.contains(document.activeElement);
      this.acts.replaceChildren(...acts);
      if (before && acts.length) acts[0].focus();
    }

    async run() {
      this.rows = 0;
      this.canceled = new AbortController();
      this.bar.hidden = false;
      this.bar.removeAttribute("value");
      this.body.replaceChildren();
      this.show("Sending ...", this.button("Cancel", () => this.cancel()));
      try {
        if (this.file.size > mostBytes) {
          throw new Error(`the file is too large: wanted at most ${mostBytes.toLocaleString("en")} bytes`);
        }
        const data = new FormData();
        for (const [key, value] of Object.entries(this.fields)) data.append(key, value);
        data.append("image", this.file, this.file.name);
        const { signal } = this.canceled;
        let state = await (await ask("/jobs", { method: "POST", body: data, signal })).json();
        this.address = `/jobs/${state.id}`;
        while (["waiting", "running"].includes(state.state)) {
          await this.watch(state);
          await wait(POLL);
          state = await (await ask(this.address, { signal })).json();
        }
        if (state.state === "failed") throw new Error(state.error);
        if (state.state === "canceled") this.stopped();
        else this.done(state);
      } catch (error) {
        if (error.name === "AbortError") this.stopped();
        else this.failed(error.message);
      }
    }

    async watch(state) {
      if (state.state === "waiting") {
        const count = state.waiting_before;
        const line = count ? `Waiting for ${count} ${count === 1 ? "image" : "images"}` : "Waiting";
        const time = state.expected_wait > 1 ? `, ${duration(state.expected_wait)}` : "";
        this.say(`${line}${time}.`);
        return;
      }
      const expected = state.expected_seconds;
      const rest = expected === null ? null : Math.max(0, expected - state.seconds);
      // whole percents: a screen reader repeats each new text
      const percent = Math.floor(10 * state.progress) * 10;
      this.say(`Restoring by ${state.network}${percent ? `, ${percent} %` : ""}`
        + `${rest !== null && rest > 2 && !percent ? `, ${duration(rest)}` : ""}.`);
      const timed = expected ? Math.min(0.95, state.seconds / expected) : 0;
      if (state.progress || expected) this.bar.value = Math.max(state.progress, state.progress ? 0 : timed);
      if (state.preview && state.preview.rows > this.rows) await this.draw(state.preview);
    }

    say(text) {
      if (this.status.textContent !== text) this.status.textContent = text;
    }

    async draw(preview) {
      let canvas = this.body.querySelector("canvas");
      if (!canvas) {
        canvas = element("canvas", { width: preview.width, height: preview.height, role: "img" });
        canvas.setAttribute("aria-label", `${this.file.name}, as far as it is restored`);
        this.body.replaceChildren(canvas);
        const context = canvas.getContext("2d");
        const source = await createImageBitmap(this.file).catch(() => null);
        if (source) {
          context.globalAlpha = 0.35;
          context.drawImage(source, 0, 0, preview.width, preview.height);
          context.globalAlpha = 1;
          source.close();
        }
      }
      const answer = await ask(`${this.address}/preview?start=${this.rows}`);
      if (answer.status === 204) return; // it is done meanwhile
      const strip = await createImageBitmap(await answer.blob());
      const context = canvas.getContext("2d");
      context.clearRect(0, this.rows, canvas.width, strip.height);
      context.drawImage(strip, 0, this.rows);
      this.rows += strip.height;
      canvas.dataset.rows = this.rows;
      strip.close();
    }

    done(state) {
      this.bar.hidden = true;
      const [width, height] = state.result_size;
      const remark = state.remark ? ` ${state.remark}.` : "";
      const link = element("a", { href: `${this.address}/result`, textContent: `Download ${state.result_name}` });
      link.setAttribute("download", state.result_name);
      this.show(`Restored in ${state.seconds.toFixed(1)} s: ${width}x${height}, `
        + `${state.bytes.toLocaleString("en")} bytes.${remark}`, link, this.button("Remove", () => this.remove()));
      const [w, h] = state.view_size;
      const reduced = w < width ? `, shown at ${Math.round(100 * w / width)} % of its size` : "";
      const version = (label, view) => {
        const image = element("img", { src: `${this.address}/views/${view}`, alt: `${state.name}, ${label}` });
        const node = element("figure", { className: "version" }, image);
        Object.assign(node.dataset, { label, quality: "" });
        return node;
      };
      const heading = element("h3", { textContent: `${state.name} and its result${reduced}` });
      const figure = element("figure", { className: "viewer" }, element("figcaption", {}, heading),
        element("div", { className: "versions" }, version("input", "input"), version("result", "result")));
      Object.assign(figure.dataset, { width: w, height: h });
      this.body.replaceChildren(figure);
      this.viewer = new Viewer(figure);
      this.viewer.zoom(this.viewer.fitting());
      viewers.add(this.viewer);
    }

    failed(sentence) {
      this.bar.hidden = true;
      this.body.replaceChildren();
      this.show(`Not restored: ${sentence}.`.replace(/\.\.$/, "."),
        this.button("Try again", () => this.run()), this.button("Remove", () => this.remove()));
      this.status.className = "failed";
    }

    stopped() {
      this.bar.hidden = true;
      this.body.replaceChildren();
      this.show("Canceled.", this.button("Try again", () => this.run()), this.button("Remove", () => this.remove()));
    }

    cancel() {
      if (this.address) fetch(this.address, { method: "DELETE" }).catch(() => {});
      this.canceled.abort();
      this.address = null;
    }

    remove() {
      if (this.address) fetch(this.address, { method: "DELETE" }).catch(() => {});
      viewers.delete(this.viewer);
      this.article.remove();
      input.focus();
    }
  }

  // ---- files from the form, the clipboard, or dropped

  function take(files) {
    if (!files.length) return;
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(file);
    input.files = transfer.files;
    showEstimate();
    form.querySelector("button[type=submit]").focus();
  }

  const drop = document.querySelector(".drop");
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") take([...event.dataTransfer.files]);
    });
  }
  document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
  for (const node of [input, network, form.precision, budget, beta]) node.addEventListener("change", showEstimate);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    for (const file of input.files) new SentImage(file, options());
    input.value = "";
    showEstimate();
  });
  window.addEventListener("resize", () => {
    for (const viewer of viewers) viewer.place();
  });

  input.multiple = true;
  for (const node of document.querySelectorAll(".scripts")) node.hidden = false;
  document.querySelector("label[for=image]").textContent = "Images";
  showEstimate();
})();

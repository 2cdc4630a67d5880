// The viewer of the report. Its pictures are <image> elements in the page, which <use> elements show; so all
// panes move by their `viewBox`. The number of a cell is in the lowest bits of the colours of its picture.
"use strict";
(() => {
  const root = document.getElementById("viewer");
  const volumes = JSON.parse(document.getElementById("viewer-data").textContent);
  const find = (selector, from = root) => from.querySelector(selector);
  const all = (selector, from = root) => [...from.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg";
  const OVERLAYS = ["annotation", "cells"]; // layers of numbered cells, also as lines
  const LINE = { annotation: "#e69f00", cells: "#56b4e9" };
  const DASH = 6; // px, where both lines coincide

  const state = { volume: 0, section: 0, view: null, blink: null, raw: false, picked: null, sort: null };
  const layers = new Map(); // name -> { shown, opacity }
  const decoded = new Map(); // id of a picture -> numbers of the cells of its pixels

  const volume = () => volumes[state.volume];
  const section = () => volume().shown[state.section];
  const pictureId = (layer) => `v${state.volume}s${state.section}-${layer}`;
  const number = (value) => // 4 digits, since areas in µm² can be tiny; large numbers as integers
    value.toLocaleString("en", Math.abs(value) < 1000 ? { maximumSignificantDigits: 4 } : { maximumFractionDigits: 0 });

  // ---------------------------------------------------------------- cells in a picture

  async function numbersOf(layer) {
    const id = pictureId(layer);
    if (!decoded.has(id) && section().boxes) decoded.set(id, filled(section().boxes[layer]));
    if (!decoded.has(id)) {
      const image = new Image();
      image.src = document.getElementById(id).getAttribute("href");
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = image.width;
      canvas.height = image.height;
      const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, image.width, image.height).data;
      const bits = section()[`${layer}_bits`];
      const numbers = new Uint32Array(image.width * image.height);
      for (let k = 0; k < numbers.length; k++) {
        if (!pixels[4 * k + 3]) continue;
        for (let bit = 0; bit < 3 * bits; bit++) {
          numbers[k] |= ((pixels[4 * k + (bit % 3)] >> Math.floor(bit / 3)) & 1) << bit;
        }
      }
      decoded.set(id, numbers);
    }
    return decoded.get(id);
  }

  function filled(boxes) { // numbers of boxes, small ones over large ones
    const [, , height, width] = volume().window;
    const numbers = new Uint32Array(height * width);
    const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
    const order = boxes.map((_, index) => index).sort((a, b) => area(boxes[b]) - area(boxes[a]));
    for (const index of order) {
      const [x0, y0, x1, y1] = boxes[index];
      for (let y = Math.max(Math.round(y0), 0); y < Math.min(Math.round(y1), height); y++) {
        numbers.fill(index + 1, y * width + Math.max(Math.round(x0), 0), y * width + Math.max(Math.min(Math.round(x1), width), 0));
      }
    }
    return numbers;
  }

  function outline(numbers, width, colour, below) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = numbers.length / width;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, canvas.height);
    const rgb = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
    const edge = new Uint8Array(numbers.length);
    for (let k = 0; k < numbers.length; k++) {
      const x = k % width;
      const own = numbers[k];
      edge[k] =
        own > 0 &&
        ((x > 0 && numbers[k - 1] !== own) ||
          (x < width - 1 && numbers[k + 1] !== own) ||
          (k >= width && numbers[k - width] !== own) ||
          (k + width < numbers.length && numbers[k + width] !== own));
      const gap = below?.[k] && Math.floor((x + Math.floor(k / width)) / DASH) % 2;
      if (edge[k] && !gap) image.data.set([...rgb, 255], 4 * k);
    }
    context.putImageData(image, 0, 0);
    return [canvas.toDataURL(), edge];
  }

  function path(numbers, width, cell) {
    let text = "";
    for (let k = 0; k < numbers.length; k++) {
      if (numbers[k] !== cell || (k % width && numbers[k - 1] === cell)) continue;
      let end = k;
      while (end + 1 < numbers.length && (end + 1) % width && numbers[end + 1] === cell) end++;
      text += `M${k % width} ${Math.floor(k / width)}h${end - k + 1}v1h${k - end - 1}z`;
    }
    return text;
  }

  // ---------------------------------------------------------------- drawing

  const sideBySide = () => find("#viewer-beside").checked && volume().annotated;
  const asLines = () => find("#viewer-lines").checked && !section().boxes;

  function visible(layer, pane) {
    if (layer === "raw") return layers.get(layer).shown;
    if (state.raw || !layers.get(layer).shown) return false;
    if (sideBySide() && OVERLAYS.includes(layer)) return layer === (pane ? "cells" : "annotation");
    if (sideBySide() && ["errors", "outlines"].includes(layer)) return pane === 1;
    return !(state.blink && OVERLAYS.includes(layer) && layer !== state.blink);
  }

  function listScales() {
    const shown = (layer) => layers.get(layer)?.shown && section().layers.includes(layer);
    const part = (name, more) => Object.assign(document.createElement(name), more);
    const scales = Object.entries(volume().scales).filter(([layer]) => shown(layer)).flatMap(([, scale]) => {
      const bar = part("div", { className: "scale" });
      bar.style.background = `linear-gradient(to right, ${scale.colours.join(", ")})`;
      const ends = part("p", { className: "ends" });
      ends.append(...[number(scale.low), scale.label, number(scale.high)].map((words) => part("span", { textContent: words })));
      return [bar, ends];
    });
    const named = shown("classes_annotated") || shown("classes_found") ? volume().classes : [];
    const classes = named.map(([name, colour], index) => {
      const swatch = part("i", { className: "swatch" });
      swatch.style.background = index ? colour : "transparent";
      const words = part("span", { textContent: name });
      words.prepend(swatch);
      return words;
    });
    find("#viewer-scales").replaceChildren(...scales, ...classes);
  }

  let drawing = 0;
  async function draw() {
    const turn = ++drawing;
    root.setAttribute("aria-busy", "true");
    const [, , height, width] = volume().window;
    const present = [...layers.keys()].filter((layer) => section().layers.includes(layer));
    const lines = {};
    if (asLines()) {
      const shown = OVERLAYS.filter((layer) => present.includes(layer) && visible(layer, layer === "cells" ? 1 : 0));
      let below = null;
      for (const layer of shown) {
        const [uri, edge] = outline(await numbersOf(layer), width, LINE[layer], sideBySide() ? null : below);
        lines[layer] = uri;
        below = edge;
      }
    }
    if (turn !== drawing) return; // another section was chosen meanwhile
    all(".pane").forEach((pane, index) => {
      pane.hidden = index === 1 && !sideBySide();
      const group = find(".layers", pane);
      group.replaceChildren(
        ...present.filter((layer) => visible(layer, index)).map((layer) => {
          const shape = document.createElementNS(SVG, lines[layer] ? "image" : "use");
          shape.setAttribute("href", lines[layer] ?? `#${pictureId(layer)}`);
          if (lines[layer]) {
            shape.setAttribute("width", width);
            shape.setAttribute("height", height);
            shape.setAttribute("style", "image-rendering: pixelated");
          }
          shape.setAttribute("opacity", layers.get(layer).opacity);
          shape.dataset.layer = layer;
          return shape;
        }),
      );
      find("figcaption", pane).textContent = sideBySide() ? (index ? "found" : "annotated") : "";
    });
    listScales();
    move();
    root.setAttribute("aria-busy", "false");
  }

  function move() {
    const [, , height, width] = volume().window;
    const { x, y, size } = state.view; // size: width of the view as a share of the section
    all(".pane").forEach((pane) => {
      const svg = find("svg", pane);
      svg.setAttribute("viewBox", `${x} ${y} ${width * size} ${height * size}`);
      svg.style.aspectRatio = `${width} / ${height}`;
      pane.style.maxWidth = `calc(84vh * ${width / height})`; // so that the whole section is visible
    });
    find("#viewer-zoom").textContent = `${Math.round(100 / size)} %`;
    drawBar(width * size);
  }

  function drawBar(across) {
    const bar = find(".bar");
    const scale = volume().pixel_size ? volume().pixel_size[1] : 1;
    const most = (across * scale) / 4;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = power * [1, 2, 5].filter((digit) => digit * power <= most).pop();
    find("i", bar).style.width = `${(100 * length) / scale / across}%`;
    const unit = volume().pixel_size ? (length < 1 ? `${number(1000 * length)} nm` : `${number(length)} µm`) : `${number(length)} px`;
    find("span", bar).textContent = unit;
  }

  function zoom(factor, x, y) {
    const [, , height, width] = volume().window;
    const view = state.view;
    const size = Math.min(1, Math.max(16 / Math.max(width, height), view.size / factor));
    x ??= view.x + (view.size * width) / 2;
    y ??= view.y + (view.size * height) / 2;
    state.view = { size, x: x - ((x - view.x) * size) / view.size, y: y - ((y - view.y) * size) / view.size };
    keepInside();
    move();
  }

  function keepInside() {
    const [, , height, width] = volume().window;
    const view = state.view;
    view.x = Math.min(Math.max(view.x, 0), width * (1 - view.size));
    view.y = Math.min(Math.max(view.y, 0), height * (1 - view.size));
  }

  function pan(dx, dy) {
    state.view.x += dx;
    state.view.y += dy;
    keepInside();
    move();
  }

  function look(top, left, bottom, right) {
    const [, , height, width] = volume().window;
    const size = Math.min(1, Math.max((bottom - top) / height, (right - left) / width));
    state.view = { size, x: (left + right - size * width) / 2, y: (top + bottom - size * height) / 2 };
    keepInside();
    move();
  }

  // ---------------------------------------------------------------- volume and section

  async function show(at, place = 0, view = null) {
    const other = at !== state.volume || state.view === null;
    state.volume = at;
    state.section = Math.min(Math.max(place, 0), volume().shown.length - 1);
    state.picked = null;
    if (!volume().annotated) state.blink = null; // there are only the cells found
    if (other) state.view = { x: 0, y: 0, size: 1 };
    find("#viewer-volume").value = at;
    const slider = find("#viewer-section");
    slider.max = volume().shown.length - 1;
    slider.value = state.section;
    slider.disabled = volume().shown.length === 1;
    const of = `section ${section().z + 1} of ${volume().sections}`;
    slider.setAttribute("aria-valuetext", of);
    find("#viewer-place").textContent = of;
    const [top, left, height, width] = volume().window;
    const cut = height < volume().size[0] || width < volume().size[1];
    find("#viewer-part").textContent =
      (cut ? `The middle ${height} × ${width} px of ${volume().size.join(" × ")} px. ` : "") +
      (volume().shown.length < volume().sections ? `${volume().shown.length} of ${volume().sections} sections are in this page. ` : "") +
      (cut || volume().shown.length < volume().sections ? `All: segmentation/${volume().volume}_labels.tif` : "");
    listLayers();
    fillTable();
    describe(null);
    mark(null);
    await draw();
    if (view) look(...view);
  }

  function listLayers() {
    for (const row of all(".layer")) row.hidden = !section().layers.includes(row.dataset.layer);
    find("#viewer-beside").closest("label").hidden = !volume().annotated;
    find("#viewer-blink").hidden = !volume().annotated;
  }

  // ---------------------------------------------------------------- cells

  const NAMES = {
    score: "score", height: "height (px)", width: "width (px)", area: "area (px)", area_um2: "area (µm²)", equivalent_diameter_area: "diameter (px)",
    equivalent_diameter_area_um: "diameter (µm)", intensity_mean: "mean gray level", probability_mean: "mean probability",
    disagreement_mean: "disagreement", class: "class", touches_edge: "at the edge", iou: "IoU",
  };
  const title = (column) => {
    const [name, channel] = column.split("-");
    if (name === "label") return volume().noun;
    return NAMES[name] + (channel === undefined ? "" : `, channel ${channel}`);
  };
  const shownColumns = () =>
    Object.keys(section().found_cells).filter((column) => !["match", "part_of"].includes(column) &&
      !(column === "area" && section().found_cells.area_um2) &&
      !(column === "equivalent_diameter_area" && section().found_cells.equivalent_diameter_area_um));
  const text = (value) => (value === null ? "unknown" : value === true ? "yes" : value === false ? "no" : typeof value === "number" ? number(value) : value);

  // an IoU exists only if a cell matches
  const entry = (cells, column, index) => (column === "iou" && cells.match[index] === 0 ? "" : text(cells[column][index]));

  function fate(cells, index, found) {
    if (cells.area?.[index] === null) return "continues far outside of the picture";
    if (!cells.match) return "";
    if (cells.match[index] === null) return `not compared: a ${volume().noun} linked with it continues far outside of the picture`;
    const other = found ? "annotated" : "found";
    if (cells.match[index]) return `matches ${other} ${volume().noun} ${cells.match[index]}`;
    if (cells.part_of[index]) return `${found ? "piece of" : "merged into"} ${other} ${volume().noun} ${cells.part_of[index]}`;
    return found ? `no annotated ${volume().noun} (false)` : "not found (missed)";
  }

  function words(kind, index) {
    const cells = section()[kind === "cells" ? "found_cells" : "annotated_cells"];
    const values = kind === "cells" ? shownColumns() : ["area"];
    const parts = values.filter((column) => column !== "label" && entry(cells, column, index) !== "")
      .map((column) => `${title(column)} ${entry(cells, column, index)}`);
    const end = fate(cells, index, kind === "cells");
    return [`${kind === "cells" ? "Found" : "Annotated"} ${volume().noun} ${cells.label[index]}`, [...(end ? [end] : []), ...parts]];
  }

  function describe(hits) {
    const card = find("#viewer-cell");
    if (!hits?.length) {
      card.textContent = `Point at a${volume().noun === "object" ? "n object" : " cell"} to see its measurements; click to mark its row in the table.`;
      return;
    }
    card.replaceChildren(...hits.map(([kind, cell]) => {
      const [heading, parts] = words(kind, cell - 1);
      const block = document.createElement("p");
      block.append(Object.assign(document.createElement("b"), { textContent: heading }), ...parts.flatMap((part) => [document.createElement("br"), part]));
      block.style.borderColor = LINE[kind];
      return block;
    }));
  }

  async function mark(kind, cell) {
    const [, , , width] = volume().window;
    let shape = "";
    if (cell && section().boxes) {
      const [x0, y0, x1, y1] = section().boxes[kind][cell - 1];
      shape = `M${x0} ${y0}h${x1 - x0}v${y1 - y0}h${x0 - x1}z`;
    } else if (cell) shape = path(await numbersOf(kind), width, cell);
    for (const line of all(".marked")) line.setAttribute("d", shape);
    return shape;
  }

  function fillTable() {
    const table = find("#viewer-table table");
    const cells = section().found_cells;
    const columns = shownColumns();
    const [by, down] = state.sort ?? ["label", false];
    const order = cells.label.map((_, index) => index);
    const value = (index) => (by === "found as" ? fate(cells, index, true) : cells[by]?.[index] ?? -Infinity);
    order.sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a - b) * (down ? -1 : 1));
    const heads = [...columns, ...(cells.match ? ["found as"] : [])];
    find("tr", table).replaceChildren(...heads.map((column) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.setAttribute("aria-sort", by === column ? (down ? "descending" : "ascending") : "none");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = column === "found as" ? "annotation" : title(column);
      button.onclick = () => { state.sort = [column, by === column && !down]; fillTable(); };
      cell.append(button);
      return cell;
    }));
    find("tbody", table).replaceChildren(...order.map((index) => {
      const row = document.createElement("tr");
      row.dataset.cell = index + 1;
      row.tabIndex = 0;
      row.append(...columns.map((column) => Object.assign(document.createElement("td"), { textContent: entry(cells, column, index) })));
      if (cells.match) row.append(Object.assign(document.createElement("td"), { textContent: fate(cells, index, true) }));
      row.onclick = () => pick("cells", index + 1, true);
      row.onkeydown = (event) => { if (event.key === "Enter") pick("cells", index + 1, true); };
      return row;
    }));
    find("#viewer-count").textContent = `${number(cells.label.length)} ${volume().noun}s found in this section`;
  }

  async function pick(kind, cell, centre) {
    state.picked = cell ? [kind, cell] : null;
    const shape = await mark(kind, cell);
    describe(cell ? [[kind, cell]] : null);
    for (const row of all("#viewer-table tr.picked")) row.classList.remove("picked");
    if (!cell) return;
    if (kind === "cells") {
      const row = find(`#viewer-table tr[data-cell="${cell}"]`);
      row.classList.add("picked");
      if (!centre) {
        find("#viewer-table").open = true;
        const box = find("#viewer-table .long");
        box.scrollTop = row.offsetTop - box.clientHeight / 2;
      }
    }
    if (centre) {
      const box = new Path(shape);
      const margin = Math.max(20, (box.bottom - box.top) / 2, (box.right - box.left) / 2);
      look(box.top - margin, box.left - margin, box.bottom + margin, box.right + margin);
      root.scrollIntoView({ block: "nearest" });
    }
  }

  class Path { // extent of a path of `path`
    constructor(shape) {
      const runs = [...shape.matchAll(/M(\S+) (\S+)h(\S+)v(\S+)h/g)].map((run) => run.slice(1).map(Number));
      this.left = Math.min(...runs.map(([x]) => x));
      this.right = Math.max(...runs.map(([x, , across]) => x + across));
      this.top = Math.min(...runs.map(([, y]) => y));
      this.bottom = Math.max(...runs.map(([, y, , down]) => y + down));
    }
  }

  async function hit(event, svg) {
    const [, , height, width] = volume().window;
    const box = svg.getBoundingClientRect();
    const x = Math.floor(state.view.x + ((event.clientX - box.left) / box.width) * width * state.view.size);
    const y = Math.floor(state.view.y + ((event.clientY - box.top) / box.height) * height * state.view.size);
    if (x < 0 || y < 0 || x >= width || y >= height) return [];
    const hits = [];
    for (const layer of ["cells", "annotation"]) {
      if (!section().layers.includes(layer)) continue;
      const cell = (await numbersOf(layer))[y * width + x];
      if (cell) hits.push([layer, cell]);
    }
    return hits;
  }

  // ---------------------------------------------------------------- controls

  for (const row of all(".layer")) {
    const box = find("input[type=checkbox]", row);
    const range = find("input[type=range]", row);
    layers.set(row.dataset.layer, { shown: box.checked, opacity: Number(range.value) });
    const change = () => {
      Object.assign(layers.get(row.dataset.layer), { shown: box.checked, opacity: Number(range.value) });
      state.blink = null;
      draw();
    };
    box.onchange = change;
    range.oninput = () => { box.checked = true; change(); };
  }
  const setLayer = (name, shown) => {
    const box = find(`.layer[data-layer="${name}"] input[type=checkbox]`);
    if (box && box.checked !== shown) box.click();
  };
  find("#viewer-volume").onchange = (event) => show(Number(event.target.value));
  find("#viewer-section").oninput = (event) => show(state.volume, Number(event.target.value));
  find("#viewer-lines").onchange = draw;
  find("#viewer-areas").onchange = draw;
  find("#viewer-beside").onchange = () => { state.blink = null; draw(); };

  const actions = {
    previous: () => show(state.volume, state.section - 1),
    next: () => show(state.volume, state.section + 1),
    in: () => zoom(1.5),
    out: () => zoom(1 / 1.5),
    whole: () => { state.view = { x: 0, y: 0, size: 1 }; move(); },
    blink: () => {
      if (!volume().annotated) return;
      for (const layer of OVERLAYS) layers.get(layer).shown || setLayer(layer, true);
      state.blink = state.blink === "annotation" ? "cells" : "annotation";
      find("#viewer-said").textContent = `${state.blink === "cells" ? "found" : "annotated"} ${volume().noun}s`;
      draw();
    },
    raw: () => { state.raw = !state.raw; draw(); },
  };
  for (const button of all("[data-action]")) button.onclick = actions[button.dataset.action];

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input[type=range], input[type=radio], select");
    const step = 0.1 * volume().window[3] * state.view.size;
    const keys = { b: actions.blink, r: actions.raw, "+": actions.in, "=": actions.in, "-": actions.out, 0: actions.whole, Escape: () => { state.blink = null; state.raw = false; pick(null, null); draw(); } };
    if (!typing) {
      Object.assign(keys, event.shiftKey
        ? { ArrowLeft: () => pan(-step, 0), ArrowRight: () => pan(step, 0), ArrowUp: () => pan(0, -step), ArrowDown: () => pan(0, step) }
        : { ArrowLeft: actions.previous, ArrowRight: actions.next });
      if (!event.shiftKey && volumes.length > 1) {
        keys.ArrowUp = () => show(Math.max(state.volume - 1, 0));
        keys.ArrowDown = () => show(Math.min(state.volume + 1, volumes.length - 1));
      }
      for (const [place, row] of all(".layer").filter((row) => !row.hidden).entries()) {
        if (place < 9) keys[place + 1] = () => find("input[type=checkbox]", row).click();
      }
    }
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  for (const svg of all(".pane svg")) {
    let from = null;
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !root.contains(document.activeElement)) return; // the page scrolls
      event.preventDefault();
      const [, , height, width] = volume().window;
      const box = svg.getBoundingClientRect();
      zoom(1.2 ** -Math.sign(event.deltaY), state.view.x + ((event.clientX - box.left) / box.width) * width * state.view.size,
        state.view.y + ((event.clientY - box.top) / box.height) * height * state.view.size);
    }, { passive: false });
    svg.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, moved: false };
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", async (event) => {
      if (from) {
        const unit = (volume().window[3] * state.view.size) / svg.getBoundingClientRect().width;
        const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
        if (from.moved || Math.hypot(dx, dy) > 4) {
          pan(-dx * unit, -dy * unit);
          from = { x: event.clientX, y: event.clientY, moved: true };
        }
        return;
      }
      const hits = await hit(event, svg);
      if (hits.length || !state.picked) describe(hits);
      mark(...(hits[0] ?? state.picked ?? [null]));
    });
    svg.addEventListener("pointerup", async (event) => {
      const clicked = from && !from.moved;
      from = null;
      root.focus({ preventScroll: true });
      if (clicked) pick(...((await hit(event, svg))[0] ?? [null, null]));
    });
    svg.addEventListener("pointerleave", () => { if (!from && !state.picked) { describe(null); mark(null); } });
    svg.addEventListener("dblclick", () => zoom(2));
  }

  document.addEventListener("click", async (event) => {
    const link = event.target.closest("[data-open]");
    if (!link) return;
    event.preventDefault();
    const [at, place, ...view] = JSON.parse(link.dataset.open);
    state.blink = null;
    state.raw = false;
    setLayer("errors", true);
    await show(at, place, view.length ? view : null);
    root.scrollIntoView({ block: "start" });
    root.focus({ preventScroll: true });
  });

  // without this script, and on paper, the stills replace the viewer
  const stills = document.getElementById("stills");
  stills.open = false;
  addEventListener("beforeprint", () => { stills.open = true; });
  addEventListener("afterprint", () => { stills.open = false; });
  root.hidden = false;
  show(0);
})();

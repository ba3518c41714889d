"use strict";
// What the chart is made with: elements, numbers in words, and the drawing of what a sub-network keeps of each layer.
// Texts of the run are set as text, never as markup.
const pageParts = (() => {
  const by = (id) => document.getElementById(id);
  const data = JSON.parse(by("data").textContent);

  const svg = (name, attributes, parent, text) => {
    const made = document.createElementNS(by("chart").namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const html = (name, parent, text) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };
  const words = (value) => {
    if (value === null || value === undefined) return "not measured";
    if (Math.abs(value) >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
    return String(Number(value.toPrecision(4)));
  };

  const runs = (layer, sizes) =>
    layer.depth === null || layer.number === null || data.depths[layer.depth][sizes[layer.depth]].includes(layer.number);

  const layers = (point) => {
    const drawing = by("layers");
    drawing.replaceChildren();
    const known = point.sizes !== null && data.layers.length > 0;
    drawing.style.display = known ? "" : "none";
    by("layers-note").hidden = !known;
    if (!known) return;
    const width = Math.max(240, drawing.parentElement.clientWidth);
    const row = 20;
    const label = Math.min(140, 16 + 7 * Math.max(...data.layers.map((layer) => layer.name.length)));
    const columns = Math.max(...data.layers.map((layer) => layer.parts.length));
    const span = (width - label) / columns;
    const full = span - 78;
    drawing.setAttribute("viewBox", `0 0 ${width} ${row * (data.layers.length + 1)}`);
    drawing.style.height = `${row * (data.layers.length + 1)}px`;
    const titles = data.layers.find((layer) => layer.parts.length === columns).parts;
    titles.forEach(([, kind], at) => svg("text", { x: label + at * span, y: 13 }, drawing, kind));
    data.layers.forEach((layer, number) => {
      const top = row * (number + 1);
      svg("text", { x: 0, y: top + 13 }, drawing, layer.name);
      const there = runs(layer, point.sizes);
      layer.parts.forEach(([place, , whole], at) => {
        const left = label + at * span;
        const kept = there ? point.sizes[place] : 0;
        if (whole <= 24) {
          const cell = Math.min(14, full / whole);
          for (let unit = 0; unit < whole; unit += 1)
            svg("rect", { class: unit < kept ? "kept" : "cut", x: left + unit * cell + 0.5, y: top + 3, width: Math.max(1, cell - 2), height: 12 }, drawing);
        } else {
          svg("rect", { class: "cut", x: left + 0.5, y: top + 3, width: full, height: 12 }, drawing);
          svg("rect", { class: "kept", x: left + 0.5, y: top + 3, width: (full * kept) / whole, height: 12 }, drawing);
        }
        const end = left + (whole <= 24 ? Math.min(14, full / whole) * whole : full) + 6;
        svg("text", { x: end, y: top + 13 }, drawing, there ? `${kept}/${whole}` : "dropped");
      });
    });
    const lines = data.layers.map((layer) => `layer ${layer.name}: ${sizesOf(layer, point.sizes)}`);
    drawing.setAttribute("aria-label", lines.join("; "));
  };

  const sizesOf = (layer, sizes) =>
    runs(layer, sizes) ? layer.parts.map(([place, kind, whole]) => `${kind} ${sizes[place]} of ${whole}`).join(", ") : "dropped";

  const summary = (sizes) => {
    const kinds = new Map();
    for (const layer of data.layers)
      for (const [place, kind] of layer.parts)
        kinds.set(kind, `${kinds.get(kind) ?? `${kind}:`} ${runs(layer, sizes) ? sizes[place] : "–"}`);
    return [...kinds.values()];
  };

  return { by, data, svg, html, words, layers, summary };
})();

// The chart of a run: points, a budget and the best within it.
(() => {
  const { by, data, svg, html, words, layers, summary } = pageParts;
  if (!data.sets.length) return;
  const chart = by("chart");
  const STEPS = 1000;
  const NEAR = 28; // pixels between the pointer and a point that it means
  const EDGE = { left: 52, right: 14, top: 14, bottom: 42 };
  const SHAPES = [
    "M4,0A4,4 0 1 1 -4,0A4,4 0 1 1 4,0Z", // circle
    "M-4,-4H4V4H-4Z", // square
    "M0,-8L1.9,-2.6L7.6,-2.5L3,1L4.7,6.5L0,3.2L-4.7,6.5L-3,1L-7.6,-2.5L-1.9,-2.6Z", // star
    "M0,-5L5,4H-5Z", // triangle
    "M0,-6L5,0L0,6L-5,0Z", // diamond
    "M-5,-2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z", // cross
  ];
  const state = { set: 0, score: 0, cost: 0, log: false, parts: true, budget: STEPS, hover: null, chosen: null };
  let view = null; // scales and marks of what is drawn

  const points = () => data.sets[state.set].points;
  const cost = (point) => point.costs[state.cost];
  const score = (point) => point.scores[state.score];
  const drawable = (point) => cost(point) !== null && score(point) !== null && (state.parts || point.final);
  const kindOf = (point) => point.kind % SHAPES.length;

  // Scales ------------------------------------------------------------------------------------------------------

  const spread = (low, high) => (high > low ? [low, high] : [low * 0.9 - (low === 0 ? 1 : 0), high * 1.1 + (high === 0 ? 1 : 0)]);
  const forward = (value) => (view.log ? Math.log(value) : value);
  const backward = (value) => (view.log ? Math.exp(value) : value);
  const x = (value) => EDGE.left + ((forward(value) - view.x[0]) / (view.x[1] - view.x[0])) * view.inner.width;
  const y = (value) => EDGE.top + (1 - (value - view.y[0]) / (view.y[1] - view.y[0])) * view.inner.height;
  const budget = () => {
    const [low, high] = view.costs;
    return state.budget >= STEPS ? high : backward(forward(low) + (state.budget / STEPS) * (forward(high) - forward(low)));
  };
  const placeOf = (value) => {
    const [low, high] = view.costs.map(forward);
    return Math.round(Math.min(1, Math.max(0, (forward(value) - low) / (high - low || 1))) * STEPS);
  };
  const ticks = (low, high, count) => {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((by) => by * power).find((size) => size >= rough);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
    return found;
  };
  const logTicks = (low, high, count) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
      for (const by of [1, 2, 5]) found.push(by * 10 ** power);
    const inside = found.filter((at) => at >= low && at <= high);
    return inside.length >= 3 ? inside : ticks(low, high, count);
  };

  // Drawing -----------------------------------------------------------------------------------------------------

  const draw = () => {
    const set = data.sets[state.set];
    const shown = points().map((point, number) => ({ point, number })).filter(({ point }) => drawable(point));
    const width = Math.max(280, chart.parentElement.clientWidth);
    const height = Math.round(Math.min(440, Math.max(300, width * 0.5)));
    chart.replaceChildren();
    chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    chart.style.height = `${height}px`;
    const xs = shown.map(({ point }) => cost(point));
    const ys = shown.map(({ point }) => score(point));
    const reduce = (values, choose) => values.reduce((a, b) => choose(a, b));
    const costs = shown.length ? [reduce(xs, Math.min), reduce(xs, Math.max)] : [0, 1];
    const heights = shown.length ? [reduce(ys, Math.min), reduce(ys, Math.max)] : [0, 1];
    view = { log: state.log && costs[0] > 0, costs, shown };
    view.inner = { width: width - EDGE.left - EDGE.right, height: height - EDGE.top - EDGE.bottom };
    const [left, right] = spread(...costs.map(forward));
    view.x = [left - 0.05 * (right - left), right + 0.05 * (right - left)];
    const [bottom, top] = spread(...heights);
    view.y = [bottom - 0.06 * (top - bottom), top + 0.08 * (top - bottom)];

    const [low, high] = view.x.map(backward);
    const count = width < 500 ? 4 : 7;
    for (const at of view.log ? logTicks(low, high, count) : ticks(low, high, count)) {
      svg("line", { class: "grid", x1: x(at), x2: x(at), y1: EDGE.top, y2: height - EDGE.bottom }, chart);
      svg("text", { x: x(at), y: height - EDGE.bottom + 16, "text-anchor": "middle" }, chart, words(at));
    }
    for (const at of ticks(...view.y, 6)) {
      svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(at), y2: y(at) }, chart);
      svg("text", { x: EDGE.left - 6, y: y(at) + 4, "text-anchor": "end" }, chart, words(at));
    }
    const title = { x: EDGE.left + view.inner.width / 2, y: height - 6, "text-anchor": "middle" };
    svg("text", title, chart, set.costs[state.cost].title);
    const side = { transform: `translate(13,${EDGE.top + view.inner.height / 2}) rotate(-90)`, "text-anchor": "middle" };
    svg("text", side, chart, `${set.scores[state.score]} (%)`);

    const rising = trusted(shown).sort((a, b) => cost(a.point) - cost(b.point) || score(b.point) - score(a.point));
    let best = -Infinity;
    let path = "";
    for (const { point } of rising) {
      if (score(point) <= best) continue;
      best = score(point);
      path += path ? `H${x(cost(point))}V${y(best)}` : `M${x(cost(point))},${y(best)}`;
    }
    svg("path", { class: "front", d: path }, chart);
    view.marks = new Map();
    const upwards = [...shown].sort((a, b) => kindOf(a.point) - kindOf(b.point)); // the original is on top
    for (const { point, number } of upwards) {
      const place = `translate(${x(cost(point)).toFixed(1)},${y(score(point)).toFixed(1)})`;
      view.marks.set(number, svg("path", { d: SHAPES[kindOf(point)], transform: place }, chart));
    }
    view.line = svg("line", { class: "budget-line", y1: EDGE.top, y2: height - EDGE.bottom }, chart);
    view.ring = svg("circle", { class: "ring", r: 10 }, chart);
    legend(set);
    update();
  };

  // Points that were scored on all rows compare; where there are none, all do.
  const trusted = (shown) => {
    const final = shown.filter(({ point }) => point.final);
    return final.length ? final : [...shown];
  };

  const bestWithin = () => {
    const most = budget() * (1 + 1e-9);
    let best = null;
    for (const one of trusted(view.shown)) {
      if (cost(one.point) > most) continue;
      const more = best === null ? 1 : score(one.point) - score(best.point);
      if (more > 0 || (more === 0 && cost(one.point) < cost(best.point))) best = one;
    }
    return best === null ? null : best.number;
  };

  const update = () => {
    const most = budget();
    let inside = 0;
    for (const { point, number } of view.shown) {
      const over = cost(point) > most * (1 + 1e-9);
      inside += over ? 0 : 1;
      const kind = `point k${kindOf(point)}${point.final ? "" : " part"}${over ? " over" : ""}`;
      view.marks.get(number).setAttribute("class", kind);
    }
    view.line.setAttribute("x1", x(most));
    view.line.setAttribute("x2", x(most));
    const text = `${words(most)}: ${inside} of ${view.shown.length} within`;
    by("within").textContent = text;
    by("budget").setAttribute("aria-valuetext", text);
    const best = bestWithin();
    const number = state.hover ?? state.chosen ?? best;
    view.ring.style.display = number === null ? "none" : "";
    if (number === null) return;
    const point = points()[number];
    view.ring.setAttribute("cx", x(cost(point)));
    view.ring.setAttribute("cy", y(score(point)));
    panel(point, number === best ? "Best within the budget" : "Chosen");
  };

  const legend = (set) => {
    const list = by("legend");
    list.replaceChildren();
    set.kinds.forEach((name, kind) => {
      const item = html("li", list);
      const icon = svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, item);
      svg("path", { d: SHAPES[kind % SHAPES.length], class: `point k${kind % SHAPES.length}` }, icon);
      item.append(name);
    });
    const partial = set.points.some((point) => !point.final);
    by("parts-label").hidden = !partial;
    if (partial) html("li", list, "hollow: scored on a part of the rows only");
    html("li", list, "line: the front");
  };

  // The panel of one point --------------------------------------------------------------------------------------

  const panel = (point, heading) => {
    if (view.panel === point && by("heading").textContent.startsWith(heading)) return;
    view.panel = point;
    const set = data.sets[state.set];
    by("heading").textContent = `${heading}: ${point.name}`;
    const facts = by("facts");
    facts.replaceChildren();
    const fact = (name, value) => {
      html("dt", facts, name);
      html("dd", facts, value);
    };
    set.scores.forEach((name, at) => fact(name, `${words(point.scores[at])} %`));
    set.costs.forEach((kind, at) => fact(kind.title, words(point.costs[at])));
    by("command").textContent = point.command;
    by("copied").textContent = "";
    layers(point);
  };

  // Pointer and keys --------------------------------------------------------------------------------------------

  const tip = by("tip");
  const showTip = (number) => {
    tip.hidden = number === null;
    if (number === null) return;
    const point = points()[number];
    const set = data.sets[state.set];
    tip.replaceChildren();
    html("b", tip, point.name);
    html("span", tip, `${set.scores[state.score]} ${words(score(point))} %`);
    html("span", tip, `${set.costs[state.cost].title}: ${words(cost(point))}`);
    if (point.sizes !== null) for (const line of summary(point.sizes)) html("span", tip, line);
    const room = tip.parentElement.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, x(cost(point)) + 14))}px`;
    const above = y(score(point)) - tip.offsetHeight - 12;
    tip.style.top = `${above > 0 ? above : y(score(point)) + 14}px`;
  };

  const nearest = (event) => {
    const box = chart.getBoundingClientRect();
    let found = null;
    let least = NEAR ** 2;
    for (const { point, number } of view.shown) {
      const far = (x(cost(point)) - event.clientX + box.left) ** 2 + (y(score(point)) - event.clientY + box.top) ** 2;
      if (far < least) [found, least] = [number, far];
    }
    return found;
  };
  const hover = (number) => {
    if (state.hover === number) return;
    state.hover = number;
    showTip(number);
    update();
  };
  chart.addEventListener("pointermove", (event) => hover(nearest(event)));
  chart.addEventListener("pointerleave", () => hover(null));
  chart.addEventListener("click", (event) => {
    state.chosen = nearest(event);
    update();
  });
  chart.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") {
      state.chosen = null;
      showTip(null);
    } else if (event.key in moves) {
      const key = event.key === "ArrowUp" || event.key === "ArrowDown" ? score : cost;
      const order = [...view.shown].sort((a, b) => key(a.point) - key(b.point) || a.number - b.number);
      const now = state.chosen ?? bestWithin();
      const at = order.findIndex(({ number }) => number === now) + moves[event.key];
      state.chosen = order[Math.max(0, Math.min(order.length - 1, at))].number;
      showTip(state.chosen);
    } else return;
    state.hover = null;
    event.preventDefault();
    update();
  });
  chart.addEventListener("blur", () => showTip(null));

  // Controls ----------------------------------------------------------------------------------------------------

  const fill = (select, titles, chosen) => {
    select.replaceChildren();
    titles.forEach((title, number) => {
      html("option", select, title).value = number;
    });
    select.value = chosen;
  };
  const fromSet = () => {
    const set = data.sets[state.set];
    Object.assign(state, { score: 0, cost: 0, hover: null, chosen: null });
    fill(by("score"), set.scores, 0);
    fill(by("cost"), set.costs.map((kind) => kind.title), 0);
    fromCost();
  };
  const fromCost = () => {
    state.budget = STEPS;
    tip.hidden = true;
    draw();
    const { limit } = data.sets[state.set].costs[state.cost];
    if (limit !== null) state.budget = placeOf(limit);
    by("budget").value = state.budget;
    update();
  };
  const onChange = (id, change, then) =>
    by(id).addEventListener("input", (event) => {
      change(event.target);
      then();
    });
  onChange("set", (from) => { state.set = Number(from.value); }, fromSet);
  onChange("score", (from) => { state.score = Number(from.value); }, draw);
  onChange("cost", (from) => { state.cost = Number(from.value); }, fromCost);
  onChange("parts", (from) => { state.parts = from.checked; state.chosen = null; }, draw);
  onChange("budget", (from) => { state.budget = Number(from.value); state.chosen = null; }, update);
  onChange("log", (from) => {
    const before = budget();
    state.log = from.checked;
    draw();
    state.budget = placeOf(before);
    by("budget").value = state.budget;
  }, update);

  by("copy").addEventListener("click", async () => {
    const text = by("command").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      window.getSelection().selectAllChildren(by("command"));
      if (!document.execCommand("copy")) return;
    }
    by("copied").textContent = "copied";
  });

  by("explorer").hidden = false;
  fill(by("set"), data.sets.map((set) => `${set.title} (${set.points.length})`), 0);
  fromSet();
  let timer = 0;
  window.addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { view.panel = null; draw(); }, 60);
  });
})();

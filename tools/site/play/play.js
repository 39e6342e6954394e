// What the interactive pictures share: elements, controls, axes, and the places on a page where pictures stand.
// A picture is play.pictures.NAME = {draw(box), …}; its functions give the numbers that Python gives (tests/test_play.py).
const play = { pictures: {}, data: {}, here: new URL(".", document.currentScript.src) };

play.fill = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined));
  return node;
};
play.element = (name, attributes = {}, ...children) => play.fill(document.createElement(name), attributes, children);
play.svg = (name, attributes = {}, ...children) =>
  play.fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

play.count = 0;
play.labelled = (label, control, ...more) => {
  control.id = `play-${++play.count}`;
  return play.element("p", { class: "control" }, play.element("label", { for: control.id }, label), control, ...more);
};

// A slider: `show` writes its value, `change` is called whenever it moves.
play.slider = (label, { min, max, step = 1, value, show = String }, change) => {
  const input = play.element("input", { type: "range", min, max, step, value });
  const shown = play.element("output", {}, show(+value));
  input.addEventListener("input", () => { shown.textContent = show(+input.value); change(+input.value); });
  const row = play.labelled(label, input, shown);
  shown.setAttribute("for", input.id);
  row.set = (now, most = input.max) => { input.max = most; input.value = now; shown.textContent = show(+input.value); };
  return row;
};
play.choice = (label, options, value, change) => {
  const names = Array.isArray(options) ? options.map(option => [option, option]) : Object.entries(options);
  const select = play.element("select", { onchange: () => change(select.value) },
    names.map(([key, text]) => play.element("option", { value: key, ...(key === value ? { selected: "" } : {}) }, text)));
  return play.labelled(label, select);
};
play.button = (label, click) => play.element("button", { type: "button", onclick: click }, label);
play.replace = (box, ...children) => box.replaceChildren(...children.flat());

// A drawing of a given size in its own units; it grows and shrinks with the page, and has a sentence for who cannot see it.
play.drawing = (width, height, label, ...children) =>
  play.svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...children);
play.label = (x, y, text, attributes = {}) => play.svg("text", { x, y, ...attributes }, text);
play.line = (points, attributes = {}) => play.svg("polyline",
  { points: points.map(point => point.map(v => v.toFixed(2)).join(",")).join(" "), fill: "none", ...attributes });

// Axes of a plot: `x` and `y` are {from, to, ticks, label, log}; returns where a point stands, and the nodes.
play.axes = (left, top, width, height, x, y) => {
  const unit = (axis, v) => axis.log ? Math.log(v / axis.from) / Math.log(axis.to / axis.from) : (v - axis.from) / (axis.to - axis.from);
  const at = (a, b) => [left + width * unit(x, a), top + height * (1 - unit(y, b))];
  const nodes = [play.svg("rect", { x: left, y: top, width, height, class: "frame" })];
  for (const tick of x.ticks) {
    const [px] = at(tick, y.from);
    nodes.push(play.svg("line", { x1: px, x2: px, y1: top, y2: top + height, class: "grid" }));
    nodes.push(play.label(px, top + height + 16, (x.show || String)(tick), { "text-anchor": "middle", class: "tick" }));
  }
  for (const tick of y.ticks) {
    const [, py] = at(x.from, tick);
    nodes.push(play.svg("line", { x1: left, x2: left + width, y1: py, y2: py, class: "grid" }));
    nodes.push(play.label(left - 6, py + 4, (y.show || String)(tick), { "text-anchor": "end", class: "tick" }));
  }
  if (x.label) nodes.push(play.label(left + width / 2, top + height + 34, x.label, { "text-anchor": "middle", class: "axis" }));
  if (y.label) nodes.push(play.label(left, top - 8, y.label, { class: "axis" }));
  return { at, nodes };
};
play.clip = (v, low, high) => Math.min(high, Math.max(low, v));
play.number = (v, digits = 3) => v.toLocaleString("en", { maximumSignificantDigits: digits });

// Data stand in files of their own, play/data/NAME.js, and are fetched as scripts: that works without a server too.
play.fetch = name => play.data[name] ? Promise.resolve(play.data[name]) : new Promise((done, fail) => {
  const script = play.element("script", { src: new URL(`data/${name}.js`, play.here).href });
  script.onload = () => done(play.data[name]);
  script.onerror = () => fail(new Error(`play/data/${name}.js is missing`));
  document.head.append(script);
});

play.show = async box => {
  const picture = play.pictures[box.dataset.play];
  if (!picture || box.classList.contains("ready")) return;
  const stage = play.element("div", { class: "stage" });
  await picture.draw(stage);
  box.replaceChildren(stage);
  box.classList.add("ready");
};
addEventListener("DOMContentLoaded", () => document.querySelectorAll(".play[data-play]").forEach(play.show));

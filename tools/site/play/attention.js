// Attention of real heads on one sentence: rotary angles turned up and down, windows, and who looks at whom (chapter 11).
{
  const norm = x => { const r = 1 / Math.sqrt(x.reduce((s, v) => s + v * v, 0) / x.length + 1e-6); return x.map(v => v * r); };
  // Pair (c, c + D/2) turns by position · base^(-2c/D).
  function rotate(x, position, base) {
    const half = x.length / 2, out = new Array(x.length);
    for (let c = 0; c < half; c++) {
      const angle = position * base ** (-2 * c / x.length), cos = Math.cos(angle), sin = Math.sin(angle);
      out[c] = x[c] * cos + x[c + half] * sin;
      out[c + half] = x[c + half] * cos - x[c] * sin;
    }
    return out;
  }
  // Weights (T, T): row i says how much token i takes from each token before it. `base` null leaves the positions out.
  function weights(q, k, { window = -1, base = 10000 } = {}) {
    const place = (x, i) => norm(base === null ? x : rotate(x, i, base));
    const Q = q.map(place), K = k.map(place), D = q[0].length;
    return Q.map((query, i) => {
      const seen = j => j <= i && (window < 0 || i - j <= window);
      const scores = K.map((key, j) => seen(j) ? query.reduce((s, v, c) => s + v * key[c], 0) / Math.sqrt(D) : -Infinity);
      const most = Math.max(...scores), e = scores.map(s => Math.exp(s - most)), sum = e.reduce((a, b) => a + b, 0);
      return e.map(v => v / sum);
    });
  }

  async function draw(stage) {
    const data = await play.fetch("attention"), T = data.tokens.length, names = data.tokens.map(t => t.replaceAll(" ", "·"));
    const state = { head: 0, window: -1, positions: "rotary, base 10,000", row: T - 1 };
    const bases = { "rotary, base 10,000": 10000, "rotary, base 100": 100, "none": null };
    const picture = play.element("div"), says = play.element("p", { class: "says" });
    const change = (key, to = v => v) => v => { state[key] = to(v); show(); };
    const heads = Object.fromEntries(data.heads.map((h, i) => [i, `layer ${h.layer}, head ${h.head}`]));

    function show() {
      const { q, k } = data.heads[state.head];
      const w = weights(q, k, { window: state.window, base: bases[state.positions] });
      const side = Math.min(30, 440 / T), left = 96, top = 92;
      const cells = w.flatMap((row, i) => row.map((v, j) => play.svg("rect", {
        x: left + side * j, y: top + side * i, width: side - 1, height: side - 1, fill: "var(--blue)", "fill-opacity": v.toFixed(3),
        stroke: "currentColor", "stroke-opacity": j <= i ? 0.18 : 0.05, onmouseenter: () => { state.row = i; explain(w); } },
        play.svg("title", {}, `${names[i]} → ${names[j]}: ${(100 * v).toFixed(1)} %`))));
      const rows = names.map((t, i) => play.label(left - 6, top + side * (i + 0.65), t, { "text-anchor": "end" }));
      const columns = names.map((t, j) => play.label(0, 0, t, { transform: `translate(${left + side * (j + 0.6)} ${top - 6}) rotate(-60)` }));
      play.replace(picture, play.drawing(left + side * T + 70, top + side * T + 6, "Attention weights, a row for each token that looks", cells, rows, columns));
      explain(w);
    }
    function explain(w) {
      const best = w[state.row].map((v, j) => [v, j]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([v]) => v > 0.005);
      says.textContent = `“${names[state.row]}” (row ${state.row + 1}) takes ${best.map(([v, j]) => `${(100 * v).toFixed(0)} % from “${names[j]}” (${state.row - j} back)`).join(", ")}.`;
    }
    stage.append(play.element("div", { class: "controls" },
      play.choice("head", heads, "0", change("head", Number)),
      play.choice("positions", Object.keys(bases), state.positions, change("positions")),
      play.slider("window", { min: 0, max: T, value: T, show: v => v < T ? v : "all" }, change("window", v => v < T ? v : -1)),
      play.slider("row", { min: 1, max: T, value: T }, change("row", v => v - 1))), picture, says);
    show();
  }
  play.pictures.attention = { rotate, norm, weights, draw };
}

// SGD, AdamW and Muon in a valley: a 2 x 2 matrix W, loss 1/2 |S Uᵀ W V|² with S = diag(√steepness, 1) (chapter 21).
{
  const turn = degrees => { const a = degrees * Math.PI / 180; return [[Math.cos(a), -Math.sin(a)], [Math.sin(a), Math.cos(a)]]; };
  const times = (A, B) => A.map(row => B[0].map((_, j) => row.reduce((s, v, k) => s + v * B[k][j], 0)));
  const flip = A => A[0].map((_, j) => A.map(row => row[j]));
  const map = (f, ...Ms) => Ms[0].map((row, i) => row.map((_, j) => f(...Ms.map(M => M[i][j]))));
  const size = A => Math.sqrt(A.flat().reduce((s, v) => s + v * v, 0));

  function orthogonalize(G, triples) {
    let X = map(v => size(G) ? v / size(G) : 0, G);
    for (const [a, b, c] of triples) {
      const A = times(X, flip(X)), B = map((p, q) => b * p + c * q, A, times(A, A));
      X = map((x, y) => a * x + y, X, times(B, X));
    }
    return X;
  }
  const rules = {
    "SGD": (lr, beta) => {
      let m = [[0, 0], [0, 0]];
      return (W, G) => { m = map((v, g) => beta * v + g, m, G); return map((w, v) => w - lr * v, W, m); };
    },
    "AdamW": (lr, beta, t = 0) => {
      let m = [[0, 0], [0, 0]], s = [[0, 0], [0, 0]];
      return (W, G) => {
        t++;
        m = map((v, g) => beta * v + (1 - beta) * g, m, G);
        s = map((v, g) => 0.999 * v + 0.001 * g * g, s, G);
        return map((w, v, q) => w - lr * (v / (1 - beta ** t)) / (Math.sqrt(q / (1 - 0.999 ** t)) + 1e-8), W, m, s);
      };
    },
    "Muon": (lr, beta) => {
      let m = [[0, 0], [0, 0]];
      const triples = play.pictures.newton_schulz.triples["Polar Express"];
      return (W, G) => {
        m = map((v, g) => beta * v + (1 - beta) * g, m, G);
        const ahead = map((v, g) => beta * v + (1 - beta) * g, m, G);         // Nesterov
        return map((w, o) => w - lr * o, W, orthogonalize(ahead, triples));
      };
    },
  };
  // The path as (x, y, loss): W in the valley's own directions. `angle` turns the valley away from the matrix's entries.
  function path(name, { lr, beta = 0.9, steepness = 30, angle = 0, steps = 60, start = [1, 4] }) {
    const U = turn(angle), V = turn(-angle / 2), step = rules[name](lr, beta);
    const inside = W => times(times(flip(U), W), V), outside = X => times(times(U, X), flip(V));
    let W = outside([[start[0], 0], [0, start[1]]]);
    const out = [];
    for (let t = 0; t <= steps; t++) {
      const X = inside(W), loss = 0.5 * (steepness * (X[0][0] ** 2 + X[0][1] ** 2) + X[1][0] ** 2 + X[1][1] ** 2);
      out.push([X[0][0], X[1][1], loss]);
      W = step(W, outside([X[0].map(v => steepness * v), X[1]]));
    }
    return out;
  }

  function draw(stage) {
    const colours = { "SGD": "var(--pink)", "AdamW": "var(--orange)", "Muon": "var(--blue)" };
    const state = { steepness: 30, angle: 30, beta: 0.9, steps: 60, lr: { "SGD": 0.02, "AdamW": 0.2, "Muon": 0.1 } };
    const picture = play.element("div"), says = play.element("p", { class: "says" });

    function show() {
      const paths = Object.keys(rules).map(name => [name, path(name, { ...state, lr: state.lr[name] })]);
      const valley = play.axes(40, 22, 270, 270, { from: -2, to: 2, ticks: [-2, -1, 0, 1, 2], label: "steep direction" }, { from: -2, to: 5, ticks: [-2, 0, 2, 4], label: "flat direction" });
      const rings = [1, 4, 10, 25].map(level => play.line(Array.from({ length: 73 }, (_, i) => {
        const a = i * Math.PI / 36;
        return valley.at(play.clip(Math.sqrt(2 * level / state.steepness) * Math.cos(a), -2, 2), play.clip(Math.sqrt(2 * level) * Math.sin(a), -2, 5));
      }), { stroke: "currentColor", "stroke-opacity": 0.25 }));
      const loss = play.axes(380, 22, 240, 270, { from: 0, to: state.steps, ticks: [0, state.steps / 2, state.steps], label: "steps" },
        { from: 1e-4, to: 1e3, log: true, ticks: [1e-4, 1e-2, 1, 100], label: "loss" });
      const lines = paths.flatMap(([name, points]) => [
        play.line(points.map(([x, y]) => valley.at(play.clip(x, -2, 2), play.clip(y, -2, 5))), { stroke: colours[name], "stroke-width": 1.6 }),
        ...points.map(([x, y]) => { const [cx, cy] = valley.at(play.clip(x, -2, 2), play.clip(y, -2, 5)); return play.svg("circle", { cx, cy, r: 1.8, fill: colours[name] }); }),
        play.line(points.map(([, , l], t) => loss.at(t, play.clip(Number.isFinite(l) ? l : 1e3, 1e-4, 1e3))), { stroke: colours[name], "stroke-width": 2 })]);
      const legend = paths.map(([name], i) => [play.svg("rect", { x: 400 + 74 * i, y: 344, width: 12, height: 4, fill: colours[name] }), play.label(416 + 74 * i, 350, name)]);
      const end = paths.map(([name, points]) => `${name} ${points.at(-1)[2] < 1e6 ? play.number(points.at(-1)[2], 2) : "diverged"}`).join(", ");
      play.replace(picture, play.drawing(640, 358, `Paths of the three optimizers. Last losses: ${end}`, valley.nodes, rings, loss.nodes, lines, legend));
      says.textContent = `Loss after ${state.steps} steps: ${end}.`;
    }
    const change = key => v => { state[key] = v; show(); };
    const rate = (name, min, max) => play.slider(`learning rate, ${name}`, { min: Math.log10(min), max: Math.log10(max), step: 0.02, value: Math.log10(state.lr[name]), show: v => play.number(10 ** v, 2) },
      v => { state.lr[name] = 10 ** v; show(); });
    stage.append(play.element("div", { class: "controls" },
      play.slider("steepness", { min: 1, max: 100, value: 30 }, change("steepness")),
      play.slider("valley turned by", { min: 0, max: 45, value: 30, show: v => `${v}°` }, change("angle")),
      play.slider("momentum", { min: 0, max: 0.98, step: 0.01, value: 0.9, show: v => v.toFixed(2) }, change("beta")),
      rate("SGD", 0.0005, 0.2), rate("AdamW", 0.005, 1), rate("Muon", 0.005, 1)), picture, says);
    show();
  }
  play.pictures.race = { orthogonalize, path, draw };
}

// Newton-Schulz on singular values: one odd polynomial applied again and again (chapter 20).
{
  const triples = {
    "cubic": [[1.5, -0.5, 0]], "quintic": [[3.4445, -4.7750, 2.0315]],
    // polar_express_coefficients(5), to the last digit
    "Polar Express": [
      [8.156554524902464, -22.48329292557795, 15.878769915207457],
      [4.041896078702071, -2.8086592037800506, 0.5000537759554482],
      [3.8839351013509105, -2.770701860619486, 0.5064206312262024],
      [3.2455275990381014, -2.339349551379524, 0.46135654637733164],
      [2.2937760286198126, -1.6627277433762724, 0.41814005484677486],
    ],
  };
  const apply = (s, list) => list.reduce((x, [a, b, c]) => x * (a + x * x * (b + c * x * x)), s);
  // The triples of `steps` steps: the last one again where there are more steps than triples.
  const chosen = (list, steps) => Array.from({ length: steps }, (_, i) => list[Math.min(i, list.length - 1)]);
  const values = [1, 0.5, 0.2, 0.08, 0.03, 0.01, 0.003, 0.001];

  function draw(stage) {
    const state = { list: triples.quintic, steps: 5 };
    const picture = play.element("div"), says = play.element("p", { class: "says" });
    const slider = (i, name, from, to) => play.slider(name, { min: from, max: to, step: 0.0001, value: state.list[0][i], show: v => v.toFixed(2) }, v => {
      state.list = [state.list[0].map((old, j) => j === i ? v : old)];
      show();
    });
    const sliders = [slider(0, "a", 0, 9), slider(1, "b", -24, 1), slider(2, "c", -1, 18)];
    const steps = play.slider("steps", { min: 0, max: 10, value: 5 }, v => { state.steps = v; show(); });
    const method = play.choice("polynomial", Object.keys(triples), "quintic", name => {
      state.list = triples[name];
      state.list[0].forEach((v, i) => sliders[i].set(v));
      show();
    });

    function show() {
      const list = chosen(state.list, state.steps);
      const axes = play.axes(44, 24, 570, 230, { from: 0.001, to: 1, log: true, ticks: [0.001, 0.01, 0.1, 1], label: "singular value before, largest = 1" },
        { from: 0, to: 1.5, ticks: [0, 0.5, 1, 1.5], label: "after" });
      const curve = Array.from({ length: 400 }, (_, i) => 10 ** (-3 + 3 * i / 399)).map(s => axes.at(s, play.clip(apply(s, list), -0.05, 1.55)));
      const dots = values.map(s => axes.at(s, play.clip(apply(s, list), 0, 1.5)));
      const after = values.map(s => apply(s, list)), lost = after.some(v => !Number.isFinite(v) || Math.abs(v) > 10);
      const worst = Math.max(...after.map(v => Math.abs(1 - v)));
      const message = lost ? "It explodes: some value grows without bound." :
        `Of the eight values marked, the one farthest from 1 is off by ${play.number(worst)}.`;
      play.replace(picture, play.drawing(640, 300, `${state.steps} steps. ${message}`, axes.nodes,
        play.line([axes.at(0.001, 1), axes.at(1, 1)], { stroke: "currentColor", "stroke-dasharray": "4 4", "stroke-opacity": 0.6 }),
        play.line(curve, { stroke: "var(--blue)", "stroke-width": 2 }),
        dots.map(([x, y]) => play.svg("circle", { cx: x, cy: y, r: 4, fill: "var(--orange)" }))));
      says.textContent = message;
    }
    stage.append(play.element("div", { class: "controls" }, method, steps, sliders), picture, says);
    show();
  }
  play.pictures.newton_schulz = { triples, apply, chosen, draw };
}

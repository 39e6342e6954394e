// The bug museum: curves of ten broken runs beside the healthy one; the reader names the bug (benchmarks/bug_museum.py made them).
{
  // The same order for every reader, and not the order in which the names are listed.
  const order = [3, 7, 1, 9, 5, 2, 8, 0, 6, 4];
  const clues = ({ train, validation }) => ({
    first: train[0], last: train.at(-1), validation: validation.at(-1)[1],
    best: Math.min(...validation.map(([, loss]) => loss)),
  });

  async function draw(stage) {
    const data = await play.fetch("bugs"), [healthy, ...bugs] = data.runs, rooms = order.map(i => bugs[i]);
    const state = { room: 0, solved: new Set() };
    const picture = play.element("div"), says = play.element("p", { class: "says" }), text = play.element("p", { class: "says" });
    const verdict = play.element("p", { class: "says", role: "status" }), names = play.element("div", { class: "controls" });

    function show() {
      const run = rooms[state.room], c = clues(run), axes = play.axes(44, 24, 570, 220, { from: 0, to: data.steps, ticks: [0, 60, 120, 180, 240], label: "step" },
        { from: 0, to: 11, ticks: [0, 2, 4, 6, 8, 10], label: "loss" });
      const curve = (points, attributes) => play.line(points.map(([t, v]) => axes.at(t, play.clip(v, 0, 11))), { "stroke-width": 2, ...attributes });
      const steps = train => train.map((v, t) => [t, v]), grey = { stroke: "currentColor", "stroke-opacity": 0.35 };
      const keys = [["training", "var(--blue)"], ["validation", "var(--orange)"], ["healthy validation", "currentColor"]];
      const legend = keys.map(([name, fill], i) => [play.svg("rect", { x: 200 + 110 * i, y: 6, width: 14, height: 4, fill, "fill-opacity": i === 2 ? 0.4 : 1 }), play.label(220 + 110 * i, 12, name)]);
      play.replace(picture, play.drawing(640, 290, `Run ${state.room + 1}: training loss from ${c.first} to ${c.last}, validation loss ${c.validation} at the end`, axes.nodes, legend,
        play.line([axes.at(0, data.uniform), axes.at(data.steps, data.uniform)], { ...grey, "stroke-dasharray": "2 5" }),
        curve(healthy.validation, grey), curve(steps(run.train), { stroke: "var(--blue)" }), curve(run.validation, { stroke: "var(--orange)" })));
      play.replace(says, `Run ${state.room + 1} of ${rooms.length}. At the end: training `, play.element("b", {}, run.train.at(-1).toFixed(2)), ", validation ", play.element("b", {}, c.validation.toFixed(2)),
        `; its best validation loss was ${c.best.toFixed(2)}. Healthy: ${healthy.validation.at(-1)[1].toFixed(2)}. Knowing nothing: ${data.uniform.toFixed(2)} (dotted).`);
      play.replace(text, "It writes: ", play.element("code", {}, JSON.stringify(run.says)));
      verdict.textContent = state.solved.has(state.room) ? `${run.bug}. ${run.cause}` : "Which bug is it?";
      play.replace(names, bugs.map(({ bug }) => play.button(bug, () => guess(bug))));
    }
    function guess(bug) {
      const run = rooms[state.room];
      if (bug === run.bug) state.solved.add(state.room);
      const all = state.solved.size === rooms.length ? " That was the last one." : "";
      verdict.textContent = bug === run.bug ? `Yes, ${bug}. ${run.cause}${all}` : `Not ${bug}: look at where both curves end, and at what it writes.`;
    }
    const choices = Object.fromEntries(rooms.map((_, i) => [i, `run ${i + 1}`]));
    stage.append(play.choice("look at", choices, "0", v => { state.room = +v; show(); }), picture, says, text, names, verdict);
    show();
  }
  play.pictures.bugs = { order, clues, draw };
}

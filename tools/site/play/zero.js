// Four ranks: collectives step by step, and what each stage of ZeRO leaves on a rank (chapters 60 and 61).
{
  const N = 4;
  const copy = ranks => ranks.map(row => row.map(cell => cell && [...cell]));
  const start = () => Array.from({ length: N }, (_, r) => Array.from({ length: N }, (_, c) => [r * 10 + c + 1]));
  const value = cell => cell === null ? null : cell.reduce((a, b) => a + b, 0);

  // In each step of a ring, rank r sends one chunk to rank r + 1. `add`: the receiver adds it; otherwise it stores it.
  function ring(ranks, first, add) {
    const frames = [];
    for (let s = 0; s < N - 1; s++) {
      const before = copy(ranks), sent = [];
      for (let r = 0; r < N; r++) {
        const c = ((r + first - s) % N + N) % N, to = (r + 1) % N;
        ranks[to][c] = add ? [...ranks[to][c], ...before[r][c]] : [...before[r][c]];
        sent.push({ from: r, to, chunk: c });
      }
      frames.push({ ranks: copy(ranks), sent });
    }
    return frames;
  }
  // Afterwards rank r owns the sum of chunk r.
  const keep = (ranks, owner) => ranks.map((row, r) => row.map((cell, c) => owner(r, c) ? cell : null));
  const collectives = {
    "all-reduce": () => {
      const ranks = start(), first = { ranks: copy(ranks), sent: [] };
      const summed = ring(ranks, 3, true);
      const own = keep(ranks, (r, c) => c === r);
      return [first, ...summed, { ranks: copy(own), sent: [], note: "each rank owns one sum: half way" }, ...ring(own, 0, false)];
    },
    "reduce-scatter": () => {
      const ranks = start(), first = { ranks: copy(ranks), sent: [] };
      const summed = ring(ranks, 3, true);
      return [first, ...summed, { ranks: keep(ranks, (r, c) => c === r), sent: [], note: "each rank owns one sum" }];
    },
    "all-gather": () => {
      const ranks = keep(start(), (r, c) => c === r), first = { ranks: copy(ranks), sent: [] };
      return [first, ...ring(ranks, 0, false)];
    },
    "broadcast": () => {
      const ranks = keep(start(), r => r === 0), frames = [{ ranks: copy(ranks), sent: [] }];
      for (let s = 0; s < 2 * N - 2; s++) {
        const before = copy(ranks), sent = [];
        for (let r = 0; r < N - 1; r++) {
          const c = s - r;
          if (c < 0 || c >= N || before[r][c] === null || ranks[r + 1][c] !== null) continue;
          ranks[r + 1][c] = [...before[r][c]];
          sent.push({ from: r, to: r + 1, chunk: c });
        }
        frames.push({ ranks: copy(ranks), sent });
      }
      return frames;
    },
  };
  // Chunks that each rank sends in all.
  const sent = frames => Array.from({ length: N }, (_, r) => frames.reduce((n, f) => n + f.sent.filter(s => s.from === r).length, 0));

  // Bytes on a rank, as chapter 24 counts them: float32 weights, gradients, states (AdamW two numbers, Muon one).
  function memory(total, matrix, ranks, stage) {
    const share = from => stage >= from ? ranks : 1;
    return { parameters: 4 * total / share(3), gradients: 4 * total / share(2), states: 4 * (2 * total - matrix) / share(1) };
  }

  function draw(stage) {
    const state = { kind: "all-reduce", step: 0, zero: 2, ranks: 4 };
    const picture = play.element("div"), says = play.element("p", { class: "says" }), bars = play.element("div"), costs = play.element("p", { class: "says" });
    const slider = play.slider("step", { min: 0, max: 6, value: 0 }, v => { state.step = v; show(); });
    const next = play.button("next step", () => { state.step = Math.min(state.step + 1, collectives[state.kind]().length - 1); slider.set(state.step); show(); });

    function show() {
      const frames = collectives[state.kind](), frame = frames[state.step], w = 108;
      const nodes = frame.ranks.flatMap((row, r) => [play.label(20, 40 + 48 * r, `rank ${r}`), ...row.map((cell, c) => {
        const arrived = frame.sent.find(s => s.to === r && s.chunk === c);
        const whole = cell && cell.length === N;
        return play.svg("g", {}, play.svg("rect", { x: 80 + w * c, y: 16 + 48 * r, width: w - 8, height: 40, rx: 5, fill: cell === null ? "none" : whole ? "var(--green)" : "var(--blue)",
          "fill-opacity": cell === null ? 0 : 0.12 + 0.09 * cell.length, stroke: arrived ? "var(--orange)" : "currentColor", "stroke-width": arrived ? 2.5 : 1, "stroke-opacity": arrived ? 1 : 0.3 }),
          play.label(80 + w * c + (w - 8) / 2, 41 + 48 * r, cell === null ? "" : `${value(cell)}${arrived ? `  ← ${arrived.from}` : ""}`, { "text-anchor": "middle" }));
      })]);
      const moved = frame.sent.length ? `${frame.sent.length} chunks move, each rank sends at most one: ${frame.sent.map(s => `${s.from} → ${s.to}`).join(", ")}.` :
        frame.note ? `${frame.note[0].toUpperCase()}${frame.note.slice(1)}.` : "Before: each rank has what it has computed itself; a row is a rank, a column a quarter of the tensor.";
      const totals = sent(frames);
      play.replace(picture, play.drawing(540, 214, `${state.kind}, step ${state.step}: ${moved}`, nodes));
      says.textContent = `${moved} In all, a rank sends up to ${Math.max(...totals)} quarters of the tensor.`;
      next.disabled = state.step === frames.length - 1;
    }
    function showMemory() {
      const { total, matrix } = play.pictures.scaling.parameters(12), colours = { parameters: "var(--blue)", gradients: "var(--orange)", states: "var(--green)" };
      const rows = [0, 1, 2, 3].map(z => memory(total, matrix, state.ranks, z)), most = Object.values(rows[0]).reduce((a, b) => a + b);
      const nodes = rows.flatMap((m, z) => {
        let x = 70;
        return [play.label(0, 30 + 30 * z, z ? `ZeRO-${z}` : "none"), ...Object.entries(m).map(([kind, bytes]) => {
          const rect = play.svg("rect", { x, y: 14 + 30 * z, width: 400 * bytes / most, height: 22, fill: colours[kind], "fill-opacity": 0.75 }, play.svg("title", {}, `${kind}: ${(bytes / 2 ** 20).toFixed(0)} MiB`));
          x += 400 * bytes / most;
          return rect;
        }), play.label(x + 6, 30 + 30 * z, `${(Object.values(m).reduce((a, b) => a + b) / 2 ** 30).toFixed(2)} GiB`)];
      });
      const legend = Object.entries(colours).flatMap(([kind, fill], i) => [play.svg("rect", { x: 70 + 110 * i, y: 140, width: 12, height: 12, fill, "fill-opacity": 0.75 }), play.label(88 + 110 * i, 151, kind)]);
      play.replace(bars, play.drawing(560, 160, "Memory on one rank by stage of ZeRO", nodes, legend));
      costs.textContent = `Depth 12, ${total.toLocaleString("en")} parameters, on ${state.ranks} ranks: memory of one rank, activations left out.`;
    }
    const kinds = play.choice("collective", Object.keys(collectives), state.kind, kind => { Object.assign(state, { kind, step: 0 }); slider.set(0, collectives[kind]().length - 1); show(); });
    slider.set(0, collectives[state.kind]().length - 1);
    stage.append(play.element("div", { class: "controls" }, kinds, slider, next), picture, says,
      play.element("div", { class: "controls" }, play.slider("ranks", { min: 1, max: 64, value: 4 }, v => { state.ranks = v; showMemory(); })), bars, costs);
    show();
    showMemory();
  }
  play.pictures.zero = { collectives, value, sent, memory, draw };
}

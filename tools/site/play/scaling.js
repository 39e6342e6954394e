// One dial: what a depth means in parameters, tokens, batch, rates, hours and dollars, and the schedules (chapters 24 and 53).
{
  const VOCAB = 32768, CONTEXT = 2048, PEAK = 989e12;      // H100, dense bf16

  // Groups of `parameter_counts`.
  function parameters(depth, vocab = VOCAB) {
    const width = shape(depth).width, padded = Math.ceil(vocab / 64) * 64;
    const matrix = 12 * depth * width ** 2, embedding = padded * width;
    return { embedding, unembedding: embedding, matrix, total: matrix + 2 * embedding, scaling: matrix + embedding };
  }
  const shape = depth => { const head = depth < 12 ? 64 : 128, heads = Math.ceil(depth * 64 / head); return { width: heads * head, heads }; };
  const perToken = (depth, vocab = VOCAB, context = CONTEXT) => 6 * parameters(depth, vocab).scaling + depth * 12 * shape(depth).width * context;
  const nearest = x => 2 ** Math.max(0, Math.round(Math.log2(x)));

  function plan(depth, { ratio = 10.5, gpus = 8, utilisation = 0.5, dollars = 3 } = {}) {
    const counts = parameters(depth), tokens = ratio * counts.scaling, reference = ratio * parameters(12).scaling;
    const law = nearest(2 ** 19 * (tokens / reference) ** 0.383), short = 2 ** Math.max(0, Math.floor(Math.log2(Math.max(1, tokens / 300))));
    const row = CONTEXT * gpus, batch = Math.max(1, even(Math.min(law, short) / row)) * row;
    const steps = Math.max(1, Math.floor(tokens / batch)), flops = perToken(depth) * steps * batch;
    const byBatch = tokens < 1e8 ? Math.max(1, Math.sqrt(batch / 2 ** 19)) : Math.sqrt(batch / 2 ** 19), byWidth = (shape(depth).width / 768) ** -0.5;
    const hours = flops / (PEAK * gpus * utilisation) / 3600;
    return { ...counts, width: shape(depth).width, batch, steps, tokens: steps * batch, flops, hours, dollars: hours * gpus * dollars,
      matrix_lr: 0.02 * byBatch, embedding_lr: 0.3 * byBatch * byWidth, unembedding_lr: 0.004 * byBatch * byWidth };
  }
  // Python rounds halves to the even neighbour.
  const even = x => Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);

  function rate(step, steps, { warmup = 0, warmdown = 0.5, final = 0, shape = "trapezoid" } = {}) {
    if (step < warmup) return (step + 1) / warmup;
    if (shape === "constant") return 1;
    if (shape === "inverse_sqrt") return Math.sqrt(Math.max(warmup, 1) / Math.max(step + 1, 1));
    const falls = ["trapezoid", "1-sqrt"].includes(shape) ? steps - even(warmdown * steps) : warmup, from = Math.max(falls, warmup);
    const done = play.clip((step - from) / Math.max(1, steps - from), 0, 1);
    const left = shape === "cosine" ? 0.5 * (1 + Math.cos(Math.PI * done)) : shape === "1-sqrt" ? 1 - Math.sqrt(done) : 1 - done;
    return final + (1 - final) * left;
  }

  function draw(stage) {
    const state = { depth: 24, ratio: 10.5, gpus: 8, utilisation: 0.5, dollars: 3, shape: "trapezoid", warmdown: 0.5 };
    const table = play.element("table"), picture = play.element("div");
    const change = key => v => { state[key] = v; show(); };
    const big = v => v >= 1e9 ? `${play.number(v / 1e9)} billion` : v >= 1e6 ? `${play.number(v / 1e6)} million` : v.toLocaleString("en");

    function show() {
      const p = plan(state.depth, state), rows = [
        ["parameters", `${big(p.total)}, ${big(p.matrix)} of them in blocks`], ["width", `${p.width} channels`],
        ["training", `${big(p.tokens)} tokens in ${p.steps.toLocaleString("en")} steps of ${p.batch.toLocaleString("en")}`],
        ["learning rates", `matrices ${play.number(p.matrix_lr)}, embedding ${play.number(p.embedding_lr)}, head ${play.number(p.unembedding_lr)}`],
        ["operations", p.flops.toExponential(2).replace("e+", " · 10^")],
        ["time", p.hours < 2 ? `${play.number(60 * p.hours)} minutes` : `${play.number(p.hours)} hours`], ["price", `${play.number(p.dollars)} dollars`]];
      play.replace(table, rows.map(([name, text]) => play.element("tr", {}, play.element("th", { scope: "row" }, name), play.element("td", {}, text))));
      const axes = play.axes(48, 24, 570, 170, { from: 0, to: p.steps, ticks: [0, Math.round(p.steps / 2), p.steps], label: "step" }, { from: 0, to: 1.05, ticks: [0, 0.5, 1], label: "factor on the learning rate" });
      const warmup = Math.min(40, Math.floor(p.steps / 20));
      const curve = Array.from({ length: 300 }, (_, i) => Math.round(i * (p.steps - 1) / 299)).map(t => axes.at(t, rate(t, p.steps, { warmup, warmdown: state.warmdown, shape: state.shape })));
      play.replace(picture, play.drawing(640, 236, `The ${state.shape} schedule over ${p.steps} steps`, axes.nodes, play.line(curve, { stroke: "var(--blue)", "stroke-width": 2 })));
    }
    stage.append(play.element("div", { class: "controls" },
      play.slider("depth", { min: 2, max: 40, value: 24 }, change("depth")),
      play.slider("tokens per scaling parameter", { min: 1, max: 40, step: 0.5, value: 10.5 }, change("ratio")),
      play.choice("H100s", ["1", "2", "4", "8", "16", "32"], "8", v => change("gpus")(+v)),
      play.slider("share of the peak reached", { min: 0.1, max: 0.7, step: 0.01, value: 0.5, show: v => `${Math.round(100 * v)} %` }, change("utilisation")),
      play.slider("dollars an hour and GPU", { min: 0.5, max: 8, step: 0.1, value: 3, show: v => v.toFixed(1) }, change("dollars")),
      play.choice("schedule", ["trapezoid", "1-sqrt", "cosine", "linear", "inverse_sqrt", "constant"], "trapezoid", change("shape")),
      play.slider("share of the fall", { min: 0, max: 1, step: 0.05, value: 0.5, show: v => v.toFixed(2) }, change("warmdown"))), table, picture);
    show();
  }
  play.pictures.scaling = { parameters, perToken, plan, rate, draw };
}

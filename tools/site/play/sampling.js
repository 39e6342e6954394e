// Choosing the next token: temperature, top-k and top-p on logits that the laptop's model really gave (chapter 40).
{
  // Probabilities by token: first the k likeliest, then the temperature, then the smallest set that holds p of what is left.
  function probabilities(logits, temperature, k = 0, p = 1) {
    const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
    const out = new Float64Array(logits.length);
    if (temperature === 0) { out[order[0]] = 1; return out; }
    const kept = k > 0 ? order.slice(0, k) : order;
    const weights = kept.map(i => Math.exp((logits[i] - logits[order[0]]) / temperature));
    const total = weights.reduce((a, b) => a + b, 0);
    let mass = 0, n = 0;
    while (n < kept.length && mass < p * total) mass += weights[n++];
    n = Math.max(n, 1);
    mass = weights.slice(0, n).reduce((a, b) => a + b, 0);
    for (let i = 0; i < n; i++) out[kept[i]] = weights[i] / mass;
    return out;
  }
  // The first token, likeliest first, whose cumulated probability exceeds u.
  function pick(probability, u) {
    const order = [...probability.keys()].filter(i => probability[i] > 0).sort((a, b) => probability[b] - probability[a] || a - b);
    let sum = 0;
    return order.find(i => (sum += probability[i]) > u) ?? order.at(-1);
  }
  const entropy = probability => probability.reduce((h, q) => q > 0 ? h - q * Math.log2(q) : h, 0);

  async function draw(stage) {
    const data = await play.fetch("sampling");
    const state = { prompt: 0, temperature: 1, k: 0, p: 1, drawn: [] };
    const picture = play.element("div"), says = play.element("p", { class: "says" }), said = play.element("p", { class: "tokens" });
    const again = (key, redraw = true) => v => { state[key] = v; if (redraw) state.drawn = []; show(); };
    const prompts = Object.fromEntries(data.prompts.map(({ text }, i) => [i, text]));

    function show() {
      const { logits } = data.prompts[state.prompt];
      const q = probabilities(logits, state.temperature, state.k, state.p);
      const top = [...logits.keys()].sort((a, b) => logits[b] - logits[a]).slice(0, 14);
      const left = q.filter(v => v > 0).length, rest = 1 - top.reduce((sum, i) => sum + q[i], 0);
      const row = (name, value, y, colour) => [
        play.label(150, y + 13, name, { "text-anchor": "end" }),
        play.svg("rect", { x: 158, y: y + 2, height: 14, width: Math.max(0, 400 * value), fill: colour }),
        play.label(164 + 400 * value, y + 13, value > 0 ? `${(100 * value).toFixed(value < 0.01 ? 2 : 1)} %` : "–", { class: "tick" }),
      ];
      const bars = top.map((i, y) => row(JSON.stringify(data.tokens[i] ?? `token ${i}`), q[i], 20 * y, "var(--blue)"));
      const message = `${left} ${left === 1 ? "token" : "tokens"} can come; uncertainty ${entropy(q).toFixed(2)} bits.`;
      play.replace(picture, play.drawing(640, 20 * 15 + 6, message, bars, row("all others", Math.max(0, rest), 20 * 14, "var(--orange)")));
      says.textContent = message;
      play.replace(said, state.drawn.map((i, n) => play.element("span", { class: `hue${n % 4}` }, (data.tokens[i] ?? `token ${i}`).replaceAll("\n", "⏎"))));
    }
    function sample() {
      const q = probabilities(data.prompts[state.prompt].logits, state.temperature, state.k, state.p);
      state.drawn = Array.from({ length: 20 }, () => pick(q, Math.random()));
      show();
    }
    const most = data.prompts[0].logits.length;
    stage.append(play.element("div", { class: "controls" },
      play.choice("after", prompts, "0", v => again("prompt")(+v)),
      play.slider("temperature", { min: 0, max: 3, step: 0.05, value: 1, show: v => v.toFixed(2) }, again("temperature")),
      play.slider("top-k", { min: 0, max: 50, value: 0, show: v => v || "off" }, again("k")),
      play.slider("top-p", { min: 0.05, max: 1, step: 0.01, value: 1, show: v => v < 1 ? v.toFixed(2) : "off" }, again("p")),
      play.button("draw twenty", sample)), picture, says, said);
    stage.dataset.tokens = most;
    show();
  }
  play.pictures.sampling = { probabilities, pick, entropy, draw };
}

// The course's sentence from bytes to a reward: stations to step through, with one token that stays chosen (data: sentence_data.py).
{
  const el = play.element, visible = text => text.replaceAll(" ", "·");
  const percent = p => `${(100 * p).toFixed(p < 0.01 ? 2 : 1)} %`;
  const cells = values => values.map(v => el("td", { class: "n" }, typeof v === "number" ? v.toFixed(2) : v));
  const chapters = { "10_tokenizer": "The tokenizer", "11_attention": "Attention", "12_gpt": "The GPT", "20_newton_schulz": "Newton-Schulz", "27_train": "The training loop",
    "40_engine": "The engine", "44_chat_sft": "Supervised fine-tuning", "45_chat_rl": "Reinforcement learning" };
  const shade = p => ({ class: "n", style: `background: color-mix(in srgb, var(--blue) ${Math.round(60 * p)}%, transparent)` });
  const table = (head, rows) => el("table", {},
    el("thead", {}, el("tr", {}, head.map((text, i) => el(i ? "th" : "td", i ? { class: "n" } : {}, text)))), el("tbody", {}, rows));
  const row = (name, chosen, ...rest) => el("tr", chosen ? { class: "chosen" } : {}, el("td", {}, name), ...rest);
  const bars = list => table(["next token", "probability"], list.map(({ token, p }) => row(visible(token), false, el("td", shade(p), percent(p)))));

  // What a station shows of token `i`: a sentence, and nodes.
  const stations = [
    ["Bytes", "10_tokenizer", (d, i) => {
      const from = new TextEncoder().encode(d.tokens.slice(0, i).join("")).length, mine = [...new TextEncoder().encode(d.tokens[i])];
      return [`A computer has ${d.bytes.length} numbers for this text, one for each letter, blank and full stop. “${visible(d.tokens[i])}” is ${mine.length} of them, from place ${from} on.`,
        el("p", { class: "tokens" }, d.bytes.map((b, at) => el("span", { class: at >= from && at < from + mine.length ? "hue1" : "hue0" }, `${visible(d.text[at])} ${b}`)))];
    }],
    ["Tokens", "10_tokenizer", (d, i, state, again) => {
      const now = d.merges[state.merges], steps = play.slider("merges", { min: 0, max: d.merges.length - 1, value: state.merges }, v => { state.merges = v; again(); });
      return [now.made ? `Merge ${state.merges} makes “${visible(now.made)}”: ${now.pieces.length} pieces. After all ${d.merges.length - 1} merges “${visible(d.tokens[i])}” is one token, number ${d.ids[i]} of ${d.vocabulary}.` :
        `Before the first merge each byte is a piece of its own: ${now.pieces.length} pieces.`,
        el("div", { class: "controls" }, steps), el("p", { class: "tokens" }, now.pieces.map((piece, n) => el("span", { class: `hue${n % 4}` }, visible(piece))))];
    }],
    ["Rows", "11_attention", (d, i) => [`Number ${d.ids[i]} picks row ${d.ids[i]} of a table: eight numbers, random at first, of root mean square 1. This row is all that the model knows of “${visible(d.tokens[i])}” so far; the neighbours play no part.`,
      table(["token", ...Array(8).keys()].map(String), d.tokens.map((token, n) => row(visible(token), n === i, cells(d.before[n]))))]],
    ["A look", "11_attention", (d, i) => [`One head: “${visible(d.tokens[i])}” takes from itself and from what stands before it, in these shares; what comes later is hidden. Below, its row before and after.`,
      table(["looks at", "share"], d.tokens.slice(0, i + 1).map((token, n) => row(visible(token), n === i, el("td", shade(d.weights[i][n]), percent(d.weights[i][n]))))),
      table(["", ...Array(8).keys()].map(String), [row("before", false, cells(d.before[i])), row("after", true, cells(d.after[i]))])]],
    ["A guess", "12_gpt", (d, i) => i === d.guess.length ? ["After the full stop nothing follows in this text: there is no target, and no guess is graded. Choose another token."] :
      [`From its row the model gives every token of the vocabulary a probability. All weights are random, so the favourites make no sense, and the true next token, “${visible(d.tokens[i + 1])}”, gets ${percent(d.guess[i].true)}; one in ${d.vocabulary} would be ${percent(1 / d.vocabulary)}.`,
        bars(d.guess[i].best)]],
    ["Training", "27_train", (d, i) => [`The loss of a place is minus the logarithm of what the true next token got. Ninety steps on nothing but this sentence, a GPT with one block:` +
      (i < 6 ? ` after “${visible(d.tokens[i])}” the loss falls from ${(-Math.log(d.trained[0].p[i])).toFixed(2)} to ${(-Math.log(d.trained.at(-1).p[i])).toFixed(2)}.` : " the full stop has no target."),
      table(["probability of", ...d.tokens.slice(1).map(visible)], d.trained.map(({ step, p }) => row(step ? `${step} steps` : "before", false, p.map(v => el("td", shade(v), v.toFixed(3)))))) ]],
    ["A step", "20_newton_schulz", d => [`How a step is chosen: the gradient of the query matrix after thirty steps has eight singular values. Five count, and the largest is ${play.number(d.muon.before[0] / d.muon.before[4], 2)} times the fifth; the others are rounding. Muon makes the five nearly equal, so that no direction is forgotten.`,
      table(["", ...Array(8).keys()].map(String), [row("gradient", false, cells(d.muon.before.map(v => v < 1e-6 ? "0" : v.toPrecision(2)))), row("Muon's step", true, cells(d.muon.after.map(v => v < 1e-3 ? "0" : v.toFixed(2))))])]],
    ["Writing", "40_engine", (d, i) => [i ? `Given only “${visible(d.tokens[0])}”, the trained model writes one token after the other, each from all before it. “${visible(d.tokens[i])}” was the likeliest of these:` :
      `“${visible(d.tokens[0])}” is given. Choose a later token to see how the model came to it.`, i ? bars(d.written[i - 1].best) : ""]],
    ["Chat", "44_chat_sft", d => [`As a conversation: the user says the beginning, the assistant the end. Special tokens mark who speaks. Only what the assistant says is learned, and the token with which it stops: ${d.conversation.filter(t => t.learned).length} of ${d.conversation.length}.`,
      el("p", { class: "tokens" }, d.conversation.map(t => el("span", { class: t.learned ? "hue2" : "", title: `token ${t.id}` }, visible(t.token), " ")))]],
    ["Reward", "45_chat_rl", d => [`Asked eight times after ${d.reward.step} steps, when it is not sure yet, the model is right ${d.reward.samples.filter(s => s.reward).length} times. Each answer's advantage is its reward minus the mean. ` +
      `One step along the advantages takes the probability of the right answer from ${percent(d.reward.before)} to ${percent(d.reward.after)}; nobody told the model what the right answer is.`,
      table(["answer", "reward", "advantage"], d.reward.samples.map(s => row(visible(s.text), s.reward, el("td", { class: "n" }, String(s.reward)), el("td", { class: "n" }, s.advantage.toFixed(2)))))]],
  ];

  async function draw(stage) {
    const data = await play.fetch("sentence"), state = { station: 0, token: 5, merges: 3 };
    const names = el("p", { class: "stations" }), tokens = el("p", { class: "tokens" }), says = el("p", { class: "says", "aria-live": "polite" }), panel = el("div", { class: "panel" }), more = el("p", { class: "says" });
    const go = station => { state.station = play.clip(station, 0, stations.length - 1); show(); };
    const pressed = (text, now, click) => el("button", { type: "button", "aria-pressed": String(now), onclick: click }, text);
    const stationButtons = stations.map(([name], i) => pressed(`${i + 1} ${name}`, false, () => go(i)));
    const tokenButtons = data.tokens.map((token, i) => pressed(visible(token), false, () => { state.token = i; show(); }));
    const back = play.button("back", () => go(state.station - 1)), next = play.button("next", () => go(state.station + 1));
    names.append(...stationButtons);
    tokens.append(...tokenButtons);

    function show() {
      const [, chapter, view] = stations[state.station], [words, ...nodes] = view(data, state.token, state, again);
      stationButtons.forEach((button, i) => button.setAttribute("aria-pressed", i === state.station));
      tokenButtons.forEach((button, i) => button.setAttribute("aria-pressed", i === state.token));
      says.textContent = words;
      play.replace(panel, ...nodes);
      play.replace(more, "How this is done: ", el("a", { href: `${chapter}.html` }, `${chapter.slice(0, 2)} ${chapters[chapter]}`), ".");
      back.disabled = state.station === 0;
      next.disabled = state.station === stations.length - 1;
    }
    // A slider inside the panel keeps the focus while the rest is drawn anew.
    function again() {
      const [words, , ...nodes] = stations[state.station][2](data, state.token, state, again);
      says.textContent = words;
      while (panel.childNodes.length > 1) panel.lastChild.remove();
      panel.append(...nodes);
    }
    stage.append(names, tokens, says, panel, el("div", { class: "controls" }, back, next), more);
    show();
  }
  play.pictures.sentence = { chapters, draw };
}

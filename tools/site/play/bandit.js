// The policy gradient on a slot machine with two arms: what a group of pulls teaches, with and without a baseline (chapter 45).
{
  const softmax = logits => {
    const most = Math.max(...logits), weights = logits.map(v => Math.exp(v - most)), total = weights.reduce((a, b) => a + b, 0);
    return weights.map(w => w / total);
  };
  const mean = list => list.reduce((a, b) => a + b, 0) / list.length;
  const spread = (list, less = 0) => Math.sqrt(list.reduce((s, v) => s + (v - mean(list)) ** 2, 0) / (list.length - less));

  // How much better each pull was than the others of its group: `group_advantages` of the chapter.
  const kinds = {
    "none": rewards => rewards,
    "mean": rewards => rewards.map(r => r - mean(rewards)),
    "others": rewards => rewards.map(r => (r - mean(rewards)) * rewards.length / (rewards.length - 1)),
    "standardised": rewards => rewards.map(r => (r - mean(rewards)) / (spread(rewards, 1) + 1e-6)),
  };
  // The gradient of the expected reward, for a player who knows the payouts.
  function exact(logits, payouts) {
    const p = softmax(logits), expected = p.reduce((s, v, a) => s + v * payouts[a], 0);
    return p.map((v, a) => v * (payouts[a] - expected));
  }
  // Pulls: `random()` gives numbers from 0 to 1, two for each pull: the arm, then whether it pays. `gift`: what each arm pays besides.
  function pull(logits, { payouts, n, gift = 0 }, random) {
    const p = softmax(logits);
    return Array.from({ length: n }, () => {
      const u = random(), arm = u < p[0] ? 0 : 1;
      return { arm, reward: (random() < payouts[arm] ? 1 : 0) + gift };
    });
  }
  // The estimate that one group gives: each pull's advantage, times how its log-probability grows with the logits.
  function estimate(logits, pulls, kind) {
    const p = softmax(logits), advantages = kinds[kind](pulls.map(({ reward }) => reward));
    return p.map((v, a) => mean(pulls.map(({ arm }, i) => advantages[i] * ((arm === a ? 1 : 0) - v))));
  }
  const climb = (logits, gradient, lr) => logits.map((v, a) => v + lr * gradient[a]);

  // The probability of arm 1 before each step; `gradient` says which way to go.
  function path(steps, lr, gradient) {
    const out = [];
    let logits = [0, 0];
    for (let t = 0; t <= steps; t++) {
      out.push(softmax(logits)[1]);
      logits = climb(logits, gradient(logits), lr);
    }
    return out;
  }
  // Park and Miller's generator: the same luck for the same seed.
  const luck = seed => { let state = seed; return () => (state = (state * 48271) % 2147483647) / 2147483647; };

  function draw(stage) {
    const state = { left: 0.2, right: 0.8, gift: 0, n: 4, lr: 0.5, kind: "none", seed: 1 }, steps = 80, players = 12;
    const picture = play.element("div"), says = play.element("p", { class: "says" });
    const names = { "none": "nothing", "mean": "the group's mean", "others": "the mean of the others", "standardised": "the mean, divided by the spread" };

    function show() {
      const machine = { payouts: [state.left, state.right], n: state.n, gift: state.gift };
      const axes = play.axes(44, 24, 570, 220, { from: 0, to: steps, ticks: [0, 20, 40, 60, 80], label: "steps" },
        { from: 0, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1], label: "probability of the right arm" });
      const line = (values, attributes) => play.line(values.map((v, t) => axes.at(t, v)), attributes);
      const knows = path(steps, state.lr, logits => exact(logits, machine.payouts));
      const guesses = Array.from({ length: players }, (_, i) => {
        const random = luck(1000 * state.seed + 17 * i + 1);
        for (let warm = 0; warm < 5; warm++) random();
        return path(steps, state.lr, logits => estimate(logits, pull(logits, machine, random), state.kind));
      });
      const random = luck(99 + state.seed), first = Array.from({ length: 2000 }, () => estimate([0, 0], pull([0, 0], machine, random), state.kind)[1]);
      const last = guesses.map(values => values.at(-1)), better = state.right >= state.left;
      const good = last.filter(v => better ? v > 0.5 : v < 0.5).length;
      const message = `At the start the gradient is ${play.number(exact([0, 0], machine.payouts)[1])}; groups of ${state.n} estimate ` +
        `${play.number(mean(first), 2)} ± ${play.number(spread(first), 2)}. After ${steps} steps ${good} of ${players} players prefer the better arm.`;
      play.replace(picture, play.drawing(640, 290, message, axes.nodes,
        guesses.map(values => line(values, { stroke: "var(--orange)", "stroke-opacity": 0.55, "stroke-width": 1.2 })),
        line(knows, { stroke: "var(--blue)", "stroke-width": 3 }),
        play.label(614, 16, "blue: a player who knows the payouts; orange: twelve who pull", { "text-anchor": "end", class: "tick" })));
      says.textContent = message;
    }
    const set = key => v => { state[key] = v; show(); };
    const percent = v => `${Math.round(100 * v)} %`;
    stage.append(play.element("div", { class: "controls" },
      play.choice("compare with", names, state.kind, set("kind")),
      play.slider("pulls in a group", { min: 2, max: 16, value: state.n }, set("n")),
      play.slider("left arm pays", { min: 0, max: 1, step: 0.05, value: state.left, show: percent }, set("left")),
      play.slider("right arm pays", { min: 0, max: 1, step: 0.05, value: state.right, show: percent }, set("right")),
      play.slider("gift to both", { min: 0, max: 10, value: state.gift }, set("gift")),
      play.slider("learning rate", { min: 0.1, max: 3, step: 0.1, value: state.lr, show: v => v.toFixed(1) }, set("lr")),
      play.button("other luck", () => set("seed")(state.seed + 1))), picture, says);
    show();
  }
  play.pictures.bandit = { softmax, kinds, exact, pull, estimate, climb, path, luck, draw };
}

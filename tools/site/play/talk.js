// Talk to the laptop's model: it computes in engine.js, on the reader's own machine.
{
  class Engine {
    constructor() {
      this.worker = new Worker(new URL("engine.js", play.here));
      this.waiting = new Map();
      this.count = 0;
      this.worker.onmessage = ({ data }) => {
        if (data.token) return this.ontoken?.(data.token);
        const { done, fail } = this.waiting.get(data.number);
        this.waiting.delete(data.number);
        data.error ? fail(new Error(data.error)) : done(data.result);
      };
    }
    ask(name, argument) {
      return new Promise((done, fail) => {
        this.waiting.set(++this.count, { done, fail });
        this.worker.postMessage([this.count, name, argument]);
      });
    }
  }
  const where = () => new URL("../model/", play.here).href;
  const missing = "No weights lie beside this page. In a clone of the course, `make speedrun PRESET=laptop` trains the model in about ten minutes " +
    "on two processor cores, and `make site` then puts it here.";

  async function draw(stage) {
    const says = play.element("p", { class: "says" }, location.protocol === "file:" ? "Open this page through `make site`: a page read from the disk may not load weights." : "");
    const start = play.button("load the model (5 MB)", async () => {
      start.disabled = true;
      says.textContent = "Loading …";
      try {
        const engine = new Engine(), about = await engine.ask("load", where());
        play.pictures.talk.engine = engine;
        start.remove();
        says.textContent = `${about.parameters.toLocaleString("en")} parameters (${about.note}), ${(about.bytes / 1e6).toFixed(1)} MB. It computes on your machine; nothing is sent.`;
        converse(stage, engine);
      } catch (error) {
        says.textContent = missing;
        start.disabled = false;
      }
    });
    stage.append(start, says);
  }

  function converse(stage, engine) {
    const state = { temperature: 0, k: 0, messages: [] };
    const talk = play.element("div", { class: "talk", "aria-live": "polite" }), detail = play.element("div"), speed = play.element("p", { class: "says" });
    const input = play.element("input", { type: "text", "aria-label": "Message", placeholder: "What is 7 + 12?", maxlength: 400, autocomplete: "off" });
    const send = play.element("button", { type: "submit" }, "send");
    const anew = play.button("start anew", () => { state.messages = []; talk.replaceChildren(); detail.replaceChildren(); speed.textContent = ""; });

    function explain({ p, top }, text) {
      const shown = text => play.element("code", {}, JSON.stringify(text));
      play.replace(detail, play.element("p", { class: "says" }, shown(text), ` had probability ${(100 * p).toFixed(1)} %. The likeliest tokens at this place:`),
        play.element("table", {}, top.map(([t, q]) => play.element("tr", {}, play.element("td", {}, shown(t)), play.element("td", { class: "n" }, `${play.number(100 * q, 2)} %`)))));
    }
    async function ask(message) {
      state.messages.push({ role: "user", text: message });
      const answer = play.element("p", { class: "it" }), decoder = new TextDecoder();
      talk.append(play.element("p", { class: "you" }, message), answer);
      let said = "";
      engine.ontoken = token => {
        const text = decoder.decode(new Uint8Array(token.bytes), { stream: true }), shade = Math.round(60 * (1 - token.p));
        said += text;
        const part = play.element("button", { type: "button", title: `${(100 * token.p).toFixed(1)} %`, style: `background: color-mix(in srgb, var(--orange) ${shade}%, transparent)`,
          onclick: () => explain(token, text) }, text || "·");
        answer.append(part);
        talk.scrollTop = talk.scrollHeight;
      };
      send.disabled = true;
      const done = await engine.ask("answer", { messages: state.messages, temperature: state.temperature, k: state.k });
      if (!said) answer.append("(it says nothing)");
      state.messages.push({ role: "assistant", text: said });
      speed.textContent = done.tokens ? `${done.tokens} tokens in ${done.seconds.toFixed(2)} s: ${Math.round(done.tokens / done.seconds)} a second.` : "Too long for its context: start anew.";
      send.disabled = false;
    }
    const form = play.element("form", { onsubmit: event => {
      event.preventDefault();
      if (!input.value.trim() || send.disabled) return;
      ask(input.value.trim());
      input.value = "";
    } }, input, send, anew);
    const examples = ["Who are you?", "What is 17 + 25?", "What does math.floor do?", "Spell cat.", "What is the capital of France?"];
    stage.append(talk, form, play.element("div", { class: "controls" }, examples.map(text => play.button(text, () => send.disabled || ask(text)))),
      play.element("div", { class: "controls" },
        play.slider("temperature", { min: 0, max: 2, step: 0.05, value: 0, show: v => v.toFixed(2) }, v => { state.temperature = v; }),
        play.slider("top-k", { min: 0, max: 50, value: 0, show: v => v || "off" }, v => { state.k = v; })), speed, detail);
    input.focus();
  }
  play.pictures.talk = { Engine, where, draw };
}

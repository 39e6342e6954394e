// The laptop's model in plain JavaScript, off the page's own thread: tokenizer, transformer with a KV cache, sampling.
// The same operations, in the same order, as nanochat_course/gpt.py; the weights come as whole numbers and a scale for each row.
self.play = { pictures: {} };
importScripts("bpe.js", "sampling.js");

const norm = x => {
  let sum = 0;
  for (const v of x) sum += v * v;
  const r = 1 / Math.sqrt(sum / x.length + 1e-6);
  return x.map(v => v * r);
};
// Rows of a matrix times x; four sums at a time, which is what makes it fast.
function product({ data, rows, columns }, x) {
  const out = new Float32Array(rows);
  for (let i = 0, at = 0; i < rows; i++, at += columns) {
    let a = 0, b = 0, c = 0, d = 0;
    for (let j = 0; j < columns; j += 4) {
      a += data[at + j] * x[j];
      b += data[at + j + 1] * x[j + 1];
      c += data[at + j + 2] * x[j + 2];
      d += data[at + j + 3] * x[j + 3];
    }
    out[i] = a + b + c + d;
  }
  return out;
}

class Model {
  constructor(description, buffer) {
    this.config = description.config;
    this.weights = Object.fromEntries(description.tensors.map(({ name, shape: [rows, columns], at }) => {
      const scale = new Float32Array(buffer, at, rows), whole = new Int8Array(buffer, at + 4 * rows, rows * columns);
      const data = new Float32Array(rows * columns);
      for (let i = 0; i < data.length; i++) data[i] = whole[i] * scale[Math.floor(i / columns)];
      return [name, { data, rows, columns }];
    }));
    this.forget();
  }
  forget() {                                     // keys and values of the tokens seen so far, by layer and position
    this.keys = Array.from({ length: this.config.n_layer }, () => []);
    this.values = Array.from({ length: this.config.n_layer }, () => []);
    this.seen = [];
  }
  rotate(x, position) {
    const { n_embd, n_head, rotary_base } = this.config, D = n_embd / n_head, half = D / 2;
    const out = new Float32Array(x.length);
    for (let h = 0; h < x.length; h += D) {
      for (let c = 0; c < half; c++) {
        const angle = position * rotary_base ** (-2 * c / D), cos = Math.cos(angle), sin = Math.sin(angle);
        out[h + c] = x[h + c] * cos + x[h + c + half] * sin;
        out[h + c + half] = x[h + c + half] * cos - x[h + c] * sin;
      }
      out.set(norm(out.subarray(h, h + D)), h);  // QK norm, head by head
    }
    return out;
  }
  attend(layer, x) {
    const { n_embd, n_head, n_kv_head, windows } = this.config, D = n_embd / n_head, name = `transformer.h.${layer}.attn.`;
    const [q, k, v] = ["c_q", "c_k", "c_v"].map(part => product(this.weights[`${name}${part}.weight`], x));
    const position = this.seen.length, query = this.rotate(q, position), out = new Float32Array(n_embd);
    this.keys[layer].push(this.rotate(k, position));
    this.values[layer].push(v);
    const first = windows[layer] < 0 ? 0 : Math.max(0, position - windows[layer]);
    for (let h = 0; h < n_head; h++) {
      const own = h * D, shared = Math.floor(h * n_kv_head / n_head) * D, scores = new Float32Array(position + 1 - first);
      for (let t = first; t <= position; t++) {
        const key = this.keys[layer][t];
        let score = 0;
        for (let c = 0; c < D; c++) score += query[own + c] * key[shared + c];
        scores[t - first] = score / Math.sqrt(D);
      }
      const most = Math.max(...scores), weights = scores.map(s => Math.exp(s - most)), sum = weights.reduce((a, b) => a + b, 0);
      for (let t = first; t <= position; t++) {
        const value = this.values[layer][t], weight = weights[t - first] / sum;
        for (let c = 0; c < D; c++) out[own + c] += weight * value[shared + c];
      }
    }
    return product(this.weights[`${name}c_proj.weight`], out);
  }
  // Read one token; the logits of the next one if they are wanted.
  read(id, wanted = true) {
    const { n_embd, n_layer, vocab_size, softcap } = this.config, wte = this.weights["transformer.wte.weight"].data;
    let x = norm(wte.slice(id * n_embd, (id + 1) * n_embd));
    for (let layer = 0; layer < n_layer; layer++) {
      const a = this.attend(layer, norm(x));
      x = x.map((v, i) => v + a[i]);
      const wide = product(this.weights[`transformer.h.${layer}.mlp.c_fc.weight`], norm(x)).map(v => v > 0 ? v * v : 0);
      const m = product(this.weights[`transformer.h.${layer}.mlp.c_proj.weight`], wide);
      x = x.map((v, i) => v + m[i]);
    }
    this.seen.push(id);
    return wanted && product(this.weights["lm_head.weight"], norm(x)).slice(0, vocab_size).map(v => softcap * Math.tanh(v / softcap));
  }
  // Read tokens after those that are already in the cache; start anew where the beginning differs.
  readAll(ids) {
    if (!this.seen.every((id, i) => id === ids[i]) || this.seen.length >= ids.length) this.forget();
    let logits;
    for (let i = this.seen.length; i < ids.length; i++) logits = this.read(ids[i], i === ids.length - 1);
    return logits;
  }
}

class Tokenizer {
  constructor({ merges, byte_order, specials }) {
    const bpe = play.pictures.bpe, place = new Map(byte_order.map((byte, id) => [byte, id]));
    this.merges = merges.map(pair => ({ pair }));
    this.specials = specials;
    this.names = Object.fromEntries(Object.entries(specials).map(([name, id]) => [id, name]));
    this.vocab = bpe.vocabulary(this.merges).map((token, id) => id < 256 ? [byte_order[id]] : token.map(b => byte_order[b]));
    this.toId = byte => place.get(byte);
  }
  encode(text) { return play.pictures.bpe.encode(text, this.merges, this.toId); }
  bytes(id) { return this.vocab[id] || [...new TextEncoder().encode(this.names[id] || "")]; }
  conversation(messages) {
    const s = this.specials, ids = [s["<|bos|>"]];
    for (const { role, text } of messages) {
      ids.push(s[`<|${role}_start|>`], ...this.encode(text));
      ids.push(s[`<|${role}_end|>`]);
    }
    return [...ids, s["<|assistant_start|>"]];
  }
}

function softmax(logits) {
  const most = Math.max(...logits), e = logits.map(v => Math.exp(v - most)), sum = e.reduce((a, b) => a + b, 0);
  return e.map(v => v / sum);
}
// The places of the n largest numbers, the largest first.
function largest(x, n) {
  const best = [];
  for (let i = 0; i < x.length; i++) {
    if (best.length === n && x[i] <= x[best[n - 1]]) continue;
    let at = best.length;
    while (at > 0 && x[i] > x[best[at - 1]]) at--;
    best.splice(at, 0, i);
    best.length = Math.min(best.length, n);
  }
  return best;
}

let model, tokenizer, stopped = false;
const text = bytes => new TextDecoder().decode(new Uint8Array(bytes));
const commands = {
  async load(where) {
    const get = async name => {
      const answer = await fetch(new URL(name, where));
      if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
      return answer;
    };
    const description = await (await get("model.json")).json();
    model = new Model(description, await (await get("weights.bin")).arrayBuffer());
    tokenizer = new Tokenizer(description);
    return { note: description.note, parameters: description.tensors.reduce((n, { shape }) => n + shape[0] * shape[1], 0), bytes: description.bytes };
  },
  encode: text => tokenizer.encode(text),
  logits: ids => [...model.readAll(ids)],
  stop() { stopped = true; },
  async answer({ messages, temperature, k, most = 120 }) {
    const { probabilities, pick } = play.pictures.sampling, ends = ["<|assistant_end|>", "<|bos|>", "<|user_start|>"].map(name => tokenizer.specials[name]);
    while (messages.length > 2 && tokenizer.conversation(messages).length + most > model.config.sequence_len) messages = messages.slice(2);
    const ids = tokenizer.conversation(messages), room = Math.min(most, model.config.sequence_len - ids.length);
    if (room < 1) return { tokens: 0, full: true };
    stopped = false;
    let logits = model.readAll(ids), count = 0;
    const begin = performance.now();
    while (count < room && !stopped) {
      const likely = softmax(logits), top = largest(likely, 6);
      const id = temperature === 0 ? top[0] : pick(probabilities([...logits], temperature, k), Math.random());
      count++;
      if (ends.includes(id)) break;
      postMessage({ token: { id, bytes: tokenizer.bytes(id), p: likely[id], top: top.map(i => [text(tokenizer.bytes(i)), likely[i]]) } });
      logits = model.read(id);
      if (count % 8 === 0) await new Promise(done => setTimeout(done));          // let a stop come through
    }
    return { tokens: count, seconds: (performance.now() - begin) / 1000, full: count === room };
  },
};
onmessage = async ({ data: [number, name, argument] }) => {
  try { postMessage({ number, result: await commands[name](argument) }); }
  catch (error) { postMessage({ number, error: error.message }); }
};

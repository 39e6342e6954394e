// Byte pair encoding on the reader's own text: the trainer of chapter 10, and the tokens after each merge.
{
  const space = "\\p{White_Space}";
  const words = new RegExp(`'(?:[sdmtSDMT\u017f]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,2}` +
    `| ?[^${space}\\p{L}\\p{N}]+[\\r\\n]*|${space}*[\\r\\n]|${space}+(?!\\P{White_Space})|${space}+`, "gu");
  const split = text => text.match(words) || [];
  const bytes = word => [...new TextEncoder().encode(word)];

  function merge(ids, [a, b], made) {
    const out = [];
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] === a && ids[i + 1] === b) { out.push(made); i++; } else out.push(ids[i]);
    }
    return out;
  }

  // The most frequent pair first; among equals the one with the smallest ids.
  function learn(text, most) {
    const counts = new Map();
    for (const word of split(text)) counts.set(word, (counts.get(word) || 0) + 1);
    let table = [...counts].map(([word, n]) => [bytes(word), n]);
    const merges = [];
    while (merges.length < most) {
      const pairs = new Map();
      for (const [ids, n] of table) for (let i = 1; i < ids.length; i++) {
        const key = ids[i - 1] * 65536 + ids[i];
        pairs.set(key, (pairs.get(key) || 0) + n);
      }
      let best = null;
      for (const [key, n] of pairs) if (best === null || n > best[1] || n === best[1] && key < best[0]) best = [key, n];
      if (best === null) break;
      const pair = [Math.floor(best[0] / 65536), best[0] % 65536];
      merges.push({ pair, count: best[1] });
      table = table.map(([ids, n]) => [merge(ids, pair, 255 + merges.length), n]);
    }
    return merges;
  }

  // The merges in the order in which they were learned; `toId` says which of the first 256 ids a byte has.
  function encode(text, merges, toId = byte => byte) {
    const known = new Map();
    return split(text).flatMap(word => {
      if (!known.has(word)) known.set(word, merges.reduce((ids, { pair }, i) => ids.length > 1 ? merge(ids, pair, 256 + i) : ids, bytes(word).map(toId)));
      return known.get(word);
    });
  }

  function vocabulary(merges) {
    const vocab = [...Array(256).keys()].map(b => [b]);
    for (const { pair: [a, b] } of merges) vocab.push([...vocab[a], ...vocab[b]]);
    return vocab;
  }
  const readable = token => {
    try { return new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(token)); }
    catch { return token.map(b => `\\x${b.toString(16).padStart(2, "0")}`).join(""); }
  };
  const visible = text => text === "\n" ? "⏎\n" : text.replaceAll(" ", "·");

  function draw(stage) {
    const first = "The cat sat on the mat. The cat that sat on the other mat was the other cat.";
    const text = play.element("textarea", { maxlength: 4000, spellcheck: "false" });
    text.value = first;
    const tokens = play.element("p", { class: "tokens" }), says = play.element("p", { class: "says" }), table = play.element("table");
    let merges = [];
    const slider = play.slider("merges", { min: 0, max: 1, value: 0 }, now => show(now));

    function show(k) {
      const chosen = merges.slice(0, k), vocab = vocabulary(chosen), ids = encode(text.value, chosen);
      play.replace(tokens, ids.map((id, i) => play.element("span", { class: `hue${i % 4}`, title: `token ${id}` }, visible(readable(vocab[id])))));
      const total = new TextEncoder().encode(text.value).length;
      play.replace(says, play.element("b", {}, `${ids.length} tokens`), ` for ${total} bytes: ${play.number(total / Math.max(1, ids.length))} bytes a token`);
      const name = id => play.element("code", {}, visible(readable(vocab[id])));
      const rows = chosen.map(({ pair, count }, i) => play.element("tr", {}, play.element("td", { class: "n" }, String(256 + i)),
        play.element("td", {}, name(pair[0]), " + ", name(pair[1])), play.element("td", { class: "n" }, `${count} ×`)));
      play.replace(table, rows.slice(-6));
    }
    function read() {
      merges = learn(text.value, 300).filter(({ count }) => count > 1);
      slider.set(Math.min(8, merges.length), Math.max(1, merges.length));
      show(Math.min(8, merges.length));
    }
    text.addEventListener("input", read);
    stage.append(play.labelled("your text", text), play.element("div", { class: "controls" }, slider), tokens, says, table);
    read();
  }
  play.pictures.bpe = { split, learn, encode, vocabulary, draw };
}

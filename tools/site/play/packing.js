// Packing: documents become rows of one length, by the three rungs of chapter 23.
{
  // The ribbon: everything end to end, a start token before each document, cut every `row` places.
  function ribbon(lengths, row) {
    const rows = [];
    let pieces = [], space = row;
    const close = () => { rows.push({ pieces, free: space }); pieces = []; space = row; };
    lengths.forEach((length, document) => {
      let start = 0, bos = 1;
      while (start < length || bos) {
        const take = Math.min(length - start, space - bos);
        pieces.push({ document, start, stop: start + take, bos });
        space -= take + bos;
        [start, bos] = [start + take, 0];
        if (!space) close();
      }
    });
    if (pieces.length) close();
    return { rows, lost: 0 };
  }

  // Best fit, then crop: the longest that fits; where none fits, the shortest is cropped and its rest thrown away.
  function crop(lengths, row) {
    const rows = [];
    let lost = 0;
    const waiting = lengths.map((length, document) => ({ length, document })).sort((a, b) => a.length - b.length);
    while (waiting.length) {
      const pieces = [];
      let space = row;
      while (space && waiting.length) {
        const fits = waiting.findLastIndex(({ length }) => length + 1 <= space);
        const [{ length, document }] = waiting.splice(Math.max(0, fits), 1), stop = Math.min(length, space - 1);
        pieces.push({ document, start: 0, stop, bos: 1 });
        lost += length - stop;
        space -= stop + 1;
      }
      rows.push({ pieces, free: space });
    }
    return { rows, lost };
  }

  // The course's Packer: the oldest begins, then an exact fit or the longest that leaves a gap worth filling; a rest comes back.
  function keep(lengths, row, least) {
    const rows = [], waiting = lengths.map((length, document) => ({ document, start: 0, stop: length }));
    const size = ({ start, stop }) => Math.min(stop - start + 1, row);
    const longest = most => waiting.reduce((best, one) => size(one) <= most && (!best || size(one) > size(best)) ? one : best, null);
    function choose(space) {
      const exact = longest(space);
      if (exact && size(exact) === space) return exact;
      return longest(space - least) ?? waiting.reduce((best, one) => size(one) >= size(best) ? one : best);
    }
    while (waiting.length) {
      const pieces = [];
      let space = row;
      while (space && waiting.length) {
        const one = pieces.length ? choose(space) : waiting[0], at = waiting.indexOf(one);
        const stop = Math.min(one.stop, one.start + space - 1);
        waiting.splice(at, 1, ...(stop < one.stop ? [{ ...one, start: stop }] : []));
        pieces.push({ document: one.document, start: one.start, stop, bos: 1 });
        space -= stop - one.start + 1;
      }
      rows.push({ pieces, free: space });
    }
    return { rows, lost: 0 };
  }
  const rungs = { "end to end": ribbon, "best fit, then crop": crop, "keep the rest": keep };

  // Counted: rows that begin inside a document, and documents that were cut although a row would have held them.
  function count({ rows, lost }, lengths, row) {
    const whole = new Set(rows.flatMap(({ pieces }) => pieces.filter(part => part.stop - part.start === lengths[part.document])).map(part => part.document));
    return {
      rows: rows.length, lost, free: rows.reduce((sum, { free }) => sum + free, 0),
      inside: rows.filter(({ pieces }) => !pieces[0].bos).length,
      cut: lengths.filter((length, i) => length < row && !whole.has(i)).length,
    };
  }

  // A small generator of whole numbers, so that the same seed gives the same documents everywhere.
  function documents(n, row, seed) {
    let state = seed;
    return Array.from({ length: n }, () => {
      state = (state * 48271) % 2147483647;
      return 2 + Math.floor(row * 1.5 * (state / 2147483647) ** 2);
    });
  }

  function draw(stage) {
    const state = { rung: "keep the rest", row: 32, least: 4, seed: 7 };
    const picture = play.element("div"), says = play.element("p", { class: "says" }), table = play.element("table");
    const colours = ["--blue", "--orange", "--green", "--pink"];
    const pack = name => rungs[name](documents(24, 32, state.seed), state.row, state.least);

    function piece(part, x, y, unit, lengths) {
      const whole = part.stop - part.start === lengths[part.document], width = (part.stop - part.start + part.bos) * unit;
      return play.svg("g", {},
        play.svg("rect", { x, y, width, height: 16, fill: `var(${colours[part.document % 4]})`, "fill-opacity": whole ? 0.3 : 0.7, stroke: "currentColor", "stroke-opacity": 0.4 },
          play.svg("title", {}, `document ${part.document}, tokens ${part.start} to ${part.stop - 1}${whole ? "" : `, of ${lengths[part.document]}`}`)),
        part.bos ? play.svg("rect", { x, y, width: unit, height: 16, fill: "currentColor", "fill-opacity": 0.55 }) : null,
        width > 34 ? play.label(x + width / 2 + unit / 2, y + 12, String(part.document), { "text-anchor": "middle", class: "tick" }) : null);
    }
    function show() {
      const lengths = documents(24, 32, state.seed), packed = pack(state.rung), unit = 600 / state.row;
      const nodes = packed.rows.flatMap(({ pieces }, r) => {
        let x = 20;
        return pieces.map(part => { const node = piece(part, x, 6 + 20 * r, unit, lengths); x += (part.stop - part.start + part.bos) * unit; return node; });
      });
      const found = count(packed, lengths, state.row), plural = (n, one, more) => `${n} ${n === 1 ? one : more}`;
      const message = `${plural(found.rows, "row", "rows")}; ${plural(found.lost, "token", "tokens")} thrown away; ` +
        `${plural(found.inside, "row begins", "rows begin")} inside a document; ${plural(found.cut, "document was", "documents were")} cut that would have fitted a row.`;
      play.replace(picture, play.drawing(640, 12 + 20 * packed.rows.length, `${state.rung}: ${message}`, nodes));
      says.textContent = message;
      const cells = Object.keys(rungs).map(name => [name, count(pack(name), lengths, state.row)]);
      play.replace(table, play.element("thead", {}, play.element("tr", {}, ["", "rows", "thrown away", "begin inside", "cut without need"].map((text, i) =>
        play.element(i ? "th" : "td", i ? { class: "n" } : {}, text)))),
        play.element("tbody", {}, cells.map(([name, c]) => play.element("tr", {}, play.element("td", {}, name),
          [c.rows, c.lost, c.inside, c.cut].map(v => play.element("td", { class: "n" }, String(v)))))));
    }
    const set = key => v => { state[key] = v; show(); };
    stage.append(play.element("div", { class: "controls" }, play.choice("rung", Object.keys(rungs), state.rung, set("rung")),
      play.slider("places in a row", { min: 12, max: 64, value: state.row }, set("row")),
      play.slider("smallest gap", { min: 0, max: 12, value: state.least }, set("least")),
      play.button("other documents", () => set("seed")(state.seed * 31 % 9973 + 1))), picture, says, table);
    show();
  }
  play.pictures.packing = { ribbon, crop, keep, count, documents, draw };
}

// For the pages of both renderers: the keyboard in what scrolls sideways, folded answers in print, chapters ticked as read.
(() => {
  function reachable() {
    document.querySelectorAll("main pre, main table, main div.table, main math[display=block], .play .stage > div").forEach(part => {
      if (part.scrollWidth > part.clientWidth + 1) part.tabIndex = 0; else part.removeAttribute("tabindex");
    });
  }
  addEventListener("load", reachable);
  addEventListener("resize", reachable);
  document.addEventListener("toggle", reachable, true);

  // Folded answers are printed too.
  let folded = [];
  addEventListener("beforeprint", () => { folded = [...document.querySelectorAll("main details:not([open])")]; folded.forEach(d => { d.open = true; }); });
  addEventListener("afterprint", () => folded.forEach(d => { d.open = false; }));

  // Chapters that were read, ticked by hand and kept in this browser.
  const readChapters = () => { try { return new Set(JSON.parse(localStorage.read || "[]")); } catch { return new Set(); } };
  const stem = address => address.replace(/[?#].*/, "").replace(/.*\//, "").replace(/\.html$/, ""), chapter = address => /^\d\d_/.test(stem(address));
  const here = stem(location.pathname);

  function tick() {
    const list = document.querySelectorAll("#chapters a[href], #quarto-sidebar .sidebar-item a[href]");
    const done = readChapters(), links = [...list].filter(link => chapter(link.href));
    links.forEach(link => link.querySelector(".tick")?.remove());
    links.filter(link => done.has(stem(link.href))).forEach(link => {
      const mark = document.createElement("span");
      mark.className = "tick"; mark.textContent = "\u2713"; mark.setAttribute("role", "img"); mark.setAttribute("aria-label", "read");
      link.append(" ", mark);
    });
    const button = document.getElementById("read");
    if (button) {
      const yes = done.has(here);
      button.setAttribute("aria-pressed", yes);
      button.textContent = yes ? "Read \u2713" : "Mark this chapter as read";
    }
    const progress = document.getElementById("progress"), next = links.find(link => !done.has(stem(link.href)));
    if (!progress) return;
    const count = links.filter(link => done.has(stem(link.href))).length;
    progress.hidden = count === 0;
    progress.replaceChildren(`You have read ${count} of ${links.length} chapters.`);
    if (next) {
      const link = document.createElement("a");
      link.href = next.getAttribute("href"); link.textContent = next.textContent.trim();
      progress.append(" Next: ", link);
    }
  }

  if (chapter(here)) {
    const main = document.querySelector("main"), line = document.createElement("p"), button = document.createElement("button");
    line.className = "read"; button.id = "read"; button.type = "button";
    button.onclick = () => {
      const done = readChapters();
      if (!done.delete(here)) done.add(here);
      localStorage.read = JSON.stringify([...done]);
      tick();
    };
    line.append(button);
    main.insertBefore(line, main.querySelector(":scope > footer"));
  }
  addEventListener("storage", tick);
  tick();
})();

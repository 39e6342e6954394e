// Light and dark, the chapters on a narrow screen, copying code, and the keyboard in what scrolls sideways.
const root = document.documentElement, menu = document.getElementById("menu"), chapters = document.getElementById("chapters");

document.getElementById("theme").onclick = () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  localStorage.theme = root.dataset.theme = now === "dark" ? "light" : "dark";
};

const open = yes => menu.setAttribute("aria-expanded", yes);
menu.onclick = () => open(menu.getAttribute("aria-expanded") !== "true");
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") { open(false); menu.focus(); }
});
if (chapters.scrollHeight > chapters.clientHeight) {
  const here = chapters.querySelector("[aria-current]");
  if (here) chapters.scrollTop = here.offsetTop - chapters.clientHeight / 2;
}

const toc = document.getElementById("toc");
if (toc) matchMedia("(min-width: 75rem)").onchange = event => { toc.open = event.matches; };

document.querySelectorAll("div.sourceCode").forEach(block => {
  const button = document.createElement("button");
  button.className = "copy"; button.type = "button"; button.textContent = "Copy";
  button.onclick = () => navigator.clipboard.writeText(block.querySelector("code").textContent).then(() => {
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.append(button);
});

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
const stem = link => link.getAttribute("href").replace(".html", "");
function tick() {
  const done = readChapters(), links = [...chapters.querySelectorAll("a")].filter(link => /^\d\d_/.test(stem(link)));
  links.forEach(link => link.querySelector(".tick")?.remove());
  links.filter(link => done.has(stem(link))).forEach(link => {
    const mark = document.createElement("span");
    mark.className = "tick"; mark.textContent = "\u2713"; mark.setAttribute("role", "img"); mark.setAttribute("aria-label", "read");
    link.append(" ", mark);
  });
  const button = document.getElementById("read");
  if (button) {
    const yes = done.has(document.getElementById("content").dataset.chapter);
    button.setAttribute("aria-pressed", yes);
    button.textContent = yes ? "Read \u2713" : "Mark this chapter as read";
  }
  const progress = document.getElementById("progress"), next = links.find(link => !done.has(stem(link)));
  if (!progress) return;
  const count = links.filter(link => done.has(stem(link))).length;
  progress.hidden = count === 0;
  progress.replaceChildren(`You have read ${count} of ${links.length} chapters.`);
  if (next) {
    const link = document.createElement("a");
    link.href = next.getAttribute("href"); link.textContent = next.textContent.trim();
    progress.append(" Next: ", link);
  }
}
document.getElementById("read")?.addEventListener("click", () => {
  const done = readChapters(), here = document.getElementById("content").dataset.chapter;
  if (!done.delete(here)) done.add(here);
  localStorage.read = JSON.stringify([...done]);
  tick();
});
addEventListener("storage", tick);
tick();

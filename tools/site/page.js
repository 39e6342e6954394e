// Light and dark, the chapters on a narrow screen, copying code: what Quarto's pages have of themselves. The rest is in reader.js.
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

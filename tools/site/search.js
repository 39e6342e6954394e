// Search: pagefind's index, loaded when it is first asked for; a dialog that needs no mouse.
const search = document.getElementById("search"), query = document.getElementById("query"), found = document.getElementById("found"), told = document.getElementById("told");
const siteAddress = new URL(".", document.currentScript.src);
let pagefind, names, latest = 0;

const searchButton = document.getElementById("search-open");
searchButton.onclick = () => { search.showModal(); query.select(); };
document.addEventListener("keydown", event => {
  const writing = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (!search.open && ((event.key === "/" && !writing) || (event.key === "k" && (event.ctrlKey || event.metaKey)))) {
    event.preventDefault();
    searchButton.click();
  }
});
search.addEventListener("click", event => { if (event.target === search) search.close(); });
search.addEventListener("keydown", event => {
  if (event.key === "Escape") search.close();             // at once, also where the field is not empty
  if (!["ArrowDown", "ArrowUp"].includes(event.key)) return;
  event.preventDefault();
  const links = [query, ...found.querySelectorAll("a")], at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at + (event.key === "ArrowDown" ? 1 : -1)))].focus();
});
document.getElementById("search-form").addEventListener("submit", event => {
  if (event.submitter) return;                            // the button closes the dialog
  event.preventDefault();
  found.querySelector("a")?.click();
});

function entry(href, title, excerpt, kind) {
  const item = document.createElement("li"), link = document.createElement("a"), text = document.createElement("p");
  item.className = kind;
  link.href = href;
  link.textContent = title;
  link.onclick = () => search.close();
  text.innerHTML = excerpt;                               // pagefind escapes the page's text and adds <mark>
  item.append(link, text);
  return item;
}

// Names of the package that begin like the word that was typed, an exact one first.
async function defined(word) {
  names ??= await (await fetch(new URL("names.json", siteAddress))).json();
  if (!/^[A-Za-z_][\w.]{2,}$/.test(word)) return [];
  const low = word.toLowerCase(), starts = Object.keys(names).filter(name => name.toLowerCase().startsWith(low));
  return starts.sort((a, b) => a.length - b.length).slice(0, 3).map(name => entry(new URL(names[name], siteAddress), name, "defined here", "page name"));
}

async function look() {
  const mine = ++latest, words = query.value.trim();
  if (!words) { found.replaceChildren(); told.textContent = ""; return; }
  try {
    pagefind ??= await import("./pagefind/pagefind.js");
    const answer = await pagefind.debouncedSearch(words, {}, 120);
    if (!answer || mine !== latest) return;
    const pages = await Promise.all(answer.results.slice(0, 8).map(result => result.data())), places = await defined(words);
    if (mine !== latest) return;
    told.textContent = answer.results.length || places.length ? `${answer.results.length} page${answer.results.length > 1 ? "s" : ""}` : `Nothing found for “${words}”.`;
    found.replaceChildren(...places, ...pages.flatMap(({ url, meta, excerpt, sub_results: parts }) => {
      const inside = parts.filter(part => part.url.includes("#")).slice(0, 3);
      return [entry(url, meta.title, inside.length ? "" : excerpt, "page"), ...inside.map(part => entry(part.url, part.title.replace(/ #$/, ""), part.excerpt, "part"))];
    }));
  } catch (error) {
    told.textContent = location.protocol === "file:" ? "Search needs a server: type make site." : `Search cannot be loaded: ${error.message}`;
  }
}
query.addEventListener("input", look);

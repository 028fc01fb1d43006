// What a page of the site does by itself, from the disk and without a network: contents, equations (by R's own KaTeX), search.
"use strict";

// Contents of the page, of its headings
function listContents() {
  const nav = document.getElementById("toc");
  if (!nav) return;
  const list = document.createElement("ul");
  list.className = "nav flex-column";
  for (const heading of document.querySelectorAll("main h2, main h3")) {
    const id = heading.id || (heading.closest("[id]") || {}).id;
    if (!id || id === "main" || "tocSkip" in heading.dataset) continue;
    const link = document.createElement("a");
    link.className = "nav-link";
    link.href = "#" + id;
    link.textContent = heading.textContent.trim();
    if (heading.tagName === "H3") link.style.paddingLeft = "2rem";
    list.appendChild(document.createElement("li")).appendChild(link);
  }
  nav.appendChild(list);
}

// \( \) and $$ $$ of help pages, each within one piece of text
function renderEquations() {
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const pieces = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (/\\\(|\$\$/.test(node.data) && !node.parentElement.closest("pre, code, script")) pieces.push(node);
  }
  for (const node of pieces) {
    const holder = document.createElement("span");
    for (const part of node.data.split(/(\\\([\s\S]*?\\\)|\$\$[\s\S]*?\$\$)/)) {
      const shown = part.startsWith("$$");
      if (!shown && !part.startsWith("\\(")) {
        holder.append(part);
        continue;
      }
      const place = document.createElement("span");
      katex.render(part.slice(2, -2), place, {displayMode: shown, throwOnError: false});
      holder.append(place);
    }
    node.replaceWith(...holder.childNodes);
  }
}

// Pages that have all words: those with words in the names of functions first, then in titles, then where they are frequent
function findPages(index, text) {
  const words = text.toLowerCase().split(/\s+/).filter(word => word);
  if (!words.length) return [];
  const found = [];
  for (const page of index) {
    const names = page.names.map(name => name.toLowerCase());
    const [title, all] = [page.title.toLowerCase(), (page.names.join(" ") + " " + page.text).toLowerCase()];
    if (!words.every(word => all.includes(word))) continue;
    let score = 0;
    for (const word of words) {
      const name = names.includes(word.replace(/\(\)$/, "")) ? 100 : names.some(name => name.includes(word)) ? 20 : 0;
      score += name + (title.includes(word) ? 10 : 0) + Math.min(all.split(word).length - 1, 9) / words.length;
    }
    found.push({page, score});
  }
  return found.sort((a, b) => b.score - a.score).slice(0, 12).map(entry => entry.page);
}

// The text around the first of the words
function excerpt(page, text) {
  const at = page.text.toLowerCase().indexOf(text.toLowerCase().split(/\s+/).filter(word => word)[0]);
  const from = Math.max(0, at - 30);
  return (from ? "…" : "") + page.text.slice(from, from + 90) + "…";
}

function addSearch() {
  const input = document.getElementById("search-input");
  if (!input) return;
  const root = input.dataset.searchIndex.replace(/search\.json$/, "");
  const list = document.createElement("ul");
  list.id = "found";
  list.hidden = true;
  input.after(list);
  input.form.addEventListener("submit", event => event.preventDefault());
  // a script, since pages on the disk may not fetch files
  const load = () => {
    if (window.siteIndex || document.getElementById("site-index")) return;
    const script = document.createElement("script");
    script.id = "site-index";
    script.src = root + "search.js";
    script.onload = show;
    document.head.append(script);
  };
  const show = () => {
    list.replaceChildren();
    for (const page of findPages(window.siteIndex || [], input.value)) {
      const link = document.createElement("a");
      link.href = root + page.path;
      link.textContent = page.title;
      const place = document.createElement("small");
      place.textContent = excerpt(page, input.value);
      link.append(place);
      list.appendChild(document.createElement("li")).append(link);
    }
    list.hidden = !list.children.length;
  };
  input.addEventListener("focus", load);
  input.addEventListener("input", () => { load(); show(); });
  input.addEventListener("keydown", event => {
    const links = [...list.querySelectorAll("a")];
    const at = links.findIndex(link => link.classList.contains("chosen"));
    if (event.key === "Escape") list.hidden = true;
    if (event.key === "Enter" && links.length) links[Math.max(at, 0)].click();
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    if (at >= 0) links[at].classList.remove("chosen");
    const next = links[(at + (event.key === "ArrowDown" ? 1 : links.length - (at < 0 ? 0 : 1))) % links.length];
    if (next) next.classList.add("chosen");
    if (next) next.scrollIntoView({block: "nearest"});
  });
  document.addEventListener("click", event => { if (!input.form.contains(event.target)) list.hidden = true; });
}

document.addEventListener("DOMContentLoaded", () => {
  listContents();
  renderEquations();
  addSearch();
});

"use strict";
// The list of spectra in the order that next and previous follow. Only the rows in sight exist as elements.

const RankedList = ({ onPick }) => {
  const box = document.getElementById("list");
  const height = 30;
  const inner = document.createElement("div");
  inner.setAttribute("role", "presentation");
  box.append(inner);
  let rows = [], current = -1, describe = () => [];
  let place = new Map(); // of each row in the list

  const draw = Axes.soon(() => {
    inner.style.height = rows.length * height + "px";
    const first = Math.max(Math.floor(box.scrollTop / height) - 4, 0);
    const last = Math.min(Math.ceil((box.scrollTop + box.clientHeight) / height) + 4, rows.length);
    const items = [];
    for (let i = first; i < last; i++) {
      const item = document.createElement("div");
      item.className = "item";
      item.id = "item-" + i;
      item.style.top = i * height + "px";
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", rows[i] === current);
      item.setAttribute("aria-setsize", rows.length);
      item.setAttribute("aria-posinset", i + 1);
      item.dataset.row = rows[i];
      for (const part of [String(i + 1), ...describe(rows[i])]) {
        const span = document.createElement("span");
        span.textContent = part;
        item.append(span);
      }
      items.push(item);
    }
    inner.replaceChildren(...items);
    const at = place.get(current);
    if (at >= first && at < last) box.setAttribute("aria-activedescendant", "item-" + at);
    else box.removeAttribute("aria-activedescendant");
  });

  box.addEventListener("scroll", draw);
  box.addEventListener("click", (e) => {
    const item = e.target.closest(".item");
    if (item) onPick(Number(item.dataset.row));
  });
  box.addEventListener("keydown", (e) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[e.key];
    if (!step || e.ctrlKey || e.metaKey || e.altKey || !rows.length) return;
    e.preventDefault();
    e.stopPropagation();
    onPick(rows[Axes.clamp((place.get(current) ?? -1) + step, 0, rows.length - 1)]);
  });
  new ResizeObserver(draw).observe(box);

  return {
    set(order, description) {
      rows = order;
      describe = description;
      place = new Map();
      rows.forEach((row, i) => place.set(row, i));
      this.mark(current);
    },
    mark(row) {
      current = row;
      const at = place.get(row);
      if (at !== undefined) {
        if (at * height < box.scrollTop) box.scrollTop = at * height;
        else if ((at + 1) * height > box.scrollTop + box.clientHeight) box.scrollTop = (at + 1) * height - box.clientHeight;
      }
      draw();
    },
    // The row some steps away from the current one; the first where that is not in the list
    step(by) {
      const at = place.get(current);
      return rows[at === undefined ? 0 : Axes.clamp(at + by, 0, rows.length - 1)];
    },
    place: () => place.get(current),
    get length() { return rows.length; },
    draw,
  };
};

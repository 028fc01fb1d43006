"use strict";
// What is chosen, looked at and flagged, and the controls that change it.

(async () => {
  const $ = (id) => document.getElementById(id);
  const { about, columns } = Data;
  const say = (text) => { $("say").textContent = text; };
  try {
    await Data.open();
  } catch (error) {
    $("spectrum-title").textContent = "This page cannot be read: " + error.message;
    return;
  }
  const element = (name, text, className) => {
    const e = document.createElement(name);
    e.textContent = text;
    if (className) e.className = className;
    return e;
  };
  const column = (name) => columns.get(name);
  const ids = column("id").values;
  const numbers = [...columns.values()].filter((c) => c.kind === "number");
  const coloured = [...columns.values()].filter((c) => c.kind !== "text");
  const isLatent = (name) => /^s\d+$/.test(name) && about.latents.includes(name);

  let current = -1;
  let brushed = null; // of each row, whether it is in the brush; null for all
  let classes = new Set(); // codes of the colour column's classes; none: all
  let chosen = null; // brush, classes and range together; null for all
  let descending = about.rank.descending;
  let byRank = false; // colours of numbers

  // ---- flags, kept in this browser ----

  const key = "spender-flags-" + about.key;
  const flags = new Map(); // id: note
  try {
    const known = new Set(ids);
    for (const [id, note] of JSON.parse(localStorage.getItem(key) || "[]")) if (known.has(id)) flags.set(id, note);
  } catch { /* a page without storage forgets its flags */ }
  const keepFlags = () => {
    try { localStorage.setItem(key, JSON.stringify([...flags])); } catch { /* as above */ }
  };
  const rowOf = new Map();
  ids.forEach((id, row) => rowOf.set(id, row));
  const flaggedRows = () => [...flags.keys()].map((id) => rowOf.get(id));

  // ---- choices ----

  const option = (c) => {
    const o = document.createElement("option");
    o.value = c.name;
    o.textContent = c.label;
    return o;
  };
  const fill = (select, offered, value) => {
    const group = (label, members) => {
      if (!members.length) return;
      const g = document.createElement("optgroup");
      g.label = label;
      g.append(...members.map(option));
      select.append(g);
    };
    const ours = new Set(["chi2", "loss", about.rank.column, "z", "sn", "masked", "norm"]);
    const isError = (c) => isLatent(c.name.replace(/_err$/, "")) && c.name.endsWith("_err");
    group("map", offered.filter((c) => c.name === "u1" || c.name === "u2"));
    group("latents", offered.filter((c) => isLatent(c.name)));
    group("quality", offered.filter((c) => ours.has(c.name)));
    group("catalogue", offered.filter((c) => !/^u[12]$/.test(c.name) && !isLatent(c.name) && !ours.has(c.name) && !isError(c)));
    group("errors", offered.filter(isError));
    if (value) select.value = value;
  };
  const first = column("u1") ? ["u1", "u2"] : about.latents.length > 1 ? about.latents.slice(0, 2) : [about.latents[0], "z"];
  fill($("axis-x"), numbers, first[0]);
  fill($("axis-y"), numbers, first[1]);
  fill($("colour"), coloured, about.colour);
  fill($("rank"), numbers, about.rank.column);
  fill($("range-column"), numbers, column("z") ? "z" : about.rank.column);

  // ---- parts of the page ----

  const map = ScatterMap({
    onPick: (row) => show(row),
    onBrush: (rows) => { brushed = rows; choose(); },
    describe: (row) => [ids[row], `z = ${Data.text(column("z"), row)}`, `${column($("colour").value).label}: ${Data.text(column($("colour").value), row) || "not known"}`],
  });
  const list = RankedList({ onPick: (row) => show(row) });
  const plot = SpectrumPlot();

  // ---- the map's colours ----

  // on a dark ground without its darkest part
  const viridis = () => Axes.dark() ? allViridis.slice(2) : allViridis;
  const allViridis = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#ece51b"];
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const classColours = () => [1, 2, 3, 4, 5, 6, 7].map((i) => Axes.colour("class-" + i));

  // Classes by number of members; those beyond the colours are one, "others"
  const classOrder = (c) => {
    const counts = new Array(c.levels.length + 1).fill(0);
    for (const code of c.values) counts[code]++;
    const order = c.levels.map((_, i) => i + 1).filter((code) => counts[code]).sort((a, b) => counts[b] - counts[a]);
    return { counts, order };
  };

  // Places from 0 to 1 on the colour scale. All but the last per cent at either end, so that one odd value does not take the colour from the
  // rest; or by rank.
  const linearScale = (values) => {
    let [low, high] = Data.quantiles(values, [0.01, 0.99]);
    if (!(high > low)) high = low + 1;
    return { low, high, place: (i) => Axes.clamp((values[i] - low) / (high - low), 0, 1) };
  };
  const rankScale = (values) => {
    const order = Uint32Array.from(values.keys()).filter((i) => Number.isFinite(values[i])).sort((a, b) => values[a] - values[b]);
    const places = new Float32Array(values.length);
    order.forEach((i, rank) => { places[i] = rank / Math.max(order.length - 1, 1); });
    return { low: values[order[0]] ?? NaN, high: values[order[order.length - 1]] ?? NaN, place: (i) => places[i] };
  };

  const paint = () => {
    const c = column($("colour").value);
    const colours = new Uint8Array(4 * about.n);
    const legend = $("legend");
    legend.replaceChildren();
    if (c.kind === "number") {
      const stops = viridis().map(rgb);
      const { low, high, place } = byRank ? rankScale(c.values) : linearScale(c.values);
      for (let i = 0; i < about.n; i++) {
        if (!Number.isFinite(c.values[i])) continue;
        const at = place(i) * (stops.length - 1);
        const [a, b] = [stops[Math.floor(at)], stops[Math.ceil(at)]];
        for (let k = 0; k < 3; k++) colours[4 * i + k] = a[k] + (b[k] - a[k]) * (at % 1);
        colours[4 * i + 3] = 1;
      }
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.style.background = `linear-gradient(to right, ${viridis().join(", ")})`;
      const ends = [Data.number(Number(low.toPrecision(3))), c.label, Data.number(Number(high.toPrecision(3)))].map((text) => element("span", text));
      const even = element("button", "by rank");
      even.type = "button";
      even.title = "Give each colour to as many spectra";
      even.setAttribute("aria-pressed", byRank);
      even.addEventListener("click", () => {
        byRank = !byRank;
        paint();
        legend.querySelector("button").focus();
      });
      legend.append(ends[0], bar, ends[2], ends[1], even);
    } else {
      const palette = classColours();
      const { counts, order } = classOrder(c);
      const shared = order.length > palette.length ? palette.length - 1 : order.length;
      const group = new Map(order.map((code, i) => [code, Math.min(i, shared)]));
      const stops = palette.map(rgb);
      for (let i = 0; i < about.n; i++) {
        const code = c.values[i];
        if (!code) continue;
        colours.set(stops[group.get(code)], 4 * i);
        colours[4 * i + 3] = 1;
      }
      const entry = (text, codes, colour) => {
        const button = document.createElement("button");
        button.type = "button";
        const dot = document.createElement("i");
        dot.style.background = colour;
        button.append(dot, text);
        button.setAttribute("aria-pressed", codes.every((code) => classes.has(code)));
        button.title = "Choose this class";
        button.addEventListener("click", () => {
          const all = codes.every((code) => classes.has(code));
          for (const code of codes) all ? classes.delete(code) : classes.add(code);
          choose();
          paint();
          legend.children[[...legend.children].findIndex((b) => b.textContent === button.textContent)]?.focus();
        });
        legend.append(button);
      };
      order.slice(0, shared).forEach((code, i) => entry(`${c.levels[code - 1]} ${counts[code]}`, [code], palette[i]));
      const others = order.slice(shared);
      if (others.length) entry(`others ${others.reduce((sum, code) => sum + counts[code], 0)}`, others, palette[shared]);
      if (counts[0]) entry(`not known ${counts[0]}`, [0], Axes.colour("unknown"));
    }
    map.paint(colours);
  };

  // ---- choosing and ranking ----

  const range = () => {
    const limit = (id) => {
      const text = $(id).value.trim().replace("\u2212", "-");
      const value = text === "" ? NaN : Number(text);
      $(id).setAttribute("aria-invalid", text !== "" && !Number.isFinite(value));
      return value;
    };
    const [from, to] = [limit("range-from"), limit("range-to")];
    return Number.isFinite(from) || Number.isFinite(to) ? { from, to, values: column($("range-column").value).values } : null;
  };

  const choose = () => {
    const within = range();
    const class_ = classes.size ? column($("colour").value).values : null;
    let count = about.n;
    chosen = null;
    if (brushed || within || class_) {
      chosen = new Uint8Array(about.n);
      count = 0;
      for (let i = 0; i < about.n; i++) {
        if (brushed && !brushed[i] || class_ && !classes.has(class_[i])) continue;
        if (within && !(!(within.values[i] < within.from) && !(within.values[i] > within.to) && Number.isFinite(within.values[i]))) continue;
        chosen[i] = 1;
        count++;
      }
    }
    $("chosen").textContent = chosen ? `${count.toLocaleString("en")} of ${about.n.toLocaleString("en")} chosen` : `${about.n.toLocaleString("en")} spectra`;
    $("all").hidden = !chosen;
    map.choose(chosen);
    rank();
  };

  const rank = () => {
    const c = column($("rank").value);
    const only = $("only-flags").checked;
    const rows = [];
    for (let i = 0; i < about.n; i++) if ((!chosen || chosen[i]) && (!only || flags.has(ids[i]))) rows.push(i);
    const sign = descending ? -1 : 1;
    const sortable = (v) => Number.isFinite(v) ? sign * v : Infinity; // what is not known comes last
    const keys = Float64Array.from(c.values, sortable);
    rows.sort((a, b) => keys[a] - keys[b] || a - b);
    $("list-title").textContent = c.name === about.rank.column && descending === about.rank.descending ? "Most unusual" : "Spectra";
    $("direction").textContent = descending ? "\u2193" : "\u2191";
    list.set(rows, (row) => [(flags.has(ids[row]) ? "\u2691 " : "") + ids[row], Data.text(c, row)]);
    showPlace();
  };

  const showPlace = () => {
    const at = list.place();
    $("place").textContent = `${at === undefined ? "\u2013" : (at + 1).toLocaleString("en")} / ${list.length.toLocaleString("en")}`;
  };

  // ---- one spectrum ----

  const show = async (row, follow = true) => {
    if (row === undefined || row < 0) return;
    current = row;
    $("spectrum-title").textContent = ids[row];
    document.title = `${ids[row]} \u2013 ${about.title}`;
    if (follow) setAddress(ids[row]);
    list.mark(row);
    showPlace();
    showFlags();
    showFacts(row);
    const z = column("z").values[row];
    const wait = setTimeout(() => { $("wait").hidden = false; $("wait").textContent = "Reading \u2026"; }, 200);
    try {
      const data = await Data.spectrum(row);
      if (row !== current) return; // another was asked for meanwhile
      $("wait").hidden = !!data;
      $("wait").textContent = data ? "" : "This page has no spectra.";
      plot.show(data && { id: ids[row], z, data, normalised: !column("norm") || Number.isFinite(column("norm").values[row]) });
    } catch (error) {
      if (row !== current) return;
      plot.show(null);
      $("wait").hidden = false;
      $("wait").textContent = error.message;
    } finally {
      clearTimeout(wait);
    }
    const chi2 = Data.text(column("chi2"), row);
    say(`${ids[row]}, redshift ${Data.text(column("z"), row)}${chi2 ? ", reduced chi squared " + chi2 : ""}`);
    document.documentElement.dataset.shown = ids[row];
  };

  const showFacts = (row) => {
    const facts = [];
    const first = ["z", "sn", "chi2", "loss"];
    if (!first.includes(about.rank.column)) first.push(about.rank.column);
    for (const name of first) {
      const c = column(name);
      if (!c) continue;
      const fact = document.createElement("span");
      fact.append(element("small", { z: "z", sn: "S/N" }[name] || c.label), element("b", Data.text(c, row) || "\u2013"));
      facts.push(fact);
    }
    for (const c of columns.values()) if (c.kind === "category" && c.values[row]) facts.push(element("span", Data.text(c, row), "class"));
    $("facts").replaceChildren(...facts);
    showLatents(row);
    const shown = new Set(["id", ...first, "u1", "u2", ...about.latents, ...about.latents.map((s) => s + "_err")]);
    $("catalogue").replaceChildren(...[...columns.values()].filter((c) => !shown.has(c.name))
      .map((c) => {
        const pair = document.createElement("div");
        pair.append(element("dt", c.label), element("dd", Data.text(c, row) || "\u2013"));
        return pair;
      }));
    showSimilar(row);
  };

  // Where each latent is among those of all spectra: 1 to 99 % and 16 to 84 %, the value and its error
  const spread = new Map(about.latents.map((s) => [s, Data.quantiles(column(s).values, [0.01, 0.16, 0.5, 0.84, 0.99])]));
  const showLatents = (row) => {
    $("latents").replaceChildren(...about.latents.map((s) => {
      const [q1, q16, , q84, q99] = spread.get(s);
      const [value, error] = [column(s).values[row], column(s + "_err").values[row]];
      const room = 0.08 * (q99 - q1) || 1;
      const at = (v) => Axes.clamp((v - q1 + room) / (q99 - q1 + 2 * room), 0, 1) * 100;
      const line = element("div", "", "latent");
      const strip = element("span", "", "strip");
      const mark = (className, from, to) => {
        const e = element("i", "", className);
        e.style.left = at(from) + "%";
        e.style.width = at(to) - at(from) + "%";
        strip.append(e);
      };
      mark("wide", q1, q99);
      mark("middle", q16, q84);
      if (Number.isFinite(value)) {
        if (Number.isFinite(error)) mark("error", value - error, value + error);
        mark("value", value, value);
      }
      const text = !Number.isFinite(value) ? "\u2013" : value.toFixed(3).replace("-", "\u2212") + (Number.isFinite(error) ? ` \u00b1 ${error.toPrecision(2)}` : "");
      line.append(element("span", column(s).label), strip, element("span", text, "number"));
      return line;
    }));
  };

  // The nearest in the latents, each scaled by its spread
  const showSimilar = (row) => {
    const scaled = about.latents.map((s) => {
      const [, low, , high] = spread.get(s);
      return { values: column(s).values, scale: 1 / (high - low || 1) };
    });
    const best = [];
    if (Number.isFinite(scaled[0].values[row])) {
      for (let i = 0; i < about.n; i++) {
        if (i === row) continue;
        let d = 0;
        for (const { values, scale } of scaled) d += ((values[i] - values[row]) * scale) ** 2;
        if (!(d >= 0) || best.length === 6 && d >= best[5].d) continue;
        best.push({ i, d });
        best.sort((a, b) => a.d - b.d);
        if (best.length > 6) best.pop();
      }
    }
    $("similar").replaceChildren(...best.map(({ i }) => {
      const button = element("button", ids[i]);
      button.type = "button";
      button.addEventListener("click", () => show(i));
      return button;
    }));
  };

  // ---- flags ----

  const showFlags = () => {
    const id = ids[current];
    const on = flags.has(id);
    $("flag").setAttribute("aria-pressed", on);
    $("flag").lastElementChild.textContent = on ? "Flagged" : "Flag";
    $("note-row").hidden = !on;
    $("note").value = flags.get(id) || "";
    $("flag-count").textContent = flags.size;
    $("export").disabled = !flags.size;
    map.mark(current, flaggedRows());
  };

  const toggleFlag = () => {
    if (current < 0) return;
    const id = ids[current];
    if (flags.has(id)) flags.delete(id);
    else flags.set(id, "");
    keepFlags();
    showFlags();
    say(flags.has(id) ? `${id} flagged` : `${id} no longer flagged`);
    if ($("only-flags").checked) rank();
    else list.draw();
  };

  const quoted = (v) => /[",\n\r]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v;
  const exact = (c, row) => c.kind === "number" ? (Number.isFinite(c.values[row]) ? String(c.type === "f4" ? Number(c.values[row].toPrecision(8)) : c.values[row]) : "") : Data.text(c, row);
  const csv = () => {
    const others = [...columns.values()].filter((c) => c.name !== "id");
    const lines = [["id", "note", ...others.map((c) => c.name)], ...flaggedRows().map((row) =>
      [ids[row], flags.get(ids[row]), ...others.map((c) => exact(c, row))])];
    return lines.map((line) => line.map(quoted).join(",") + "\n").join("");
  };
  const exportFlags = () => { if (flags.size) save(new Blob([csv()], { type: "text/csv" }), "flags.csv"); };

  // ---- search ----

  const find = (text) => {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return [];
    const begins = [], contains = [];
    for (let i = 0; i < about.n && begins.length < 8; i++) {
      const at = ids[i].toLowerCase().indexOf(wanted);
      if (at === 0) begins.push(i);
      else if (at > 0 && contains.length < 8) contains.push(i);
    }
    const all = begins.concat(contains);
    const exactly = all.findIndex((i) => ids[i].toLowerCase() === wanted);
    if (exactly > 0) all.unshift(...all.splice(exactly, 1));
    return all.slice(0, 8);
  };

  let found = [], marked = 0;
  const showFound = () => {
    const text = $("search").value;
    found = find(text);
    if (rowOf.has(text.trim())) found = [rowOf.get(text.trim()), ...found.filter((i) => i !== rowOf.get(text.trim()))].slice(0, 8);
    marked = Axes.clamp(marked, 0, Math.max(found.length - 1, 0));
    $("found").replaceChildren(...(found.length || !text.trim() ? found.map((row, i) => {
      const item = element("li", ids[row]);
      item.id = "found-" + i;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", i === marked);
      item.addEventListener("pointerdown", (e) => { e.preventDefault(); take(i); });
      return item;
    }) : [element("li", "No such id", "none")]));
    $("found").hidden = !text.trim();
    $("search").setAttribute("aria-expanded", !$("found").hidden);
    if (found.length) $("search").setAttribute("aria-activedescendant", "found-" + marked);
    else $("search").removeAttribute("aria-activedescendant");
  };
  const take = (i) => {
    if (found[i] === undefined) return;
    show(found[i]);
    $("search").value = "";
    showFound();
    $("search").blur();
  };
  $("search").addEventListener("input", () => { marked = 0; showFound(); });
  $("search").addEventListener("blur", () => { $("found").hidden = true; $("search").setAttribute("aria-expanded", false); });
  $("search").addEventListener("keydown", (e) => {
    if (e.key === "Enter") take(marked);
    else if (e.key === "ArrowDown") marked++;
    else if (e.key === "ArrowUp") marked--;
    else if (e.key === "Escape") { $("search").value = ""; $("search").blur(); }
    else return;
    e.preventDefault();
    showFound();
  });

  // ---- address ----

  const setAddress = (id) => {
    try { history.replaceState(null, "", "#" + encodeURIComponent(id)); } catch { /* a frame without an address */ }
  };
  const linked = () => {
    const id = (() => { try { return decodeURIComponent(location.hash.slice(1)); } catch { return location.hash.slice(1); } })();
    if (!id) return null;
    if (rowOf.has(id)) return show(rowOf.get(id), false);
    say(`No spectrum has the id ${id}`);
    return null;
  };
  addEventListener("hashchange", linked);

  // ---- controls ----

  const axes = () => {
    brushed = null;
    map.axes(column($("axis-x").value), column($("axis-y").value));
    if (chosen) choose();
  };
  const setMode = (mode) => {
    for (const b of document.querySelectorAll("[data-mode]")) b.setAttribute("aria-pressed", b.dataset.mode === mode);
    map.drag(mode);
  };
  const openRange = (open) => {
    $("range").hidden = !open;
    $("ranges").setAttribute("aria-expanded", open);
    if (open) $("range-from").focus();
    else if (range()) {
      $("range-from").value = $("range-to").value = "";
      choose();
    }
  };
  const chooseAll = () => {
    brushed = null;
    classes = new Set();
    $("range-from").value = $("range-to").value = "";
    choose();
    paint();
  };
  $("axis-x").addEventListener("change", axes);
  $("axis-y").addEventListener("change", axes);
  $("colour").addEventListener("change", () => {
    classes = new Set();
    if (chosen) choose();
    paint();
  });
  $("rank").addEventListener("change", () => {
    descending = $("rank").value === about.rank.column ? about.rank.descending : true;
    rank();
  });
  $("direction").addEventListener("click", () => { descending = !descending; rank(); });
  $("only-flags").addEventListener("change", rank);
  for (const id of ["range-from", "range-to"]) $(id).addEventListener("input", choose);
  $("range-column").addEventListener("change", () => { if (range()) choose(); });
  for (const b of document.querySelectorAll("[data-mode]")) b.addEventListener("click", () => setMode(b.dataset.mode));
  $("ranges").addEventListener("click", () => openRange($("range").hidden));
  $("whole").addEventListener("click", () => map.all());
  $("all").addEventListener("click", chooseAll);
  $("previous").addEventListener("click", () => show(list.step(-1)));
  $("next").addEventListener("click", () => show(list.step(1)));
  $("flag").addEventListener("click", toggleFlag);
  $("note").addEventListener("input", () => { flags.set(ids[current], $("note").value); keepFlags(); });
  $("export").addEventListener("click", exportFlags);
  $("picture").addEventListener("click", () => plot.picture(ids[current].replace(/[^\w.-]+/g, "_") + ".png"));
  $("help").addEventListener("click", () => $("keys").showModal());
  document.querySelector(".skip").addEventListener("click", (e) => { e.preventDefault(); $("spectrum-title").focus(); });

  const redraw = () => {
    paint();
    map.draw();
    plot.draw();
  };
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = Axes.dark() ? "light" : "dark";
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const keys = {
    j: () => show(list.step(1)), k: () => show(list.step(-1)), f: toggleFlag, e: exportFlags,
    n: () => { if (!$("note-row").hidden) $("note").focus(); },
    "/": () => $("search").focus(), "?": () => $("keys").showModal(),
    r: () => openRange(true),
    m: () => setMode("move"), b: () => setMode("box"), l: () => setMode("lasso"), Escape: () => { if (chosen) chooseAll(); },
    ArrowRight: () => show(list.step(1)), ArrowLeft: () => show(list.step(-1)),
  };
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || $("keys").open) return;
    const writing = /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && e.target.type !== "checkbox";
    if (writing) {
      if (e.key === "Escape") e.target.blur();
      return;
    }
    if (!keys[e.key]) return;
    e.preventDefault();
    keys[e.key]();
  });

  // ---- begin ----

  axes();
  setMode("move");
  paint();
  choose();
  requestAnimationFrame(() => { document.documentElement.dataset.map = Math.round(performance.now()); });
  await (linked() || show(list.step(0), false));
  document.documentElement.dataset.ready = Math.round(performance.now()); // ms since the page was asked for, as above
})();

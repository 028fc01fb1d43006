"use strict";
// The plot of one spectrum: flux and model, residuals, closer looks at lines; restframe wavelengths on upper axes.

const SpectrumPlot = () => {
  const box = document.getElementById("spectrum");
  const canvas = document.getElementById("plot");
  const cross = document.getElementById("cross");
  const wave = Data.wave;
  const m = wave.length;
  const lines = Data.about.lines; // the most informative first
  let shown = null; // { id, z, data, flat }
  let zoomed = null; // restframe limits, or null
  let panels = []; // where things were drawn: { left, top, width, height, x: limits, y: limits }

  // Closer looks, the first that are covered: title and restframe limits in angstrom
  const windows = [["[O II]", 3698, 3758], ["H\u03b2, [O III]", 4828, 5042], ["H\u03b1, [N II]", 6517, 6617], ["Ca II H, K", 3900, 4010],
    ["Mg b", 5140, 5220], ["Mg II", 2760, 2840], ["[S II]", 6690, 6760], ["Ca II", 8480, 8690]];

  // First pixel at or above a wavelength
  const pixel = (value) => {
    let low = 0, high = m;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (wave[middle] < value) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  const quantile = (values, f) => values.length ? values[Math.round(f * (values.length - 1))] : NaN;

  // Limits of the flux: the continuum decides, and strong lines may leave the panel, unless it shows a small part of the spectrum. The
  // names at the top get their room.
  const fluxLimits = (data, from, to, whole, height) => {
    const flux = [], model = [];
    for (let p = from; p < to; p++) {
      if (Number.isFinite(data.sigma[p])) flux.push(data.flux[p]);
      if (Number.isFinite(data.model[p])) model.push(data.model[p]);
    }
    flux.sort((a, b) => a - b);
    model.sort((a, b) => a - b);
    if (!flux.length && !model.length) return [0, 1];
    const fluxes = flux.length ? flux : model, models = model.length ? model : flux;
    const [edge, top] = whole ? [0.002, models[models.length - 1] * 1.03] : [0, models[models.length - 1]];
    let low = Math.min(quantile(fluxes, edge), models[0]);
    let high = Math.max(quantile(fluxes, 1 - edge), top);
    if (whole) {
      low = Math.min(low, 0);
      high = Math.max(Math.min(high, 3.5 * Math.max(quantile(models, 0.5), quantile(models, 0.9))), quantile(fluxes, 0.98));
    }
    const span = Math.max(high - low, whole ? 1e-6 : 0.2);
    low -= whole ? 0 : 0.05 * span;
    return [low, low + (high - low) * height / (height - 22)];
  };

  // ---- one panel ----

  const scales = (panel) => ({
    px: (w) => panel.left + (w - panel.x[0]) / (panel.x[1] - panel.x[0]) * panel.width,
    py: (v) => panel.top + (panel.y[1] - v) / (panel.y[1] - panel.y[0]) * panel.height,
  });

  const frame = (ctx, panel, { below, above, left, title, axis }) => {
    const { px, py } = scales(panel);
    const { left: l, top: t, width: w, height: h } = panel;
    const scale = 1 + shown.z;
    ctx.strokeStyle = Axes.colour("edge");
    ctx.lineWidth = 1;
    ctx.strokeRect(l - 0.5, t - 0.5, w + 1, h + 1);
    ctx.font = Axes.font(11);
    ctx.fillStyle = Axes.colour("quiet");
    ctx.textAlign = "center";
    const wanted = w / 95;
    const tickText = (text, at, y) => { // within the plot
      const half = ctx.measureText(text).width / 2;
      ctx.fillText(text, Math.min(at, box.clientWidth - half), y);
    };
    if (below) {
      ctx.textBaseline = "top";
      for (const tick of Axes.ticks(panel.x, wanted)) {
        ctx.fillRect(px(tick) - 0.5, t + h, 1, 4);
        tickText(Axes.label(tick), px(tick), t + h + 6);
      }
    }
    if (above) {
      ctx.textBaseline = "alphabetic";
      for (const tick of Axes.ticks([panel.x[0] / scale, panel.x[1] / scale], wanted)) {
        ctx.fillRect(px(tick * scale) - 0.5, t - 4, 1, 4);
        tickText(Axes.label(tick), px(tick * scale), t - 7);
      }
    }
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    for (const tick of axis || Axes.ticks(panel.y, h / 45)) {
      if (tick < panel.y[0] || tick > panel.y[1]) continue;
      ctx.fillRect(l - 4, py(tick) - 0.5, 4, 1);
      ctx.fillText(Axes.label(tick), l - 7, py(tick));
    }
    ctx.fillStyle = Axes.colour("ink");
    ctx.textAlign = "center";
    ctx.textBaseline = "alphabetic";
    if (below && typeof below === "string") ctx.fillText(below, l + w / 2, t + h + 33);
    if (above && typeof above === "string") ctx.fillText(above, l + w / 2, t - 22);
    if (left) {
      ctx.save();
      ctx.translate(l - 36, t + h / 2);
      ctx.rotate(-Math.PI / 2);
      ctx.fillText(left, 0, 0);
      ctx.restore();
    }
    if (title) {
      ctx.font = Axes.font(11, 600);
      ctx.fillText(title, l + w / 2, t - 23);
    }
  };

  const clip = (ctx, panel, draw) => {
    ctx.save();
    ctx.beginPath();
    ctx.rect(panel.left, panel.top, panel.width, panel.height);
    ctx.clip();
    draw();
    ctx.restore();
  };

  const edges = (p) => [p ? (wave[p - 1] + wave[p]) / 2 : wave[0] - (wave[1] - wave[0]) / 2,
    p < m - 1 ? (wave[p] + wave[p + 1]) / 2 : wave[m - 1] + (wave[m - 1] - wave[m - 2]) / 2];

  // Pixels without weight, as strips
  const masks = (ctx, panel, from, to) => {
    const { px } = scales(panel);
    ctx.fillStyle = Axes.colour("mask");
    for (let p = from; p < to; p++) {
      if (Number.isFinite(shown.data.sigma[p])) continue;
      let end = p;
      while (end + 1 < to && !Number.isFinite(shown.data.sigma[end + 1])) end++;
      const [a, b] = [px(edges(p)[0]), px(edges(end)[1])];
      ctx.fillRect(a, panel.top, Math.max(b - a, 0.7), panel.height);
      p = end;
    }
  };

  // A line through values; gaps where there is none. Steps where pixels are wide, the range within each column where they are narrow.
  const trace = (ctx, panel, values, from, to, colour, width, known = (p) => Number.isFinite(values[p])) => {
    const { px, py } = scales(panel);
    ctx.strokeStyle = colour;
    ctx.lineWidth = width;
    ctx.lineJoin = "round";
    ctx.beginPath();
    const steps = panel.width / (to - from) > 3;
    let pen = false;
    for (let p = from; p < to; p++) {
      if (!known(p)) {
        pen = false;
        continue;
      }
      const v = py(values[p]);
      if (steps) {
        const [a, b] = edges(p);
        if (pen) ctx.lineTo(px(a), v);
        else ctx.moveTo(px(a), v);
        ctx.lineTo(px(b), v);
      } else if (pen) ctx.lineTo(px(wave[p]), v);
      else ctx.moveTo(px(wave[p]), v);
      pen = true;
    }
    ctx.stroke();
  };

  // Names of lines at the top. Where they would overlap, the more informative one is named; a doublet too narrow for two has one name.
  const lineNames = (ctx, panel, all) => {
    const { px } = scales(panel);
    ctx.font = Axes.font(11);
    const placed = [];
    for (const line of lines) {
      if (!(all ? line.emission : line.strong)) continue;
      const at = px(line.wave * (1 + shown.z));
      if (at < panel.left || at > panel.left + panel.width) continue;
      const half = ctx.measureText(line.label).width / 2 + 3;
      const middle = Axes.clamp(at, panel.left + half, panel.left + panel.width - half);
      const near = placed.filter((o) => Math.abs(o.middle - middle) < o.half + half);
      if (!near.length) placed.push({ label: line.label, marks: [at], middle, half });
      else if (near.length === 1 && near[0].label === line.label) {
        near[0].marks.push(at);
        if (Math.abs(near[0].middle - middle) < 10) near[0].middle = (near[0].middle + middle) / 2;
      }
    }
    ctx.strokeStyle = Axes.colour("line");
    ctx.lineWidth = 1;
    ctx.setLineDash([2, 3]);
    for (const { marks } of placed) {
      for (const at of marks) {
        ctx.beginPath();
        ctx.moveTo(at, panel.top + 19);
        ctx.lineTo(at, panel.top + panel.height);
        ctx.stroke();
      }
    }
    ctx.setLineDash([]);
    ctx.fillStyle = Axes.colour("card"); // keeps names readable where lines leave the panel
    ctx.fillRect(panel.left, panel.top, panel.width, 18);
    ctx.fillStyle = Axes.colour("quiet");
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    for (const { label, middle } of placed) ctx.fillText(label, middle, panel.top + 10);
  };

  const fluxPanel = (ctx, panel, closer) => {
    const [from, to] = [Math.max(pixel(panel.x[0]) - 1, 0), Math.min(pixel(panel.x[1]) + 1, m)];
    const { data } = shown;
    panel.y = fluxLimits(data, from, to, !closer && !zoomed, panel.height);
    clip(ctx, panel, () => {
      masks(ctx, panel, from, to);
      const { py } = scales(panel);
      if (panel.y[0] < 0) {
        ctx.fillStyle = Axes.colour("edge");
        ctx.fillRect(panel.left, py(0) - 0.5, panel.width, 1);
      }
      const fine = panel.width / (to - from) > 1.2;
      trace(ctx, panel, data.flux, from, to, Axes.colour("data"), fine ? 1.3 : 0.8, (p) => Number.isFinite(data.sigma[p]));
      trace(ctx, panel, data.model, from, to, Axes.colour("model"), closer || fine ? 1.7 : 1.1);
      lineNames(ctx, panel, closer || panel.x[1] - panel.x[0] < 700);
    });
  };

  const residualPanel = (ctx, panel) => {
    const [from, to] = [Math.max(pixel(panel.x[0]) - 1, 0), Math.min(pixel(panel.x[1]) + 1, m)];
    panel.y = [-5.5, 5.5];
    const { px, py } = scales(panel);
    clip(ctx, panel, () => {
      masks(ctx, panel, from, to);
      ctx.fillStyle = Axes.colour("band");
      ctx.fillRect(panel.left, py(1), panel.width, py(-1) - py(1));
      ctx.fillStyle = Axes.colour("data");
      const dot = panel.width / (to - from) > 1.2 ? 2.4 : 1.5;
      for (let p = from; p < to; p++) {
        const r = shown.data.residual[p];
        if (!Number.isFinite(r)) continue;
        const beyond = Math.abs(r) > 5.2; // at the edge, and larger
        const size = beyond ? dot + 1.6 : dot;
        ctx.fillRect(px(wave[p]) - size / 2, py(Axes.clamp(r, -5.2, 5.2)) - size / 2, size, size);
      }
      ctx.fillStyle = Axes.colour("model");
      ctx.fillRect(panel.left, py(0) - 0.6, panel.width, 1.2);
    });
  };

  // ---- all of it ----

  const covered = ([, low, high]) => {
    const scale = 1 + shown.z;
    let count = 0;
    for (let p = pixel(low * scale); p < pixel(high * scale); p++) count += Number.isFinite(shown.data.sigma[p]);
    return count >= 3;
  };

  const paint = (target, width, height) => {
    const ctx = Axes.fit(target, width, height);
    panels = [];
    if (!shown?.data) return;
    const scale = 1 + shown.z;
    const narrow = width < 560;
    const looks = windows.filter(covered).slice(0, 3).sort((a, b) => a[1] - b[1]);
    const left = 50, right = 10, gap = narrow ? 22 : 40;
    const rows = looks.length ? (narrow ? looks.length : 1) : 0;
    const lookHeight = rows ? (narrow ? 130 : Axes.clamp(0.22 * height, 90, 190)) : 0;
    const footer = rows * (lookHeight + 66);
    const top = 38;
    const residualHeight = Axes.clamp(0.12 * height, 50, 90);
    const mainHeight = Math.max(height - top - residualHeight - 46 - footer, 90);
    const x = zoomed ? zoomed.map((w) => w * scale) : [wave[0], wave[m - 1]];

    const main = { name: "main", left, top, width: width - left - right, height: mainHeight, x };
    fluxPanel(ctx, main, false);
    frame(ctx, main, { above: "restframe wavelength [\u00c5]", left: shown.normalised ? "normalised flux" : "flux (no norm)" });
    const residual = { name: "residual", left, top: top + mainHeight + 6, width: main.width, height: residualHeight, x };
    residualPanel(ctx, residual);
    frame(ctx, residual, { below: "observed wavelength [\u00c5]", left: "residual / \u03c3", axis: [-4, 0, 4] });
    panels.push(main, residual);

    let at = residual.top + residualHeight + 78;
    looks.forEach((look, i) => {
      const wide = narrow ? main.width : (main.width - (looks.length - 1) * gap) / looks.length;
      const panel = { name: look[0], left: narrow ? left : left + i * (wide + gap), top: at, width: wide, height: lookHeight,
        x: [look[1] * scale, look[2] * scale] };
      fluxPanel(ctx, panel, true);
      frame(ctx, panel, { below: true, above: true, title: look[0] });
      panels.push(panel);
      if (narrow) at += lookHeight + 66;
    });
  };

  const draw = Axes.soon(() => {
    if (box.clientWidth > 40) paint(canvas, box.clientWidth, box.clientHeight);
    Axes.fit(cross, box.clientWidth, box.clientHeight);
  });

  // ---- what a pointer and keys do ----

  const at = (e) => {
    const r = box.getBoundingClientRect();
    return [e.clientX - r.left, e.clientY - r.top];
  };
  const panelAt = ([px, py]) => panels.find((p) => px >= p.left && px <= p.left + p.width && py >= p.top && py <= p.top + p.height);
  const waveAt = (panel, px) => panel.x[0] + (px - panel.left) / panel.width * (panel.x[1] - panel.x[0]);
  let dragged = null; // pixels from and to

  const readout = (here) => {
    const ctx = Axes.fit(cross, box.clientWidth, box.clientHeight);
    if (dragged) {
      const [a, b] = [Math.min(...dragged), Math.max(...dragged)];
      ctx.fillStyle = Axes.colour("brush");
      for (const p of panels.slice(0, 2)) ctx.fillRect(a, p.top, b - a, p.height);
      return;
    }
    const panel = here && panelAt(here);
    if (!panel) return;
    const w = waveAt(panel, here[0]);
    const p = Axes.clamp(pixel(w), 0, m - 1);
    const near = p && w - wave[p - 1] < wave[p] - w ? p - 1 : p;
    const { data, z } = shown;
    const text = [`${wave[near].toFixed(1)} \u00c5`, `rest ${(wave[near] / (1 + z)).toFixed(1)} \u00c5`];
    if (Number.isFinite(data.sigma[near])) text.push(`flux ${data.flux[near].toPrecision(3)} \u00b1 ${data.sigma[near].toPrecision(2)}`);
    else text.push("masked");
    if (Number.isFinite(data.model[near])) text.push(`model ${data.model[near].toPrecision(3)}`);
    ctx.fillStyle = Axes.colour("quiet");
    const both = panels.indexOf(panel) < 2 ? panels.slice(0, 2) : [panel];
    for (const q of both) ctx.fillRect(here[0] - 0.5, q.top, 1, q.height);
    ctx.font = Axes.font(11);
    const wide = Math.max(...text.map((t) => ctx.measureText(t).width)) + 14;
    const left = here[0] + wide + 12 > box.clientWidth ? here[0] - wide - 8 : here[0] + 8;
    const top = Axes.clamp(here[1] - 10, 4, box.clientHeight - 16 * text.length - 12);
    ctx.fillStyle = Axes.colour("card");
    ctx.strokeStyle = Axes.colour("edge");
    ctx.beginPath();
    ctx.rect(left, top, wide, 16 * text.length + 8);
    ctx.fill();
    ctx.stroke();
    ctx.fillStyle = Axes.colour("ink");
    ctx.textBaseline = "middle";
    text.forEach((t, i) => ctx.fillText(t, left + 7, top + 12 + 16 * i));
  };

  // Restframe limits, within those of the spectrum
  const look = (low, high) => {
    if (!shown) return;
    const [first, last] = [wave[0] / (1 + shown.z), wave[m - 1] / (1 + shown.z)];
    const span = Axes.clamp(high - low, 20, last - first);
    low = Axes.clamp(low, first, last - span);
    zoomed = span > 0.999 * (last - first) ? null : [low, low + span];
    draw();
  };
  const limits = () => zoomed || [wave[0] / (1 + shown.z), wave[m - 1] / (1 + shown.z)];
  const magnify = (factor, about) => {
    const [low, high] = limits();
    const centre = about ?? (low + high) / 2;
    look(centre + (low - centre) * factor, centre + (high - centre) * factor);
  };

  box.addEventListener("pointerdown", (e) => {
    if (e.pointerType !== "mouse" || panels.indexOf(panelAt(at(e))) < 0 || panels.indexOf(panelAt(at(e))) > 1) return;
    dragged = [at(e)[0], at(e)[0]];
    box.setPointerCapture(e.pointerId);
  });
  box.addEventListener("pointermove", (e) => {
    if (dragged) dragged[1] = Axes.clamp(at(e)[0], panels[0].left, panels[0].left + panels[0].width);
    readout(at(e));
  });
  box.addEventListener("pointerup", () => {
    if (!dragged) return;
    const [a, b] = dragged.map((p) => waveAt(panels[0], p) / (1 + shown.z)).sort((u, v) => u - v);
    const far = Math.abs(dragged[1] - dragged[0]) > 6;
    dragged = null;
    if (far) look(a, b);
    readout(null);
  });
  box.addEventListener("pointercancel", () => { dragged = null; });
  box.addEventListener("pointerleave", () => { if (!dragged) readout(null); });
  box.addEventListener("dblclick", () => { zoomed = null; draw(); });
  box.addEventListener("wheel", (e) => { // with Ctrl (as pinching is told), since the page scrolls here, too
    const panel = panelAt(at(e));
    if (!e.ctrlKey || !panel || panels.indexOf(panel) > 1) return;
    e.preventDefault();
    magnify(Math.exp(Axes.clamp(e.deltaY, -240, 240) * 0.004), waveAt(panel, at(e)[0]) / (1 + shown.z));
  }, { passive: false });
  box.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || !shown) return;
    const [low, high] = limits();
    const step = 0.2 * (high - low);
    if (e.key === "+" || e.key === "=") magnify(0.6);
    else if (e.key === "-") magnify(1 / 0.6);
    else if (e.key === "0") look(0, Infinity);
    else if (e.key === "ArrowLeft") look(low - step, high - step);
    else if (e.key === "ArrowRight") look(low + step, high + step);
    else return;
    e.preventDefault();
    e.stopPropagation();
  });

  new ResizeObserver(draw).observe(box);

  return {
    show(spectrum) {
      shown = spectrum;
      if (zoomed && shown) {
        const [first, last] = [wave[0] / (1 + shown.z), wave[m - 1] / (1 + shown.z)];
        if (zoomed[0] < first || zoomed[1] > last) zoomed = null;
      }
      draw();
    },
    // Saves it as a PNG, as fine as the screen, on the theme's ground
    picture(name) {
      const target = document.createElement("canvas");
      paint(target, box.clientWidth, box.clientHeight);
      const ctx = target.getContext("2d");
      ctx.globalCompositeOperation = "destination-over";
      ctx.setTransform(1, 0, 0, 1, 0, 0);
      ctx.fillStyle = Axes.colour("card");
      ctx.fillRect(0, 0, target.width, target.height);
      target.toBlob((blob) => save(blob, name), "image/png");
      draw();
    },
    draw,
    get shown() { return shown; },
  };
};

// Saves a file from within the page
const save = (blob, name) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

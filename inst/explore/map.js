"use strict";
// The map: points by WebGL (or, without it, on a plain canvas), axes, marks, and what a pointer does to them.

const ScatterMap = ({ onPick, onBrush, describe }) => {
  const box = document.getElementById("map");
  const pointCanvas = document.getElementById("points");
  const overlay = document.getElementById("overlay");
  const tip = document.getElementById("tip");
  const n = Data.about.n;
  const margin = { left: 46, right: 12, top: 12, bottom: 38 };
  const coarse = matchMedia("(pointer: coarse)").matches;
  let x, y, view, full; // columns; limits [x0, x1, y0, y1] shown, and of all points
  let colours = new Uint8Array(4 * n); // of each point: red, green, blue, and whether it has one
  let chosen = null, current = -1, flagged = [];
  let mode = "move", brush = null;

  // ---- geometry ----

  const size = () => ({ width: box.clientWidth, height: box.clientHeight });
  const area = () => {
    const { width, height } = size();
    return { left: margin.left, top: margin.top, width: Math.max(width - margin.left - margin.right, 10),
      height: Math.max(height - margin.top - margin.bottom, 10) };
  };
  // Pixels are px + kx * x, py - ky * y
  const projection = () => {
    const a = area();
    const [kx, ky] = [a.width / (view[1] - view[0]), a.height / (view[3] - view[2])];
    return { kx, ky, px: a.left - kx * view[0], py: a.top + ky * view[3] };
  };
  const toPixel = (vx, vy) => {
    const { kx, ky, px, py } = projection();
    return [px + kx * vx, py - ky * vy];
  };
  const toValue = (px, py) => {
    const a = area();
    return [view[0] + (px - a.left) / a.width * (view[1] - view[0]), view[3] - (py - a.top) / a.height * (view[3] - view[2])];
  };
  const limits = (values) => {
    let low = Infinity, high = -Infinity;
    for (const v of values) {
      if (!Number.isFinite(v)) continue;
      if (v < low) low = v;
      if (v > high) high = v;
    }
    if (!(low <= high)) return [0, 1];
    const room = 0.04 * (high - low) || 0.5;
    return [low - room, high + room];
  };

  // ---- points ----

  const gl = pointCanvas.getContext("webgl", { antialias: false, premultipliedAlpha: true, alpha: true });
  let program, places, paints, uniforms, drawn = 0;
  const origin = [0, 0];

  const shader = (type, source) => {
    const s = gl.createShader(type);
    gl.shaderSource(s, source);
    gl.compileShader(s);
    return s;
  };

  const start = () => {
    program = gl.createProgram();
    gl.attachShader(program, shader(gl.VERTEX_SHADER, `
      attribute vec2 place; attribute vec4 paint;
      uniform vec2 scale, shift; uniform mediump float size;
      varying mediump vec4 colour;
      void main() { gl_Position = vec4(place * scale + shift, 0.0, 1.0); gl_PointSize = size; colour = paint; }`));
    gl.attachShader(program, shader(gl.FRAGMENT_SHADER, `
      precision mediump float; varying mediump vec4 colour; uniform mediump float size;
      void main() {
        float r = length(gl_PointCoord - 0.5) * size;
        float cover = clamp(size * 0.5 - r, 0.0, 1.0) * colour.a;
        gl_FragColor = vec4(colour.rgb * cover, cover);
      }`));
    gl.linkProgram(program);
    gl.useProgram(program);
    uniforms = Object.fromEntries(["scale", "shift", "size"].map((name) => [name, gl.getUniformLocation(program, name)]));
    places = gl.createBuffer();
    paints = gl.createBuffer();
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0, 0, 0, 0);
  };
  if (gl) {
    start();
    pointCanvas.addEventListener("webglcontextlost", (e) => e.preventDefault());
    pointCanvas.addEventListener("webglcontextrestored", () => { start(); load(); draw(); });
  }

  const pointSize = () => Axes.clamp(8.5 * (400 / n) ** 0.28, 2.4, 8.5);
  const opacity = () => Axes.clamp((1500 / n) ** 0.15, 0.5, 0.92);

  // Rows in the order in which they are drawn: those not chosen, those without colour, the others
  const order = () => {
    const ranked = [[], [], []];
    for (let i = 0; i < n; i++) {
      if (!Number.isFinite(x.values[i] + y.values[i])) continue;
      ranked[chosen && !chosen[i] ? 0 : colours[4 * i + 3] ? 2 : 1].push(i);
    }
    return ranked;
  };

  let placed = { rows: new Uint32Array(0), faint: 0 };
  const load = () => {
    const [dim, grey, bright] = order();
    const rows = Uint32Array.from(dim.concat(grey, bright));
    placed = { rows, faint: dim.length };
    origin[0] = (full[0] + full[1]) / 2;
    origin[1] = (full[2] + full[3]) / 2;
    const xy = new Float32Array(2 * rows.length);
    const rgba = new Uint8Array(4 * rows.length);
    const missing = rgb(Axes.colour("unknown"));
    const strength = 255 * opacity();
    rows.forEach((row, i) => {
      xy[2 * i] = x.values[row] - origin[0];
      xy[2 * i + 1] = y.values[row] - origin[1];
      const faint = i < dim.length;
      const known = colours[4 * row + 3] && !faint;
      for (let c = 0; c < 3; c++) rgba[4 * i + c] = known ? colours[4 * row + c] : missing[c];
      rgba[4 * i + 3] = faint ? 0.28 * strength : strength;
    });
    drawn = rows.length;
    if (!gl) {
      placed.rgba = rgba;
      return;
    }
    for (const [buffer, values, name, width, type] of [[places, xy, "place", 2, gl.FLOAT], [paints, rgba, "paint", 4, gl.UNSIGNED_BYTE]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      const at = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, width, type, type === gl.UNSIGNED_BYTE, 0, 0);
    }
  };

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  const drawPoints = () => {
    const a = area();
    const zoom = (full[1] - full[0]) / (view[1] - view[0]);
    const radius = pointSize() * Axes.clamp(zoom ** 0.25, 1, 2);
    const ratio = window.devicePixelRatio || 1;
    Object.assign(pointCanvas.style, { left: a.left + "px", top: a.top + "px", width: a.width + "px", height: a.height + "px" });
    const [w, h] = [Math.round(a.width * ratio), Math.round(a.height * ratio)];
    if (pointCanvas.width !== w || pointCanvas.height !== h) [pointCanvas.width, pointCanvas.height] = [w, h];
    if (!gl) {
      const ctx = pointCanvas.getContext("2d");
      ctx.clearRect(0, 0, w, h);
      placed.rows.forEach((row, i) => {
        const [px, py] = toPixel(x.values[row], y.values[row]);
        const [r, g, b, alpha] = placed.rgba.subarray(4 * i, 4 * i + 4);
        ctx.fillStyle = `rgba(${r},${g},${b},${alpha / 255})`;
        ctx.beginPath();
        ctx.arc((px - a.left) * ratio, (py - a.top) * ratio, radius * ratio / 2, 0, 2 * Math.PI);
        ctx.fill();
      });
      return;
    }
    gl.viewport(0, 0, w, h);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const sx = 2 / (view[1] - view[0]), sy = 2 / (view[3] - view[2]);
    gl.uniform2f(uniforms.scale, sx, sy);
    gl.uniform2f(uniforms.shift, (origin[0] - (view[0] + view[1]) / 2) * sx, (origin[1] - (view[2] + view[3]) / 2) * sy);
    gl.uniform1f(uniforms.size, radius * ratio);
    gl.drawArrays(gl.POINTS, 0, drawn);
  };

  // ---- axes and marks ----

  const drawOverlay = () => {
    const { width, height } = size();
    const ctx = Axes.fit(overlay, width, height);
    const a = area();
    ctx.strokeStyle = Axes.colour("edge");
    ctx.lineWidth = 1;
    ctx.strokeRect(a.left - 0.5, a.top - 0.5, a.width + 1, a.height + 1);
    ctx.fillStyle = Axes.colour("quiet");
    ctx.font = Axes.font(11);
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    for (const t of Axes.ticks(view.slice(0, 2), a.width / 90)) {
      const px = toPixel(t, 0)[0];
      ctx.fillRect(px - 0.5, a.top + a.height, 1, 4);
      ctx.fillText(Axes.label(t), px, a.top + a.height + 6);
    }
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    for (const t of Axes.ticks(view.slice(2), a.height / 60)) {
      const py = toPixel(0, t)[1];
      ctx.fillRect(a.left - 5, py - 0.5, 4, 1);
      ctx.fillText(Axes.label(t), a.left - 7, py);
    }
    ctx.fillStyle = Axes.colour("ink");
    ctx.textAlign = "center";
    ctx.textBaseline = "alphabetic";
    ctx.fillText(x.label, a.left + a.width / 2, height - 5);
    ctx.save();
    ctx.translate(11, a.top + a.height / 2);
    ctx.rotate(-Math.PI / 2);
    ctx.fillText(y.label, 0, 0);
    ctx.restore();

    ctx.save();
    ctx.beginPath();
    ctx.rect(a.left, a.top, a.width, a.height);
    ctx.clip();
    for (const row of flagged) {
      const [px, py] = toPixel(x.values[row], y.values[row]);
      ctx.beginPath();
      for (const [dx, dy] of [[0, -7], [7, 0], [0, 7], [-7, 0]]) ctx.lineTo(px + dx, py + dy);
      ctx.closePath();
      ring(ctx, Axes.colour("flag"));
    }
    if (current >= 0 && Number.isFinite(x.values[current] + y.values[current])) {
      const [px, py] = toPixel(x.values[current], y.values[current]);
      ctx.beginPath();
      ctx.arc(px, py, 9, 0, 2 * Math.PI);
      ring(ctx, Axes.colour("ink"));
    }
    if (brush) {
      ctx.beginPath();
      for (const [px, py] of outline()) ctx.lineTo(px, py);
      ctx.closePath();
      ctx.fillStyle = Axes.colour("brush");
      ctx.fill();
      ctx.strokeStyle = Axes.colour("ink");
      ctx.setLineDash([4, 3]);
      ctx.stroke();
    }
    ctx.restore();
  };

  // A line that is seen on any points
  const ring = (ctx, colour) => {
    for (const [style, width] of [[Axes.colour("card"), 5], [colour, 2.2]]) {
      ctx.strokeStyle = style;
      ctx.lineWidth = width;
      ctx.stroke();
    }
  };

  const draw = Axes.soon(() => {
    if (!view || box.clientWidth < 20) return;
    drawPoints();
    drawOverlay();
  });

  // ---- what is found where ----

  const nearest = (px, py, reach) => {
    let best = -1, least = reach * reach;
    const p = projection();
    for (let i = placed.rows.length - 1; i >= placed.faint; i--) { // the topmost first; what is not chosen is not met
      const row = placed.rows[i];
      const d = (p.px + p.kx * x.values[row] - px) ** 2 + (p.py - p.ky * y.values[row] - py) ** 2;
      if (d < least) {
        least = d;
        best = row;
      }
    }
    return best;
  };

  // The nearest point in a direction from the current one, or from the middle: a little to the side counts like far away
  const toward = (dx, dy) => {
    const a = area();
    const p = projection();
    const known = current >= 0 && Number.isFinite(x.values[current] + y.values[current]);
    const [px, py] = known ? toPixel(x.values[current], y.values[current]) : [a.left + a.width / 2, a.top + a.height / 2];
    let best = -1, least = Infinity;
    for (let i = placed.faint; i < placed.rows.length; i++) {
      const row = placed.rows[i];
      const [qx, qy] = [p.px + p.kx * x.values[row] - px, p.py - p.ky * y.values[row] - py];
      const along = qx * dx + qy * dy;
      const across = Math.abs(qx * dy - qy * dx);
      if (row === current || along <= 0.01 || across > along) continue;
      if (along + 2 * across < least) {
        least = along + 2 * across;
        best = row;
      }
    }
    return best;
  };

  const outline = () => {
    if (brush.kind === "lasso") return brush.path;
    const [[x0, y0], [x1, y1]] = [brush.path[0], brush.path[brush.path.length - 1]];
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
  };

  const inside = (path, px, py) => {
    let odd = false;
    for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
      const [xi, yi] = path[i], [xj, yj] = path[j];
      if (yi > py !== yj > py && px < (xj - xi) * (py - yi) / (yj - yi) + xi) odd = !odd;
    }
    return odd;
  };

  const brushed = () => {
    const path = outline();
    const p = projection();
    const out = new Uint8Array(n);
    let count = 0;
    for (const row of placed.rows) {
      if (!inside(path, p.px + p.kx * x.values[row], p.py - p.ky * y.values[row])) continue;
      out[row] = 1;
      count++;
    }
    return count ? out : null;
  };

  // ---- pointers and keys ----

  const zoom = (factor, px, py) => {
    const [vx, vy] = toValue(px, py);
    view = [vx + (view[0] - vx) * factor, vx + (view[1] - vx) * factor, vy + (view[2] - vy) * factor, vy + (view[3] - vy) * factor];
    draw();
  };
  const pan = (dx, dy) => {
    const a = area();
    const [mx, my] = [dx / a.width * (view[1] - view[0]), dy / a.height * (view[3] - view[2])];
    view = [view[0] - mx, view[1] - mx, view[2] + my, view[3] + my];
    draw();
  };
  const all = () => {
    view = full.slice();
    draw();
  };
  const at = (e) => {
    const r = box.getBoundingClientRect();
    return [e.clientX - r.left, e.clientY - r.top];
  };

  const pointers = new Map();
  let travelled = 0;
  box.addEventListener("pointerdown", (e) => {
    pointers.set(e.pointerId, at(e));
    box.setPointerCapture(e.pointerId);
    travelled = 0;
    tip.hidden = true;
    if (pointers.size === 1 && mode !== "move") brush = { kind: mode, path: [at(e)] };
    else brush = null;
  });
  box.addEventListener("pointermove", (e) => {
    const here = at(e);
    if (!pointers.has(e.pointerId)) {
      if (e.pointerType === "mouse") hover(here);
      return;
    }
    const before = pointers.get(e.pointerId);
    travelled += Math.abs(here[0] - before[0]) + Math.abs(here[1] - before[1]);
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== e.pointerId)[1];
      const span = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      zoom(span(before) / span(here), other[0], other[1]);
    } else if (brush) {
      brush.path.push(here);
      draw();
    } else pan(here[0] - before[0], here[1] - before[1]);
    pointers.set(e.pointerId, here);
  });
  const lift = (e) => {
    if (!pointers.delete(e.pointerId)) return;
    if (brush && travelled > 8 && e.type === "pointerup") onBrush(brushed());
    else if (travelled <= 8 && e.type === "pointerup") {
      const row = nearest(...at(e), coarse ? 26 : 14);
      if (row >= 0) onPick(row);
    }
    brush = null;
    draw();
  };
  box.addEventListener("pointerup", lift);
  box.addEventListener("pointercancel", lift);
  box.addEventListener("pointerleave", () => { tip.hidden = true; });
  box.addEventListener("wheel", (e) => {
    e.preventDefault();
    zoom(Math.exp(Axes.clamp(e.deltaY, -240, 240) * 0.0022), ...at(e));
  }, { passive: false });
  box.addEventListener("dblclick", all);

  const hover = ([px, py]) => {
    const row = nearest(px, py, 14);
    tip.hidden = row < 0;
    box.style.cursor = row >= 0 ? "pointer" : mode === "move" ? "grab" : "crosshair";
    if (row < 0) return;
    tip.replaceChildren(...describe(row).map((line, i) => {
      const element = document.createElement(i ? "span" : "b");
      element.textContent = line;
      return element;
    }));
    const { width } = size();
    tip.style.left = Axes.clamp(px + 14, 4, Math.max(4, width - tip.offsetWidth - 4)) + "px";
    tip.style.top = Math.max(py - tip.offsetHeight - 10, 4) + "px";
  };

  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  box.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const { width, height } = size();
    if (directions[e.key]) {
      const row = toward(...directions[e.key]);
      if (row >= 0) onPick(row);
    } else if (e.key === "+" || e.key === "=") zoom(0.75, width / 2, height / 2);
    else if (e.key === "-") zoom(1 / 0.75, width / 2, height / 2);
    else if (e.key === "0") all();
    else return;
    e.preventDefault();
    e.stopPropagation();
  });

  new ResizeObserver(draw).observe(box);

  // ---- what others set ----

  return {
    axes(columnX, columnY) {
      [x, y] = [columnX, columnY];
      full = [...limits(x.values), ...limits(y.values)];
      view = full.slice();
      load();
      draw();
    },
    // paint: red, green, blue and whether there is a colour, four bytes for each spectrum
    paint(values) {
      colours = values;
      if (!x) return;
      load();
      draw();
    },
    choose(rows) {
      chosen = rows;
      load();
      draw();
    },
    mark(row, flags) {
      current = row;
      flagged = flags;
      // bring it into view, where it was left out
      if (row >= 0 && Number.isFinite(x.values[row] + y.values[row])) {
        const [vx, vy] = [x.values[row], y.values[row]];
        if (vx < view[0] || vx > view[1] || vy < view[2] || vy > view[3]) {
          const [w, h] = [(view[1] - view[0]) / 2, (view[3] - view[2]) / 2];
          view = [vx - w, vx + w, vy - h, vy + h];
        }
      }
      draw();
    },
    drag(kind) {
      mode = kind;
      box.style.cursor = kind === "move" ? "grab" : "crosshair";
      box.style.touchAction = kind === "move" ? "pan-y" : "none";
    },
    all,
    draw,
  };
};

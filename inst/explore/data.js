"use strict";
// Reads what R/explore-pack.R wrote: the table of all spectra, and spectra part by part.

const Data = (() => {
  const bytesOf = (base64) => {
    const text = atob(base64.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  };

  const inflate = async (bytes) => {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  };

  const about = JSON.parse(document.getElementById("description").textContent);
  const columns = new Map();
  let wave;

  // A column is { name, label, kind, values }: numbers (NaN: missing), codes of `levels` (0: missing), or texts.
  const open = async () => {
    wave = new Float64Array(bytesOf(document.getElementById("wave").textContent).buffer);
    const buffer = await inflate(bytesOf(document.getElementById("table").textContent));
    for (const column of about.columns) {
      const { type, at } = column;
      const values = type === "f4" ? new Float32Array(buffer, at, about.n)
        : type === "f8" ? new Float64Array(buffer, at, about.n)
        : type === "u1" ? new Uint8Array(buffer, at, about.n)
        : new TextDecoder().decode(new Uint8Array(buffer, at, column.length)).split("\n");
      columns.set(column.name, { ...column, values });
    }
  };

  // What a column says of a spectrum, as text
  const text = (column, row) => {
    const value = column.values[row];
    if (column.kind === "number") return number(value);
    return column.kind === "category" ? (value ? column.levels[value - 1] : "") : value;
  };

  const number = (v) => {
    if (!Number.isFinite(v)) return "";
    if (Number.isInteger(v)) return String(v);
    return Math.abs(v) >= 1e6 || Math.abs(v) < 1e-4 ? v.toExponential(3) : String(Number(v.toPrecision(Math.abs(v) >= 1000 ? 7 : 4)));
  };

  // Values below which the given fractions of the finite ones are
  const quantiles = (values, fractions) => {
    const sorted = Float64Array.from(values).filter(Number.isFinite).sort();
    return fractions.map((f) => sorted.length ? sorted[Math.round(f * (sorted.length - 1))] : NaN);
  };

  // ---- spectra ----

  const kept = new Map(); // parts unpacked, the last used at the end
  const waiting = new Map(); // parts that a script beside the page brings
  window.spenderPart = (k, base64) => waiting.get(k)?.(base64);

  const partText = (k) => {
    if (about.spectra === "page") {
      return new Promise((done, fail) => {
        const look = () => {
          const element = document.getElementById("part-" + k);
          const complete = document.readyState !== "loading";
          if (element && (complete || element.nextSibling)) done(element.textContent); // of the page's last element more may come
          else if (complete) fail(new Error("The page is not complete."));
          else setTimeout(look, 20);
        };
        look();
      });
    }
    return new Promise((done, fail) => {
      const script = document.createElement("script");
      waiting.set(k, done);
      script.onerror = () => fail(new Error(`${about.beside}/part-${k}.js is not beside the page.`));
      script.onload = () => script.remove();
      script.src = `${about.beside}/part-${k}.js`;
      document.head.append(script);
    });
  };

  const unpack = async (k) => {
    if (kept.has(k)) {
      const part = kept.get(k);
      kept.delete(k);
      kept.set(k, part);
      return part;
    }
    const buffer = await inflate(bytesOf(await partText(k)));
    const n = Math.min(about.part_size, about.n - k * about.part_size);
    const size = n * about.pixels;
    const view = new DataView(buffer);
    const floats = (at) => Float32Array.from({ length: n }, (_, i) => view.getFloat32(at + 4 * i, true));
    const bytes = (place) => new Uint8Array(buffer, 8 * n + place * size, size);
    const part = { smallest: floats(0), step: floats(4 * n), sigma: bytes(0), model: [bytes(1), bytes(2)], residual: [bytes(3), bytes(4)] };
    kept.set(k, part);
    if (kept.size > 12) kept.delete(kept.keys().next().value);
    return part;
  };

  const signed = ([low, high], i) => {
    const v = low[i] + 256 * high[i];
    return v & 1 ? -(v + 1) / 2 : v / 2;
  };

  // Flux, sigma, model and residual (in sigmas) of one spectrum; NaN where a pixel has no weight, or no model
  const spectrum = async (row) => {
    if (about.spectra === "none") return null;
    const k = Math.floor(row / about.part_size);
    const part = await unpack(k);
    const i = row - k * about.part_size;
    const m = about.pixels;
    const out = { flux: new Float32Array(m), sigma: new Float32Array(m), model: new Float32Array(m), residual: new Float32Array(m) };
    let code = 0, steps = 0;
    for (let p = 0, at = i * m; p < m; p++, at++) {
      code = (code + part.sigma[at]) & 255;
      steps = ((steps + signed(part.model, at) + 32768) & 65535) - 32768;
      const model = steps === -32768 ? NaN : steps * part.step[i];
      const sigma = code ? part.smallest[i] * 2 ** ((code - 1) / about.sigma_steps) : NaN;
      const residual = signed(part.residual, at) / about.residual_steps;
      out.model[p] = model;
      out.sigma[p] = sigma;
      out.flux[p] = (Number.isFinite(model) ? model : 0) + residual * sigma;
      out.residual[p] = Number.isFinite(model) ? residual + 0 * sigma : NaN;
    }
    return out;
  };

  return { about, columns, open, text, number, quantiles, spectrum, get wave() { return wave; } };
})();

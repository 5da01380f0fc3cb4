// Curves as SVG: axes with round ticks, a logarithmic scale, and a readout under the pointer or the arrow keys.

import { el, svg } from "./dom.js";
import { language } from "./language.js";

const MOST_POINTS = 1200;
const EDGE = { top: 14, right: 14, bottom: 40, left: 50 };

/** Short numbers for axes and readouts. */
export function short(value) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e7))
    return value.toExponential(2).replace("e+", "e");
  return new Intl.NumberFormat(language(), { maximumSignificantDigits: 5 }).format(value);
}

/** Round values from `low` to `high`: 1, 2 or 5 times a power of ten apart; on a log scale, powers and their 2 and 5. */
export function ticks(low, high, wanted, log = false) {
  if (log) {
    const powers = range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))).map((power) => 10 ** power);
    const marks = powers.length > 3 ? powers : powers.flatMap((power) => [power, 2 * power, 5 * power]);
    const inside = marks.filter((mark) => mark >= low && mark <= high);
    return inside.length > 1 ? inside : ticks(low, high, wanted);
  }
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  return range(Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)).map((at) =>
    Number((at * step).toPrecision(12)),
  );
}

function range(first, last) {
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, at) => first + at);
}

/** Fewer points of the same look: the lowest and the highest of each stretch. */
export function thin(points) {
  if (points.length <= MOST_POINTS) return points;
  const size = Math.ceil(points.length / (MOST_POINTS / 2));
  const kept = [];
  for (let at = 0; at < points.length; at += size) {
    const stretch = points.slice(at, at + size);
    const low = stretch.reduce((best, point) => (point[1] < best[1] ? point : best));
    const high = stretch.reduce((best, point) => (point[1] > best[1] ? point : best));
    kept.push(...(low[0] <= high[0] ? [low, high] : [high, low]).slice(0, low === high ? 1 : 2));
  }
  return kept;
}

/** An exponential moving average, corrected for its start: over ten steps, fewer where the curve is short. */
export function smooth(points) {
  const weight = Math.min(0.9, 1 - 10 / points.length);
  let mean = 0;
  let mass = 0;
  return points.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    mass = weight * mass + (1 - weight);
    return [x, mean / mass];
  });
}

/** A chart that fills its place; `draw({curves: [{label, kind, points: [[x, y], …]}], log, name, unit})` draws anew. */
export function chart() {
  const place = el("div", { class: "chart", tabindex: 0, role: "img" });
  const readout = el("output", { class: "readout", "aria-live": "polite" });
  let what = null;
  let at = null;
  let drawn = null;
  const draw = (next = what) => {
    what = next;
    if (!what || !place.clientWidth) return;
    drawn = plot(what, place.clientWidth, Math.max(220, Math.min(380, place.clientWidth * 0.5)));
    place.replaceChildren(drawn.node);
    place.setAttribute(
      "aria-label",
      what.curves.map(({ label, points }) => `${label} ${points.length ? short(points.at(-1)[1]) : ""}`).join(", "),
    );
    point(at);
  };
  const point = (x) => {
    at = x;
    if (!drawn) return;
    const told = drawn.point(x);
    readout.replaceChildren(...told);
  };
  place.addEventListener("pointermove", (event) => {
    if (drawn) point(drawn.nearest(event.clientX - place.getBoundingClientRect().left));
  });
  place.addEventListener("pointerleave", () => point(null));
  place.addEventListener("blur", () => point(null));
  place.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -1e9, End: 1e9 };
    if (!drawn || !(event.key in steps)) return;
    event.preventDefault();
    point(drawn.move(at, steps[event.key]));
  });
  const watcher = new ResizeObserver(() => draw());
  watcher.observe(place);
  return { node: el("div", null, place, readout), draw, close: () => watcher.disconnect() };
}

function plot({ curves, log, name, unit }, width, height) {
  const shown = curves.map((curve) => ({
    ...curve,
    points: log ? curve.points.filter(([, y]) => y > 0) : curve.points,
  }));
  const xs = [...new Set(shown.flatMap(({ points }) => points.map(([x]) => x)))].sort((one, other) => one - other);
  const x = scale(xs[0] ?? 0, xs.at(-1) ?? 1, EDGE.left, width - EDGE.right, false);
  const y = scale(...extent(shown, log), height - EDGE.bottom, EDGE.top, log);
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  node.append(...axes(x, y, width, height, log, unit));
  for (const { kind, points } of shown) {
    const path = thin(points)
      .map(([a, b], index) => `${index ? "L" : "M"}${x.to(a).toFixed(1)} ${y.to(b).toFixed(1)}`)
      .join("");
    node.append(svg("path", { class: `curve ${kind}`, d: path }));
    if (points.length === 1)
      node.append(svg("circle", { class: `dot ${kind}`, cx: x.to(points[0][0]), cy: y.to(points[0][1]), r: 3 }));
  }
  const cursor = svg("g", { class: "cursor" });
  node.append(cursor);
  return {
    node,
    nearest: (pixel) => closest(xs, x.from(pixel)),
    move: (from, step) =>
      xs[
        Math.max(0, Math.min(xs.length - 1, (from === null ? xs.length - 1 : xs.indexOf(closest(xs, from))) + step))
      ] ?? null,
    point: (at) => mark(cursor, shown, at, x, y, height, name),
  };
}

/** The vertical line and dots at a step; returns the words of the readout. */
function mark(cursor, curves, at, x, y, height, name) {
  cursor.replaceChildren();
  if (at === null) return [];
  cursor.append(svg("line", { x1: x.to(at), x2: x.to(at), y1: EDGE.top, y2: height - EDGE.bottom }));
  const told = [el("strong", null, `${name} · ${short(at)}`)];
  for (const { label, kind, points } of curves) {
    const found = points.find(([a]) => a === at);
    if (!found) continue;
    cursor.append(svg("circle", { class: `dot ${kind}`, cx: x.to(at), cy: y.to(found[1]), r: 4 }));
    told.push(el("span", null, `${label} ${short(found[1])}`));
  }
  return told;
}

function closest(sorted, value) {
  let [low, high] = [0, sorted.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle;
    else high = middle;
  }
  if (high < 0) return null;
  return Math.abs(sorted[low] - value) <= Math.abs(sorted[high] - value) ? sorted[low] : sorted[high];
}

/** The values to show, with some air. */
function extent(curves, log) {
  let [low, high] = [Infinity, -Infinity];
  for (const { points } of curves)
    for (const [, value] of points) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (log) return low === high ? [low / 2, high * 2] : [low / 1.05, high * 1.05];
  const air = (high - low) * 0.05 || Math.abs(high) * 0.1 || 1;
  return [low - air, high + air];
}

function scale(low, high, from, to, log) {
  const bend = log ? Math.log : (value) => value;
  const back = log ? Math.exp : (value) => value;
  const [first, last] = [bend(low), bend(high)];
  const span = last - first || 1;
  return {
    low,
    high,
    to: (value) => from + ((bend(value) - first) / span) * (to - from),
    from: (pixel) => back(first + ((pixel - from) / (to - from)) * span),
  };
}

function axes(x, y, width, height, log, unit) {
  const floor = height - EDGE.bottom;
  const rows = ticks(y.low, y.high, 5, log).flatMap((value) => [
    svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y.to(value), y2: y.to(value) }),
    svg("text", { x: EDGE.left - 8, y: y.to(value) + 4, "text-anchor": "end" }, short(value)),
  ]);
  const columns = ticks(x.low, x.high, Math.max(2, Math.floor(width / 110)))
    .filter(Number.isInteger)
    .flatMap((value) => [
      svg("line", { class: "tick", x1: x.to(value), x2: x.to(value), y1: floor, y2: floor + 5 }),
      svg("text", { x: x.to(value), y: floor + 19, "text-anchor": "middle" }, short(value)),
    ]);
  return [
    ...rows,
    ...columns,
    svg("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: floor, y2: floor }),
    svg(
      "text",
      { class: "unit", x: (EDGE.left + width - EDGE.right) / 2, y: height - 4, "text-anchor": "middle" },
      unit,
    ),
  ];
}

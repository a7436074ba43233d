// Makes elements, numbers as text, and small drawings. Text only ever becomes text: no markup is made of it.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined));
  return element;
}

export function put(element, text, value) {
  if (element.textContent !== text) element.textContent = text;
  if (value !== undefined) {
    if (value === null) element.removeAttribute("data-value");
    else element.setAttribute("data-value", String(value));
  }
}

export function mark(element, level, text) {
  element.className = "pill " + level;
  put(element, text);
}

export function swap(element, ...children) {
  element.replaceChildren(...children.flat().filter((each) => each !== null && each !== undefined));
}

// ---- numbers

export const count = (value) => Math.round(value).toLocaleString("en-US");

export function share(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 0.001) return "<0.1%";
  if (value < 1 && value > 0.999) return ">99.9%";
  return (100 * value).toFixed(value === 0 || value === 1 ? 0 : digits) + "%";
}

export function usd(value, none = "not known") {
  if (value === null || value === undefined) return none;
  if (value === 0) return "$0";
  const size = Math.abs(value), sign = value < 0 ? "−" : "";
  if (size >= 1000) return sign + "$" + size.toLocaleString("en-US", { maximumFractionDigits: 0 });
  if (size >= 1) return sign + "$" + size.toFixed(2);
  if (size < 1e-9) return sign + "<$0.000000001";
  const digits = Math.min(12, 2 - Math.floor(Math.log10(size)));
  return sign + "$" + size.toFixed(digits);
}

export function seconds(value, none = "–") {
  if (value === null || value === undefined) return none;
  if (value < 5e-7) return "0 s";
  if (value < 0.001) return (1e6 * value).toFixed(0) + " µs";
  if (value < 0.0995) return (1000 * value).toFixed(1) + " ms";
  if (value < 0.9995) return (1000 * value).toFixed(0) + " ms";
  if (value < 99.5) return value.toFixed(value < 9.995 ? 2 : 1) + " s";
  if (value < 5400) return (value / 60).toFixed(0) + " min";
  if (value < 172800) return (value / 3600).toFixed(0) + " h";
  return (value / 86400).toFixed(0) + " d";
}

export function ago(at, now) {
  const gone = Math.max(0, now - at);
  if (gone < 60) return Math.floor(gone) + " s ago";
  if (gone < 5400) return Math.floor(gone / 60) + " min ago";
  return Math.floor(gone / 3600) + " h ago";
}

const REASONS = {
  warm: "a warm slot was free",
  warm_queued: "it waited for a warm slot",
  spill_full: "every warm slot was taken",
  spill_slow: "the warm slots would have been too slow",
  spill_unhealthy: "the warm tier was down",
  spill_breaker: "the warm tier's breaker was open",
  fallback: "another backend had failed it",
  hedge: "a second attempt beside a slow first",
  canary: "its share of the calls",
  pinned: "it is pinned there",
  shed_budget: "the spill budget was used up",
  shed_full: "every slot was taken and it could not wait",
  shed_deadline: "it could not have been answered in time",
  no_route: "no route takes such calls",
};
export const reason = (word) => REASONS[word] || String(word ?? "").replaceAll("_", " ");

// ---- drawings

export function sparkline(svg, points, within, width) {
  const height = 72, left = 2, right = 2, top = 6, bottom = 4;
  const wide = Math.max(120, width);
  svg.setAttribute("viewBox", `0 0 ${wide} ${height}`);
  const end = points.length ? points[points.length - 1][0] : 0;
  const span = points.length ? Math.min(300, Math.max(60, end - points[0][0])) : 60;
  const top95 = points.reduce((most, point) => Math.max(most, point[2] ?? 0), 0);
  const high = Math.max(1.3 * (within ?? 0), 1.08 * top95, 1e-6);
  const x = (at) => left + (wide - left - right) * (1 - (end - at) / span);
  const y = (value) => top + (height - top - bottom) * (1 - value / high);
  const parts = [s("line", { class: "floor", x1: left, x2: wide - right, y1: y(0), y2: y(0) })];
  for (const [place, name] of [[2, "p95"], [1, "p50"]]) {
    const path = line(points, place, x, y);
    if (path) parts.push(s("path", { class: name, d: path }));
  }
  for (const point of points) {
    if (within !== null && point[2] !== null && point[2] > within) {
      parts.push(s("circle", { class: "over", cx: x(point[0]).toFixed(1), cy: y(point[2]).toFixed(1), r: 2.2 }));
    }
  }
  if (within !== null) {
    parts.push(s("line", { class: "budget", x1: left, x2: wide - right, y1: y(within), y2: y(within) }));
  }
  svg.replaceChildren(...parts);
}

function line(points, place, x, y) {
  let path = "", pen = false;
  for (const point of points) {
    const value = point[place];
    if (value === null) { pen = false; continue; }
    path += `${pen ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(value).toFixed(1)}`;
    if (!pen) path += "h0.01";
    pen = true;
  }
  return path;
}

export const STATES = [
  ["busy", "in flight"], ["opening", "opening"], ["idle", "idle, warm"], ["closed", "not started"], ["gone", "down"],
];

export function slotBar(svg, slots, width) {
  const wide = Math.max(80, width), height = 18;
  const total = Object.values(slots).reduce((sum, each) => sum + each, 0) || 1;
  svg.setAttribute("viewBox", `0 0 ${wide} ${height}`);
  const parts = [];
  let at = 0;
  for (const [state] of STATES) {
    const part = ((slots[state] || 0) / total) * wide;
    if (part <= 0) continue;
    parts.push(s("rect", { class: "slot " + state, x: at + 0.5, y: 0.5, width: Math.max(0.5, part - 1), height: height - 1, rx: 3 }));
    if (part > 14) parts.push(s("text", { class: "slot-text " + state, x: at + part / 2, y: 13 }, MARKS[state]));
    at += part;
  }
  svg.replaceChildren(...parts);
}

export const MARKS = { busy: "●", opening: "◔", idle: "○", closed: "·", gone: "✕" };

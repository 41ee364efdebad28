// What both pages are made of: elements, amounts, times, tables, curves, the stream of events.
//
// Much of what is shown was written by strangers. Everything becomes text or an attribute that this file chooses:
// nothing here takes HTML, and the page's policy would let none in.

const SVG = "http://www.w3.org/2000/svg";
const TOKEN = 10n ** 18n;
const MOST_BUFFER = 1 << 20;
const LEAST_PAUSE_MS = 1000, MOST_PAUSE_MS = 15000;

// Elements

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

export const el = (name, attributes, ...children) => filled(document.createElement(name), attributes, children);
export const drawn = (name, attributes, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

/** Make `old` like `fresh` and leave in place what is the same, so that focus, scrolling and selection stay. */
export function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE && fresh.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.hasAttribute("data-keep")) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  morphChildren(old, [...fresh.childNodes]);
}

/** Children with a key are known by it wherever they are, the others by their place and kind. */
function morphChildren(old, after) {
  const wanted = new Set(after.map(keyOf).filter(Boolean));
  let next = old.firstChild;
  const passOver = (until) => {
    while (next && next !== until && !wanted.has(keyOf(next))) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  };
  for (const child of after) {
    const key = keyOf(child);
    const known = key ? [...old.children].find((each) => keyOf(each) === key) : next && !keyOf(next) && next.nodeName === child.nodeName ? next : null;
    if (known) passOver(known);
    if (known && known === next) {
      next = next.nextSibling;
      morph(known, child);
    } else {
      old.insertBefore(child, next);
      known?.remove();
    }
  }
  passOver(null);
}

const keyOf = (node) => node.getAttribute?.("data-key") ?? null;

export function show(place, ...parts) {
  morph(place, filled(place.cloneNode(false), {}, parts));
}

export const section = (title, ...children) => {
  const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return el("section", { "aria-labelledby": id, "data-key": id }, el("h2", { id }, title), children);
};

/** `columns`: [heading, cell of a row, "number"?]. On a narrow screen each row becomes a list, by `data-name`. */
export function table(caption, columns, rows, none) {
  if (!rows.length) return el("p", { class: "quiet" }, none);
  const heads = columns.map(([name, , kind]) => el("th", { scope: "col", class: kind }, name));
  const body = rows.map((row) =>
    el("tr", {}, columns.map(([name, cell, kind]) => el("td", { class: kind, "data-name": name }, el("div", {}, cell(row))))),
  );
  const inside = el("table", {}, el("caption", { class: "hidden" }, caption), el("thead", {}, el("tr", {}, heads)), el("tbody", {}, body));
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption }, inside);
}

export const tiles = (...items) =>
  el("ul", { class: "tiles" }, items.filter(Boolean).map(([name, value, note, kind]) =>
    el("li", {}, el("span", {}, name), el("strong", { class: kind }, value), note ? el("small", {}, note) : null)));

export const facts = (...pairs) =>
  el("dl", {}, pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== "").map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

export const badge = (text, kind) => el("span", { class: kind ? `badge ${kind}` : "badge" }, text);

export function bar(done, all, words) {
  const share = all > 0 ? Math.min(1, Math.max(0, done / all)) : 0;
  return el("span", { class: "bar" }, el("progress", { max: 1, value: share, "aria-label": words }), words);
}

/** Text that is copied by a button beside it. */
export const command = (text, what = "Copy the command") =>
  el("div", { class: "command" }, el("code", {}, text), el("button", { type: "button", class: "small", "data-copy": text, "aria-label": `${what} ${text}` }, "Copy"));

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

// Words

/** Base units, a string of digits, in CREDIT with at most `digits` decimals. */
export function credits(units, digits = 4) {
  const amount = BigInt(units), positive = amount < 0n ? -amount : amount;
  const scale = 10n ** BigInt(digits);
  const rounded = (positive * scale) / TOKEN;
  if (positive > 0n && rounded === 0n) return digits < 18 ? credits(units, Math.min(18, digits + 4)) : "0";
  const rest = String(rounded % scale).padStart(digits, "0").replace(/0+$/, "");
  const whole = String(rounded / scale).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  return `${amount < 0n ? "−" : ""}${whole}${rest ? "." + rest : ""}`;
}

export const count = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const short = (text) => (text && text.length > 16 ? el("code", { title: text }, `${text.slice(0, 8)}…${text.slice(-4)}`) : el("code", {}, text ?? ""));
export const code = (text) => el("code", {}, text);

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  if (whole < 129600) return `${Math.round(whole / 3600)} h`;
  return `${Math.round(whole / 86400)} days`;
}

export const until = (at, now) => (at > now ? `in ${span(at - now)}` : `${span(now - at)} ago`);
export const moment = (at) => new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

export function bytes(amount) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0, left = amount;
  while (left >= 1024 && place < units.length - 1) [left, place] = [left / 1024, place + 1];
  return `${left.toFixed(left < 10 && place ? 1 : 0)} ${units[place]}`;
}

// Asking

export class Refused extends Error {
  constructor(status, reason, found = {}) {
    super(reason);
    this.status = status;
    this.found = found;
  }
}

/** `fetch`, whose failure to reach anybody is a `Refused` with status 0. */
async function reach(path, options) {
  try {
    return await fetch(path, { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    throw new Refused(0, "it does not answer");
  }
}

export async function ask(path, options = {}) {
  const answer = await reach(path, options);
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, found.reason ?? `the answer was ${answer.status}`, found);
  return found;
}

/** Read server-sent events of `path` until stopped, and come back whenever the stream ends.
 *
 * `onOpen` is called whenever it begins, `onEvent` with each event's data, `onAway` with why there is none. */
export function follow(path, { headers = {}, onOpen, onEvent, onAway }) {
  let last = "", pause = LEAST_PAUSE_MS, stopped = false;
  const abort = new AbortController();

  async function read() {
    const asked = last ? { ...headers, "Last-Event-ID": last } : headers;
    const answer = await reach(path, { headers: asked, signal: abort.signal });
    if (!answer.ok) throw new Refused(answer.status, (await answer.json().catch(() => ({}))).reason ?? `${answer.status}`);
    pause = LEAST_PAUSE_MS;
    onOpen();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream has ended");
      buffer += value;
      const events = buffer.split("\n\n");
      buffer = events.pop();
      if (buffer.length > MOST_BUFFER) throw new Error("an event is too long");
      for (const event of events) heard(event);
    }
  }

  function heard(event) {
    let data = "", kind = "message";
    for (const line of event.split("\n")) {
      if (line.startsWith("id: ")) last = line.slice(4);
      else if (line.startsWith("event: ")) kind = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
    }
    if (data) onEvent(JSON.parse(data), kind);
  }

  (async () => {
    while (!stopped) {
      try {
        await read();
      } catch (error) {
        if (stopped) return;
        onAway(error);
      }
      await new Promise((wake) => setTimeout(wake, pause));
      pause = Math.min(2 * pause, MOST_PAUSE_MS);
    }
  })();
  return () => {
    stopped = true;
    abort.abort();
  };
}

/** Call `work` soon, at most once in `everyMs` however often it is asked for, and never twice at a time. */
export function paced(work, everyMs) {
  let planned = false, running = false, again = false, last = -Infinity;
  async function run() {
    planned = false;
    running = true;
    last = performance.now();
    try {
      await work();
    } finally {
      running = false;
      if (again) [again] = [false, soon()];
    }
  }
  function soon() {
    if (running) again = true;
    else if (!planned) {
      planned = true;
      setTimeout(run, Math.max(0, last + everyMs - performance.now()));
    }
  }
  return soon;
}

export function setState(kind, text) {
  const place = document.getElementById("state");
  if (place.textContent !== text) place.textContent = text;
  place.dataset.state = kind;
}

// Pictures

const COLOURS = 8;

function scaleOf(values) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - Math.max(0.5, Math.abs(low) / 10), high + Math.max(0.5, Math.abs(high) / 10)];
  const step = 10 ** Math.floor(Math.log10((high - low) / 4));
  const nice = [1, 2, 5, 10].map((each) => each * step).find((each) => (high - low) / each <= 5);
  const marks = [];
  for (let at = Math.ceil(low / nice) * nice; at <= high + nice / 1e6; at += nice) marks.push(Number(at.toPrecision(12)));
  return { low, high, marks };
}

/** Losses over time, `room` pixels wide: `series` are {name, points: [[seconds, loss], ...]}. */
export function curves(series, label, room) {
  const width = Math.min(1200, Math.max(280, room)), height = 240, left = 46, right = 12, top = 10, bottom = 26;
  const points = series.flatMap((each) => each.points);
  const x = scaleOf(points.map((point) => point[0])), y = scaleOf(points.map((point) => point[1]));
  const across = (value) => left + ((value - x.low) / (x.high - x.low)) * (width - left - right);
  const down = (value) => top + (1 - (value - y.low) / (y.high - y.low)) * (height - top - bottom);
  const inside = (mark) => mark >= x.low && mark <= x.high;
  const parts = [
    y.marks.map((mark) => [
      drawn("line", { class: "grid", x1: left, x2: width - right, y1: down(mark).toFixed(1), y2: down(mark).toFixed(1) }),
      drawn("text", { x: left - 7, y: (down(mark) + 4).toFixed(1), "text-anchor": "end" }, String(mark)),
    ]),
    x.marks.filter(inside).map((mark) => drawn("text", { x: across(mark).toFixed(1), y: height - 8, "text-anchor": "middle" }, span(Math.max(0, mark)))),
    series.map((each, number) => {
      const place = ([at, loss]) => `${across(at).toFixed(1)},${down(loss).toFixed(1)}`;
      const line = each.points.length > 1 ? each.points : [each.points[0], each.points[0]];
      return drawn("polyline", { class: `line s${number % COLOURS}`, points: line.map(place).join(" ") });
    }),
  ];
  const last = (each) => each.points[each.points.length - 1][1].toPrecision(4);
  const words = `${label}: ${series.map((each) => `${each.name} now ${last(each)}`).slice(0, 12).join(", ")}`;
  const mark = (number) => drawn("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" }, drawn("line", { class: `line s${number % COLOURS}`, x1: 2, x2: 20, y1: 5, y2: 5 }));
  return el("div", { class: "curves" },
    drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words }, parts),
    el("ul", { class: "legend" }, series.slice(0, 16).map((each, number) => el("li", {}, mark(number), `${each.name}: ${last(each)}`)),
      series.length > 16 ? el("li", {}, `and ${series.length - 16} more`) : null));
}

/** Tasks and what each rests on, from left to right: `tasks` are {index, label, state, deps}. */
export function graph(tasks, label) {
  const depth = new Map();
  for (const task of tasks) depth.set(task.index, Math.max(0, ...task.deps.map((dep) => (depth.get(dep) ?? -1) + 1)));
  const columns = [];
  for (const task of tasks) (columns[depth.get(task.index)] ??= []).push(task);
  const [wide, high, gapX, gapY] = [126, 26, 36, 10];
  const tallest = Math.max(...columns.map((column) => column.length));
  const width = Math.max(columns.length * (wide + gapX) - gapX + 4, 320), height = tallest * (high + gapY) - gapY + 4;
  const at = new Map();
  columns.forEach((column, x) =>
    column.forEach((task, y) => at.set(task.index, [2 + x * (wide + gapX), 2 + (y + (tallest - column.length) / 2) * (high + gapY)])));
  const edges = tasks.flatMap((task) => task.deps.filter((dep) => at.has(dep)).map((dep) => {
    const [x1, y1] = at.get(dep), [x2, y2] = at.get(task.index);
    const [from, to, bend] = [x1 + wide, x2, gapX / 2];
    return drawn("path", { class: "edge", d: `M${from} ${y1 + high / 2}C${from + bend} ${y1 + high / 2} ${to - bend} ${y2 + high / 2} ${to} ${y2 + high / 2}` });
  }));
  const boxes = tasks.map((task) => {
    const [x, y] = at.get(task.index);
    const name = task.label.length > 19 ? `${task.label.slice(0, 18)}…` : task.label;
    return drawn("g", { class: `task ${/^[a-z]+$/.test(task.state) ? task.state : ""}` },
      drawn("title", {}, `task ${task.index}, ${task.label}: ${task.state}`),
      drawn("rect", { x, y, width: wide, height: high, rx: 5 }),
      drawn("text", { x: x + wide / 2, y: y + 17, "text-anchor": "middle" }, name));
  });
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, edges, boxes);
  return el("div", { class: "wide graph", tabindex: "0", role: "region", "aria-label": label }, picture);
}

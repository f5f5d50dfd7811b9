// Lines, zones and rooms: drawn over the picture, and changed there with the mouse, a finger or the keyboard.
// Points are fractions of the picture's width and height, as a camera's file has them.

import { $, ask, make, put, setKey, unlock } from "./parts.js";

const NEAR = 16;       // px: a tap this near to the first corner closes a zone
const SHORT = 8;       // px: a line that is dragged for less is drawn by two taps instead
const EDGE = 0.02;     // of the picture
const TRY_MS = 250;    // after the last change, before the last hour is counted again
const KNOWN = { line: ["name", "from", "to", "was"], zone: ["name", "points", "was"], room: ["name", "lines", "reset", "empty", "was"] };

let size = null;       // of the picture, px of its file
let scene = null;      // as the server has it
let state = null;
let shapes = [];       // {kind: "line" | "zone", name, was, points: [[x, y], ...], rest}: what is shown
let rooms = [];        // {name, was, doors: Map(shape -> 1 | -1), reset, empty: shape | null, rest}
let editing = false, dirty = false;
let paths = [];        // of the last hour
let tried = new Map(); // shape -> what it would have counted
let drawing = null;    // {kind, points}: what is being drawn
let chosen = null;     // shape
let asked = false;     // for the scene, and no answer yet

export function pictureIs(width, height) {
  if (size && size[0] === width && size[1] === height) return;
  size = [width, height];
  $("stage").style.setProperty("--ratio", width / height);
  offer();
  draw();
}

export function receive(message) {
  const changed = state && state.places !== message.places;
  state = message;
  if (message.places !== undefined && message.fps !== undefined && (scene === null || changed) && !asked) load();
  else if (!editing) draw();
}

async function load() {
  asked = true;
  try {
    scene = await ask("scene.json");
    setKey(scene.key);
    offer();
    if (!editing) take();
  } catch (error) {
    if (error.status === 404) scene = {};  // a page that cannot be changed
  }
  asked = false;
}

// Nothing can be drawn before there is a picture to draw on.
function offer() {
  $("edit").hidden = size === null || scene === null || scene.version === undefined;
}

// ---- what the server has, and what is sent to it

const rest = (table, kind) => Object.fromEntries(Object.entries(table).filter(([name]) => !KNOWN[kind].includes(name)));

function take() {
  shapes = [
    ...(scene.line || []).map(one => ({ kind: "line", name: one.name, was: one.name, points: [one.from, one.to], rest: rest(one, "line") })),
    ...(scene.zone || []).map(one => ({ kind: "zone", name: one.name, was: one.name, points: one.points, rest: rest(one, "zone") })),
  ];
  const named = name => shapes.find(one => one.name === name) || null;
  rooms = (scene.room || []).map(one => ({
    name: one.name, was: one.name, reset: one.reset || "", empty: named(one.empty), rest: rest(one, "room"),
    doors: new Map(one.lines.map(line => line.startsWith("-") && !named(line) ? [named(line.slice(1)), -1] : [named(line), 1])),
  }));
  tried = new Map();
  chosen = drawing = null;
  dirty = false;
  draw();
}

function tables() {
  const named = kind => shapes.filter(one => one.kind === kind);
  return {
    line: named("line").map(({ name, was, points, rest }) => ({ name, from: points[0], to: points[1], ...rest, was })),
    zone: named("zone").map(({ name, was, points, rest }) => ({ name, points, ...rest, was })),
    room: rooms.map(({ name, was, doors, reset, empty, rest }) => ({
      name, lines: [...doors].map(([line, way]) => `${way < 0 ? "-" : ""}${line.name}`),
      ...(reset ? { reset } : {}), ...(empty ? { empty: empty.name } : {}), ...rest, was,
    })),
  };
}

// ---- drawing

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const box = () => { const { width, height } = $("shapes").getBoundingClientRect(); return [width, height]; };
const pixel = ([x, y]) => { const [w, h] = box(); return [x * w, y * h]; };
const rounded = value => Math.round(1e4 * Math.min(1, Math.max(0, value))) / 1e4;
// Onto the edge of the picture where it is near: whoever is cut off there has the feet on it.
const snapped = value => value < EDGE ? 0 : value > 1 - EDGE ? 1 : rounded(value);
const fraction = (x, y) => { const [w, h] = box(); return [snapped(x / w), snapped(y / h)]; };
const at = event => {
  const { left, top } = $("shapes").getBoundingClientRect();
  return [event.clientX - left, event.clientY - top];
};
const text = points => points.map(point => pixel(point).map(value => value.toFixed(1)).join(",")).join(" ");

function draw() {
  const root = $("shapes");
  if (!size || !root.clientWidth) return;
  const focused = document.activeElement && document.activeElement.dataset.handle;
  const [w, h] = box();
  root.setAttribute("viewBox", `0 0 ${w} ${h}`);
  root.classList.toggle("editing", editing);
  root.replaceChildren();
  if (editing) {
    root.append(svg("g", { class: "paths" }, ...paths.map(path => svg("polyline", { points: text(path) }))));
  }
  const order = [...shapes].sort((a, b) => (b.kind === "zone") - (a.kind === "zone"));  // lines above zones
  const taken = order.filter(shape => shape.kind === "line").map(shape => {
    const [x, y] = wordOf(shape, w, h);
    return { left: x - 10, top: y - 15, long: 20 };
  });
  root.append(...order.map(shape => drawn(shape, w, h)), ...order.map(shape => label(shape, w, h, taken)));
  // Handles above all else, or a name would lie on one.
  if (editing) root.append(...order.map(handles));
  if (drawing && drawing.points.length) {
    const points = drawing.points;
    root.append(svg("g", { class: `${drawing.kind} new` }, svg(drawing.kind === "line" ? "polyline" : "polygon", { class: "edge", points: text(points) }),
      ...points.map(point => { const [cx, cy] = pixel(point); return svg("circle", { class: "dot", cx, cy, r: 6 }); })));
  }
  if (focused) root.querySelector(`[data-handle="${focused}"]`)?.focus({ preventScroll: true });
}

function drawn(shape, w, h) {
  const group = svg("g", { class: `${shape.kind}${shape.rest.ignore ? " ignored" : ""}${shape === chosen ? " chosen" : ""}` });
  const points = text(shape.points), tag = shape.kind === "line" ? "polyline" : "polygon";
  if (editing) {
    const grip = svg(tag, { class: "grip", points });
    grip.addEventListener("pointerdown", event => drag(event, shape, shape.points.map((_, i) => i)));
    group.append(grip);
  }
  group.append(svg(tag, { class: "shadow", points }), svg(tag, { class: "edge", points }));
  if (shape.kind === "line") group.append(arrow(shape, w, h));
  return group;
}

function handles(shape) {
  const group = svg("g", { class: shape.kind });
  if (shape.kind === "zone" && shape === chosen) shape.points.forEach((_, index) => group.append(between(shape, index)));
  shape.points.forEach((_, index) => group.append(handle(shape, index)));
  return group;
}

// From the middle of a line to its "in" side: the right-hand one for who looks from its first point to its second.
// Where that begins and ends, and its direction, all in px.
function wayIn(shape, w, h) {
  const [[x1, y1], [x2, y2]] = shape.points.map(pixel);
  const long = Math.hypot(x2 - x1, y2 - y1) || 1, reach = Math.max(26, 0.055 * Math.max(w, h));
  const [x, y] = [(x1 + x2) / 2, (y1 + y2) / 2], [dx, dy] = [-(y2 - y1) / long, (x2 - x1) / long];
  return { middle: [x, y], tip: [x + dx * reach, y + dy * reach], way: [dx, dy] };
}

// The middle of the foot of the word at its tip.
function wordOf(shape, w, h) {
  const { tip, way } = wayIn(shape, w, h);
  return [tip[0] + way[0] * 14, tip[1] + way[1] * 14 + 4];
}

function arrow(shape, w, h) {
  const { middle: [x, y], tip, way: [dx, dy] } = wayIn(shape, w, h), wing = 9;
  const path = `M${x} ${y}L${tip[0]} ${tip[1]}M${tip[0] - wing * (dx + dy)} ${tip[1] - wing * (dy - dx)}L${tip[0]} ${tip[1]}` +
    `L${tip[0] - wing * (dx - dy)} ${tip[1] - wing * (dy + dx)}`;
  const [centre, foot] = wordOf(shape, w, h);
  const word = svg("text", { x: centre, y: foot, "text-anchor": "middle", class: "in" }, "in");
  return svg("g", { class: "arrow" }, svg("path", { class: "shadow", d: path }), svg("path", { class: "edge", d: path }), word);
}

// The name, and what is counted now, at the upper end or corner. taken: where other words are; it gets one more.
function label(shape, w, h, taken) {
  const counted = ((state && state[`${shape.kind}s`]) || []).find(one => one.name === shape.was && shape.was !== undefined);
  let words = shape.name;
  if (counted && !editing) words += shape.kind === "line" ? `  ${counted.in} in, ${counted.out} out` : `  ${counted.inside} here`;
  if (shape.rest.ignore && !editing) words += ": ignored";
  const [x, y] = pixel(shape.points.reduce((a, b) => (b[1] < a[1] ? b : a)));
  const long = 7.2 * words.length + 14;  // about; letters differ
  const left = Math.min(Math.max(4, x + 10), Math.max(4, w - long - 4)), lowest = Math.max(4, h - 26);
  const wanted = Math.min(Math.max(4, y - 11), lowest);
  const free = top => !taken.some(one => left < one.left + one.long + 4 && one.left < left + long + 4 && Math.abs(one.top - top) < 25);
  // The nearest free place below or above; where there is none, over another word.
  const near = [0, 25, -25, 50, -50, 75, -75].map(step => wanted + step).filter(top => top >= 4 && top <= lowest);
  const top = near.find(free) ?? wanted;
  taken.push({ left, top, long });
  return svg("g", { class: "label" }, svg("rect", { x: left, y: top, width: long, height: 22, rx: 5 }),
    svg("text", { x: left + 7, y: top + 15.5, textLength: long - 14, lengthAdjust: "spacingAndGlyphs" }, words));
}

function handle(shape, index) {
  const [cx, cy] = pixel(shape.points[index]);
  const which = shape.kind === "line" ? ["first end", "second end"][index] : `corner ${index + 1}`;
  const [x, y] = shape.points[index].map(value => Math.round(100 * value));
  const group = svg("g", {
    class: "handle", tabindex: 0, role: "button", "data-handle": `${shapes.indexOf(shape)}-${index}`,
    "aria-label": `${shape.name}, ${which}: ${x} % from the left, ${y} % from the top. Arrow keys move it` +
      (shape.kind === "zone" && shape.points.length > 3 ? ", Delete takes it out." : "."),
  }, svg("circle", { class: "reach", cx, cy, r: 20 }), svg("circle", { class: "dot", cx, cy, r: 7 }));
  group.addEventListener("pointerdown", event => drag(event, shape, [index]));
  group.addEventListener("keydown", event => {
    const step = event.shiftKey ? 0.002 : 0.01;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const moved = shape.points[index].map((value, axis) => rounded(value + way[axis] * step));
      shape.points = shape.points.map((point, i) => i === index ? moved : point);
    } else if (event.key === "Delete" && shape.kind === "zone" && shape.points.length > 3) {
      shape.points = shape.points.filter((_, i) => i !== index);
    } else return;
    event.preventDefault();
    changed();
  });
  return group;
}

// A small handle in the middle of a zone's edge: dragging it makes a corner there.
function between(shape, index) {
  const a = pixel(shape.points[index]), b = pixel(shape.points[(index + 1) % shape.points.length]);
  const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  const group = svg("g", { class: "between" }, svg("circle", { class: "reach", cx: middle[0], cy: middle[1], r: 14 }),
    svg("circle", { class: "dot", cx: middle[0], cy: middle[1], r: 4 }));
  group.addEventListener("pointerdown", event => {
    shape.points = [...shape.points.slice(0, index + 1), fraction(...middle), ...shape.points.slice(index + 1)];
    drag(event, shape, [index + 1]);
  });
  return group;
}

// Move some points of a shape with the pointer, until it is lifted.
function drag(event, shape, indices) {
  if (drawing || event.button > 0) return;
  event.stopPropagation();
  event.preventDefault();
  choose(shape);
  const from = at(event), before = shape.points, root = $("shapes");
  root.setPointerCapture(event.pointerId);
  const move = moved => {
    if (moved.pointerId !== event.pointerId) return;
    let [dx, dy] = [at(moved)[0] - from[0], at(moved)[1] - from[1]];
    if (indices.length > 1) {  // as a whole, and no part of it out of the picture
      const [w, h] = box(), pixels = before.map(pixel), xs = pixels.map(p => p[0]), ys = pixels.map(p => p[1]);
      dx = Math.min(w - Math.max(...xs), Math.max(-Math.min(...xs), dx));
      dy = Math.min(h - Math.max(...ys), Math.max(-Math.min(...ys), dy));
    }
    shape.points = before.map((point, i) => {
      const [x, y] = pixel(point);
      if (!indices.includes(i)) return point;
      const [w, h] = box();
      // A shape that is moved as a whole keeps its form: nothing of it is drawn to an edge.
      return indices.length > 1 ? [rounded((x + dx) / w), rounded((y + dy) / h)] : fraction(x + dx, y + dy);
    });
    changed();
  };
  const end = ended => {
    if (ended.pointerId !== event.pointerId) return;
    for (const name of ["pointerup", "pointercancel"]) root.removeEventListener(name, end);
    root.removeEventListener("pointermove", move);
    root.querySelector(`[data-handle="${shapes.indexOf(shape)}-${indices[0]}"]`)?.focus({ preventScroll: true });
  };
  for (const name of ["pointerup", "pointercancel"]) root.addEventListener(name, end);
  root.addEventListener("pointermove", move);
}

// ---- a new line or zone

function begin(kind, byKeyboard) {
  if (byKeyboard) {
    const points = kind === "line" ? [[0.5, 0.95], [0.5, 0.35]] : [[0.35, 0.35], [0.65, 0.35], [0.65, 0.65], [0.35, 0.65]];
    finish(kind, points);
    $("shapes").querySelector(`[data-handle="${shapes.indexOf(chosen)}-0"]`).focus();
    return;
  }
  drawing = { kind, points: [] };
  choose(null);
  hint(kind === "line" ? "Drag a line over the floor where people pass: who steps over it is counted." : "Tap the corners of the zone one after the other; tap the first again to finish.");
  $("shapes").classList.add("drawing");
}

function finish(kind, points) {
  stop();
  const names = shapes.map(one => one.name);
  let number = 1;
  while (names.includes(`${kind} ${number}`)) number += 1;
  shapes.push({ kind, name: `${kind} ${number}`, was: undefined, points, rest: {} });
  choose(shapes[shapes.length - 1]);
  changed();
  hint(kind === "line" ? "The arrow shows what counts as “in”. Drag the ends to where they belong." : "Drag corners, or the dots between them.");
}

function stop() {
  drawing = null;
  $("done").hidden = true;
  $("shapes").classList.remove("drawing");
  hint("");
}

$("shapes").addEventListener("pointerdown", event => {
  if (!editing || event.button > 0) return;
  if (!drawing) { choose(null); draw(); return; }
  event.preventDefault();
  const here = at(event), point = fraction(...here);
  if (drawing.kind === "zone") {
    const first = drawing.points.length && pixel(drawing.points[0]);
    if (drawing.points.length > 2 && Math.hypot(first[0] - here[0], first[1] - here[1]) < NEAR) {
      finish("zone", drawing.points);
      return;
    }
    drawing.points.push(point);
    $("done").hidden = drawing.points.length < 3;
    draw();
    return;
  }
  const root = $("shapes"), start = drawing.points[0] || point;
  root.setPointerCapture(event.pointerId);
  drawing.points = [start, point];
  const move = moved => { drawing.points = [start, fraction(...at(moved))]; draw(); };
  const end = ended => {
    for (const name of ["pointerup", "pointercancel"]) root.removeEventListener(name, end);
    root.removeEventListener("pointermove", move);
    const [a, b] = [pixel(start), at(ended)];
    if (Math.hypot(a[0] - b[0], a[1] - b[1]) < SHORT) {
      drawing.points = [start];
      hint("Now tap where the line ends.");
      draw();
    } else finish("line", [start, fraction(...b)]);
  };
  root.addEventListener("pointermove", move);
  for (const name of ["pointerup", "pointercancel"]) root.addEventListener(name, end);
  draw();
});

// ---- the list beside the picture

function choose(shape) {
  chosen = shape;
  for (const row of $("list").children) row.classList.toggle("chosen", row.shape === shape && shape !== null);
}

const hint = words => put($("hint"), words || (shapes.length ? "Drag what is drawn, or its ends and corners." : "Add a line where people pass, or a zone where they stay."));

function changed(rebuild = true) {
  dirty = true;
  put($("saved"), "");
  draw();
  if (rebuild) fillList();
  trySoon();
}

function remove(one) {
  shapes = shapes.filter(other => other !== one);
  rooms = rooms.filter(other => other !== one);
  for (const room of rooms) {
    room.doors.delete(one);
    if (room.empty === one) room.empty = null;
  }
  if (chosen === one) chosen = null;
  changed();
  $("add-line").focus();
}

// A row stays as long as its line, zone or room does, so that focus and what is being typed stay, too.
function fillList() {
  const old = new Map([...$("list").children].map(row => [row.shape, row]));
  const wanted = [...shapes, ...rooms].map(one => old.get(one) || (one.doors ? roomRow(one) : shapeRow(one)));
  if (wanted.length !== old.size || wanted.some((row, i) => row !== $("list").children[i])) $("list").replaceChildren(...wanted);
  for (const row of wanted) row.update();
  choose(chosen);
}

function nameField(one, kind) {
  const input = make("input", { type: "text", maxlength: 64, "aria-label": `Name of ${kind}`, required: true });
  input.value = one.name;
  input.addEventListener("input", () => { one.name = input.value.trim(); changed(); });
  return input;
}

function shapeRow(shape) {
  const result = make("p", { class: "small" });
  const turn = shape.kind === "line" ? make("button", { type: "button", class: "quiet", onclick: () => { shape.points = [...shape.points].reverse(); changed(); } }, "Turn arrow round") : null;
  const gone = make("button", { type: "button", class: "quiet", onclick: () => remove(shape) }, "Delete");
  const queue = shape.kind === "zone" ? make("input", { type: "checkbox" }) : null, ignore = queue && make("input", { type: "checkbox" });
  if (queue) {
    queue.checked = shape.rest.queue !== undefined;
    ignore.checked = Boolean(shape.rest.ignore);
    // A zone is one or the other, or neither.
    for (const [name, mine, other] of [["queue", queue, ignore], ["ignore", ignore, queue]]) mine.addEventListener("change", () => {
      const { queue: _, ignore: __, ...others } = shape.rest;
      shape.rest = mine.checked ? { ...others, [name]: true } : others;
      other.checked = false;
      for (const room of rooms) if (ignore.checked && room.empty === shape) room.empty = null;
      changed();
    });
  }
  const row = make("li", { class: shape.kind }, nameField(shape, shape.kind), result,
    queue && make("label", { class: "check" }, queue, "People queue here"),
    ignore && make("label", { class: "check" }, ignore, "Ignore what stands here"), make("div", { class: "row" }, turn, gone));
  row.shape = shape;
  row.addEventListener("focusin", () => { choose(shape); draw(); });
  row.update = () => {
    gone.setAttribute("aria-label", `Delete ${shape.name}`);
    if (turn) turn.setAttribute("aria-label", `Turn arrow of ${shape.name} round`);
    const counted = tried.get(shape);
    put(result, !counted || shape.rest.ignore ? "" : shape.kind === "line" ? `Last hour: ${counted.in} in, ${counted.out} out` :
      `Last hour: ${counted.entered} came${counted.entered ? `, stayed ${Math.round(counted.mean_dwell_s)} s on average` : ""}`);
  };
  return row;
}

const countedZones = () => shapes.filter(one => one.kind === "zone" && !one.rest.ignore);

function roomRow(room) {
  const doors = make("div"), gone = make("button", { type: "button", class: "quiet", onclick: () => remove(room) }, "Delete");
  const reset = make("input", { type: "time" });
  reset.value = room.reset;
  reset.addEventListener("input", () => { room.reset = reset.value; changed(); });
  const empty = make("select");
  empty.addEventListener("change", () => { room.empty = countedZones()[empty.value - 1] || null; changed(); });
  const row = make("li", { class: "room" }, nameField(room, "room"),
    doors, make("label", {}, "Empty every day at ", reset), make("label", {}, "Empty when nobody is in ", empty), make("div", { class: "row" }, gone));
  row.shape = room;
  const select = (element, options, value) => {
    element.replaceChildren(...options.map(([worth, words]) => make("option", { value: worth }, words)));
    element.value = value;
  };
  row.update = () => {
    gone.setAttribute("aria-label", `Delete ${room.name}`);
    const lines = shapes.filter(one => one.kind === "line"), zones = countedZones();
    while (doors.children.length > lines.length) doors.lastChild.remove();
    lines.forEach((line, i) => {
      const label = doors.children[i] || doors.appendChild(make("label", {}, make("span"), make("select")));
      put(label.firstChild, `${line.name} `);
      const field = label.lastChild;
      select(field, [[0, "not a door of this room"], [1, "“in” leads into it"], [-1, "“in” leads out of it"]], room.doors.get(line) || 0);
      field.onchange = () => {
        if (Number(field.value)) room.doors.set(line, Number(field.value)); else room.doors.delete(line);
        changed();
      };
    });
    select(empty, [[0, "– no zone covers the whole room –"], ...zones.map((zone, i) => [i + 1, zone.name])], zones.indexOf(room.empty) + 1);
  };
  return row;
}

// ---- the last hour

let timer = null, attempt = 0;
function trySoon() {
  if (!scene.paths) { put($("tried"), "To try lines on the last hour, start detection with --store FILE."); return; }
  clearTimeout(timer);
  timer = setTimeout(tryOut, TRY_MS);
}

async function tryOut() {
  const mine = attempt += 1, { line, zone } = tables(), counted = shapes.slice();
  if (!shapes.length) { put($("tried"), ""); return; }
  try {
    const answer = await ask("count.json", { line, zone });
    if (mine !== attempt) return;
    tried = new Map();
    for (const kind of ["line", "zone"]) {
      counted.filter(one => one.kind === kind).forEach((shape, i) => tried.set(shape, answer[kind][i]));
    }
    put($("tried"), answer.paths ? `Computed from ${answer.paths} path${answer.paths === 1 ? "" : "s"} of the last ${answer.minutes} minutes.` : "Nobody walked here in the last hour, so there is nothing to compute this from.");
    $("tried").classList.remove("bad");
  } catch (error) {
    if (mine !== attempt) return;
    put($("tried"), error.message);
    $("tried").classList.add("bad");
  }
  if (editing) fillList();
}

// ---- beginning, saving, ending

async function open() {
  editing = true;
  $("editor").hidden = false;
  $("now").hidden = true;
  document.body.classList.add("editing");
  $("shapes").setAttribute("role", "group");
  $("shapes").setAttribute("aria-label", "Lines and zones on the picture");
  $("shapes").removeAttribute("aria-hidden");
  put($("save"), scene.file ? "Save" : "Use now");
  put($("saved"), "");
  put($("tried"), "");
  take();
  fillList();
  hint("");
  trySoon();
  $("add-line").focus({ preventScroll: true });
  if (scene.paths) {
    paths = await ask("paths.json").catch(() => []);
    draw();
  }
}

function close() {
  editing = false;
  stop();
  $("editor").hidden = true;
  $("now").hidden = false;
  document.body.classList.remove("editing");
  for (const name of ["role", "aria-label"]) $("shapes").removeAttribute(name);
  $("shapes").setAttribute("aria-hidden", "true");
  take();
  $("edit").focus();
}

async function save() {
  stop();
  if (!await unlock()) return;
  let answer;
  try {
    answer = await ask("scene.json", tables());
  } catch (error) {
    $("saved").replaceChildren(make("p", { class: "bad" }, error.message));
    return;
  }
  dirty = false;
  await load();
  const names = [...shapes, ...rooms];
  for (const one of names) one.was = one.name;  // from now on
  if (answer.saved) {
    $("saved").replaceChildren(make("p", { class: "good" }, `Saved in ${answer.file}, and in use from now on. The file as it was is kept as ${answer.backup}.`));
    return;
  }
  const copy = make("textarea", { readonly: true, rows: 8, "aria-label": "Text for the camera's file" });
  copy.value = answer.text;
  $("saved").replaceChildren(
    make("p", {}, `In use until detection is started again.${answer.why ? ` It could not be saved: ${answer.why}.` : ""} To keep it, put this into the camera's file (--config):`),
    copy, make("button", { type: "button", onclick: async event => {
      copy.select();
      await navigator.clipboard?.writeText(copy.value).catch(() => {});
      put(event.target, "Copied");
    } }, "Copy"));
}

$("edit").addEventListener("click", () => { if (editing) close(); else open(); });
$("cancel").addEventListener("click", close);
$("save").addEventListener("click", save);
$("done").addEventListener("click", () => finish("zone", drawing.points));
for (const kind of ["line", "zone"]) $(`add-${kind}`).addEventListener("click", event => begin(kind, event.detail === 0));
$("add-room").addEventListener("click", () => {
  stop();
  const lines = shapes.filter(one => one.kind === "line");
  if (!lines.length) { hint("First add a line at each door of the room."); return; }
  let number = 1;
  while (rooms.some(one => one.name === `room ${number}`)) number += 1;
  rooms.push({ name: `room ${number}`, was: undefined, doors: new Map(lines.map(line => [line, 1])), reset: "", empty: null, rest: {} });
  changed();
  $("list").lastElementChild.querySelector("input").focus();
});
document.addEventListener("keydown", event => {
  if (!editing || $("ask").open) return;
  if (event.key === "Escape" && drawing) { stop(); draw(); }
  if (event.key === "Enter" && drawing && drawing.kind === "zone" && drawing.points.length > 2) finish("zone", drawing.points);
});
addEventListener("beforeunload", event => { if (editing && dirty) event.preventDefault(); });
new ResizeObserver(draw).observe($("stage"));

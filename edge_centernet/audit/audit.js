"use strict";
const STEP_S = 0.3;      // of the recording between two pictures at most: a slow machine plays more slowly, and skips nobody
const BOUNCE_MS = 80;    // two presses of one button within that are one: fingers are not that fast, worn buttons are
const SPEEDS = ["0.5", "1", "2", "4"];
const $ = id => document.getElementById(id);

let state = null;        // the last one received
let stretch = 0;
let shown = null;        // { at, following } of the picture on the page
let playing = 0;         // number of the run of playing; 0 while paused
let runs = 0;
let last = { way: "", at: 0 };  // last press
let loading = Promise.resolve();
let sure = false;        // whether finishing early was asked for once

async function ask(path, body) {
  const how = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { cache: "no-store", ...how });
  if (!answer.ok) throw new Error(answer.status === 401 ? "Open the address with the token again." : `the answer was ${answer.status}`);
  return answer;
}

function trouble(text) {
  $("banner").textContent = text;
  $("banner").hidden = !text;
}

// One after the other: an undo must not overtake its crossing. What is not answered is tried again.
let queue = Promise.resolve();
function send(path, body) {
  queue = queue.then(async () => {
    for (;;) {
      try {
        receive(await (await ask(path, body)).json());
        return;
      } catch (error) {
        pause();
        trouble(`Not kept yet (${error.message}). Is edge-centernet audit still running? Trying again …`);
        await new Promise(done => setTimeout(done, 1000));
      }
    }
  });
}

// The list of crossings and how far they were watched are this page's own: an answer may be older than the last press.
function receive(answer) {
  trouble(answer.trouble ? `The disk does not take it: ${answer.trouble}` : "");
  if (!answer.finished) return;
  state = answer;
  result();
}

// ---- playing

async function show(at, live) {
  const query = new URLSearchParams({ stretch, at, playing: live ? 1 : 0 });
  const answer = await ask(`picture.jpg?${query}`);
  const url = URL.createObjectURL(await answer.blob()), image = $("picture"), before = image.src;
  image.src = url;
  await image.decode();
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  const following = answer.headers.get("X-Next");
  shown = { at, seconds: Number(answer.headers.get("X-Seconds")), following: following ? Number(following) : null };
  const now = state.stretches[stretch];
  if (live) now.reached = Math.max(now.reached, at);
  place();
}

// Pictures are asked for one by one, so that none is shown late. where: gives the moment, from what is shown by then.
function look(where, live) {
  loading = loading.then(() => show(where(), live)).catch(error => { pause(); trouble(`No picture: ${error.message}`); });
  return loading;
}

const speed = () => Number(document.querySelector("[name=speed]:checked").value);

async function play() {
  const run = playing = ++runs, now = state.stretches[stretch];
  place();
  let before = performance.now();
  while (playing === run && shown.at < now.last) {
    await new Promise(requestAnimationFrame);
    const time = performance.now();
    const step = Math.min(speed() * (time - before) / 1000, STEP_S);
    before = time;
    await look(() => Math.min(shown.at + step, now.last), true);
  }
  if (playing === run) pause();
  if (shown.at >= now.last) $("on").focus();
}

function pause() {
  playing = 0;
  place();
}

function toggle() { if (playing) pause(); else if (shown.at < state.stretches[stretch].last) play(); }

// Only what was watched can be sought: whoever skips would miss somebody.
function go(where) {
  const now = state.stretches[stretch];
  return look(() => Math.min(Math.max(where(), now.first), now.reached), false);
}

function back() { go(() => shown.at - 5); }
function previous() { pause(); go(() => shown.seconds - 0.001); }
function following() {
  pause();
  const now = state.stretches[stretch];
  look(() => Math.min(shown.following === null ? now.last : shown.following, now.last), true);
}

function clock(seconds) {
  const tenths = Math.round(Math.max(0, seconds) * 10), minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

function place() {
  const now = state.stretches[stretch], ended = shown.at >= now.last;
  $("where").textContent = state.stretches.length > 1 ? `stretch ${stretch + 1} of ${state.stretches.length}` : "";
  $("slider").max = (now.last - now.first).toFixed(1);
  $("slider").value = shown.at - now.first;
  $("slider").setAttribute("aria-valuetext", clock(shown.at - now.first));
  $("time").textContent = `${clock(shown.at - now.first)} / ${clock(now.last - now.first)}`;
  $("play").textContent = playing ? "Pause" : "Play";
  $("play").hidden = ended;
  $("on").hidden = !ended;
  $("on").textContent = state.stretches.every(one => one.reached >= one.last) ? "Show the result" : "Next stretch";
}

async function begin() {
  const next = state.stretches.findIndex(one => one.reached < one.last);
  stretch = next < 0 ? state.stretches.length - 1 : next;
  const now = state.stretches[stretch];
  // Somewhat before the place that was reached: the last seconds may not have been looked at.
  shown = { at: now.first, seconds: now.first, following: null };
  await look(() => (next < 0 ? now.last : Math.max(now.first, now.reached - 2)), false);
  list();
}

function on() {
  if (state.stretches.every(one => one.reached >= one.last)) send("finish", {});
  else begin().then(() => $("play").focus());
}

// ---- crossings

function cross(line, direction, button, event) {
  const way = `${line} ${direction}`, time = event.timeStamp;
  if (event.repeat || (last.way === way && time - last.at < BOUNCE_MS)) return;
  last = { way, at: time };
  const id = crypto.getRandomValues(new Uint32Array(3)).join("-");
  const seen = { id, stretch, at: shown.at, line, direction };
  state.seen.push(seen);
  list();
  flash(`${line}: ${direction}`);
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 200);
  send("crossing", seen);
}

function undo() {
  const mine = state.seen.filter(one => one.stretch === stretch);
  if (mine.length) remove(mine[mine.length - 1]);
}

function remove(seen) {
  state.seen = state.seen.filter(one => one.id !== seen.id);
  list();
  flash(`taken back: ${seen.line}, ${seen.direction}`);
  send("undo", { id: seen.id });
}

let fading = 0;
function flash(text) {
  $("flash").textContent = text;
  $("flash").hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => { $("flash").hidden = true; }, 1200);
}

function list() {
  const first = state.stretches[stretch].first, mine = state.seen.filter(one => one.stretch === stretch).reverse();
  $("number").textContent = state.seen.length;
  $("none").hidden = mine.length > 0;
  $("undo").disabled = mine.length === 0;
  $("seen").replaceChildren(...mine.map(seen => {
    const item = document.createElement("li"), text = document.createElement("span"), away = document.createElement("button");
    text.textContent = `${clock(seen.at - first)}  ${seen.line}, ${seen.direction}`;
    away.type = "button";
    away.textContent = "✕";
    away.setAttribute("aria-label", `Take back ${text.textContent}`);
    away.addEventListener("click", () => remove(seen));
    item.append(text, away);
    return item;
  }));
}

function lines() {
  state.lines.forEach((name, i) => {
    const group = document.createElement("div"), title = document.createElement("h3"), ways = document.createElement("div");
    group.className = "line";
    ways.className = "ways";
    title.textContent = name;
    ["in", "out"].forEach((direction, j) => {
      const button = document.createElement("button"), digit = 2 * i + j + 1;
      button.type = "button";
      button.textContent = direction === "in" ? "In " : "Out ";
      button.dataset.line = name;
      button.dataset.direction = direction;
      button.setAttribute("aria-label", `${name}: ${direction}`);
      if (digit < 10) {
        const key = document.createElement("kbd");
        key.textContent = button.dataset.key = String(digit);
        button.setAttribute("aria-keyshortcuts", key.textContent);
        button.append(key);
      }
      button.addEventListener("click", event => {
        cross(name, direction, button, event);
        // After a click with the mouse the space bar is to play, not to press this button again.
        if (event.detail) button.blur();
      });
      ways.append(button);
    });
    group.append(title, ways);
    $("lines").append(group);
  });
}

// ---- the end

function finish() {
  const rest = state.stretches.reduce((sum, one) => sum + one.last - one.reached, 0);
  if (rest > 0.05 && !sure) {
    sure = true;
    $("finish").textContent = "Finish all the same";
    $("rest").textContent = `${clock(rest)} are not watched yet, and will not be compared.`;
    return;
  }
  pause();
  send("finish", {});
}

function result() {
  playing = 0;
  $("audit").hidden = $("how").hidden = true;
  $("result").hidden = false;
  $("where").textContent = "finished";
  $("heading").textContent = state.result.heading;
  $("sentences").replaceChildren(...state.result.sentences.map(text => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  const percent = share => `${share < 0 ? "−" : share > 0 ? "+" : ""}${Math.abs(Math.round(100 * share))} %`;
  $("scores").replaceChildren(...state.result.scores.map(score => {
    const row = document.createElement("tr"), name = document.createElement("th");
    name.scope = "row";
    name.textContent = `${score.line}, ${score.direction}`;
    row.append(name);
    for (const value of [score.true, score.counted, score.missed, score.extra, score.error ? percent(score.error[0]) : "–"]) {
      row.insertCell().textContent = value;
    }
    return row;
  }));
  $("result").focus();
}

document.addEventListener("keydown", event => {
  if (!state || state.finished || event.ctrlKey || event.metaKey || event.altKey || !$("shortcuts").checked) return;
  const on = event.target, key = event.key;
  // The space bar presses a button that has the focus, and arrows move a slider or choose a speed, as everywhere.
  const own = on.matches("button, summary") ? [" ", "Enter"] : on.matches("input") ? [" ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"] : [];
  if (own.includes(key)) return;
  const pressed = document.querySelector(`#lines button[data-key="${CSS.escape(key)}"]`);
  if (pressed) cross(pressed.dataset.line, pressed.dataset.direction, pressed, event);
  else if (key === " ") toggle();
  else if (key === "ArrowLeft") back();
  else if (key === ",") previous();
  else if (key === ".") following();
  else if (key === "+" || key === "-") {
    const next = SPEEDS.indexOf(String(speed())) + (key === "+" ? 1 : -1);
    if (SPEEDS[next]) document.querySelector(`[name=speed][value="${SPEEDS[next]}"]`).checked = true;
  } else if (key === "Backspace" || key.toLowerCase() === "u") { if (!event.repeat) undo(); }
  else return;
  event.preventDefault();
});
document.addEventListener("visibilitychange", () => { if (document.hidden && state && !state.finished) pause(); });
for (const [id, act] of Object.entries({ play: toggle, back, previous, next: following, on, undo, finish })) {
  $(id).addEventListener("click", event => { act(); if (event.detail) $(id).blur(); });
}
$("slider").addEventListener("input", () => { pause(); const at = state.stretches[stretch].first + Number($("slider").value); go(() => at); });
document.querySelectorAll("[name=speed]").forEach(one => one.addEventListener("click", event => { if (event.detail) one.blur(); }));

ask("audit.json").then(async answer => {
  state = await answer.json();
  $("title").textContent = `How right are the counts? ${state.source}`;
  if (state.kind === "paths") {
    $("how").append(" The dots are people as they were tracked: whoever was never found has no dot, so this tells how right "
      + "the lines are, not how many were overlooked. For that, audit a video.");
  }
  if (state.finished) { result(); return; }
  lines();
  $("audit").hidden = false;
  await begin();
}).catch(error => trouble(`Nothing to show: ${error.message}`));

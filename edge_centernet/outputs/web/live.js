// The picture of a camera, and what is counted now.

import { $, ask, make, now, plural, put, question, rows, seconds, unlock } from "./parts.js";
import * as drawing from "./draw.js";
import { OLD_S, STATUS, follow } from "./feed.js";
import * as past from "./past.js";

const PROBLEM = {
  frozen: "The camera sends no new picture.", lost: "The camera is lost.", stuck: "The camera hangs.", ended: "The source has ended."
};

let state = null;         // the last one received
let captured = null;      // when the shown picture was captured, by our clock, s

function show(i, next, at) {
  const image = $("picture"), last = image.src;
  image.src = next.src;
  image.hidden = false;
  $("waiting").hidden = true;
  drawing.pictureIs(next.naturalWidth, next.naturalHeight);
  captured = at;
  return last;
}

function receive(message) {
  state = message;
  $("all").hidden = !state.several;
  const name = state.name || "Camera";
  put($("name"), name);
  if (document.title !== name) document.title = name;
  cards("lines", state.lines || [], lineFigures);
  cards("rooms", state.rooms || [], roomFigures);
  cards("zones", state.zones || [], zoneFigures);
  alerts();
  const found = Object.entries(state.detections || {}).sort();
  put($("detections"), found.map(([kind, number]) => `${number} × ${kind}`).join(", ") || "nothing");
  speed();
  board();
  drawing.receive(state);
  past.receive(state);
}

// ---- what is counted now, in plain words: for each place its name, large figures, and a line of small print

const byClass = counts => Object.keys(counts || {}).length > 1;

function lineFigures(line) {
  const kinds = byClass(line.classes)
    ? Object.entries(line.classes).map(([kind, of]) => `${kind}: ${of.in} in, ${of.out} out`).join(" · ") : "";
  return { figures: [[line.in, "came in"], [line.out, "went out"]], small: kinds };
}

function roomFigures(room) {
  const sure = room.low === room.high ? "" : `between ${room.low} and ${room.high} · `;
  return { figures: [[room.inside, "inside now"]], small: `${sure}${room.entered} came in` };
}

function zoneFigures(zone) {
  const small = [plural(zone.entered, "visit", "visits")];
  if (zone.entered) small.push(`${seconds(zone.mean_dwell_s)} on average`, `longest ${seconds(zone.longest_s)}`);
  const figures = [[zone.inside, "here now"]];
  if (zone.queue) {
    figures.push([zone.queue.length, "waiting"]);
    if (zone.queue.left) small.push(`waited ${seconds(zone.queue.left_mean_s)} on average lately`);
  }
  if (byClass(zone.classes)) {
    small.push(...Object.entries(zone.classes).map(([kind, of]) => `${kind}: ${of.entered}`));
  }
  return { figures, small: small.join(" · ") };
}

function cards(id, wanted, figuresOf) {
  const section = $(id);
  section.hidden = wanted.length === 0;
  rows(section, wanted, () => {
    const buttons = id === "rooms" ? make("button", { type: "button", class: "quiet", onclick: setRoom }, "Correct the number") : null;
    return make("article", {}, make("h2"), make("div", { class: "figures" }), make("p", { class: "small" }), ...(buttons ? [buttons] : []));
  }, (article, one) => {
    const { figures, small } = figuresOf(one);
    article.dataset.name = one.name;
    put(article.children[0], one.name);
    rows(article.children[1], figures, () => make("p", {}, make("b"), " ", make("span")), (figure, [number, what]) => {
      put(figure.firstChild, number);
      put(figure.lastChild, what);
    });
    put(article.children[2], small);
  });
}

const ALERT = {
  queue: one => `${Math.round(one.value)} are waiting at ${one.where}`,
  waiting: one => `somebody has waited for ${seconds(one.value)} at ${one.where}`,
  loitering: one => `somebody has been at ${one.where} for ${seconds(one.value)}`,
  capacity: one => `${Math.round(one.value)} are in ${one.where}`,
};

function alerts() {
  const texts = (state.rules || []).filter(one => one.active).map(one => `${one.name}: ${ALERT[one.kind](one)}`);
  $("alerts").hidden = texts.length === 0;
  rows($("alerts"), texts, () => make("li"), put);
}

async function setRoom(event) {
  const name = event.target.closest("article").dataset.name;
  if (!await unlock()) return;
  await question({
    title: `How many people are in “${name}”?`,
    text: "The estimate goes on from the number that you enter.",
    ok: "Set",
    field: { label: "People", type: "number", min: 0, max: 65535, value: 0 },
    check: number => change("reset.json", { room: name, inside: Number(number) }),
  });
}

// What is wrong with a change, or nothing.
async function change(path, body) {
  try {
    await ask(path, body);
    return "";
  } catch (error) {
    return error.message;
  }
}

$("reset").addEventListener("click", async () => {
  if (!await unlock()) return;
  await question({
    title: "Start counting at 0?",
    text: "The totals of all lines and zones begin at 0. The history keeps what was counted.",
    ok: "Start at 0",
    check: () => change("reset.json", {}),
  });
});

// ---- for engineers

function terms(list, wanted) {
  rows(list, wanted, () => make("div", {}, make("dt"), make("dd")), (pair, [name, value, bad]) => {
    put(pair.firstChild, name);
    put(pair.lastChild, value);
    pair.lastChild.classList.toggle("bad", Boolean(bad));
  });
}

const memory = mb => mb < 1000 ? `${mb} MB` : `${(mb / 1000).toFixed(1)} GB`;

function speed() {
  if (state.fps === undefined) return;
  const ms = Object.entries(state.ms).map(([step, value]) => [step, `${value.toFixed(1)} ms`]);
  terms($("speed"), [["results a second", state.fps.toFixed(1)], ["age of a result", `${Math.round(state.age_ms)} ms`],
    ...ms, ["frames skipped", state.capture.dropped], ["source reopened", state.capture.reopened],
    ["viewers", state.viewers], ["source", state.source], ["version", state.version]]);
}

function board() {
  const told = state.board, wanted = [];
  if (told.temperature_c !== undefined) {
    wanted.push(["temperature", `${told.temperature_c.toFixed(0)} °C`, told.temperature_c >= 80]);
  }
  if (told.throttled !== undefined) {
    wanted.push(["slowed down", told.throttled.join(", ") || "no", told.throttled.length > 0]);
  }
  if (told.throttled_before && told.throttled_before.length) {
    wanted.push(["since start-up", told.throttled_before.join(", "), true]);
  }
  if (told.load !== undefined) wanted.push(["load", told.cores ? `${told.load} of ${told.cores}` : told.load]);
  if (told.memory_free_mb !== undefined) {
    wanted.push(["memory free", memory(told.memory_free_mb), told.memory_free_mb < 0.05 * told.memory_total_mb]);
  }
  $("board").hidden = wanted.length === 0;
  terms($("board").querySelector("dl"), wanted);
}

// ---- how fresh it is

function tick() {
  const capture = state ? state.capture : { state: "starting", detail: "" };
  const age = captured === null ? null : Math.max(0, now() - captured);
  const old = age !== null && age > OLD_S && !document.hidden;
  const problem = feed.problem, trouble = problem || (PROBLEM[capture.state] ? `${PROBLEM[capture.state]} ${capture.detail}` : "");
  put($("status"), problem ? "no connection" : old && capture.state === "live" ? "old picture" : STATUS[capture.state]);
  $("status").classList.toggle("live", !problem && !old && capture.state === "live");
  put($("banner"), trouble);
  $("banner").hidden = !trouble;
  $("picture").classList.toggle("old", old || Boolean(trouble));
  $("now").classList.toggle("old", Boolean(problem));
  $("age").hidden = age === null;
  $("age").classList.toggle("old", old);
  if (age !== null) put($("age"), old ? `picture is ${seconds(age)} old` : `${seconds(age)} old`);
}

// ---- buttons

$("full").hidden = !document.fullscreenEnabled;
$("full").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen(); else $("stage").requestFullscreen();
});
$("snapshot").addEventListener("click", event => {
  const name = $("name").textContent.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "picture";
  const time = new Date(Date.now() - 60000 * new Date().getTimezoneOffset()).toISOString().slice(0, 19);
  event.currentTarget.download = `${name}-${time.replace("T", "-").replaceAll(":", "")}.jpg`;
});

const feed = follow({ cameras: false, opened: () => { feed.ask(0); feed.ask(0); }, receive, show, tick });

// What the store tells: charts of today and this week, and the list of what happened.

import { $, ask, make, put, seconds } from "./parts.js";

const CHARTS_S = 60;   // between two looks at the charts
const LOOK_S = 3;      // between two looks at events, at least, while something is counted

let there = null;      // whether there is a store; not known before the first answer
let of = "today";
let counted = "";      // the counts at the last look
let looked = 0, drawn = 0;  // ms
let events = [];

export function receive(state) {
  const time = Date.now(), counts = JSON.stringify([state.lines, (state.zones || []).map(zone => zone.entered)]);
  $("reset").hidden = !(state.lines || []).length && !(state.zones || []).length;
  if (there === false || document.hidden) return;
  if (counts !== counted && time - looked > 1000 * LOOK_S) {
    counted = counts;
    looked = time;
    refresh();
  }
  if (time - drawn > 1000 * CHARTS_S) charts();
}

async function refresh() {
  try {
    const newest = (await ask("events.json")).events;
    const last = newest.length ? newest[newest.length - 1].time : 0;
    // Those that were asked for by "Show older" stay.
    events = [...newest, ...events.filter(one => one.time < last)];
    there = true;
  } catch (error) {
    if (error.status === 404) there = false;
    return;
  }
  $("history").hidden = $("events").hidden = false;
  list();
}

async function charts() {
  drawn = Date.now();
  const wanted = of, answer = await fetch(`history?of=${wanted}`, { cache: "no-store" }).catch(() => null);
  // Its names are escaped by the server, and the page's policy lets nothing in it run.
  if (answer && answer.ok && wanted === of) $("charts").innerHTML = await answer.text();
}

for (const button of document.querySelectorAll("#history [data-of]")) {
  button.addEventListener("click", () => {
    of = button.dataset.of;
    for (const one of document.querySelectorAll("#history [data-of]")) one.setAttribute("aria-pressed", one === button);
    const day = new Date();
    if (of === "week") day.setDate(day.getDate() - (day.getDay() + 6) % 7);
    const text = `${day.getFullYear()}-${String(day.getMonth() + 1).padStart(2, "0")}-${String(day.getDate()).padStart(2, "0")}`;
    $("csv").href = `report.csv?from=${text}`;
    charts();
  });
}

$("older").addEventListener("click", async () => {
  const last = events.length ? events[events.length - 1].time : "";
  const older = (await ask(`events.json?before=${last}`)).events;
  events.push(...older);
  $("older").hidden = older.length === 0;
  list();
});

const WORDS = {
  crossed: one => `${one.class} ${one.direction === "in" ? "came in" : "went out"}`,
  entered: one => `${one.class} entered`,
  alert: one => `${one.rule} ${one.direction === "began" ? "began" : "is over"}`,
  reset: one => `set to ${one.value} by hand`,
  left: one => `${one.class} left${one.dwell_s === null ? "" : ` after ${seconds(one.dwell_s)}`}`,
};

function list() {
  const shown = $("events").querySelector("ol");
  const day = new Date().toDateString();
  // Rows are kept by what they tell, so that a picture is not loaded again, nor focus lost.
  const old = new Map([...shown.children].map(row => [row.dataset.key, row]));
  shown.replaceChildren(...events.map(one => {
    const key = `${one.time} ${one.event} ${one.where} ${one.id} ${one.picture}`;
    if (old.has(key)) return old.get(key);
    const time = new Date(one.time), clock = time.toLocaleTimeString();
    const what = WORDS[one.event] ? WORDS[one.event](one) : one.event;
    const picture = one.picture === null ? null : make("a", { href: one.picture, target: "_blank", class: "thumb" },
      make("img", { src: one.picture, alt: `Picture: ${what}, ${one.where}`, loading: "lazy" }));
    return make("li", { "data-key": key },
      make("time", { datetime: time.toISOString() }, time.toDateString() === day ? clock : `${time.toLocaleDateString()} ${clock}`),
      make("span", {}, make("b", {}, what), make("span", { class: "small" }, one.where)), picture);
  }));
  if (!events.length) put(shown.appendChild(make("li")), "Nothing yet.");
}

// All cameras of a board: the picture of each, whether it is live, and what is counted there.

import { OLD_S, STATUS, follow } from "./feed.js";
import { $, now, put } from "./parts.js";

let cameras = [];         // as the board tells of them, in its order
const captured = [];      // when each shown picture was captured, by our clock, s

function receive(message) {
  const first = cameras.length === 0;
  cameras = message.cameras;
  if (!first) return;
  for (const camera of cameras) {
    const card = document.querySelector("template").content.cloneNode(true);
    card.querySelector("a").href = camera.path;
    put(card.querySelector("h2"), camera.name);
    card.querySelector("img").alt = `Live picture of ${camera.name}`;
    $("cameras").append(card);
  }
  opened();
}

function opened() {
  cameras.forEach((_, i) => feed.ask(i));
}

function show(i, next, at) {
  const box = $("cameras").children[i].querySelector(".view"), image = box.querySelector("img"), last = image.src;
  image.src = next.src;
  image.hidden = false;
  box.querySelector("span").hidden = true;
  captured[i] = at;
  return last;
}

// What is counted, else what is in a live picture: three things at most, the page of the camera has the rest.
function counts(camera) {
  const told = [
    ...(camera.rooms || []).map(room => `${room.name}: ${room.inside} inside`),
    ...(camera.lines || []).map(line => `${line.name}: ${line.in} in, ${line.out} out`),
    ...(camera.zones || []).map(zone => `${zone.name}: ${zone.inside} inside`),
  ];
  if (!told.length && camera.capture.state !== "live") return "";
  const seen = Object.entries(camera.detections || {}).sort().map(([name, count]) => `${name} ${count}`);
  return (told.length ? told : seen.length ? seen : ["nothing in the picture"]).slice(0, 3).join(" · ");
}

function tick() {
  const well = cameras.filter(camera => camera.capture.state === "live").length, { problem } = feed;
  put($("status"), problem ? "no connection" : `${well} of ${cameras.length} live`);
  $("status").classList.toggle("live", !problem && well === cameras.length);
  put($("banner"), problem);
  $("banner").hidden = !problem;
  cameras.forEach((camera, i) => {
    const card = $("cameras").children[i], live = camera.capture.state === "live";
    const old = captured[i] !== undefined && now() - captured[i] > OLD_S && !document.hidden;
    const state = card.querySelector(".state"), detail = card.querySelector(".detail");
    put(state, live && old ? "old picture" : STATUS[camera.capture.state]);
    state.classList.toggle("live", live && !old);
    card.classList.toggle("old", old || !live || Boolean(problem));
    put(card.querySelector(".counts"), camera.frame === undefined ? "" : counts(camera));
    put(detail, camera.capture.detail);
    detail.hidden = !camera.capture.detail;
  });
}

const feed = follow({ cameras: true, opened, receive, show, tick });

// What comes from the board over one WebSocket, which is opened again when it was lost.

import { now } from "./parts.js";

export const OLD_S = 3;   // a picture older than that is shown as old
// What a camera's state is called.
export const STATUS = {
  starting: "starting", live: "live", frozen: "frozen", lost: "camera lost", stuck: "camera hangs", ended: "ended"
};
const SILENT_S = 10;      // a board that says nothing for so long is gone
const TICK_MS = 250;

// page: what becomes of it all.
//   cameras     whether there are several, whose pictures have numbers
//   opened()    there is a connection: ask for the first pictures
//   receive(m)  a state
//   show(i, next, captured)  a picture of camera i: `next` is an Image that has loaded, captured at that time
//               by our clock, s; returns the address that is no longer shown, to be let go of
//   tick()      now and then, also when nothing arrives any more, so that the age goes on growing
export function follow(page) {
  let socket = null;
  let heard = 0;            // when something was last received, s
  let clockOffset = null;   // our clock minus the board's, s: the least seen, for the rest is delay
  let retry = 1;            // s
  let owed = [];            // cameras to ask for when the page is in front again
  const feed = { problem: "Connecting …", ask };

  function connect() {
    const url = new URL("events", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const opened = new WebSocket(url);
    socket = opened;
    heard = now();
    clockOffset = null;
    opened.binaryType = "arraybuffer";
    opened.onopen = () => { feed.problem = ""; retry = 1; owed = []; page.opened(); };
    opened.onmessage = event => {
      heard = now();
      if (typeof event.data === "string") receive(JSON.parse(event.data)); else picture(event.data);
    };
    opened.onclose = () => { if (socket === opened) lost(); };
  }

  function lost() {
    socket = null;
    feed.problem = `No connection to the ${page.cameras ? "board" : "camera"}. Trying again …`;
    fetch("state.json", { cache: "no-store" }).then(answer => {
      if (answer.status === 401) feed.problem = "The token has changed: reload this page to enter it.";
      if (answer.ok && retry > 2) feed.problem = "The board answers, but sends no pictures: too many viewers? Trying again …";
    }).catch(() => {}).finally(() => {
      page.tick();
      setTimeout(connect, 1000 * retry);
      retry = Math.min(2 * retry, 8);
    });
    page.tick();
  }

  function receive(message) {
    const offset = now() - message.clock;
    clockOffset = clockOffset === null ? offset : Math.min(clockOffset, offset);
    page.receive(message);
    page.tick();
  }

  // A picture is asked for when one was shown, so that none waits in a queue; a page in the background asks for none.
  function ask(i) {
    if (document.hidden) owed.push(i);
    else if (socket && socket.readyState === WebSocket.OPEN) socket.send(`more ${i}`);
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) owed.splice(0).forEach(ask);
  });

  function picture(message) {
    const from = socket, view = new DataView(message), at = view.getFloat64(0);
    const i = page.cameras ? view.getUint32(8) : 0;
    const url = URL.createObjectURL(new Blob([new Uint8Array(message, page.cameras ? 12 : 8)], { type: "image/jpeg" }));
    const again = () => { if (socket === from) ask(i); };
    const next = new Image();
    next.onload = () => {
      const last = page.show(i, next, at + (clockOffset === null ? now() - at : clockOffset));
      if (last.startsWith("blob:")) URL.revokeObjectURL(last);
      page.tick();
      again();
    };
    next.onerror = () => { URL.revokeObjectURL(url); again(); };
    next.src = url;
  }

  setInterval(() => {
    if (socket && now() - heard > SILENT_S) { socket.close(); lost(); } else page.tick();
  }, TICK_MS);
  connect();
  return feed;
}

// What all scripts of the page use.

export const $ = id => document.getElementById(id);
export const now = () => performance.now() / 1000;  // s

// An element with attributes ("onclick" is a listener) and children; null is left out of both.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

export function put(element, value) {
  const text = String(value);
  if (element.textContent !== text) element.textContent = text;
}

// Children are changed, not rebuilt, so that a screen reader or a selection is not thrown out five times a second.
export function rows(parent, wanted, build, fill) {
  while (parent.children.length > wanted.length) parent.lastChild.remove();
  wanted.forEach((one, i) => fill(parent.children[i] || parent.appendChild(build()), one));
}

export function seconds(value) {
  if (value < 99.5) return `${value.toFixed(value < 9.95 ? 1 : 0)} s`;
  return value < 5970 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

export const plural = (number, one, many) => `${number} ${number === 1 ? one : many}`;

let key = null;  // shown with each change; the server gives it to whoever has shown the token
export const setKey = value => { key = value; };
export const hasKey = () => key !== null;

// JSON from the server. A refusal is thrown as an Error: `status`, and what it says as its message.
export async function ask(path, body) {
  const options = { cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json", ...(key ? { "X-Edge-Centernet-Key": key } : {}) };
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const json = (answer.headers.get("Content-Type") || "").startsWith("application/json");
  const value = json ? await answer.json() : await answer.text();
  if (answer.ok) return value;
  const error = new Error(json && value.error ? value.error : `The camera refused this (${answer.status}).`);
  error.status = answer.status;
  throw error;
}

// A question in a dialog. Resolves to the field's value, or true where there is no field; null if cancelled.
// `check` gets that value and returns what is wrong with it, or nothing.
export function question({ title, text, ok, field = null, check = async () => "" }) {
  const dialog = $("ask"), input = $("ask-field");
  put($("ask-title"), title);
  put($("ask-text"), text);
  put($("ask-ok"), ok);
  put($("ask-wrong"), "");
  $("ask-label").hidden = field === null;
  if (field !== null) {
    put($("ask-label").firstChild, field.label);
    for (const name of ["type", "min", "max"]) {
      if (field[name] === undefined) input.removeAttribute(name); else input.setAttribute(name, field[name]);
    }
    input.value = field.value ?? "";
  }
  input.required = field !== null;
  return new Promise(resolve => {
    const submit = async event => {
      event.preventDefault();
      const value = field === null ? true : input.value;
      const wrong = await check(value);
      if (wrong) { put($("ask-wrong"), wrong); input.select(); } else finish(value);
    };
    const cancel = event => { event.preventDefault(); finish(null); };
    const finish = value => {
      dialog.firstElementChild.removeEventListener("submit", submit);
      dialog.removeEventListener("cancel", cancel);
      $("ask-cancel").removeEventListener("click", cancel);
      dialog.close();
      input.value = "";  // it may hold a token
      resolve(value);
    };
    dialog.firstElementChild.addEventListener("submit", submit);
    dialog.addEventListener("cancel", cancel);
    $("ask-cancel").addEventListener("click", cancel);
    dialog.showModal();
  });
}

// Ask for the token where this browser has not shown it yet. Resolves to whether changes are allowed now.
export async function unlock() {
  if (hasKey()) return true;
  const given = await question({
    title: "Token needed",
    text: "To change something, enter the token. It stands in the address that was shown when detection was started, behind ?token=.",
    ok: "Go on",
    field: { label: "Token", type: "password" },
    check: async token => {
      const answer = await fetch("token", { method: "POST", body: new URLSearchParams({ token }) });
      if (answer.status === 429) return "Too many wrong tokens. Please wait a minute.";
      if (!answer.ok) return "That is not the token.";
      setKey((await ask("scene.json")).key);
      return hasKey() ? "" : "This browser keeps no cookies, which is needed here.";
    },
  });
  return given !== null;
}

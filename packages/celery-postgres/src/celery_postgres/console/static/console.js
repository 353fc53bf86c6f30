// Everything here is an addition: each page is complete without it. It keeps theme, zone and keys; never an API key.
"use strict";
const root = document.documentElement;
const $ = (what, where = document) => where.querySelector(what);
const $$ = (what, where = document) => [...where.querySelectorAll(what)];
const kept = {
  get(name) { try { return localStorage.getItem(`console-${name}`); } catch { return null; } },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(`console-${name}`);
      else localStorage.setItem(`console-${name}`, value);
    } catch { /* the browser keeps nothing: it lasts until the next page */ }
  },
};
// What buttons do: `data-do` names it. Without this script they are hidden.
const acts = {};
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do], [data-copy]");
  if (button) (button.dataset.copy === undefined ? acts[button.dataset.do] : copy)?.(button);
});

// Times in the reader's zone, UTC on hover. Without this script they are UTC and say so.
const forms = {
  time: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  minute: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  day: { weekday: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  date: { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
};
let zone = kept.get("zone") || undefined;
const written = (moment, form) =>
  new Intl.DateTimeFormat("en-GB", { ...(forms[form] || forms.time), timeZone: zone }).format(moment);
function tell(where = document) {
  for (const time of $$("time[datetime]", where)) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    time.title = moment.toISOString().replace("T", " ").replace("Z", " UTC");
    time.textContent = written(moment, time.dataset.f);
  }
  for (const name of $$("[data-zone]", where)) name.textContent = zone || Intl.DateTimeFormat().resolvedOptions().timeZone;
}
acts.zone = () => { zone = zone ? undefined : "UTC"; kept.set("zone", zone || null); tell(); };

// The theme: the system's, or the one that was chosen here.
if (kept.get("theme")) root.dataset.theme = kept.get("theme");
acts.theme = () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  kept.set("theme", root.dataset.theme);
};

async function copy(button) {
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

// What a page, or a part that came later, needs before it is shown.
function ready(where) {
  tell(where);
  for (const button of $$("[data-do]", where)) button.hidden = button.dataset.do === "pause" && !live;
  for (const button of $$("[data-copy]", where)) button.hidden = !navigator.clipboard;
  if (kept.get("keys") === "off") for (const button of $$("[data-do=keys]", where)) button.textContent = "Switch the keys on";
}

// Keys. They can be switched off (WCAG 2.1.4), and never act while text is typed.
const help = document.getElementById("keys");
acts.help = () => help?.showModal();
acts.keys = (button) => {
  const off = kept.get("keys") !== "off";
  kept.set("keys", off ? "off" : null);
  button.textContent = off ? "Switch the keys on" : "Switch the keys off";
};
let going = false;
let at = null; // the row that j and k have reached
function move(step) {
  const rows = $$("main tbody tr").filter((row) => $("a", row));
  if (!rows.length) return;
  const next = rows[Math.max(0, Math.min(rows.length - 1, rows.indexOf(at) + step))];
  at?.classList.remove("at");
  at = next;
  at.classList.add("at");
  $("a", at).focus();
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || kept.get("keys") === "off") return;
  if (help?.open || event.target.matches("select, textarea, input:not([type=checkbox])")) return;
  const view = going ? $(`nav a[data-key="${CSS.escape(event.key)}"]`) : null;
  going = event.key === "g";
  if (view) view.click();
  else if (event.key === "/") { event.preventDefault(); document.getElementById("find")?.focus(); }
  else if (event.key === "?") help?.showModal();
  else if (event.key === ".") acts.pause();
  else if (event.key === "x") (at && $("input[type=checkbox]", at))?.click();
  else if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
});

// Live. The server tells when this page has changed; then it is fetched, and what differs is replaced: not what the
// reader has the focus in, has marked, or has begun to fill in. That follows as soon as it is left.
const pane = $(".live[data-live]");
const live = pane && {
  shown: "", heard: Date.now(), read: new Date($("[data-at] time", pane).dateTime), state: "", paused: false, stop: null, turn: Promise.resolve(), leads: null, queued: null, missed: 0,
};
const UNIT = "tr, li, form, pre, p, dl > div, h1, h2, summary, svg";
const marked = (node) => {
  const selection = getSelection();
  return selection && !selection.isCollapsed && selection.containsNode(node, true);
};
const focused = (node) => node.contains(document.activeElement) && document.activeElement !== document.body;
const filled = (node) => $$("input, select, textarea", node).some((field) =>
  field.type === "checkbox" ? field.checked !== field.defaultChecked
    : field.options ? field.selectedIndex !== Math.max(0, [...field.options].findIndex((one) => one.defaultSelected))
      : field.type !== "hidden" && field.value !== field.defaultValue);
let left = false; // whether something was left as it was
const busy = (node) => {
  const is = node.nodeType === 1 && (focused(node) || marked(node) || filled(node));
  left ||= is;
  return is;
};
const name = (node) => node.nodeType !== 1 ? String(node.nodeType) : [node.nodeName, node.id
  || node.getAttribute("aria-labelledby") || (node.matches("tr, li") && $("a[href]", node)?.getAttribute("href"))].join();

function morph(old, next) {
  if (old.isEqualNode(next) || (old.nodeType === 1 && old.matches(UNIT) && busy(old))) return;
  if (old.nodeType !== 1) { old.nodeValue = next.nodeValue; return; }
  if (old.matches("form[method=post]")) return; // it has the token of this session
  for (const { name: one } of [...old.attributes]) if (!next.hasAttribute(one) && one !== "open") old.removeAttribute(one);
  for (const { name: one, value } of next.attributes) if (one !== "open") old.setAttribute(one, value);
  if (next.matches("table[data-list]") && hold(old, next)) return;
  let place = old.firstChild;
  for (const want of [...next.childNodes]) {
    if (place?.id === "unseen") place = place.nextSibling;
    let same = place;
    while (same && name(same) !== name(want)) same = same.nextSibling;
    if (!same) { old.insertBefore(document.importNode(want, true), place); continue; }
    // What has the focus would lose it if it was moved: what is before it goes behind it.
    while (same !== place && focused(same)) { const one = place; place = one.nextSibling; same.after(one); }
    if (same === place) place = same.nextSibling;
    else old.insertBefore(same, place);
    morph(same, want);
  }
  while (place) { const one = place; place = one.nextSibling; if (one.id !== "unseen" && !busy(one)) one.remove(); }
}

// New rows do not push a list down: those that are there are kept up to date, and a button shows the new ones.
function hold(old, next) {
  const has = new Map($$("tbody tr", old).map((row) => [name(row), row]));
  const rows = $$("tbody tr", next);
  const unseen = rows.filter((row) => !has.has(name(row))).length;
  if (live.showing || !unseen) { document.getElementById("unseen")?.remove(); return false; }
  for (const row of rows) if (has.has(name(row))) morph(has.get(name(row)), row);
  if (!document.getElementById("unseen")) {
    old.insertAdjacentHTML("beforebegin", '<p id="unseen" role="status"><button type="button" class="btn" data-do="show"></button></p>');
  }
  $("#unseen button").textContent = `${unseen}${unseen === rows.length ? " or more" : ""} new, show`;
  return true;
}

function settle() {
  if (!live.next) return;
  left = false;
  morph($("main"), $("main", live.next).cloneNode(true));
  morph($("nav ul"), $("nav ul", live.next).cloneNode(true));
  if (!$("table[data-list]")) document.getElementById("unseen")?.remove();
  live.late = left;
}
acts.show = () => {
  const head = $("main h1");
  live.showing = true;
  settle();
  live.showing = false;
  head.tabIndex = -1;
  head.focus();
};
for (const event of ["focusout", "selectionchange", "reset"]) {
  document.addEventListener(event, () => { if (live?.late) { live.late = false; setTimeout(settle, 50); } });
}

const SAYS = {
  ok: "Live, ", asks: "Every 10 s, as of ", paused: "Paused at ", failed: "Not live since ", gone: "Not there any more; this is of ",
  ended: "Your session has ended; this is of ", changed: "The console has a new version; this is of ",
};
function say() {
  if (!live) return;
  const silent = Date.now() - live.heard > 5000 && ["", "ok"].includes(live.state);
  const state = live.paused ? "paused" : silent ? "failed" : live.state;
  if (!state) return;
  const fine = ["ok", "asks", "paused"].includes(state);
  const put = (what, text) => { if (what.textContent !== text) what.textContent = text; };
  put($("[data-said]", pane), SAYS[state]);
  $("[data-said]", pane).className = fine ? "" : "warn";
  put($("[data-at]", pane), `${written(live.read)}${state === "failed" ? ", trying again" : ""}`);
  $("[data-refresh]", pane).hidden = state === "ok";
  put($("[data-refresh]", pane), state === "ended" ? "Sign in" : "Refresh");
  put($("[data-do=pause]", pane), live.paused ? "Follow" : "Pause");
  $("[data-do=pause]", pane).hidden = OVER.includes(state);
}

// One stream is for all windows of this browser, which has six connections to a host over HTTP/1.1: each window holds a
// lock that names its page, one holds that of the stream, follows all pages and tells the others, and each second that it
// does. One that has not heard that for four of its own seconds takes the lock: the other stands still, as in a print
// dialog. Where there are no locks, as without TLS, each has a stream of its own.
const OVER = ["ended", "changed", "gone"];
const NAME = `${$("script[src]").getAttribute("src")} `; // windows with another script have another stream
const air = live && navigator.locks && window.BroadcastChannel ? new BroadcastChannel(NAME) : null;
const address = (path, pages) => `${$(".brand").getAttribute("href")}${path}?${new URLSearchParams(pages.map((of) => ["of", of]))}`;
async function fetched(signal) {
  const answer = await fetch(address("fresh", [pane.dataset.live]), { signal });
  if (answer.status === 401) { live.state = "ended"; throw new Error("ended"); }
  if (!answer.ok) throw new Error(String(answer.status));
  const next = new DOMParser().parseFromString(await answer.text(), "text/html");
  if ($("script[src]", next)?.getAttribute("src") !== $("script[src]").getAttribute("src")) { live.state = "changed"; throw new Error("changed"); }
  ready(next);
  live.next = next;
  live.shown = answer.headers.get("x-page");
  settle();
}
async function hear(event, signal) {
  if (signal.aborted) return;
  live.heard = Date.now();
  live.state = event.state;
  if (event.at) live.read = new Date(event.at);
  if (event.state === "asks") {
    await fetched(signal);
    [live.heard, live.read] = [Date.now() + 10000, new Date()];
  } else if (event.state === "ok" && event.page !== live.shown) await fetched(signal);
}
// An event that the stream of this window or of another has brought. They are heard one after the other.
function take(event) {
  if (!live?.stop || (event.of ?? pane.dataset.live) !== pane.dataset.live) return;
  const { signal } = live.stop;
  live.turn = live.turn.then(() => hear(event, signal)).catch(() => { if (live.state === "asks") live.state = "failed"; })
    .then(() => { say(); if (OVER.includes(live.state)) halt(); });
}
const spread = (event) => { air?.postMessage(event); take(event); };
async function wanted() {
  const { held } = air ? await navigator.locks.query() : { held: [] };
  const pages = held.map((one) => one.name).filter((one) => one.startsWith(`${NAME}of `)).map((one) => one.slice(NAME.length + 3));
  return [...new Set([pane.dataset.live, ...pages.sort()])];
}
async function follow(cut) {
  live.pages = await wanted();
  const answer = await fetch(address("events", live.pages), { signal: cut.signal });
  if (!answer.ok) { spread({ state: { 401: "ended", 404: "gone", 429: "asks" }[answer.status] || "failed" }); return answer.status; }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const events = (text + part.value).split("\n\n");
    text = events.pop();
    for (const one of events) spread(JSON.parse(one.replace(/^data: /, "")));
  }
  return 200;
}
async function lead({ signal }) {
  live.leads = signal;
  air?.postMessage("alive");
  signal.addEventListener("abort", () => live.cut?.abort());
  while (!signal.aborted) {
    const begun = Date.now();
    const cut = live.cut = new AbortController();
    let status = 0;
    try { status = await follow(cut); } catch { /* it is tried again */ }
    await live.turn;
    if (cut.signal.aborted) continue; // or other pages are wanted
    const rest = status === 429 ? 10000 : Date.now() - begun > 10000 ? 100 : 1500 + Math.random() * 1000;
    await new Promise((go) => { setTimeout(go, rest); cut.signal.addEventListener("abort", go); });
  }
  if (live.leads === signal) live.leads = live.cut = null;
}
// Waits for the stream's lock, or takes it. Whose lock was taken stops reading once it goes on, and waits again.
function queue(stop, steal = false) {
  const turn = new AbortController();
  live.queued?.abort();
  live.queued = turn;
  live.missed = 0;
  stop.signal.addEventListener("abort", () => turn.abort());
  const how = steal ? { steal } : { signal: turn.signal };
  navigator.locks.request(`${NAME}stream`, how, () => turn.signal.aborted || lead(turn))
    .catch(() => { if (!turn.signal.aborted) { turn.abort(); queue(stop); } });
}
function beat() {
  if (!air || !live.stop) return;
  if (live.leads) air.postMessage("alive");
  else if (++live.missed > 4) queue(live.stop, true);
}
function start() {
  if (!live || live.stop || live.paused || document.hidden || OVER.includes(live.state)) return;
  const stop = live.stop = new AbortController();
  if (!air) { lead(stop); return; }
  const ends = new Promise((go) => { stop.signal.addEventListener("abort", go); });
  const held = { mode: "shared", signal: stop.signal };
  navigator.locks.request(`${NAME}of ${pane.dataset.live}`, held, () => { air.postMessage("pages"); return ends; })
    .catch(() => {}).then(() => air.postMessage("pages"));
  queue(stop);
}
function halt() { live?.stop?.abort(); if (live) live.stop = null; }
if (air) air.onmessage = async ({ data }) => {
  if (data !== "pages") live.missed = 0; // that is sent by windows that do not read
  if (data === "alive") return;
  if (data !== "pages") take(data);
  else if (live.cut && String(await wanted()) !== String(live.pages)) live.cut?.abort();
};
acts.pause = () => {
  if (!live) return;
  live.paused = !live.paused;
  if (live.paused) halt(); else { live.heard = Date.now(); start(); }
  say();
};
document.addEventListener("visibilitychange", () => { if (document.hidden) halt(); else if (live) { live.heard = Date.now(); start(); } });
addEventListener("pagehide", halt);
addEventListener("pageshow", start);
if (live) setInterval(() => { say(); beat(); }, 1000);
ready(document);
start();
// An action in parts goes on by itself; there is time to stop it.
if ($("form[data-go]")) setTimeout(() => $("form[data-go]")?.requestSubmit($("form[data-go] .main")), 700);

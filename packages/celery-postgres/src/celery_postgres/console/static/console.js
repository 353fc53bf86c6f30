// Everything here is an addition: each page is complete without it. It keeps theme, zone and keys; never an API key.
"use strict";
const root = document.documentElement;
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
const on = (name, act) => {
  for (const button of $$(`[data-do=${name}]`)) { button.hidden = false; button.addEventListener("click", () => act(button)); }
};

// Times in the reader's zone, UTC on hover. Without this script they are UTC and say so.
const forms = {
  time: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  date: { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
};
let zone = kept.get("zone") || undefined;
function tell() {
  for (const time of $$("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    time.title = moment.toISOString().replace("T", " ").replace("Z", " UTC");
    const form = forms[time.dataset.f] || forms.time;
    time.textContent = new Intl.DateTimeFormat("en-GB", { ...form, timeZone: zone }).format(moment);
  }
  for (const name of $$("[data-zone]")) name.textContent = zone || Intl.DateTimeFormat().resolvedOptions().timeZone;
}
tell();
on("zone", () => { zone = zone ? undefined : "UTC"; kept.set("zone", zone || null); tell(); });

// The theme: the system's, or the one that was chosen here.
if (kept.get("theme")) root.dataset.theme = kept.get("theme");
on("theme", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  kept.set("theme", root.dataset.theme);
});

for (const button of $$("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// Keys. They can be switched off (WCAG 2.1.4), and never act while text is typed.
const help = document.getElementById("keys");
on("help", () => help?.showModal());
on("keys", (button) => {
  const off = kept.get("keys") !== "off";
  kept.set("keys", off ? "off" : null);
  button.textContent = off ? "Switch the keys on" : "Switch the keys off";
});
if (kept.get("keys") === "off") for (const button of $$("[data-do=keys]")) button.textContent = "Switch the keys on";
let going = false;
let at = -1;
function move(step) {
  const rows = $$("tbody tr").filter((row) => row.querySelector("a"));
  if (!rows.length) return;
  rows[at]?.classList.remove("at");
  at = Math.max(0, Math.min(rows.length - 1, at + step));
  rows[at].classList.add("at");
  rows[at].querySelector("a").focus();
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || kept.get("keys") === "off") return;
  if (event.target.matches("input, select, textarea") || help?.open) return;
  const view = going ? document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`) : null;
  going = event.key === "g";
  if (view) view.click();
  else if (event.key === "/") { event.preventDefault(); document.getElementById("find")?.focus(); }
  else if (event.key === "?") help?.showModal();
  else if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
});

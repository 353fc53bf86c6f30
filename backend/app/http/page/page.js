// Asks again every two seconds and puts the new tables in the place of the old. Without it the form shows them once.
"use strict";
const form = document.getElementById("key-form");
const live = document.getElementById("live");
const note = document.getElementById("note");
let timer;
let latest = 0;

async function show(key) {
  clearTimeout(timer);
  // An answer to a request with the former key must not be shown under the new one.
  const mine = ++latest;
  let again = true;
  try {
    const answer = await fetch("/", { method: "POST", body: new URLSearchParams({ key }) });
    const text = await answer.text();
    if (mine !== latest) return;
    const page = new DOMParser().parseFromString(text, "text/html");
    live.replaceChildren(...page.getElementById("live").childNodes);
    // A screen reader says what changes here: only what is news.
    note.setAttribute("aria-live", answer.ok ? "off" : "polite");
    note.textContent = page.getElementById("note").textContent;
    again = answer.status !== 401;
  } catch {
    if (mine !== latest) return;
    note.setAttribute("aria-live", "polite");
    note.textContent = "The server does not answer; trying again.";
  }
  if (again) timer = setTimeout(show, 2000, key);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  show(form.elements.key.value);
});

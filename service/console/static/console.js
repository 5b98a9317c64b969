"use strict";
// The overview stays fresh: the server sends its parts as HTML, escaped, and those that differ are replaced.
const live = document.getElementById("live");
const connection = document.getElementById("connection");
let source = null;

function say(text) {
  if (connection.textContent !== text) connection.textContent = text;
}

function show(message) {
  const parts = new DOMParser().parseFromString(message.data, "text/html").querySelectorAll("[data-part]");
  if (parts.length !== live.children.length) {
    live.replaceChildren(...parts);
    return;
  }
  for (const part of parts) {
    const old = document.getElementById(part.id);
    if (old.isEqualNode(part)) continue;
    const focused = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
    old.replaceChildren(...part.childNodes);
    if (focused) old.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
  }
}

function follow() {
  source?.close();
  if (document.hidden) return;
  source = new EventSource(live.dataset.events);
  source.onopen = () => say("Live");
  source.onmessage = show;
  source.onerror = () => say(source.readyState === EventSource.CLOSED ? "Not live: reload the page" : "Reconnecting…");
}

if (live !== null) {
  document.addEventListener("visibilitychange", follow);
  follow();
}

"""A page as the web has them: it loads a style sheet, a script and an image, opens a WebSocket and an event stream, uploads something, and says what came of it."""

import base64

__all__ = ["PAGE", "PIXEL", "SCRIPT", "STYLE"]

PAGE = b"""<!doctype html>
<html>
<head>
<title>as it was served</title>
<link rel="stylesheet" href="/style.css">
</head>
<body>
<p id="styled">text</p>
<img id="image" src="/pixel.png">
<script src="/script.js"></script>
</body>
</html>
"""

STYLE = b"#styled { color: rgb(1, 2, 3) }\n"

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")

# Each of the five is a promise: `allSettled` tells of all of them, also of those that fail.
SCRIPT = b"""
"use strict";
const name = location.search.slice(1);

const style = new Promise(resolve => addEventListener("load", () => resolve(getComputedStyle(document.getElementById("styled")).color)));

const image = new Promise(resolve => addEventListener("load", () => resolve(document.getElementById("image").naturalWidth)));

const socket = new Promise((resolve, reject) => {
  const ws = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/socket`);
  const heard = [];
  ws.onopen = () => ws.send("hello");
  ws.onmessage = event => {
    heard.push(event.data);
    if (heard.length === 1) ws.send("x".repeat(100000)); else ws.close(1000);
  };
  ws.onerror = () => reject(new Error("the WebSocket failed"));
  ws.onclose = event => resolve([heard[0], heard[1] && heard[1].length, event.code, event.wasClean]);
});

const events = new Promise((resolve, reject) => {
  const source = new EventSource(`/events?${name}`);
  const heard = [];
  source.onmessage = event => {
    heard.push(event.data);
    if (heard.length === 1) fetch(`/confirm?${name}`, {method: "POST"}); else { source.close(); resolve(heard); }
  };
  source.onerror = () => reject(new Error("the event stream failed"));
});

const upload = fetch("/seen", {method: "POST", body: new Uint8Array(300000)}).then(answer => answer.json()).then(told => told.size);

Promise.allSettled([style, image, socket, events, upload]).then(([style, image, socket, events, upload]) => {
  const said = each => each.status === "fulfilled" ? each.value : String(each.reason);
  const outcome = {title: document.title, style: said(style), image: said(image), socket: said(socket), events: said(events), upload: said(upload)};
  return fetch(`/outcome?${name}`, {method: "POST", body: JSON.stringify(outcome)});
});
"""

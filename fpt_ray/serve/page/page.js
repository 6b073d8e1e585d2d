"use strict";
// The token stays in this variable: what stands behind # in the address is taken out of it, and no browser sends it.
let token = decodeURIComponent(location.hash.slice(1));
history.replaceState(null, "", location.pathname);

const at = (id) => document.getElementById(id);
const AT_ONCE = 4;
const waiting = [];
let asked = 0;
let about = null;

function headers(more) {
  return token ? { Authorization: `Bearer ${token}`, ...more } : { ...more };
}

function line(list, text, kind) {
  const item = document.createElement("li");
  item.textContent = text;
  if (kind) item.className = kind;
  list.append(item);
}

async function begin() {
  const response = await fetch("/metadata", { headers: headers() }).catch(() => null);
  at("login").hidden = response !== null && response.status !== 401;
  if (response === null || !response.ok) {
    const unknown = response?.status === 401;
    const failed = response === null ? "The server does not answer." : `The server cannot answer (${response.status}).`;
    at("refused").textContent = unknown ? "This is not the server's token." : failed;
    at("refused").hidden = unknown && !token;
    at("login").hidden = false;
    return;
  }
  about = await response.json();
  at("name").textContent = about.name;
  document.title = about.name;
  at("about").textContent = `${about.task}: ${about.classes.join(", ")}. Model ${about.model.slice(0, 12)}.`;
  at("note").textContent = about.note;
  at("note").hidden = !about.note;
  at("must-not").replaceChildren();
  about.must_not_be_used_for.forEach((one) => line(at("must-not"), one));
  at("asking").hidden = false;
}

function add(files) {
  for (const file of files) {
    const card = at("answer").content.firstElementChild.cloneNode(true);
    card.querySelector("h2").textContent = file.name;
    preview(card, file);
    at("answers").prepend(card);
    waiting.push({ card, file });
  }
  next();
}

function preview(card, file) {
  const image = card.querySelector("img");
  const url = URL.createObjectURL(file);
  image.addEventListener("load", () => {
    image.hidden = false;
    card.querySelector(".blank").hidden = true;
    URL.revokeObjectURL(url);
  });
  image.addEventListener("error", () => URL.revokeObjectURL(url));
  image.src = url;
}

function next() {
  while (asked < AT_ONCE && waiting.length) {
    const { card, file } = waiting.shift();
    asked += 1;
    ask(card, file).finally(() => {
      asked -= 1;
      next();
    });
  }
}

async function ask(card, file) {
  const state = card.querySelector(".state");
  const answer = await answerOf("/predict", file, state);
  if (answer === null) return;
  show(card, answer);
  const look = card.querySelector(".look");
  look.hidden = about.without_evidence !== "";
  look.addEventListener("click", () => showEvidence(card, file));
}

async function answerOf(path, file, state) {
  if (file.size > about.limits.request_bytes) {
    return refuse(state, `The file has more than ${about.limits.request_bytes.toLocaleString()} bytes.`);
  }
  for (;;) {
    const more = { "Content-Type": "application/octet-stream" };
    const response = await fetch(path, { method: "POST", body: file, headers: headers(more) }).catch(() => null);
    if (response === null) return refuse(state, "The server does not answer.");
    const said = await response.json().catch(() => ({ error: `The server says ${response.status}.` }));
    const later = response.headers.get("Retry-After");
    if (later === null) {
      if (said.model && said.model !== about.model) {
        return refuse(state, "Another model is served by now: load this page again.");
      }
      const answer = said.answers ? said.answers[0] : said;
      return answer.error ? refuse(state, answer.error) : answer;
    }
    state.textContent = `${said.error} ...`;
    await new Promise((done) => setTimeout(done, 1000 * Number(later)));
  }
}

function refuse(state, why) {
  state.textContent = why;
  state.classList.add("error");
  return null;
}

async function showEvidence(card, file) {
  const look = card.querySelector(".look");
  const state = card.querySelector(".looking");
  look.hidden = true;
  state.hidden = false;
  state.classList.remove("error");
  state.textContent = "Looking ...";
  const answer = await answerOf("/predict?evidence=1", file, state);
  look.hidden = answer !== null;
  state.hidden = answer !== null;
  if (answer === null) return;
  const found = card.querySelector(".evidence");
  found.src = answer.evidence.picture;
  found.hidden = false;
}

function show(card, answer) {
  const state = card.querySelector(".state");
  const spread = about.seeds > 1 ? ` (spread ${answer.spread.toPrecision(2)} over ${about.seeds} seeds)` : "";
  if (answer.probabilities === undefined) {
    state.textContent = `${about.classes[0]}: ${answer.value.toPrecision(4)}${spread}`;
  } else {
    state.textContent = `${answer.class || "none of them"}${spread}`;
    bars(card.querySelector(".bars"), answer.probabilities);
  }
  for (const { name, of, threshold } of about.operating_points) {
    const other = about.task === "binary" ? about.classes.find((one) => one !== of) : `not ${of}`;
    const called = answer.decisions[name] ? of : other;
    const from = `called ${of} from ${(100 * threshold).toFixed(1)} % on`;
    line(card.querySelector(".decisions"), `${name.replaceAll("_", " ")}: ${called} (${from})`);
  }
  const known = ["sha256", "error", "class", "probabilities", "value", "spread", "decisions"];
  for (const [name, value] of Object.entries(answer)) {
    if (known.includes(name) || value === null || value === "") continue;
    const text = typeof value === "number" ? value.toPrecision(3) : String(value);
    line(card.querySelector(".others"), `${name.replaceAll("_", " ")}: ${text}`, name === "warning" ? "error" : "");
  }
}

function bars(into, probabilities) {
  const shares = Object.entries(probabilities).sort((one, other) => other[1] - one[1]);
  shares.forEach(([name, share], place) => {
    const bar = document.createElement("div");
    bar.className = place ? "bar" : "bar first";
    for (const part of ["class", "track", "share"]) {
      const piece = document.createElement("span");
      piece.className = part;
      bar.append(piece);
    }
    const [title, track, number] = bar.children;
    title.textContent = title.title = name;
    number.textContent = `${(100 * share).toFixed(1)} %`;
    const fill = document.createElement("div");
    fill.className = "fill";
    fill.style.width = `${100 * share}%`;
    track.append(fill);
    into.append(bar);
  });
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token").value = "";
  begin();
});
at("files").addEventListener("change", () => {
  add(at("files").files);
  at("files").value = "";
});
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    if (about === null) return;
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
begin();

// What the page shows. Everything a device said goes in as text nodes, never as markup.

const MAX_ROWS = 300;
const MAX_REFUSED = 12;
const MINUTES = 40;
const BAR = 6;
const STATES = ["online", "offline", "stopped"];
const MAX_STRIPS = 3;
/** The states of an update in their order; other commands use the first and the last. */
const WAY = ["executing", "download", "verify", "staged", "activate", "probation", "commit", "successful"];

/** An element with properties and children; strings become text. */
export function el(tag, props = {}, ...children) {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const $ = (id) => document.getElementById(id);
const badge = (text, tone = "", title = "") => el("span", { className: `badge ${tone}`, textContent: text, title });

export function showLink(text, tone = "") {
  $("link").textContent = text;
  $("link").className = `pill ${tone}`;
}

export function showCounts(counts) {
  const shown = { opened: "opened", duplicates: "duplicates", waiting: "waiting for a key", refused: "refused" };
  $("counts").replaceChildren(...Object.entries(shown).map(([key, words]) =>
    el("div", {}, el("dt", { textContent: words }), el("dd", { textContent: String(counts[key] ?? 0) }))));
}

// --- devices

export class Devices {
  constructor(devices) {
    this.known = new Map(devices.map((device) => [`${device.site}/${device.device}`, fresh(device)]));
    this.show();
  }

  /** Note one opened message; returns the device it is from. */
  note(opened) {
    const device = this.known.get(`${opened.site}/${opened.device}`);
    if (!device) return null;
    if (opened.place === "status") device.status = opened.body;
    if (opened.place === "twin") device.twins += 1;
    if (opened.place === "state") noteCommand(device.commands, opened);
    if (opened.sealed) device.verified = true;
    for (const event of opened.events ?? []) {
      device.events += 1;
      device.minutes.push(Date.now());
      if (event.kind === "gap") device.lost += Number(event.body.count) || 0;
    }
    return device;
  }

  show() {
    $("devices").replaceChildren(...[...this.known.values()].map(deviceCard));
  }
}

const fresh = (device) => ({ ...device, status: null, events: 0, lost: 0, twins: 0, verified: false, minutes: [], commands: new Map() });

function deviceCard(device) {
  const state = STATES.includes(device.status?.state) ? device.status.state : "unknown";
  const said = state === "unknown" ? "has not said whether it is online" : `says it is ${state}`;
  return el("li", { className: "device" },
    el("div", { className: "name" }, el("span", { className: `dot ${state}`, title: said }), device.device),
    el("div", { className: "site", textContent: `${device.site} · ${said}` }),
    el("div", { className: "badges" },
      device.mode === "plain" ? badge("plain", "warn", "the broker can read and change what it says") : null,
      device.mode === "sealed" && device.verified ? badge("sealed", "good", "opened with a verified key") : null,
      device.mode === "sealed" && !device.verified ? badge("unverified", "", "nothing verified has come yet") : null,
      device.lost ? badge(`${device.lost} lost`, "bad", "counted by gap records") : null),
    el("div", { className: "numbers", textContent: `${device.events} event${device.events === 1 ? "" : "s"}` }),
    activity(device),
    el("ul", { className: "commands" }, ...[...device.commands.values()].slice(-MAX_STRIPS).reverse().map(strip)));
}

/** Keep the newest state of a command and how far it had come; the newest command last. */
function noteCommand(commands, { name, body }) {
  const before = commands.get(name), version = Number(body.version) || 0;
  if (before && version <= before.version) return;
  const reached = Math.max(before?.reached ?? -1, WAY.indexOf(body.status));
  commands.set(name, { version, reached, body });
  while (commands.size > MAX_STRIPS) commands.delete(commands.keys().next().value);
}

/** One command as a row of steps. */
function strip({ body, reached }) {
  const tone = body.status === "failed" ? "bad" : body.status === "successful" ? "good" : "";
  const steps = WAY.map((step, i) => el("span", { className: i <= reached ? "done" : "", title: step }));
  return el("li", { className: tone },
    el("div", { className: "asked" }, el("b", { textContent: about(body) }), ` ${text(body.status)}`),
    el("div", { className: "steps", title: clip(text(body.text), 200) }, ...steps));
}

const about = (body) => [body.operation, body.detail?.model ?? body.model, body.detail?.version ?? body.version]
  .filter((part) => typeof part === "string").map((part) => clip(part, 40)).join(" ");

/** Events per minute, the newest at the right. */
function activity(device) {
  const now = Date.now();
  device.minutes = device.minutes.filter((at) => now - at < MINUTES * 60_000);
  const counts = new Array(MINUTES).fill(0);
  for (const at of device.minutes) counts[MINUTES - 1 - Math.floor((now - at) / 60_000)] += 1;
  const top = Math.max(1, ...counts);
  const bars = counts.map((count, i) => {
    const height = count ? Math.max(2, Math.round(26 * count / top)) : 1;
    return svg("rect", { x: i * BAR, y: 28 - height, width: BAR - 2, height, rx: 1, opacity: count ? 1 : 0.25 });
  });
  const title = svg("title", {});
  title.textContent = `events per minute, the last ${MINUTES} minutes, at most ${top}`;
  return svg("svg", { viewBox: `0 0 ${MINUTES * BAR} 28`, preserveAspectRatio: "none", role: "img" }, title, ...bars);
}

// --- events

let total = 0;

/** Put one opened message at the top of the list. */
export function showOpened(opened) {
  for (const event of opened.events ?? []) addRow(opened, event);
  if (opened.place === "alarm") addRow(opened, { kind: "alarm", stream: opened.name, body: opened.body, t_wall_s: Date.now() / 1000 });
  if (opened.place === "state" && news(opened)) addRow(opened, { kind: text(opened.body.status), stream: opened.name, body: opened.body, t_wall_s: opened.body.t_wall_s });
}

const MAX_COMMANDS = 1000;
const versions = new Map();

/** States are told again under every key: only a newer version of a command's state is news. */
function news({ site, device, name, body }) {
  const command = `${site}/${device}/${name}`, version = Number(body.version) || 0;
  if (version <= (versions.get(command) ?? -1)) return false;
  versions.delete(command);
  versions.set(command, version);
  if (versions.size > MAX_COMMANDS) versions.delete(versions.keys().next().value);
  return true;
}

function addRow(opened, event) {
  total += 1;
  $("event-count").textContent = String(total);
  $("empty").hidden = true;
  $("events").prepend(row(opened, event));
  while ($("events").childElementCount > MAX_ROWS) $("events").lastElementChild.remove();
}

function row(opened, event) {
  const special = ["gap", "alarm", "failed", "successful"].includes(event.kind) ? event.kind : "";
  const details = el("details", { className: `event ${special}` },
    el("summary", {},
      clock(event),
      el("span", { className: "kind", textContent: event.kind }),
      el("span", { className: "what" }, ...headline(event)),
      el("span", { className: "tail" },
        el("span", { className: "where", textContent: `${opened.device} · ${opened.name.split("/")[0]}`, title: opened.name }),
        event.replay ? badge("replay", "", "it comes from a recording") : null,
        opened.signed ? badge("signed", "good", "signed by the device itself") : null,
        opened.sealed ? badge("sealed", "good", "end to end") : badge("plain", "warn", "the broker can read and change this"))));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(el("pre", { textContent: pretty(event) }));
  });
  return el("li", {}, details);
}

function clock(event) {
  const when = new Date(event.t_wall_s * 1000);
  const valid = Number.isFinite(when.getTime());
  const made = el("time", { textContent: valid ? when.toLocaleTimeString([], { hour12: false }) : "?" });
  if (valid) made.dateTime = when.toISOString();
  made.title = `${valid ? when.toLocaleString() : "no valid time"}${event.clock === "unsynced" ? " (the device's clock was not synchronised)" : ""}`;
  return made;
}

/** The few words that matter, from the body. */
function headline(event) {
  const body = event.body;
  if (event.kind === "gap") {
    const most = body.upper_bound === true ? "at most " : "";
    return [el("b", { textContent: `${most}${text(body.count)} lost` }), el("span", { textContent: ` ${text(body.first)} to ${text(body.last)}, ${text(body.reason)}` })];
  }
  if (typeof body.operation === "string" && typeof body.status === "string") return commandLine(body);
  const words = [];
  if (event.kind === "verdict") words.push(el("b", { textContent: about(body) }), el("span", { textContent: ` ${text(body.verdict)}: ${clip(String(body.text ?? ""), 160)}` }));
  if (event.kind === "alarm" && typeof body.text === "string") words.push(el("span", { textContent: body.active === false ? "over" : clip(body.text, 200) }));
  if (typeof body.label === "string") words.push(el("b", { textContent: body.label }));
  if (body.value !== undefined && body.value !== body.label) words.push(el("b", { textContent: ` ${number(body.value)}${unit(body)}` }));
  if (body.count !== undefined) words.push(el("b", { textContent: ` ${text(body.count)}` }));
  if (typeof body.score === "number") words.push(el("span", { textContent: ` ${sure(body.score)}` }));
  if (typeof body.direction === "string") words.push(el("span", { textContent: ` ${body.direction} past ${number(body.threshold)}` }));
  if (body.present_s !== undefined) words.push(el("span", { textContent: ` after ${number(body.present_s)} s` }));
  if (Array.isArray(body.seen)) words.push(el("span", { textContent: seen(body.seen) }));
  return words.length ? words : [el("span", { textContent: clip(JSON.stringify(body, jsonable), 120) })];
}

/** What a command is about, how far its download is, and why it failed. */
function commandLine(body) {
  const loading = body.status === "download" && body.total_bytes > 0;
  const percent = loading ? ` ${Math.floor(100 * body.done_bytes / body.total_bytes)} %` : "";
  const why = [body.reason, body.text].filter((part) => typeof part === "string" && part).join(": ");
  return [el("b", { textContent: `${about(body)}${percent}` }),
    el("span", { textContent: ` ${clip(why, 200)}${body.by ? ` (asked by ${text(body.by)})` : ""}` })];
}

/** A space and the unit; "1" is the unit of bare numbers and is not shown. */
const unit = (body) => body.unit && body.unit !== "1" ? ` ${text(body.unit)}` : "";

/** A certainty is 0 to 1; an anomaly says how many times its limit it is. */
const sure = (score) => score <= 1 ? `${Math.round(score * 100)} %` : `${number(Number(score.toPrecision(3)))} times the limit`;
const seen = (list) => list.length ? list.slice(0, 5).map(seenOne).join(", ") : "nothing seen";

/** One label of a period: its mean value where there is one, else how often it was seen. */
function seenOne(one) {
  const mean = one?.value?.mean;
  const what = typeof mean === "number" ? `${number(Number(mean.toPrecision(3)))}${unit(one)}` : `×${text(one?.findings)}`;
  return `${text(one?.label)} ${what}`;
}

const jsonable = (_, value) => typeof value === "bigint" ? value.toString() : value;
const ORDER = ["id", "stream", "seq", "kind", "class", "t_wall_s", "t_mono_s", "clock", "replay", "body", "media", "model", "pipeline"];
const place = (key) => (ORDER.indexOf(key) + ORDER.length + 1) % (ORDER.length + 1);
const inOrder = (event) => Object.fromEntries(Object.entries(event).sort(([a], [b]) => place(a) - place(b)));
const pretty = (event) => JSON.stringify(inOrder(event), jsonable, 2);
const clip = (words, size) => words.length > size ? `${words.slice(0, size - 1)}…` : words;
const text = (value) => clip(typeof value === "object" ? JSON.stringify(value, jsonable) ?? "" : String(value ?? ""), 80);
const number = (value) => typeof value === "number" ? String(Number(value.toPrecision(6))) : text(value);

// --- refusals

let refused = 0;

export function showRefused(topic, why) {
  refused += 1;
  $("refused-count").textContent = String(refused);
  $("refused").prepend(el("li", {}, el("div", { className: "why", textContent: why }), el("div", { textContent: clip(topic, 120) })));
  while ($("refused").childElementCount > MAX_REFUSED) $("refused").lastElementChild.remove();
}

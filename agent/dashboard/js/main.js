// The page: reads configuration and key, listens to the broker, shows what opens. It never publishes anything.
import mqtt from "../vendor/mqtt.js";
import { refuse, Refusal } from "./bytes.js";
import { deviceKey, forget, readerFromPem, recall, remember } from "./keys.js";
import { Opener } from "./opener.js";
import { Devices, showCounts, showLink, showOpened, showRefused } from "./view.js";

const $ = (id) => document.getElementById(id);
const TAILS = ["keys/+", "status", "twin/+", "e/#", "m/+", "a/+", "cmd/+", "cmd/+/+"];
const REDRAW_MS = 250;
const REDRAW_AT_REST_MS = 5000;
const MAX_FILE_BYTES = 64 * 1024;
const state = { reader: null, client: null, opener: null, devices: null, queue: Promise.resolve(), changed: true, drawn: 0 };

/** {broker, protocol?, username?, password?, prefix?, devices: [{site, device, mode, keys}]}, checked. Throws Refusal. */
async function readConfig(words) {
  let raw;
  try {
    raw = JSON.parse(words);
  } catch {
    return refuse("the configuration is not JSON");
  }
  if (!/^wss?:\/\//.test(raw?.broker)) refuse("the configuration needs \"broker\": a ws:// or wss:// address");
  if (!Array.isArray(raw.devices) || !raw.devices.length) refuse("the configuration lists no \"devices\"");
  const devices = await Promise.all(raw.devices.map(readDevice));
  return { ...raw, prefix: raw.prefix ?? "limpet/v1/+/+", devices };
}

async function readDevice({ site, device, mode = "sealed", keys = [] }) {
  if (typeof site !== "string" || typeof device !== "string") refuse("every device needs \"site\" and \"device\"");
  if (!["sealed", "plain"].includes(mode)) refuse(`device ${device}: "mode" must be sealed or plain`);
  if (mode === "sealed" && !keys.length) refuse(`device ${device} is sealed: give its public key under "keys"`);
  return { site, device, mode, keys: await Promise.all(keys.map(deviceKey)) };
}

// --- the broker

function connect(config, username, password) {
  state.client?.end(true);
  state.opener = new Opener(state.reader, config.devices);
  state.devices = new Devices(config.devices);
  state.client = mqtt.connect(config.broker, {
    protocolVersion: config.protocol === "3.1.1" ? 4 : 5, clean: true, reconnectPeriod: 2000, connectTimeout: 10_000, timerVariant: "native",
    clientId: `limpet-page-${crypto.randomUUID()}`, username: username || undefined, password: password || undefined,
  });
  const topics = Object.fromEntries(TAILS.map((tail) => [`${config.prefix}/${tail}`, { qos: 1 }]));
  state.client.on("connect", () => {
    state.client.subscribe(topics, (error) => {
      if (error) showLink(`the broker refuses to subscribe: ${error.message}`, "bad");
      else showLink(`connected to ${new URL(config.broker).host}`, "good");
    });
  });
  state.client.on("close", () => showLink("connection lost, trying again", "warn"));
  state.client.on("error", (error) => showLink(`the broker refuses: ${error.message}`, "bad"));
  state.client.on("message", (topic, payload) => {
    state.queue = state.queue.then(() => take(topic, new Uint8Array(payload)));
  });
}

/** Open and show one message. One at a time, so that order and replay windows hold. */
async function take(topic, bytes) {
  if (!state.opener) return;
  state.changed = true;
  try {
    for (const opened of await state.opener.open(topic, bytes)) {
      state.devices.note(opened);
      showOpened(opened);
    }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    state.opener.counts.refused += 1;
    showRefused(topic, error.message);
  }
}

function redraw() {
  if (!state.opener || !(state.changed || Date.now() - state.drawn > REDRAW_AT_REST_MS)) return;
  Object.assign(state, { changed: false, drawn: Date.now() });
  state.opener.expire();
  showCounts({ ...state.opener.counts, waiting: state.opener.held.length });
  state.devices.show();
}

// --- keys and devices

async function pickedKey() {
  const file = $("key-file").files[0];
  if (file && file.size > MAX_FILE_BYTES) refuse("the key file is too large: this is not a key");
  const words = file ? await file.text() : $("key-text").value;
  if (!words.trim()) return null;
  const reader = await readerFromPem(words);
  $("key-text").value = "";
  $("key-file").value = "";
  if ($("key-keep").checked) await remember(reader.privateKey);
  return reader;
}

function showReader() {
  $("key-state").textContent = state.reader ? `Reader ${state.reader.id} is loaded.` : "No key yet: sealed events stay closed.";
}

/** Forget the key here and what was opened with it: the list stays, nothing new opens. */
async function forgetKey() {
  await forget();
  state.client?.end(true);
  Object.assign(state, { reader: null, client: null, opener: null });
  showLink("not connected");
  showReader();
}

async function submit(event) {
  event?.preventDefault();
  $("setup-error").textContent = "";
  try {
    const picked = await pickedKey();
    state.reader = picked ?? state.reader;
    showReader();
    const config = await readConfig($("config-text").value);
    if (!state.reader && config.devices.some((device) => device.mode === "sealed")) {
      refuse("devices that seal need a reader key: choose its file or paste it");
    }
    connect(config, $("user").value || config.username, $("password").value || config.password);
    $("setup").hidden = true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    $("setup-error").textContent = error.message;
    $("setup").hidden = false;
  }
}

async function servedConfig() {
  try {
    const answer = await fetch("config.json", { cache: "no-store" });
    return answer.ok ? JSON.stringify(await answer.json(), null, 2) : "";
  } catch {
    return "";  // no configuration is served, or none that is JSON: it can be pasted
  }
}

async function start() {
  $("setup-form").addEventListener("submit", submit);
  $("show-setup").addEventListener("click", () => { $("setup").hidden = !$("setup").hidden; });
  $("key-forget").addEventListener("click", forgetKey);
  showCounts({});
  setInterval(redraw, REDRAW_MS);
  state.reader = await recall();
  showReader();
  $("config-text").value = await servedConfig();
  if (state.reader && $("config-text").value) await submit();
  else $("setup").hidden = false;
}

await start();

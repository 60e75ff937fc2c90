// From topic and bytes to what a trusted device said. docs/wire-format.md section 9 is what this file does.
import { refuse, same, toHex } from "./bytes.js";
import { decode, encode, plain } from "./cbor.js";
import { expand, nonce, PLACES, takeSealed, takeSigned } from "./cose.js";
import * as hpke from "./hpke.js";
import { verified } from "./keys.js";

const MAX_MESSAGE_BYTES = 1 << 20;
const MAX_BATCH = 1000;
const MAX_HELD = 1000;
const HELD_MS = 60_000;
const MAX_IDS = 65_536;
const MAX_EPOCHS = 256;
const MAX_CLAIMS = 4;
const FOLDERS = { e: "event", keys: "keys", twin: "twin", m: "metric", a: "alarm", cmd: "capability" };
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
const EVENT_ID = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** Place, name, and the two levels before: the topic is read from its right end. */
export function tailOf(topic) {
  const levels = topic.split("/");
  const [third, second, last] = [levels.at(-3), levels.at(-2), levels.at(-1)];
  const found = third === "e" && last === "gap" && second !== "gap" ? ["gap", second, 3]
    : third === "cmd" ? ["state", `${second}/${last}`, 3]
    : third === "req" ? ["request", `${second}/${last}`, 3]
    : Object.hasOwn(FOLDERS, second ?? "") && !(second === "e" && last === "gap") ? [FOLDERS[second], last, 2]
    : last === "status" ? ["status", "", 1]
    : refuse("topic is none of those of a device");
  const [place, name, used] = found;
  if (place !== "status" && !name.split("/").every((part) => NAME.test(part))) refuse("topic holds a name that is not allowed");
  const [site = "", device = ""] = levels.slice(0, -used).slice(-2);
  return { place, name, site, device };
}

export class Opener {
  /** `reader` from keys.js or null; `devices`: [{site, device, mode, keys}]; `now` in milliseconds. */
  constructor(reader, devices, now = () => performance.now()) {
    Object.assign(this, { reader, devices, now });
    this.epochs = new Map();
    this.claims = new Map();
    this.closed = new Set();
    this.ids = new Set();
    this.held = [];
    this.counts = { opened: 0, duplicates: 0, held: 0, dropped: 0, refused: 0 };
  }

  /** What the bytes say: a list, empty when the message waits or clears a retained one. Throws Refusal. */
  async open(topic, bytes) {
    this.expire();
    if (bytes.length > MAX_MESSAGE_BYTES) refuse("message is too large: it is not looked at");
    const tail = tailOf(topic);
    if (bytes.length === 0) return [];
    if (tail.place === "keys") return this.envelope(tail, bytes);
    const opened = await this.message(topic, tail, bytes);
    return opened ? [opened] : [];
  }

  async message(topic, tail, bytes) {
    const opened = tail.place === "status" ? this.status(tail, bytes)
      : bytes[0] === 0x7b || bytes[0] === 0x5b ? this.plainText(tail, bytes)
      : await this.sealed(topic, tail, bytes);
    if (opened) this.counts.opened += 1;
    return opened;
  }

  device(site, device) {
    return this.devices.find((known) => known.site === site && known.device === device);
  }

  // --- key envelopes (section 4)

  async envelope(tail, bytes) {
    const statement = takeSigned(bytes);
    const body = decode(statement.payload, "key envelope");
    const kid = body instanceof Map ? body.get("kid") : null;
    const shaped = kid instanceof Uint8Array && kid.length === 8 && body.get("schema") === 1 && body.get("alg") === 3
      && typeof body.get("site") === "string" && typeof body.get("device") === "string" && Array.isArray(body.get("readers"));
    if (!shaped) refuse("key envelope is not of the expected shape or of a newer schema");
    const [site, device] = [body.get("site"), body.get("device")];
    await this.believe(statement, encode(["limpet-key-v1", kid]), site, device);
    if (toHex(kid) !== tail.name) refuse("key envelope stands on the topic of another key id");
    await this.learn(kid, site, device, body.get("readers"));
    return this.release(toHex(kid));
  }

  async learn(kid, site, device, readers) {
    const place = `${toHex(kid)} ${site} ${device}`;
    if (this.closed.has(place)) refuse("key envelope is for an epoch that this page has closed");
    const secret = await this.unwrap(kid, site, device, readers);
    const known = this.epochs.get(place);
    if (known?.secret && secret && !same(known.secret, secret)) refuse("key envelope gives another key for a known key id");
    if (known?.key) return;
    const key = secret && await crypto.subtle.importKey("raw", secret.slice(0, 32), "AES-GCM", false, ["decrypt"]);
    const claims = this.claims.get(toHex(kid)) ?? [];
    if (!known && claims.length >= MAX_CLAIMS) refuse("key envelope claims a key id that too many devices claim");
    if (!known) this.claims.set(toHex(kid), [...claims, place]);
    this.epochs.set(place, { site, device, kid: toHex(kid), secret, key, baseIv: secret?.slice(32), seen: known?.seen ?? new Seen() });
    this.forgetOldest();
  }

  async unwrap(kid, site, device, readers) {
    const mine = readers.find((entry) => entry?.[0] instanceof Uint8Array && toHex(entry[0]) === this.reader?.id);
    if (!mine) return null;
    if (mine[1]?.length !== 92) refuse("key envelope holds a wrap of the wrong shape");
    return hpke.open(this.reader, mine[1], encode(["limpet-hpke-v1", site, device, kid, mine[0]]));
  }

  forgetOldest() {
    if (this.epochs.size <= MAX_EPOCHS) return;
    const [place, { kid }] = this.epochs.entries().next().value;
    this.epochs.delete(place);
    remember(this.closed, place);
    remember(this.closed, kid);
    const left = this.claims.get(kid).filter((claim) => claim !== place);
    if (left.length) this.claims.set(kid, left);
    else this.claims.delete(kid);
  }

  async release(kid) {
    const waiting = this.held.filter((message) => message.kid === kid);
    this.held = this.held.filter((message) => message.kid !== kid);
    const opened = [];
    for (const { topic, bytes } of waiting) {
      try {
        opened.push(await this.message(topic, tailOf(topic), bytes));
      } catch {
        this.counts.refused += 1;
      }
    }
    return opened.filter(Boolean);
  }

  async believe(statement, external, site, device) {
    const known = this.device(site, device);
    if (known?.mode !== "sealed") refuse("signature is by a device that this page does not trust");
    const key = known.keys.find((one) => one.id === statement.keyId && one.alg === statement.alg);
    if (!key) refuse("signature is by a key that is not listed for this device");
    const signed = encode(["Signature1", statement.protectedBytes, external, statement.payload]);
    if (!await verified(key, statement.signature, signed)) refuse("signature is not that of the device's key");
  }

  // --- sealed messages (section 5)

  async sealed(topic, tail, bytes) {
    const parts = takeSealed(bytes);
    if (PLACES[parts.type] !== tail.place) refuse("message of this type does not belong on this topic");
    const claims = this.claims.get(parts.kid);
    if (!claims && this.closed.has(parts.kid)) refuse("message is of an epoch that this page has closed");
    if (!claims) return this.hold({ topic, bytes, kid: parts.kid, until: this.now() + HELD_MS });
    const [place, clear] = await this.decrypt(parts, tail, claims);
    const epoch = this.epochs.get(place);
    if (epoch.seen.has(parts.n)) refuse("message was opened before: a duplicate delivery or a replay");
    epoch.seen.add(parts.n);
    this.epochs.delete(place);
    this.epochs.set(place, epoch);
    return this.said(parts, tail, epoch, await expand(clear, parts.zip));
  }

  async decrypt(parts, tail, claims) {
    let why = "this reader is not among the readers of the message: have its key added on the device";
    for (const place of claims) {
      const epoch = this.epochs.get(place);
      if (!epoch?.key) continue;
      const external = encode(["limpet-msg-v1", epoch.site, epoch.device, parts.type, tail.name, parts.kidBytes, parts.n]);
      const additionalData = encode(["Encrypt0", parts.protectedBytes, external]);
      try {
        const how = { name: "AES-GCM", iv: nonce(epoch.baseIv, parts.n), additionalData };
        return [place, new Uint8Array(await crypto.subtle.decrypt(how, epoch.key, parts.ciphertext))];
      } catch {
        why = "message is damaged, forged or stands on a topic where it was not sealed";
      }
    }
    return refuse(why);
  }

  async said(parts, tail, { site, device }, bytes) {
    const signed = parts.type === 6 || parts.type === 7;
    let payload = bytes;
    if (signed) {
      const statement = takeSigned(bytes);
      await this.believe(statement, encode(["limpet-signed-v1", site, device, parts.type, tail.name]), site, device);
      payload = statement.payload;
    }
    const value = plain(decode(payload));
    if (tail.place !== "event" && tail.place !== "gap") return { ...tail, site, device, body: table(value), sealed: true, signed };
    const list = parts.type === 2 ? value : [value];
    if (!Array.isArray(list) || list.length < 1 || list.length > MAX_BATCH) refuse(`a batch holds 1 to ${MAX_BATCH} events`);
    return this.fresh({ ...tail, site, device, sealed: true, signed }, list);
  }

  hold(message) {
    this.counts.held += 1;
    this.held.push(message);
    if (this.held.length > MAX_HELD) {
      this.held.shift();
      this.counts.dropped += 1;
    }
    return null;
  }

  expire() {
    const now = this.now();
    while (this.held.length && this.held[0].until <= now) {
      this.held.shift();
      this.counts.dropped += 1;
    }
  }

  // --- plain messages (sections 7 and 8)

  plainText(tail, bytes) {
    if (this.device(tail.site, tail.device)?.mode !== "plain") refuse("plain message of a device that is expected to seal");
    const value = json(bytes);
    if (tail.place === "event" || tail.place === "gap") return this.fresh({ ...tail, sealed: false, signed: false }, [value]);
    return { ...tail, body: table(value), sealed: false, signed: false };
  }

  status(tail, bytes) {
    if (!this.device(tail.site, tail.device)) refuse("status of a device that this page does not know");
    if (bytes.length > 4096) refuse("status is too large: it is not looked at");
    return { ...tail, body: table(json(bytes)), sealed: false, signed: false };
  }

  fresh(opened, list) {
    const events = list.map((event) => checked(event, opened.name));
    const news = events.filter((event) => !this.ids.has(`${opened.site} ${opened.device} ${event.id}`));
    for (const event of news) remember(this.ids, `${opened.site} ${opened.device} ${event.id}`);
    this.counts.duplicates += events.length - news.length;
    return { ...opened, events: news };
  }
}

/** Which n of an epoch were opened: one bit each. */
class Seen {
  bits = new Uint8Array(64);

  has(n) {
    return n >> 3 < this.bits.length && (this.bits[n >> 3] & 1 << (n & 7)) !== 0;
  }

  add(n) {
    if (n >> 3 >= this.bits.length) {
      const wider = new Uint8Array(Math.max(2 * this.bits.length, (n >> 3) + 1));
      wider.set(this.bits);
      this.bits = wider;
    }
    this.bits[n >> 3] |= 1 << (n & 7);
  }
}

function remember(set, thing) {
  set.add(thing);
  if (set.size > MAX_IDS) set.delete(set.values().next().value);
}

function json(bytes) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return refuse("message is not well-formed JSON");
  }
}

function table(value) {
  return value && typeof value === "object" && !Array.isArray(value) ? value : refuse("message must hold a map");
}

function checked(event, stream) {
  const text = (key) => typeof table(event)[key] === "string" && event[key].length >= 1 && event[key].length <= 256;
  const shaped = table(event).schema === 1 && ["stream", "boot", "kind"].every(text) && EVENT_ID.test(event.id)
    && ["critical", "routine"].includes(event.class) && ["synced", "unsynced"].includes(event.clock)
    && ["bigint", "number"].includes(typeof event.seq) && Number.isFinite(event.t_wall_s) && table(event.body);
  if (!shaped) refuse("event is not of schema 1");
  if (event.stream !== stream) refuse("event belongs to another stream than its topic");
  return event;
}

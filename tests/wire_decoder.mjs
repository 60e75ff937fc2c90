// A reader of docs/wire-format.md in another language, written from that page alone: node and WebCrypto, nothing else.
// node wire_decoder.mjs VECTORS.json  prints one JSON line per vector: {"name", "opened": [...]} or {"name", "refused": why}.
import { webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { inflateRawSync } from "node:zlib";

const subtle = webcrypto.subtle;
const utf8 = (text) => new TextEncoder().encode(text);
const hex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const toHex = (bytes) => Buffer.from(bytes).toString("hex");
const cat = (...parts) => Uint8Array.from(parts.flatMap((part) => [...part]));
const refuse = (why) => { throw new Error(why); };

// --- CBOR (section 2)

function head(major, count) {
  if (count < 24) return [major << 5 | count];
  if (count < 256) return [major << 5 | 24, count];
  if (count < 65536) return [major << 5 | 25, count >> 8, count & 255];
  if (count < 2 ** 32) return [major << 5 | 26, count >>> 24, count >> 16 & 255, count >> 8 & 255, count & 255];
  return [major << 5 | 27, ...new Uint8Array(new BigUint64Array([BigInt(count)]).buffer).reverse()];
}

const inOrder = ([a], [b]) => Buffer.compare(encode(a), encode(b));  // bytewise order of the encoded keys

function encode(value) {
  if (typeof value === "number") return Uint8Array.from(value < 0 ? head(1, -1 - value) : head(0, value));
  if (typeof value === "string") return cat(head(3, utf8(value).length), utf8(value));
  if (value instanceof Uint8Array) return cat(head(2, value.length), value);
  if (value instanceof Map) return cat(head(5, value.size), ...[...value].sort(inOrder).flat().map(encode));
  return cat(head(4, value.length), ...value.map(encode));
}

function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let at = 0;
  const take = (n) => { if (at + n > bytes.length) refuse("CBOR ends too early"); at += n; return at - n; };
  const number = (big) => big <= 9007199254740991n ? Number(big) : big;
  const half = (bits) => {
    const exponent = bits >> 10 & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  };
  function item(depth) {
    if (depth > 16) refuse("CBOR is nested too deeply");
    const first = view.getUint8(take(1)), major = first >> 5, info = first & 31;
    if (major === 7) {
      if (info === 20 || info === 21) return info === 21;
      if (info === 22) return null;
      if (info === 25) return half(view.getUint16(take(2)));
      if (info === 26) return view.getFloat32(take(4));
      if (info === 27) return view.getFloat64(take(8));
      refuse("CBOR simple value is not allowed");
    }
    const count = info < 24 ? info
      : info === 24 ? view.getUint8(take(1)) : info === 25 ? view.getUint16(take(2))
      : info === 26 ? view.getUint32(take(4)) : info === 27 ? number(view.getBigUint64(take(8)))
      : refuse("CBOR length is not allowed");
    if (major === 0) return count;
    if (major === 1) return typeof count === "bigint" ? -1n - count : -1 - count;
    if (major === 2) { const start = take(count); return bytes.slice(start, start + count); }
    if (major === 3) {
      const start = take(count);
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(start, start + count));
    }
    if (major === 4) { const list = []; for (let i = 0; i < count; i++) list.push(item(depth + 1)); return list; }
    if (major === 5) {
      const map = new Map();
      for (let i = 0; i < count; i++) {
        const key = item(depth + 1);
        if (map.has(key)) refuse("CBOR map has a key twice");
        map.set(key, item(depth + 1));
      }
      return map;
    }
    refuse("CBOR tag is not allowed");
  }
  const value = item(1);
  if (at !== bytes.length) refuse("bytes after the end");
  return value;
}

const plain = (value) => value instanceof Map ? Object.fromEntries([...value].map(([k, v]) => [k, plain(v)]))
  : Array.isArray(value) ? value.map(plain) : value;

// --- keys, signatures, HPKE (sections 3 and 4)

const keyId = async (spki) => toHex(new Uint8Array(await subtle.digest("SHA-256", spki)).slice(0, 8));

async function verify(spki, alg, signature, data) {
  const [how, params] = alg === -8 ? ["Ed25519", "Ed25519"]
    : [{ name: "ECDSA", namedCurve: "P-256" }, { name: "ECDSA", hash: "SHA-256" }];
  const key = await subtle.importKey("spki", spki, how, false, ["verify"]);
  if (!await subtle.verify(params, key, signature, data)) refuse("signature is wrong");
}

async function hmac(key, data) {
  const made = await subtle.importKey("raw", key.length ? key : new Uint8Array(32), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await subtle.sign("HMAC", made, data));
}

const two = (n) => [n >> 8, n & 255];
const extract = (id, salt, label, ikm) => hmac(salt, cat(utf8("HPKE-v1"), id, utf8(label), ikm));
async function expand(id, prk, label, info, length) {  // one or no round more than HMAC gives: length is at most 32
  return (await hmac(prk, cat(two(length), utf8("HPKE-v1"), id, utf8(label), info, [1]))).slice(0, length);
}

async function unwrap(reader, wrap, info) {
  const kem = cat(utf8("KEM"), two(0x20)), suite = cat(utf8("HPKE"), two(0x20), two(1), two(2)), none = new Uint8Array(0);
  const enc = wrap.slice(0, 32);
  const pkcs8 = cat(hex("302e020100300506032b656e04220420"), reader.private);
  const mine = await subtle.importKey("pkcs8", pkcs8, "X25519", false, ["deriveBits"]);
  const theirs = await subtle.importKey("raw", enc, "X25519", false, []);
  const dh = new Uint8Array(await subtle.deriveBits({ name: "X25519", public: theirs }, mine, 256));
  if (dh.every((byte) => byte === 0)) refuse("X25519 gives zero");
  const eae = await extract(kem, none, "eae_prk", dh);
  const shared = await expand(kem, eae, "shared_secret", cat(enc, reader.public), 32);
  const context = cat([0], await extract(suite, none, "psk_id_hash", none), await extract(suite, none, "info_hash", info));
  const secret = await extract(suite, shared, "secret", none);
  const key = await expand(suite, secret, "key", context, 32), nonce = await expand(suite, secret, "base_nonce", context, 12);
  return gcm(key, nonce, none, wrap.slice(32));
}

async function gcm(key, iv, additionalData, data) {
  const made = await subtle.importKey("raw", key, "AES-GCM", false, ["decrypt"]);
  try {
    return new Uint8Array(await subtle.decrypt({ name: "AES-GCM", iv, additionalData }, made, data));
  } catch {
    return refuse("does not decrypt");
  }
}

function sign1(bytes) {
  if (bytes[0] !== 0xd2) refuse("not signed");
  const [protectedBytes, unprotected, payload, signature] = decode(bytes.slice(1));
  const header = decode(protectedBytes);
  if (header.size !== 2 || unprotected.size) refuse("header of a signature");
  return { protectedBytes, payload, signature, alg: header.get(1), by: toHex(header.get(4)) };
}

async function believe(reader, signed, site, device, external) {
  const known = reader.devices.find((d) => d.site === site && d.device === device && d.mode === "sealed");
  if (!known || await keyId(hex(known.public_spki)) !== signed.by) refuse("not a device that this reader trusts");
  await verify(hex(known.public_spki), signed.alg, signed.signature,
    encode(["Signature1", signed.protectedBytes, external, signed.payload]));
}

// --- messages (sections 1, 5, 8, 9)

function tailOf(topic) {
  const levels = topic.split("/"), n = levels.length;
  if (levels[n - 3] === "e" && levels[n - 1] === "gap") return { place: "gap", name: levels[n - 2], used: 3 };
  if (["cmd", "req"].includes(levels[n - 3])) return { place: `${levels[n - 3]}/`, name: `${levels[n - 2]}/${levels[n - 1]}`, used: 3 };
  if (["e", "keys", "twin", "m", "a", "cmd"].includes(levels[n - 2])) return { place: levels[n - 2], name: levels[n - 1], used: 2 };
  if (levels[n - 1] === "status") return { place: "status", name: "", used: 1 };
  return refuse("no topic of ours");
}

const PLACE = { 1: "e", 2: "e", 3: "gap", 4: "twin", 5: "m", 6: "a", 7: "cmd/", 8: "cmd" };

function inflate(bytes, zip) {
  if (zip === 0) return bytes;
  if (zip !== 1) refuse("zip is not supported here");
  return new Uint8Array(inflateRawSync(bytes, { maxOutputLength: 8 * 1024 * 1024 }));
}

async function envelope(reader, tail, bytes) {
  const signed = sign1(bytes), body = decode(signed.payload), kid = body.get("kid");
  const site = body.get("site"), device = body.get("device");
  await believe(reader, signed, site, device, encode(["limpet-key-v1", kid]));
  if (toHex(kid) !== tail.name || body.get("schema") !== 1 || body.get("alg") !== 3) refuse("envelope does not fit");
  const wrap = body.get("readers").find(([id]) => toHex(id) === reader.id)?.[1] ?? refuse("not for this reader");
  const secret = await unwrap(reader, wrap, encode(["limpet-hpke-v1", site, device, kid, hex(reader.id)]));
  reader.epochs.set(toHex(kid), { site, device, key: secret.slice(0, 32), baseIv: secret.slice(32) });
  return [];
}

async function sealed(reader, tail, bytes) {
  const parts = decode(bytes.slice(1)), [protectedBytes, unprotected, ciphertext] = parts;
  const header = decode(protectedBytes), type = header.get(-65537), zip = header.get(-65538) ?? 0;
  const kid = unprotected.get(4), partial = unprotected.get(6), n = partial.reduce((sum, byte) => sum * 256 + byte, 0);
  if (parts.length !== 3 || header.get(1) !== 3 || PLACE[type] !== tail.place) refuse("type does not belong here");
  const epoch = reader.epochs.get(toHex(kid)) ?? refuse("no envelope");
  const external = encode(["limpet-msg-v1", epoch.site, epoch.device, type, tail.name, kid, n]);
  const nonce = epoch.baseIv.slice();
  partial.forEach((byte, i) => { nonce[12 - partial.length + i] ^= byte; });
  const clear = await gcm(epoch.key, nonce, encode(["Encrypt0", protectedBytes, external]), ciphertext);
  const seen = `${toHex(kid)}:${n}`;
  if (reader.seen.has(seen)) refuse("replay");
  reader.seen.add(seen);
  let payload = inflate(clear, zip);
  if (type === 6 || type === 7) {
    const signed = sign1(payload);
    await believe(reader, signed, epoch.site, epoch.device,
      encode(["limpet-signed-v1", epoch.site, epoch.device, type, tail.name]));
    payload = signed.payload;
  }
  const value = plain(decode(payload));
  return type === 2 ? value : [value];
}

async function open(reader, topic, bytes) {
  const tail = tailOf(topic);
  if (tail.place === "keys") return envelope(reader, tail, bytes);
  if (tail.place === "status") return [JSON.parse(Buffer.from(bytes).toString())];
  if (bytes[0] === 0x7b) {
    const [site, device] = topic.split("/").slice(0, -tail.used).slice(-2);
    if (!reader.devices.some((d) => d.site === site && d.device === device && d.mode === "plain")) refuse("plain");
    return [JSON.parse(Buffer.from(bytes).toString())];
  }
  if (bytes[0] === 0xd0) return sealed(reader, tail, bytes);
  return refuse("neither sealed nor plain");
}

// --- requests (section 12): the technician's side

async function sign(seed, request) {
  const pkcs8 = cat(hex("302e020100300506032b657004220420"), hex(seed));
  const key = await subtle.importKey("pkcs8", pkcs8, "Ed25519", false, ["sign"]);
  const protectedBytes = encode(new Map([[1, -8], [4, hex(request.key_id)]]));
  const claims = new Map([[1, request.audience], [2, request.issued_s], [3, request.expires_s], [4, request.counter],
    [5, new Map(Object.entries(request.args))], ...(request.nonce ? [[6, hex(request.nonce)]] : [])]);
  const external = encode(["limpet-req-v1", request.site, request.device, request.operation, request.id]);
  const payload = encode(claims);
  const signature = await subtle.sign("Ed25519", key, encode(["Signature1", protectedBytes, external, payload]));
  return cat([0xd2], head(4, 4), encode(protectedBytes), [0xa0], encode(payload), encode(new Uint8Array(signature)));
}

const vectors = JSON.parse(readFileSync(process.argv[2], "utf-8"));
const reader = {
  id: vectors.reader.key_id, private: hex(vectors.reader.private_raw), public: hex(vectors.reader.public_raw),
  devices: vectors.devices, epochs: new Map(), seen: new Set(),
};
for (const vector of [...vectors.opens, ...vectors.refused]) {
  let line;
  try {
    const opened = await open(reader, vector.topic, hex(vector.payload));
    line = { name: vector.name, opened, same: isDeepStrictEqual(opened, vector.expect) };
  } catch (error) {
    line = { name: vector.name, refused: error.message };
  }
  console.log(JSON.stringify(line));
}
for (const request of vectors.requests) {
  const made = toHex(await sign(vectors.technician.private_raw, request));
  console.log(JSON.stringify({ name: request.name, same: made === request.payload }));
}

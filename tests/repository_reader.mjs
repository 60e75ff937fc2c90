// A reader of docs/repository.md in another language, written from that page alone: node repository_reader.mjs VECTORS
// Checks every worked example and says what it checked; ends with 1 at the first that does not come out.

import { readFileSync } from "node:fs";
import { webcrypto } from "node:crypto";

const { subtle } = webcrypto;
const vectors = JSON.parse(readFileSync(process.argv[2], "utf8"));
const utf8 = (text) => new TextEncoder().encode(text);
const hex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const base64 = (text) => new Uint8Array(Buffer.from(text, "base64"));
const cat = (...parts) => new Uint8Array(Buffer.concat(parts.map((part) => Buffer.from(part))));
const sha256 = async (data) => new Uint8Array(await subtle.digest("SHA-256", data));
const number = (bytes) => new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
const four = (n) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255];
let checked = 0;

function same(found, wanted, what) {
  if (String(found) !== String(wanted)) { console.error(`${what}: ${found} is not ${wanted}`); process.exit(1); }
  checked += 1;
}

async function stream(length) {
  const blocks = [];
  for (let i = 0; i * 32 < length; i++) blocks.push(await sha256(cat(utf8("limpet stream"), four(i))));
  return cat(...blocks).slice(0, length);
}

// --- chunks (section 4)

async function gearTable() {
  const table = new Uint32Array(256);
  for (let n = 0; n < 256; n++) table[n] = number(await sha256(cat(utf8("limpet-gear"), [n])));
  return table;
}

async function chunkList(data, gear) {
  const entries = [];
  let start = 0, h = 0;
  for (let at = 0; at < data.length; at++) {
    h = ((h << 1) + gear[data[at]]) >>> 0;
    const length = at + 1 - start;
    if (length === 65536 || (length >= 4096 && h < 349525) || at + 1 === data.length) {
      entries.push(four(length), await sha256(data.slice(start, at + 1)));
      start = at + 1;
    }
  }
  return cat(...entries);
}

// --- sealed files (section 4)

async function fileKey(contentKey, salt, name, version, path) {
  const key = await subtle.importKey("raw", contentKey, "HKDF", false, ["deriveBits"]);
  const info = utf8(["limpet-sealed-v1", name, version, path].join("\0"));
  return new Uint8Array(await subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt, info }, key, 256));
}

function nonce(i, last) {
  return cat(new Uint8Array(7), four(i), [last ? 1 : 0]);
}

async function gcm(act, key, iv, data) {
  const made = await subtle.importKey("raw", key, "AES-GCM", false, [act]);
  return new Uint8Array(await subtle[act]({ name: "AES-GCM", iv }, made, data));
}

async function segments(act, key, data, size) {
  const made = [];
  for (let i = 0, at = 0; at < data.length || i === 0; i++, at += size) {
    made.push(await gcm(act, key, nonce(i, at + size >= data.length), data.slice(at, at + size)));
  }
  return cat(...made);
}

// --- the content key (section 4): HPKE base mode, X25519, HKDF-SHA256, AES-256-GCM

async function hmac(key, data) {
  const made = await subtle.importKey("raw", key.length ? key : new Uint8Array(32), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await subtle.sign("HMAC", made, data));
}

const two = (n) => [n >> 8, n & 255];
const none = new Uint8Array(0);
const extract = (suite, salt, label, ikm) => hmac(salt, cat(utf8("HPKE-v1"), suite, utf8(label), ikm));
const expand = async (suite, prk, label, info, length) =>
  (await hmac(prk, cat(two(length), utf8("HPKE-v1"), suite, utf8(label), info, [1]))).slice(0, length);

async function unwrap(privateRaw, wrapped, info) {
  const pkcs8 = cat(hex("302e020100300506032b656e04220420"), privateRaw);
  const mine = await subtle.importKey("pkcs8", pkcs8, "X25519", true, ["deriveBits"]);
  const publicRaw = Buffer.from((await subtle.exportKey("jwk", mine)).x, "base64url");
  const enc = wrapped.slice(0, 32);
  const theirs = await subtle.importKey("raw", enc, "X25519", false, []);
  const dh = new Uint8Array(await subtle.deriveBits({ name: "X25519", public: theirs }, mine, 256));
  const kem = cat(utf8("KEM"), two(0x20)), suite = cat(utf8("HPKE"), two(0x20), two(1), two(2));
  const shared = await expand(kem, await extract(kem, none, "eae_prk", dh), "shared_secret", cat(enc, publicRaw), 32);
  const context = cat([0], await extract(suite, none, "psk_id_hash", none), await extract(suite, none, "info_hash", info));
  const secret = await extract(suite, shared, "secret", none);
  const key = await expand(suite, secret, "key", context, 32), iv = await expand(suite, secret, "base_nonce", context, 12);
  return gcm("decrypt", key, iv, wrapped.slice(32));
}

const cborText = (text) => cat([0x60 + text.length], utf8(text));  // all of ours are shorter than 24 bytes
const wrapInfo = (name, version, kid) =>
  cat([0x84], cborText("limpet-model-v1"), cborText(name), cborText(version), [0x48], hex(kid));

// --- every worked example

const gear = await gearTable();
same(gear.join(), vectors.gear.join(), "gear");
same(toHex(await chunkList(await stream(vectors.chunks.stream), gear)), toHex(base64(vectors.chunks.list)), "chunk list");

for (const { site, device, target, in_from_percent } of vectors.places) {
  const place = number(await sha256(utf8(`${site}/${device}\0${target}`)));
  same(place * 100 < in_from_percent * 2 ** 32, true, `${device} is in at ${in_from_percent} %`);
  same(place * 100 < (in_from_percent - 1) * 2 ** 32, false, `${device} is out one below`);
}

const { content_key, name, version, encryption, private_raw } = vectors.wrap;
const wrapped = encryption.keys[0];
same(toHex(await unwrap(hex(private_raw), base64(wrapped.wrap), wrapInfo(name, version, wrapped.kid))), content_key, "content key");

for (const example of vectors.sealed) {
  const plain = await stream(example.stream), salt = hex(example.salt);
  const key = await fileKey(hex(content_key), salt, name, version, example.path);
  const made = cat(utf8("LIMPETS1"), salt, await segments("encrypt", key, plain, 65536));
  same(made.length, example.length, "sealed length");
  same(toHex(await sha256(made)), example.sha256, "sealed file");
  const opened = await segments("decrypt", key, made.slice(40), 65536 + 16);
  same(toHex(await sha256(opened)), toHex(await sha256(plain)), "opened file");
}
console.log(`${checked} checks`);

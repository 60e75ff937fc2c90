// CBOR (RFC 8949), as much of it as docs/wire-format.md section 2 allows: strict in, deterministic out.
import { join, refuse, utf8 } from "./bytes.js";

const MAX_DEPTH = 16;

/** Whole numbers, text, bytes and arrays: all that additional data need. */
export function encode(value) {
  if (typeof value === "number") return value < 0 ? head(1, -1 - value) : head(0, value);
  if (typeof value === "string") return join(head(3, utf8(value).length), utf8(value));
  if (value instanceof Uint8Array) return join(head(2, value.length), value);
  return join(head(4, value.length), ...value.map(encode));
}

function head(major, count) {
  if (count < 24) return Uint8Array.of(major << 5 | count);
  if (count < 0x100) return Uint8Array.of(major << 5 | 24, count);
  if (count < 0x10000) return Uint8Array.of(major << 5 | 25, count >> 8, count & 0xff);
  return Uint8Array.of(major << 5 | 26, count >>> 24, count >>> 16 & 0xff, count >>> 8 & 0xff, count & 0xff);
}

/** One whole item. Maps become Map; whole numbers beyond 2^53 become BigInt. Throws Refusal. */
export function decode(bytes, what = "message") {
  const reader = new Reader(bytes, what);
  const value = reader.item(1);
  if (reader.at !== bytes.length) refuse(`${what} has bytes after its end`);
  return value;
}

/** Maps with text keys as plain objects, all the way down. */
export function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array) return refuse("message holds bytes where text belongs");
  if (!(value instanceof Map)) return value;
  const entries = [...value].map(([key, inner]) => [typeof key === "string" ? key : refuse("keys must be text"), plain(inner)]);
  return Object.fromEntries(entries);
}

class Reader {
  constructor(bytes, what) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.at = 0;
    this.malformed = () => refuse(`${what} is not well-formed CBOR`);
  }

  take(size) {
    if (size > this.bytes.length - this.at) this.malformed();
    this.at += size;
    return this.at - size;
  }

  item(depth) {
    if (depth > MAX_DEPTH + 1) this.malformed();
    const first = this.view.getUint8(this.take(1));
    const major = first >> 5;
    const info = first & 31;
    if (major === 7) return this.simple(info);
    const count = this.count(info);
    if (major === 0) return count;
    if (major === 1) return typeof count === "bigint" ? -1n - count : -1 - count;
    if (major === 2) return this.slice(count);
    if (major === 3) return this.text(count);
    if (major === 4) return this.array(count, depth);
    if (major === 5) return this.map(count, depth);
    return this.malformed();
  }

  count(info) {
    if (info < 24) return info;
    if (info === 24) return this.view.getUint8(this.take(1));
    if (info === 25) return this.view.getUint16(this.take(2));
    if (info === 26) return this.view.getUint32(this.take(4));
    if (info !== 27) return this.malformed();
    const big = this.view.getBigUint64(this.take(8));
    return big <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(big) : big;
  }

  slice(size) {
    const start = this.take(size);
    return this.bytes.slice(start, start + size);
  }

  text(size) {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.slice(size));
    } catch {
      return this.malformed();
    }
  }

  array(count, depth) {
    const list = [];
    for (let i = 0; i < count; i++) list.push(this.item(depth + 1));
    return list;
  }

  map(count, depth) {
    const map = new Map();
    for (let i = 0; i < count; i++) {
      const key = this.item(depth + 1);
      if (map.has(key)) this.malformed();
      map.set(key, this.item(depth + 1));
    }
    return map;
  }

  simple(info) {
    if (info === 20) return false;
    if (info === 21) return true;
    if (info === 22) return null;
    if (info === 25) return half(this.view.getUint16(this.take(2)));
    if (info === 26) return this.view.getFloat32(this.take(4));
    if (info === 27) return this.view.getFloat64(this.take(8));
    return this.malformed();
  }
}

/** A float of 16 bits (RFC 8949, appendix D). */
function half(bits) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = bits >> 10 & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

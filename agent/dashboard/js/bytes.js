// Bytes: joining, hex, base64, and the refusal that every other module raises.

/** A message or a key that is not believed. Its text never repeats what was inside. */
export class Refusal extends Error {}

export function refuse(why) {
  throw new Refusal(why);
}

export const utf8 = (text) => new TextEncoder().encode(text);

export function join(...parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

export const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

export function same(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** DER out of PEM or bare base64; with PEM, the label must end as asked. */
export function fromPem(text, label) {
  const pem = text.match(/-----BEGIN ([A-Z0-9 ]+)-----([\s\S]+?)-----END \1-----/);
  if (pem && !pem[1].endsWith(label)) refuse(`this is a ${pem[1].toLowerCase()}, not a ${label.toLowerCase()}`);
  const base64 = (pem ? pem[2] : text).replace(/\s+/g, "");
  if (!base64 || !/^[A-Za-z0-9+/]+=*$/.test(base64)) refuse(`this is not a ${label.toLowerCase()} in PEM`);
  try {
    return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  } catch {
    return refuse(`this is not a ${label.toLowerCase()} in PEM`);
  }
}

// The structures of COSE (RFC 9052) that a device sends, taken apart; nothing here decides whom to believe.
import { join, refuse, toHex } from "./bytes.js";
import { decode } from "./cbor.js";

const MAX_EXPANDED_BYTES = 8 << 20;
const MAX_N = 1 << 20;
const TYPE = -65537;
const ZIP = -65538;

/** Message type -> place on the broker. */
export const PLACES = { 1: "event", 2: "event", 3: "gap", 4: "twin", 5: "metric", 6: "alarm", 7: "state", 8: "capability" };

/** A COSE_Sign1, not yet verified. */
export function takeSigned(bytes) {
  if (bytes[0] !== 0xd2) refuse("message is not signed");
  const parts = decode(bytes.subarray(1), "signed message");
  const [protectedBytes, unprotected, payload, signature] = Array.isArray(parts) && parts.length === 4 ? parts : [];
  const bstrs = [protectedBytes, payload, signature].every((part) => part instanceof Uint8Array);
  if (!bstrs || !(unprotected instanceof Map)) refuse("signed message is not a COSE_Sign1 of the expected shape");
  const header = decode(protectedBytes, "protected header");
  const keyId = header instanceof Map && header.size === 2 ? header.get(4) : null;
  if (!(keyId instanceof Uint8Array) || ![-8, -7].includes(header.get(1))) refuse("header of a signature is not allowed");
  return { protectedBytes, payload, signature, alg: header.get(1), keyId: toHex(keyId) };
}

/** A COSE_Encrypt0, not yet opened. */
export function takeSealed(bytes) {
  if (bytes[0] !== 0xd0) refuse("message is not sealed");
  const parts = decode(bytes.subarray(1), "sealed message");
  const [protectedBytes, unprotected, ciphertext] = Array.isArray(parts) && parts.length === 3 ? parts : [];
  const shaped = protectedBytes instanceof Uint8Array && ciphertext instanceof Uint8Array && ciphertext.length >= 16
    && unprotected instanceof Map && unprotected.size === 2;
  if (!shaped) refuse("sealed message is not a COSE_Encrypt0 of the expected shape");
  const [kid, counter] = [unprotected.get(4), unprotected.get(6)];
  const allowed = kid instanceof Uint8Array && kid.length === 8 && counter instanceof Uint8Array
    && counter.length >= 1 && counter.length <= 3 && (counter.length === 1 || counter[0] !== 0);
  const n = allowed ? counter.reduce((sum, byte) => sum * 256 + byte, 0) : MAX_N;
  if (n >= MAX_N) refuse("sealed message has a header that is not allowed");
  const header = decode(protectedBytes, "protected header");
  const [type, zip] = header instanceof Map ? [header.get(TYPE), header.get(ZIP) ?? 0] : [];
  const size = zip === 0 ? 2 : 3;
  if (!PLACES[type] || ![0, 1, 2].includes(zip) || header.get(1) !== 3 || header.size !== size) {
    refuse("protected header is not allowed: only AES-256-GCM and known message types");
  }
  return { protectedBytes, type, zip, kid: toHex(kid), kidBytes: kid, n, ciphertext };
}

/** Base IV xor n. */
export function nonce(baseIv, n) {
  const iv = baseIv.slice();
  for (let i = 0; i < 3; i++) iv[11 - i] ^= n >> 8 * i & 0xff;
  return iv;
}

/** Undo compression, never beyond the limit. */
export async function expand(bytes, zip) {
  if (zip === 0) return bytes;
  if (zip === 2) refuse("message is compressed with zstd, which browsers cannot read: set compression = \"deflate\"");
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const chunks = [];
  let size = 0;
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      size += next.value.length;
      if (size > MAX_EXPANDED_BYTES) break;
      chunks.push(next.value);
    }
  } catch {
    refuse("message holds damaged DEFLATE data");
  }
  if (size > MAX_EXPANDED_BYTES) {
    await reader.cancel();
    refuse("message is too large when expanded");
  }
  return join(...chunks);
}

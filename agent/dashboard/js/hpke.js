// HPKE (RFC 9180), base mode, single shot: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
import { join, refuse, utf8 } from "./bytes.js";

const NONE = new Uint8Array(0);
const VERSION = utf8("HPKE-v1");
const KEM = join(utf8("KEM"), Uint8Array.of(0x00, 0x20));
const SUITE = join(utf8("HPKE"), Uint8Array.of(0x00, 0x20, 0x00, 0x01, 0x00, 0x02));
const ENC_BYTES = 32;

/** Open enc || ciphertext with the reader's key. Throws Refusal. */
export async function open(reader, wrapped, info) {
  const enc = wrapped.slice(0, ENC_BYTES);
  const shared = await decapsulate(reader, enc);
  const context = join(
    Uint8Array.of(0), await extract(SUITE, NONE, "psk_id_hash", NONE), await extract(SUITE, NONE, "info_hash", info));
  const secret = await extract(SUITE, shared, "secret", NONE);
  const raw = await expand(SUITE, secret, "key", context, 32);
  const iv = await expand(SUITE, secret, "base_nonce", context, 12);
  const key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["decrypt"]);
  try {
    return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, key, wrapped.slice(ENC_BYTES)));
  } catch {
    return refuse("key envelope holds a wrapped key that this reader cannot open");
  }
}

/** X25519 of a private CryptoKey and 32 public bytes; refuses the all-zero result (RFC 7748, 6.1). */
export async function x25519(privateKey, publicBytes) {
  const theirs = await crypto.subtle.importKey("raw", publicBytes, "X25519", false, []);
  try {
    return new Uint8Array(await crypto.subtle.deriveBits({ name: "X25519", public: theirs }, privateKey, 256));
  } catch {
    return refuse("key envelope holds a public key of low order");
  }
}

async function decapsulate(reader, enc) {
  const dh = await x25519(reader.privateKey, enc);
  if (dh.every((byte) => byte === 0)) refuse("key envelope holds a public key of low order");
  const prk = await extract(KEM, NONE, "eae_prk", dh);
  return expand(KEM, prk, "shared_secret", join(enc, reader.publicBytes), 32);
}

async function hmac(key, data) {
  const made = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", made, data));
}

/** LabeledExtract; an empty salt is 32 zero bytes (RFC 5869, 2.2). */
const extract = (id, salt, label, ikm) => hmac(salt.length ? salt : new Uint8Array(32), join(VERSION, id, utf8(label), ikm));

/** LabeledExpand for at most 32 bytes: one round of HKDF-Expand. */
async function expand(id, prk, label, info, size) {
  const labeled = join(Uint8Array.of(0, size), VERSION, id, utf8(label), info, Uint8Array.of(1));
  return (await hmac(prk, labeled)).slice(0, size);
}

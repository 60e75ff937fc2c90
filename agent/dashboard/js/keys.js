// Keys: the reader's private key, which the page can use and never read back, and the devices' public keys.
import { fromPem, join, refuse, toHex } from "./bytes.js";
import { x25519 } from "./hpke.js";

const X25519_PKCS8 = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20);
const X25519_SPKI = Uint8Array.of(0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 3, 0x21, 0);
const BASE_POINT = Uint8Array.of(9, ...new Uint8Array(31));
const ED25519_SPKI_BYTES = 44;

/** A reader from its private key in PEM, imported non-extractable: {privateKey, publicBytes, id}. Throws Refusal. */
export async function readerFromPem(text) {
  const der = fromPem(text, "PRIVATE KEY");
  const isX25519 = der.length === 48 && X25519_PKCS8.every((byte, i) => byte === der[i]);
  if (!isX25519) refuse("this is not an X25519 reader key: make one with 'limpet keys new reader'");
  const privateKey = await crypto.subtle.importKey("pkcs8", der, "X25519", false, ["deriveBits"]);
  der.fill(0);
  return readerFromKey(privateKey);
}

/** A reader from its CryptoKey. The public half is X25519(private, 9): no need to ever export the key. */
export async function readerFromKey(privateKey) {
  const publicBytes = await x25519(privateKey, BASE_POINT);
  return { privateKey, publicBytes, id: await keyId(join(X25519_SPKI, publicBytes)) };
}

/** First 8 bytes of SHA-256 over the SubjectPublicKeyInfo, in hex. */
export async function keyId(spki) {
  return toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", spki)).slice(0, 8));
}

/** A device's signing key from PEM or base64 of its SubjectPublicKeyInfo: Ed25519 or P-256. Throws Refusal. */
export async function deviceKey(text) {
  const spki = fromPem(text, "PUBLIC KEY");
  const ed = spki.length === ED25519_SPKI_BYTES;
  try {
    const how = ed ? "Ed25519" : { name: "ECDSA", namedCurve: "P-256" };
    const key = await crypto.subtle.importKey("spki", spki, how, false, ["verify"]);
    return { id: await keyId(spki), alg: ed ? -8 : -7, key };
  } catch {
    return refuse("this is not a device key: give the device's .pub file (Ed25519 or P-256)");
  }
}

/** True when `known` signed `data`. */
export function verified(known, signature, data) {
  const how = known.alg === -8 ? "Ed25519" : { name: "ECDSA", hash: "SHA-256" };
  return crypto.subtle.verify(how, known.key, signature, data);
}

// --- kept in this browser, if the person wants: the CryptoKey itself, which no script can read out

const STORE = "keys";
const NAME = "reader";

function database() {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open("limpet", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE);
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

async function inStore(mode, act) {
  const db = await database();
  try {
    return await new Promise((resolve, reject) => {
      const asked = act(db.transaction(STORE, mode).objectStore(STORE));
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => reject(asked.error);
    });
  } finally {
    db.close();
  }
}

export const remember = (privateKey) => inStore("readwrite", (store) => store.put(privateKey, NAME));
export const forget = () => inStore("readwrite", (store) => store.delete(NAME));

/** The reader kept here, or null. */
export async function recall() {
  const key = await inStore("readonly", (store) => store.get(NAME));
  return key ? readerFromKey(key) : null;
}

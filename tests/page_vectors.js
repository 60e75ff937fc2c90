// Runs inside the page: the page's own modules read the vectors.
async (vectors) => {
  const { Opener } = await import("/js/opener.js");
  const { deviceKey, readerFromKey } = await import("/js/keys.js");
  const hex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
  const pkcs8 = hex("302e020100300506032b656e04220420" + vectors.reader.private_raw);
  const reader = await readerFromKey(await crypto.subtle.importKey("pkcs8", pkcs8, "X25519", false, ["deriveBits"]));
  const devices = await Promise.all(vectors.devices.map(async (device) => ({
    ...device, keys: device.public_spki ? [await deviceKey(base64(hex(device.public_spki)))] : [],
  })));
  const opener = new Opener(reader, devices);
  const lines = [];
  for (const { name, topic, payload } of [...vectors.opens, ...vectors.refused]) {
    try {
      const opened = await opener.open(topic, hex(payload));
      lines.push({ name, opened: opened.flatMap((one) => one.events ?? [one.body]) });
    } catch (error) {
      lines.push({ name, refused: error.message });
    }
  }
  return lines;
}

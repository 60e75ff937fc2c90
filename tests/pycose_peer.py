"""Another implementation of COSE reads the vectors and writes messages of its own. Runs in the interop environment.

pycose_peer.py VECTORS.json prints one JSON object: "read" maps a vector's name to what pycose decrypted (hex) or
"verified"; "written" lists messages that pycose made: {"n", "external", "payload", "message"} in hex.
"""

import json
import sys
from pathlib import Path

import cbor2
from pycose.algorithms import A256GCM, EdDSA, Es256
from pycose.headers import IV, KID, Algorithm, PartialIV
from pycose.keys import EC2Key, OKPKey, SymmetricKey
from pycose.keys.curves import P256, Ed25519
from pycose.keys.keyops import DecryptOp, EncryptOp
from pycose.keys.keyparam import KpKeyOps
from pycose.messages import CoseMessage, Enc0Message

vectors = json.loads(Path(sys.argv[1]).read_text())
epochs = {e["kid"]: e for e in vectors["epochs"]}


def symmetric(epoch):
    """The epoch key as pycose holds it."""
    key = SymmetricKey(bytes.fromhex(epoch["key"]))
    key.store[KpKeyOps] = [EncryptOp, DecryptOp]
    return key


def signer(device):
    """The device's public key as pycose holds it."""
    spki = bytes.fromhex(device["public_spki"])
    if len(spki) == 44:
        return OKPKey(crv=Ed25519, x=spki[-32:])
    return EC2Key(crv=P256, x=spki[-64:-32], y=spki[-32:])


def read_envelope(message):
    """Verify the signature of a key envelope."""
    body = cbor2.loads(message.payload)
    device = next(d for d in vectors["devices"] if d["device"] == body["device"])
    message.key = signer(device)
    message.external_aad = cbor2.dumps(["limpet-key-v1", body["kid"]])
    assert message.phdr[Algorithm] in (EdDSA, Es256)
    assert message.verify_signature()
    return "verified"


def read_sealed(message, steps):
    """Decrypt a message; pycose has no Partial IV, so it is given the nonce."""
    epoch = epochs[message.uhdr[KID].hex()]
    n = int.from_bytes(message.uhdr[PartialIV], "big")
    nonce = int.from_bytes(bytes.fromhex(epoch["base_iv"]), "big") ^ n
    assert message.phdr[Algorithm] is A256GCM
    message.key = symmetric(epoch)
    message.external_aad = bytes.fromhex(steps["external"])
    message.uhdr[IV] = nonce.to_bytes(12, "big")
    return message.decrypt().hex()


def write(n, external, payload, epoch):
    """A sealed event made by pycose."""
    partial = n.to_bytes(max(1, (n.bit_length() + 7) // 8), "big")
    nonce = (int.from_bytes(bytes.fromhex(epoch["base_iv"]), "big") ^ n).to_bytes(12, "big")
    message = Enc0Message({Algorithm: A256GCM, -65537: 1}, {IV: nonce}, payload, external)
    message.key = symmetric(epoch)
    parts = cbor2.loads(message.encode()).value
    return cbor2.dumps(cbor2.CBORTag(16, [parts[0], {4: bytes.fromhex(epoch["kid"]), 6: partial}, parts[2]]))


read = {}
for vector in vectors["opens"]:
    data = bytes.fromhex(vector["payload"])
    if data[:1] == b"{":
        continue
    decoded = CoseMessage.decode(data)
    read[vector["name"]] = read_sealed(decoded, vector["steps"]) if "steps" in vector else read_envelope(decoded)

written = []
for n in (100, 300, 70000):
    epoch = vectors["epochs"][0]
    external = cbor2.dumps(["limpet-msg-v1", "test-site", "edge", 1, "door", bytes.fromhex(epoch["kid"]), n])
    payload = bytes.fromhex(vectors["opens"][1]["steps"]["decrypted"])
    written.append(write(n, external, payload, epoch).hex())
print(json.dumps({"read": read, "written": written}))

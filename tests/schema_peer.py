"""Foreign validators look at the vectors through event.schema.json and event.cddl. Runs in the interop environment.

schema_peer.py VECTORS.json DOCS prints one JSON object: "json" counts the events that JSON Schema accepts, "cbor" names
the vectors that CDDL accepts, "refused" how many of the "spoilt" events both refuse.
"""

import json
import sys
from pathlib import Path

import cbor2
import jsonschema
import pycddl

SPOILT = (
    ("schema", 2), ("id", "x"), ("seq", -1), ("class", "urgent"), ("t_wall_s", "noon"), ("body", []), ("cache", ""),
)  # fmt: skip

vectors, docs = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
schema = json.loads((docs / "event.schema.json").read_text())
jsonschema.Draft202012Validator.check_schema(schema)
by_json = jsonschema.Draft202012Validator(schema)
cddl = (docs / "event.cddl").read_text()
by_cddl = {"event": pycddl.Schema(cddl), "batch": pycddl.Schema("start = batch\n" + cddl)}


def refused(event):
    """Both validators say no."""
    try:
        by_cddl["event"].validate_cbor(cbor2.dumps(event))
    except pycddl.ValidationError:
        return not by_json.is_valid(event)
    return False


events, accepted = [], []
for vector in vectors["opens"]:
    events += [said for said in vector["expect"] if isinstance(said, dict) and "stream" in said]
    kind = vector["name"].split(",")[0].split(" ")[0]
    if kind in ("event", "gap") or vector["name"] == "batch, zip 0":
        by_cddl["batch" if kind == "batch" else "event"].validate_cbor(bytes.fromhex(vector["steps"]["decrypted"]))
        accepted.append(vector["name"])
for event in events:
    by_json.validate(event)
spoilt = [events[0] | {key: value} for key, value in SPOILT] + [{k: v for k, v in events[0].items() if k != "id"}]
print(json.dumps({"json": len(events), "cbor": accepted, "refused": sum(map(refused, spoilt)), "spoilt": len(spoilt)}))

"""How rows, verdicts and the table look from outside: states, capabilities, the facet, audit entries. Pure."""

from collections.abc import Mapping
from typing import Any

from agent import cbor, codec
from agent.commands.gate import Verdict
from agent.commands.table import Table
from agent.envelope import MessageType
from agent.journal import Command, Head
from agent.progress import Progress
from agent.uplink.requests import Told


def state(command: Command, keep_s: float) -> Told:
    """The retained state of a row; the broker forgets it after `keep_s` even if this device never comes back."""
    return Told(MessageType.STATE, command.name, _body(command.progress, command.by), expiry_s=int(keep_s))


def cleared(name: str) -> Told:
    """Nothing stands under this name any more."""
    return Told(MessageType.STATE, name, None)


def answer(verdict: Verdict, t_wall_s: float) -> Told:
    """What the signer of a request hears that was refused and not stored: told once, not retained."""
    said = Progress(
        verdict.id, verdict.operation, "failed", 0, verdict.reason, verdict.text[:2000], t_wall_s,  # type: ignore[arg-type]
    )  # fmt: skip
    by = verdict.holder.name if verdict.holder else ""
    return Told(MessageType.STATE, f"{verdict.operation}/{verdict.id}", _body(said, by), retain=False)


def capability(name: str, table: Table) -> Told:
    """What `cmd/<op>` shows, or its removal when this device does not know the operation."""
    operation = table.get(name)
    body = None if operation is None else cbor.encode(codec.plain(operation.capability()))
    return Told(MessageType.CAPABILITY, name, body)


def facet(
    table: Table, nonce: bytes, trusted: bool, head: Head, keys: int, trouble: str, weaker: str
) -> dict[str, Any]:
    """The twin facet `commands`."""
    told: dict[str, Any] = {
        "ops": sorted(table), "nonce": nonce.hex(), "clock_trusted": trusted, "keys": keys,
        "audit": {"n": head.n, "head": head.hash.hex()},
    }  # fmt: skip
    return told | ({"trouble": trouble} if trouble else {}) | ({"weaker": weaker} if weaker else {})


def audited(verdict: Verdict) -> dict[str, Any]:
    """The audit entry of a decision."""
    entry: dict[str, Any] = {
        "what": verdict.fate, "op": verdict.operation, "id": verdict.id, "kid": verdict.key_id.hex(),
        "digest": verdict.digest, "reason": verdict.reason, "text": verdict.text,
    }  # fmt: skip
    if verdict.holder is not None:
        entry |= {"by": verdict.holder.name, "role": verdict.holder.role}
    if verdict.request is not None and verdict.fate in ("admit", "reject"):
        entry["args"] = _short(verdict.request.args)
    return {key: value for key, value in entry.items() if value != ""}


def ended(command: Command) -> dict[str, Any]:
    """The audit entry of a command's end."""
    said = command.progress
    entry = {
        "what": said.status, "op": said.operation, "id": said.id, "by": command.by, "reason": said.reason,
        "text": said.text,
    }  # fmt: skip
    return {key: value for key, value in entry.items() if value != ""}


def _body(said: Progress, by: str) -> bytes:
    return cbor.encode({
        "id": said.id, "operation": said.operation, "status": said.status, "version": said.version,
        "reason": said.reason, "text": said.text, "t_wall_s": said.t_wall_s, "done_bytes": said.done_bytes,
        "total_bytes": said.total_bytes, "detail": codec.plain(said.detail), "by": by,
    })  # fmt: skip


def _short(args: Mapping[str, Any]) -> Any:
    """Arguments for the audit trail; long ones by their size only: the digest of the request says the rest."""
    return {key: _brief(value) for key, value in args.items()}


def _brief(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, str) and len(value) <= 80:
        return value
    return f"[{type(value).__name__} of {len(cbor.encode(value))} bytes]"

#!/usr/bin/env python3
"""The updater's TUF client behind the command line of the public TUF conformance suite.

    tuf_client.py --metadata-dir D init ROOT
    tuf_client.py --metadata-dir D --metadata-url U refresh
    tuf_client.py --metadata-dir D --metadata-url U --target-name P [--target-name P2 ...] --target-base-url T
                  --target-dir O download

Exit status 0 or 1. The same code as on a device, only that time is the clock's alone: the suite moves it. The pinned
root lies in D as `root.pin`; metadata lies beside it without version numbers, and no other file there ends in .json.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.durable import locked, read_limited, write_durably
from agent.errors import UpdateError
from agent.updates.client import LOCK, ROOT_LIMIT_BYTES, HardenedUpdater, translated
from agent.updates.pace import Limits
from agent.updates.web import WebFetcher

PIN = "root.pin"


def main() -> int:
    """Do what the command line says; 0 when all of it worked."""
    words = _parser().parse_args()
    try:
        with translated(str(words.metadata_dir)):
            _held(words)
    except (UpdateError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def _held(words: argparse.Namespace) -> None:
    with locked(words.metadata_dir / LOCK) as free:
        if not free:
            raise UpdateError(f"{words.metadata_dir}: another client is at work", "REJECTED_BUSY")
        if words.command == "init":
            write_durably(words.metadata_dir / PIN, read_limited(words.trusted_root, ROOT_LIMIT_BYTES), 0o644)
        else:
            _online(words)


def _online(words: argparse.Namespace) -> None:
    root = read_limited(words.metadata_dir / PIN, ROOT_LIMIT_BYTES)
    fetcher = WebFetcher(Limits(retry_s=0.1, tries=2, keep_free_bytes=0))
    updater = HardenedUpdater(
        words.metadata_dir, words.metadata_url, root, fetcher, None, words.target_base_url, words.target_dir
    )
    updater.refresh()
    for name in words.target_name if words.command == "download" else ():
        info = updater.get_targetinfo(name)
        if info is None:
            raise UpdateError(f"{name}: no such target", "VERIFY_FAILED")
        if not updater.find_cached_target(info):
            updater.download_target(info)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


if __name__ == "__main__":
    sys.exit(main())

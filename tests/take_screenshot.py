"""Take docs/dashboard.png: the demo with its real agent, broker and page, seen in a real browser after a minute.

    python -m tests.take_screenshot [FILE [SECONDS]]
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.browser import Page

ROOT = Path(__file__).resolve().parent.parent


def main(file: Path, wait_s: float) -> None:
    """Start the demo, open its page with the key that it names, wait for events, write a PNG."""
    command = [sys.executable, "-u", "-m", "agent", "demo", f"{wait_s + 60:.0f}s", "--lines"]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        found = next(m for line in demo.stdout if (m := re.search(r"page (http\S+) with the key (\S+)", line)))
        with tempfile.TemporaryDirectory() as profile, Page(Path(profile)) as page:
            take(page, *found.groups(), file, wait_s)
    finally:
        demo.terminate()
        demo.wait(30)


def take(page: Page, address: str, key: str, file: Path, wait_s: float) -> None:
    """Choose the key, connect, wait, look."""
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    page.call("Emulation.setEmulatedMedia", features=[dark])
    page.open(address)
    page.wait("!document.getElementById('setup').hidden")
    page.choose_file("#key-file", key)
    page.run("document.querySelector('#setup-form button[type=submit]').click()")
    page.wait("document.getElementById('link').textContent.startsWith('connected')")
    time.sleep(wait_s)
    page.screenshot(file)
    print(f"{file}: written; look at it")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs/dashboard.png"), float((sys.argv[2:] or ["60"])[0]))

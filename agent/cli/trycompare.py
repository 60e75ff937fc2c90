"""`limpet models try --compare`: one picture prepared in every way that public models want, side by side."""

from pathlib import Path

from agent.cli.terminal import aligned, shown
from agent.cli.trylook import first_picture
from agent.drawing.picture import drawn
from agent.errors import ConfigError, ModelError
from agent.manifest import Manifest
from agent.records import Array, Finding
from agent.runtime import Runner
from agent.settings.capture import SourceConfig
from agent.tryout import Tryout, variants

_MOST_WORDS = 3


def compare(manifest: Manifest, runner: Runner, source: Path | SourceConfig) -> list[Array]:
    """Print a line per way, the surest first, and give the drawings in the same order.

    Sure is not right: people see which picture is. Raises ConfigError when the model's input does not vary,
    CaptureError, ModelError.
    """
    ways = variants(manifest)
    if not ways:
        raise ConfigError(f"{manifest}: --compare is for models that take a picture and resize it: leave it out")
    view = first_picture(Tryout(manifest, runner), source)
    made: list[tuple[tuple[bool, float], str, str, Array]] = []
    for way_words, way in ways:
        words = way_words + ("  (as it is now)" if way is manifest else "")
        tryout = Tryout(way, runner)
        try:
            seen = tryout.look(view)
        except ModelError:  # this way the model gives no numbers at all
            continue
        found = seen.inferred.findings
        picture = drawn(view.data, found, tryout.scene(seen, words))
        made.append((_sureness(tryout, found), words, _told(tryout, found), picture))
    made.sort(key=lambda one: one[0], reverse=True)
    for line in aligned((words, told) for _, words, told, _ in made):
        print(f"  {line}")
    return [picture for _, _, _, picture in made]


def _sureness(tryout: Tryout, found: tuple[Finding, ...]) -> tuple[bool, float]:
    """What was found before what nearly was, each by its best score; last what has as many findings as are told at
    most, which is noise."""
    near = tryout.nearest.best
    if len(found) >= (tryout.manifest.decoder or {}).get("max_findings", 100):
        return False, -1.0
    return bool(found), max((finding.score for finding in found), default=near.finding.score if near else 0.0)


def _told(tryout: Tryout, found: tuple[Finding, ...]) -> str:
    if not found:
        near = tryout.nearest.words()
        return f"nothing: {shown(near)}" if near else "nothing"
    best = sorted(found, key=lambda finding: -finding.score)[:_MOST_WORDS]
    more = f", {len(found) - len(best)} more" if len(found) > len(best) else ""
    return ", ".join(f"{shown(f.label)} {f.score:.3f}" for f in best) + more

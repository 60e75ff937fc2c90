"""`limpet models try --compare`: one picture prepared in every way that public models want, side by side."""

from pathlib import Path

from agent.cli.terminal import shown
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
    ways = list(variants(manifest))
    if not ways:
        raise ConfigError(f"{manifest}: --compare is for models that take a picture and resize it: leave it out")
    view = first_picture(Tryout(manifest, runner), source)
    made: list[tuple[float, str, tuple[Finding, ...], Array]] = []
    for way_words, way in ways:
        words = way_words + ("  (as it is now)" if way.pre == manifest.pre else "")
        tryout = Tryout(way, runner)
        try:
            seen = tryout.look(view)
        except ModelError:  # this way the model gives no numbers at all
            continue
        found = seen.inferred.findings
        picture = drawn(view.data, found, tryout.scene(seen, words))
        made.append((_sureness(found, manifest), words, found, picture))
    made.sort(key=lambda one: -one[0])
    wide = max((len(words) for _, words, _, _ in made), default=0)
    for _, words, found, _ in made:
        print(f"  {words.ljust(wide)}  {_told(found)}")
    return [picture for _, _, _, picture in made]


def _sureness(found: tuple[Finding, ...], manifest: Manifest) -> float:
    """The best score; less than nothing where there are as many findings as are told at most, which is noise."""
    crowded = len(found) >= (manifest.decoder or {}).get("max_findings", 100)
    return -1.0 if crowded else max((finding.score for finding in found), default=0.0)


def _told(found: tuple[Finding, ...]) -> str:
    best = sorted(found, key=lambda finding: -finding.score)[:_MOST_WORDS]
    more = f", {len(found) - len(best)} more" if len(found) > len(best) else ""
    return (", ".join(f"{shown(f.label)} {f.score:.3f}" for f in best) or "nothing") + more

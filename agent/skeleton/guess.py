"""From facts to a whole guess: what the model is about, its states, labels, steps, decoder.

Owns the order of questions: states first, because what carries a state is no input to feed; then pictures, sounds,
series; then labels, which decide details of the decoder.
"""

import dataclasses
from collections.abc import Mapping

from agent.skeleton.detectors import read_detector
from agent.skeleton.facts import Facts, Shaped, is_silero
from agent.skeleton.labels import found_labels, without_background
from agent.skeleton.parts import Guess, Labels, Part, Reading
from agent.skeleton.pictures import layout, picture_port, picture_size, steps
from agent.skeleton.scenes import read_scene
from agent.skeleton.sounds import read_sound

_MOST_STAND_INS = 2000
"""Beyond so many classes, no numbers stand in for names that are missing."""


def guess(facts: Facts) -> tuple[Facts, Guess]:
    """Everything that is written about the model, and the facts with what the guess fixed in them."""
    states = paired_states(facts)
    facts = _settled(facts, states)
    held = {take for take, _ in states}
    fed = dataclasses.replace(
        facts, inputs=tuple(p for p in facts.inputs if p.name not in held),
        outputs=tuple(p for p in facts.outputs if p.name not in {give for _, give in states}) or facts.outputs,
    )  # fmt: skip
    fed = facts if is_silero(facts.inputs) else fed
    picture = picture_port(fed)
    reading = _reading(fed, picture)
    labels, reading = _labelled(fed, reading)
    pre = tuple(steps(fed, picture, reading.family)) if picture else reading.pre
    pre = _named(pre, fed, picture)
    modality = "image" if picture else reading.modality or "tensor"
    return facts, Guess(
        modality=_modality(modality, picture),
        labels=labels,
        layouts={port.name: layout(port) for port in facts.inputs if layout(port)},
        constants=_constants(fed, reading),
        states=states,
        window=reading.window,
        pre=pre,
        decoder=reading.decoder,
        post=reading.post,
        remarks=(*facts.remarks, *reading.remarks, *_questions(picture, reading)),
    )


def paired_states(facts: Facts) -> tuple[tuple[str, str], ...]:
    """Ports that carry a state from run to run: the same shape and type, and names that belong together.

    At least one input must be left to feed.
    """
    pairs: list[tuple[str, str]] = []
    taken: set[str] = set()
    for take in facts.inputs:
        for give in facts.outputs:
            if give.name not in taken and _alike(take, give, facts):
                pairs.append((take.name, give.name))
                taken.add(give.name)
                break
    return tuple(pairs) if len(pairs) < len(facts.inputs) else ()


def _alike(take: Shaped, give: Shaped, facts: Facts) -> bool:
    if len(take.shape) < 2 or (take.dtype, take.scale, take.zero_point) != (give.dtype, give.scale, give.zero_point):
        return False
    if take.shape != give.shape and not (give.open or give.unknown):
        return False
    if len(take.shape) != len(give.shape):
        return False
    ours, theirs = _stem(facts, take), _stem(facts, give)
    return bool(ours) and (ours == theirs or theirs in (f"{ours}n", f"new{ours}", f"{ours}new", f"{ours}out"))


def _stem(facts: Facts, port: Shaped) -> str:
    """A port's name without what says only that it goes in or comes out."""
    name = (facts.graph.signature.get(port.name) or port.name).split(":")[0].split("/")[-1].lower()
    parts = [part for part in name.replace("-", "_").replace(".", "_").split("_")
             if part not in ("init", "in", "input", "out", "output", "next", "prev", "past", "present", "serving",
                             "default", "new", "old")]  # fmt: skip
    return "".join(parts)


def _settled(facts: Facts, states: tuple[tuple[str, str], ...]) -> Facts:
    """The facts, where a state's output that left its shape open has that of its input."""
    shapes: Mapping[str, tuple[int, ...]] = {
        give: next(port.shape for port in facts.inputs if port.name == take) for take, give in states
    }
    outputs = tuple(
        dataclasses.replace(port, shape=shapes[port.name], unknown=False) if port.name in shapes else port
        for port in facts.outputs
    )
    return dataclasses.replace(facts, outputs=outputs)


def _reading(facts: Facts, picture: Shaped | None) -> Reading:
    if picture is None:
        return read_sound(facts) or Reading()
    size = picture_size(picture, facts)
    assert size is not None
    return read_detector(facts, size) or read_scene(facts, size) or Reading()


def _modality(name: str, picture: Shaped | None) -> Part:
    told = {
        "image": f"'{picture.name}' takes {' x '.join(map(str, picture.shape))} numbers: a picture" if picture else "",
        "audio": "the input is sound, or rows of its spectrum",
        "series": "the input is rows of readings",
        "tensor": "the input is neither picture nor sound nor rows: arrays are fed as they are",
    }[name]
    return Part({"modality": name}, "guess" if name == "tensor" else "likely", told, "image, audio, series or tensor")


def _labelled(facts: Facts, reading: Reading) -> tuple[Labels | None, Reading]:
    """The labels, and the reading as they correct it."""
    if reading.decoder is None or reading.decoder.keys["step"] == "reconstruction":
        return None, reading
    detector = reading.decoder.keys["step"].startswith("box")
    found = found_labels(facts, reading.classes, 1)
    if found and reading.most and not reading.most <= len(found.names) <= reading.most + 1:
        found = None
    if found and detector:
        found = _of_a_detector(found, reading)
    if found and reading.classes and len(found.names) == reading.classes - 1:
        reading = _with_offset(reading)
    labels = found or reading.labels
    if labels and reading.classes and len(labels.names) not in (reading.classes, reading.classes - 1):
        labels = None
    if labels is None and reading.needs_labels and 0 < reading.classes <= _MOST_STAND_INS:
        names = tuple(str(i) for i in range(reading.classes))
        labels = Labels(names, "guess", "nothing names the classes: write their names, or labels_file")
    return labels, reading


def _of_a_detector(found: Labels, reading: Reading) -> Labels:
    """Detectors count without their background; a file may name it all the same."""
    bare = without_background(found.names)
    if len(bare) == len(found.names) or (reading.classes and len(bare) != reading.classes):
        return found
    return Labels(bare, found.sure, f"{found.why}, without the first, which stands for nothing")


def _with_offset(reading: Reading) -> Reading:
    """One label less than scores: the first score is the background's."""
    assert reading.decoder is not None
    step = reading.decoder.keys["step"]
    more = {"label_offset": 1} if step == "classify" else {"background": "first"} if step.startswith("box") else {}
    part = dataclasses.replace(reading.decoder, keys={**reading.decoder.keys, **more})
    return dataclasses.replace(reading, decoder=part) if more else reading


def _constants(facts: Facts, reading: Reading) -> Mapping[str, tuple[float, str]]:
    """Inputs of a single number: a sampling rate, a threshold, a switch."""
    known = dict(reading.constants)
    made: dict[str, tuple[float, str]] = {name: (value, "likely: its sampling rate") for name, value in known.items()}
    if len(facts.inputs) == 1:
        return made
    for port in facts.inputs:
        if port.name not in made and port.shape in ((), (1,)) and port.dtype != "bool":
            named = port.name.lower() in ("sr", "rate", "sample_rate", "sampling_rate")
            rate = named or (reading.modality == "audio" and port.dtype.startswith("int"))
            made[port.name] = (16000, "likely: a sampling rate") if rate else (
                0, "??? a single number: a constant; leave it out to feed it")  # fmt: skip
    return made


def _named(pre: tuple[Part, ...], facts: Facts, picture: Shaped | None) -> tuple[Part, ...]:
    """Steps that say which input they are for, where it is not the first."""
    if picture is None or picture is facts.inputs[0]:
        return pre
    return tuple(dataclasses.replace(part, keys={**part.keys, "input": picture.name}) for part in pre)


def _questions(picture: Shaped | None, reading: Reading) -> tuple[str, ...]:
    """What the file cannot tell and nobody guessed."""
    asked = []
    if picture is None and not reading.window and not reading.remarks and reading.modality in ("audio", "series"):
        asked.append("how does the stream become the input? write [window] and [[pre]]")
    if reading.decoder is None and not reading.remarks:
        asked.append("what turns the outputs into findings? write [decoder] (docs/steps.md)")
    return tuple(asked)

"""What Limpet costs on this machine, against the bare loop that only runs the model and against the obvious script.

A section is a module with `measure(run) -> dict` (figures, units in the key names), `lines(figures) -> list[str]` (a
Markdown table for people) and, if it has something to show, `draw(figures) -> dict[str, str]` (file name -> SVG).
Whoever is compared runs interleaved, a b c a b c, in one run, because a machine is never the same twice; the ratio is
the median of the rounds' ratios. CPU counts every thread and every child.
"""

"""`limpet models ...` as one types it, in this process."""

from agent.cli import main


def limpet(capsys, *words):
    """`limpet models WORDS`: exit status, standard output, standard error."""
    status = main(["models", *map(str, words)])
    out = capsys.readouterr()
    return status, out.out, out.err

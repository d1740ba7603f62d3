"""Commands called as by a user, within the process."""

import json

from hashfast.cli import main


def call(capsys, *arguments):
    """Exit status, standard output and standard error of one command."""
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def answer(capsys, *arguments):
    """What a command that must succeed prints with --json."""
    status, out, err = call(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)

"""What pages show: shell commands, and whether the command line understands them."""

import re
import shlex

import click

from ingester.cli import cli

BEFORE = {"sudo", "docker", "compose", "exec", "recorder-a", "-u", "ingester"}
"""Words that may stand before the program."""


def blocks(text, language):
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text):
    """The arguments of each `ingester …` in the `sh` blocks of a page."""
    for block in blocks(text, "sh"):
        yield from _commands(re.sub(r"\\\n\s*", " ", block))


def _commands(script):
    for line in script.splitlines():
        line = re.sub(r"(?<=\S) {4,}.*", "", line)  # a remark, as in the examples of --help
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if word.startswith("ingester "):  # a command within quotes, for later
                yield from _commands(word)
            if set(word) <= set(";&|"):
                yield from _arguments(words)
                words = []
            else:
                words.append(word)


def _arguments(words):
    for at, word in enumerate(words):
        if word == "ingester" and words[at - 1 : at] != ["-u"]:
            yield words[at + 1 :]
            return
        if word not in BEFORE and not re.match(r"\w+=", word):
            return


def inline(text):
    """The arguments of each `ingester …` within a sentence; what is asked for there need not be complete."""
    for command in re.findall(r"`ingester ([a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield shlex.split(command)


def known(words):
    """Whether the command and all options exist."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group) and words:
        _, command, words = command.resolve_command(context, words)
    options = {name for option in command.params for name in option.opts}
    if "--" in words:
        words = words[: words.index("--")]
    return {word.partition("=")[0] for word in words if word.startswith("-")} <= options


def understand(words):
    """Raises where a command, an option or a value is unknown; files that are named need not be there."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, context, info_name=name)
    try:
        command.parse_args(context, words)
    except click.BadParameter as error:
        if "does not exist" not in error.message:
            raise

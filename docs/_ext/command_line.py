"""`{command-line} module:function`: every command of an argparse parser, its arguments and its help."""

import argparse
import importlib
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_SubParsers = argparse._SubParsersAction


def _children(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, _SubParsers):
            yield from action.choices.items()


def _leaves(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    children = list(_children(parser))
    if not children:
        yield words, parser
    for name, child in children:
        yield from _leaves(f"{words} {name}".strip(), child)


def _flags(action: argparse.Action) -> str:
    shown = str(action.metavar or action.dest)
    if not action.option_strings:
        return shown
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {shown if action.metavar else shown.upper().replace('_', '-')}"


class CommandLine(SphinxDirective):
    """A table: the command with its positional arguments, what it does, its options."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, function = self.arguments[0].partition(":")
        parser: argparse.ArgumentParser = getattr(importlib.import_module(module), function)()
        table = nodes.table("", classes=["command-line"])
        group = nodes.tgroup("", cols=2)
        table += group
        group += [nodes.colspec("", colwidth=30), nodes.colspec("", colwidth=70)]
        group += nodes.thead("", nodes.row("", _cell(nodes.Text("command")), _cell(nodes.Text("what it does"))))
        body = nodes.tbody("")
        group += body
        for words, leaf in _leaves("", parser):
            body += nodes.row("", _cell(nodes.literal("", _usage(words, leaf))), _about(leaf))
        return [table]


def _cell(*inline: nodes.Node) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", "", *inline))


def _own(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [one for one in parser._actions if not isinstance(one, _SubParsers | argparse._HelpAction)]


def _usage(words: str, parser: argparse.ArgumentParser) -> str:
    positional = [_flags(one) for one in _own(parser) if not one.option_strings]
    optional = [
        f"[{name} ...]" if one.nargs == "*" else name
        for one, name in zip([one for one in _own(parser) if not one.option_strings], positional, strict=True)
    ]
    return " ".join([words, *optional])


def _inline(text: str) -> list[nodes.Node]:
    """A help text, in which `code` stands between backticks, and options are code."""
    parts = re.split(r"(`[^`]+`|(?<![\w-])--[a-z-]+)", text)
    return [nodes.literal("", part.strip("`")) if odd % 2 else nodes.Text(part) for odd, part in enumerate(parts)]


def _about(parser: argparse.ArgumentParser) -> nodes.entry:
    entry = nodes.entry("", nodes.paragraph("", "", *_inline(parser.description or "")))
    options = [one for one in _own(parser) if one.option_strings]
    if options:
        listed = nodes.bullet_list("")
        for one in options:
            about = (one.help or "") % {"default": one.default} if one.help else ""
            words: list[nodes.Node] = [nodes.literal("", _flags(one)), *_inline(f": {about}" if about else "")]
            listed += nodes.list_item("", nodes.paragraph("", "", *words))
        entry += listed
    return entry


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}

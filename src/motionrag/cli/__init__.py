"""The command line: `motionrag VERB`; the verb is the module that carries it out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from motionrag import __version__
from motionrag.errors import MotionRAGError

VERBS = {
    "ingest": "bring captioned clips into a motion database",
    "doctor": "say what this machine can run, and how to get what is missing",
    "generate": "let an image move as a prompt and the references say",
    "search": "find the references that move as a prompt says",
    "db": "look into a motion database and keep it in order",
    "convert": "turn published checkpoints into a bundle",
    "synth": "write simulated clips with captions and their true motion",
    "train": "train one part by a recipe, or go on with it",
    "evaluate": "compare systems on the same images, prompts and seeds",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; errors meant for people are one line on standard error and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="motionrag", description="Motion retrieval-augmented image-to-video generation."
    )
    parser.add_argument("--version", action="version", version=f"motionrag {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in VERBS.items():
        module = import_module(f"motionrag.cli.{verb}")
        module.add_arguments(verbs.add_parser(verb, help=summary, description=module.__doc__))
    arguments = parser.parse_args(argv)
    arguments.command = list(sys.argv[1:] if argv is None else argv)
    try:
        import_module(f"motionrag.cli.{arguments.verb}").run(arguments)
    except BrokenPipeError:  # whoever reads the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MotionRAGError, OSError) as error:
        print(f"motionrag {arguments.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"motionrag {arguments.verb}: interrupted", file=sys.stderr)
        return 130
    return 0

"""Command-line entry point: parsing, printing, and exit statuses."""

from __future__ import annotations

import inspect
import io
import json
import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO, Union

import tyro

from thinlens.cli.adapt import Adapt
from thinlens.cli.bench import Bench
from thinlens.cli.compare import Compare
from thinlens.cli.completion import Completion
from thinlens.cli.demo import Demo
from thinlens.cli.doctor import Doctor
from thinlens.cli.evaluate import Evaluate
from thinlens.cli.export import Export
from thinlens.cli.import_weights import Import
from thinlens.cli.info import Info
from thinlens.cli.pipe import Pipe
from thinlens.cli.printing import print_text
from thinlens.cli.prune import Prune
from thinlens.cli.prune_parsers import general_command, prune_command
from thinlens.cli.push_ready import PushReady
from thinlens.cli.report import Report
from thinlens.cli.restore import Restore
from thinlens.cli.schema import Schema
from thinlens.cli.serve import Serve
from thinlens.cli.streams import open_closed_streams
from thinlens.cli.train import Train
from thinlens.cli.tune import Tune
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import RunError, UsageError
from thinlens.signals import Interrupted
from thinlens.torchrun import is_main_process

DONE, FAILED, MISUSED = 0, 1, 2

ITEM_INDENT = 4
"""Indent, in columns, of flags in the parser's error; deeper lines are their help."""

VERBS: dict[str, type[Verb]] = {
    "demo": Demo,
    "train": Train,
    "import": Import,
    "info": Info,
    "prune": Prune,
    "evaluate": Evaluate,
    "restore": Restore,
    "bench": Bench,
    "export": Export,
    "compare": Compare,
    "report": Report,
    "adapt": Adapt,
    "pipe": Pipe,
    "serve": Serve,
    "tune": Tune,
    "push-ready": PushReady,
    "doctor": Doctor,
    "schema": Schema,
    "completion": Completion,
}

FLAG_STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
"""How fields are flags: a boolean is one flag, and nested fields have no prefix."""

DEFAULT_VALUES = {"--ray": "local"}
"""Of flags whose value may be missing before another flag or at the end."""

SUMMARY = "Prune image-restoration networks, and run them fast on CPUs."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1, 2, 130 or 143."""
    open_closed_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        from thinlens.engine.version import version_line

        print(version_line())
        return DONE
    as_json = "--json" in words
    verb_class = VERBS.get(words[0]) if words else None
    on_stderr = verb_class is not None and verb_class.ANSWER_STREAM == "stderr"
    stream = sys.stderr if on_stderr else sys.stdout
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("thinlens").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_NewNotes())
    try:
        with _sigterm_interrupts():
            verb = _parsed(words)
            if verb is None:
                return DONE  # --help has been printed
            answer = _run(verb)
            if is_main_process() or not (verb.HAS_OUT_ALONE or verb.PRINTS_ONCE):
                _print(answer, as_json, stream)
            return FAILED if answer.failures else DONE
    except BrokenPipeError:
        # The reader (`| head`) closed the pipe; Python would report it again on closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except EXPECTED as problem:
        sentence, status = _explained(problem)
        print(f"thinlens: {sentence}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": sentence}), file=stream, flush=True)
        return status


class _NewNotes(logging.Filter):
    """Lets a note, which is no warning, pass once in a command: each of its networks repeats it."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = record.levelno > logging.INFO or message not in self._printed
        self._printed.add(message)
        return is_new


def _run(verb: Verb) -> Answer:
    """Run a command; checkpoints may name factories of the packages that it allows."""
    with ExitStack() as stack:
        if verb.HAS_OUT_ALONE and is_main_process():
            from thinlens.file_locks import exclusive_folder

            stack.enter_context(exclusive_folder(vars(verb)["out"]))
        elif verb.HAS_OUT_ALONE:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="thinlens-")))
            verb = _writing_to(verb, folder)
        if verb.allowed_packages:
            from thinlens.checkpoints.factories import allowing

            stack.enter_context(allowing(verb.allowed_packages))
        return verb.run()


def _writing_to(verb: Verb, folder: Path) -> Verb:
    """Return a command whose files go to a folder that nobody reads."""
    files = {"out": folder / "out", "report": folder / "report.html"}
    changed: dict[str, Any] = {
        key: path for key, path in files.items() if isinstance(vars(verb).get(key), Path)
    }
    return replace(verb, **changed)


EXPECTED = (UsageError, RunError, OSError, MemoryError, Interrupted, KeyboardInterrupt)
"""Errors that end a command with one sentence; others are bugs and show a traceback."""


def _explained(problem: BaseException) -> tuple[str, int]:
    """Return the sentence and the exit status of an expected error."""
    if isinstance(problem, Interrupted | KeyboardInterrupt):
        status = problem.exit_status if isinstance(problem, Interrupted) else 128 + signal.SIGINT
        cause = f"{problem.__cause__}; " if isinstance(problem.__cause__, RunError) else ""
        return f"{cause}interrupted; what was finished is kept", status
    if isinstance(problem, MemoryError):
        return "there is not enough memory: wanted smaller images or a larger machine", FAILED
    sentence = str(problem)
    if isinstance(problem, OSError):
        where = f"{problem.filename}: " if problem.filename else ""
        sentence = f"{where}{problem.strerror or problem}"
    return " ".join(sentence.split()), MISUSED if isinstance(problem, UsageError) else FAILED


def _parsed(words: list[str]) -> Verb | None:
    """Parse the command line; a mistake is a `UsageError`, None stands for printed help."""
    parser, program = _all_verbs(VERBS), "thinlens"
    description, arguments = SUMMARY, words or ["--help"]
    if words[:1] == ["prune"]:  # its flags are those of the methods
        parser, program, arguments = prune_command(words[1:])
        description = inspect.getdoc(parser) or ""
    arguments = with_default_values(arguments)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            verb: Verb = tyro.cli(
                parser, prog=program, description=description, args=arguments, config=FLAG_STYLE
            )
    except SystemExit as exit_request:
        if exit_request.code in (0, None):
            return None
        raise UsageError(_sentence(complaint.getvalue())) from None
    return verb


def with_default_values(words: Sequence[str]) -> list[str]:
    """Add the values of flags that have one where none is written.

    >>> with_default_values(["--ray", "--json"])
    ['--ray', 'local', '--json']
    """
    completed = list[str]()
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        completed.append(word)
        if word in DEFAULT_VALUES and following.startswith("-"):
            completed.append(DEFAULT_VALUES[word])
    return completed


def _all_verbs(verbs: Mapping[str, type[Verb]]) -> Any:
    """Return the type that the parser reads: one of the commands."""
    return Union[  # noqa: UP007 - made from the table
        tuple(Annotated[v, tyro.conf.subcommand(n)] for n, v in verbs.items())
    ]


def completion_script(shell: str) -> str:
    """Return the script by which bash, zsh or fish completes commands, flags and their values."""
    output = io.StringIO()
    verbs = {**VERBS, "prune": general_command()}  # with the flags of all methods
    with redirect_stdout(output), suppress(SystemExit):
        tyro.cli(
            _all_verbs(verbs),
            prog="thinlens",
            args=["--tyro-print-completion", shell],
            config=FLAG_STYLE,
        )
    return output.getvalue()


def _sentence(box: str) -> str:
    """Turn the parser's framed error into one sentence."""
    lines = [line.strip("│") for line in box.splitlines()]
    # The title is in the frame; on terminals without frames it is a line, as is the rule.
    body = lines[1:] if lines[0].startswith("╭") else lines[2:]
    margin = len(body[0]) - len(body[0].lstrip())
    head: list[str] = []
    items: list[str] = []
    for line in body:
        text, indent = line.strip(), len(line) - len(line.lstrip()) - margin
        if not text or set(text) <= set("─-"):
            break  # what follows is advice, and the help once more
        if indent == 0:
            head.append(text)
        elif indent <= ITEM_INDENT:
            items.append(text)
    text = " ".join([*head, ", ".join(items)]).strip(" .")
    unread = re.match(r"Error parsing (--?[\w-]+): .* instantiated from \[(.*)\]", text)
    if unread:
        text = f"{unread[1]} {unread[2]} cannot be read as a value of its kind"
    choice = re.match(r"[Ii]nvalid choice (.*) for argument '(--[\w-]+)'.*one of \((.*)\)", text)
    if choice:
        *first, last = choice[3].replace("'", "").split(", ")
        text = f"{choice[2]} {choice[1]}: wanted {', '.join(first)} or {last}"
    return f"{text[:1].lower()}{text[1:]} (see thinlens --help)"


def _print(answer: Answer, as_json: bool, stream: TextIO) -> None:
    for failure in answer.failures:
        print(failure, file=sys.stderr)
    if as_json:
        print(json.dumps(_strict(answer.content), allow_nan=False), file=stream, flush=True)
        return
    print_text(answer.text, stream)


def _strict(value: Any) -> Any:
    """Replace values that JSON does not have (infinity, NaN) by null."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """End a command on SIGTERM as on Ctrl-C, with exit status 143."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())

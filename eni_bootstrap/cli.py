"""The command line: arguments in, an exit code out. Results go to stdout, the log to stderr."""

import json
import logging
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional

from eni_bootstrap import __version__
from eni_bootstrap.agent.report import Report
from eni_bootstrap.agent.text import (
    adoption_plan_text, adoption_text, apply_text, as_json, plan_text, remove_text, status_text, unattended_text,
    verify_text,
)
from eni_bootstrap.config import loader
from eni_bootstrap.config.settings import Config
from eni_bootstrap.model import output
from eni_bootstrap.model.errors import BootstrapError
from eni_bootstrap.render import FORMATS

if TYPE_CHECKING:
    import argparse

LOG = logging.getLogger(__name__)

PLATFORM = sys.platform
"""The operating system; tests put another one here."""


class Command(NamedTuple):
    text: Callable[[Report], str]
    help: str


COMMANDS: Dict[str, Command] = {
    "apply": Command(apply_text, "converge; the default"),
    "plan": Command(plan_text, "what apply would do, as the system's own commands"),
    "verify": Command(verify_text, "proof by the kernel's own look-ups"),
    "status": Command(status_text, "what is installed and whether it works; needs no metadata"),
    "adopt": Command(adoption_plan_text,
                     "take over what the vendor's page had people type: shows the plan; with --yes does it"),
    "remove": Command(remove_text, "take back all that is ours; needs no metadata"),
}
"""The commands that report."""


Parsed = Any
"""The arguments: argparse's namespace, or one that looks the same."""

Commands = Any
"""The type of subparsers: argparse's own one takes arguments for mypy and none at run time."""


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command of these arguments. Returns the exit code (0, 1, 2, 3, 4; 130 when interrupted)."""
    words = sys.argv[1:] if arguments is None else arguments
    parsed = _bare(words)
    if parsed is None:
        parser = _parser()
        try:
            parsed = parser.parse_args(_with_default_command(words, parser))
        except SystemExit as stop:  # argparse has said what is wrong, or has shown its help
            return stop.code if isinstance(stop.code, int) else 2
    _set_up_log(logging.DEBUG if parsed.verbose else logging.WARNING if parsed.unattended else logging.INFO)
    try:
        return int(parsed.run(parsed))
    except BootstrapError as error:
        LOG.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        LOG.error("interrupted; run it again to finish")
        return 130
    except Exception as error:  # a bug, of which the operator needs to know that the run has not ended well
        LOG.error("unexpected %s: %s; please report it, with what -v shows", type(error).__name__, error)
        LOG.debug("where it happened", exc_info=True)
        return 1


def _work(parsed: Parsed) -> int:
    agent = _agent()
    config = loader.settings(parsed)
    report = agent.report(parsed, config)
    if parsed.json:
        text = json.dumps(as_json(report), indent=1) + "\n"
    elif config.unattended:
        text = unattended_text(report)
    elif parsed.command == "adopt" and parsed.yes:
        text = adoption_text(report)
    else:
        text = COMMANDS[parsed.command].text(report)
    return report.exit_code if output.write(text) else 1


def _agent() -> Any:
    """The agent's module for this operating system: the other one's libraries may not be there."""
    if PLATFORM == "win32":
        from eni_bootstrap.windows import agent
        return agent
    _want_linux("the agent")
    from eni_bootstrap import linux
    return linux


def _want_linux(what: str) -> None:
    if not PLATFORM.startswith("linux"):
        raise BootstrapError("{} does not work on {}; render --metadata FILE does, on any system".format(
            what, PLATFORM))


def _bare(words: List[str]) -> Optional[Parsed]:
    """The arguments where they are a command that reports and nothing else but ``--unattended``; else None.

    So boots, timers and most people call it; argparse would be a thirtieth of their run.
    """
    options = [word for word in words if word == "--unattended"]
    command, *more = [word for word in words if word not in options] or ["apply"]
    if more or command not in COMMANDS or len(options) > (command == "apply"):
        return None
    return SimpleNamespace(
        command=command, unattended=bool(options), run=_work, verbose=False, timeout=Config().timeout,
        metadata_url=None, config="", json=False, root="/", **({"yes": False} if command == "adopt" else {}))


def _parser() -> "argparse.ArgumentParser":
    import argparse
    common, asking = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    asking.add_argument("-v", "--verbose", action="store_true", help="log each step")
    asking.add_argument("--timeout", type=_seconds, default=Config().timeout, metavar="SECONDS",
                        help="for the whole run (default %(default)g)")
    asking.add_argument("--metadata-url", metavar="URL", help="default " + Config().metadata_url)
    asking.add_argument("--config", metavar="FILE", default="", help="default {}, if it is there".format(
        loader.PATH))
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    parser = argparse.ArgumentParser(
        prog="eni-bootstrap", description="Makes every elastic network interface (ENI) of an Alibaba Cloud ECS "
        "instance answer by itself.", epilog="exit codes: 0 as desired; 1 something could not be made so; 2 usage; "
        "3 metadata unusable; 4 not permitted; 130 interrupted")
    parser.add_argument("--version", action="version", version="%(prog)s " + __version__)
    parser.set_defaults(unattended=False, root="/", run=_work)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    parsers = {name: commands.add_parser(name, parents=[asking, common], help=each.help, description=each.help)
               for name, each in COMMANDS.items()}
    parsers["apply"].add_argument(
        "--unattended", action="store_true", help="for boot scripts and hooks: undo nothing that a person has done "
        "(a link taken down stays down, what remove took back stays away)")
    parsers["adopt"].add_argument(
        "--yes", action="store_true", help="apply, prove, then take over; without it nothing changes")
    parsers["adopt"].add_argument("--root", metavar="DIR", default="/", help=argparse.SUPPRESS)  # for tests
    for name, help in (("install", "have the agent run at each boot and at each change of an ENI"),
                       ("uninstall", "take back what install has put there; first run remove, for routes and rules")):
        _add_install_parser(commands, name, help)
    for name, run, help in (("metadata", _metadata, "save what the metadata service tells, as JSON"),
                            ("render", _render, "the same decision as files or commands of another system")):
        parsers[name] = commands.add_parser(name, parents=[asking], help=help, description=help)
        parsers[name].set_defaults(run=run)
    _add_render_arguments(parsers["render"])
    _add_config_parser(commands)
    _add_demo_parser(commands)
    return parser


def _add_render_arguments(parser: "argparse.ArgumentParser") -> None:
    import argparse
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats:\n" + "\n".join("  {:15} {}".format(*each) for each in FORMATS.items())
    parser.add_argument("format", metavar="FORMAT", choices=sorted(FORMATS), help=", ".join(FORMATS))
    parser.add_argument("--metadata", metavar="FILE", help="a saved metadata tree, on any machine; -: standard input")
    parser.add_argument("--output", metavar="DIR", help="write the files below it, each at its place")


def _metadata(parsed: Parsed) -> int:
    from eni_bootstrap.metadata import dump  # no part of a boot
    return 0 if output.write(dump.text(_agent().metadata(loader.settings(parsed)))) else 1


def _render(parsed: Parsed) -> int:
    """Render; where a metadata file is given, nothing of this machine counts."""
    from eni_bootstrap.metadata import dump  # no part of a boot
    from eni_bootstrap.render import formats, output as render_output
    config = loader.settings(parsed)
    found = dump.read(parsed.metadata) if parsed.metadata is not None else _agent().metadata(config)
    files, problems = formats.render(parsed.format, found, config)
    if parsed.output is None:
        written = output.write(render_output.text(files))
    else:
        problems += render_output.write(files, parsed.output)
        written = output.write("".join("{}\n".format(file.path) for file in files))
    for problem in problems:
        LOG.error("%s", problem.text)
    return 0 if written and not problems else 1


def _add_install_parser(commands: Commands, name: str, help: str) -> None:
    parser = commands.add_parser(name, help=help, description=help)
    parser.add_argument("-v", "--verbose", action="store_true", help="log each step")
    parser.add_argument("--root", default="/", metavar="DIR", help="the root file system of an image")
    parser.add_argument("--dry-run", action="store_true", help="print the files and their content only")
    parser.set_defaults(run=lambda parsed: getattr(_agent(), name)(parsed))


def _add_demo_parser(commands: Commands) -> None:
    demo = commands.add_parser("demo", help="a simulated VPC on this machine: symptom, cure, proof")
    demo.add_argument("-v", "--verbose", action="store_true", help="log each step")
    demo.add_argument("--enis", type=int, default=3, metavar="N", help="ENIs of the instance (default %(default)s)")
    demo.add_argument("--addresses", type=int, default=1, metavar="N", help="private addresses of each ENI (default 1)")
    demo.add_argument("--ipv6", action="store_true", help="IPv6 beside IPv4")
    demo.add_argument("--metadata", metavar="FILE", help="a metadata tree of your own, as JSON")
    demo.add_argument("--config", metavar="FILE", help="a configuration for the agent; shows whom it sends where")
    demo.add_argument("--keep", action="store_true", help="then open a shell inside the instance")
    demo.set_defaults(run=_demo)


def _demo(parsed: Parsed) -> int:
    _want_linux("the demo")
    from eni_bootstrap.lab import demo  # the laboratory is no part of a boot
    return demo.run(parsed)


def _add_config_parser(commands: Commands) -> None:
    text = "the configuration file: check it, show an example, or its JSON Schema"
    parser = commands.add_parser("config", help=text, description=text)
    parser.add_argument("what", choices=("check", "example", "schema"))
    parser.add_argument("file", nargs="?", default=loader.PATH, help="to check (default %(default)s)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log each step")
    parser.set_defaults(run=_show_config)


def _show_config(parsed: Parsed) -> int:
    from eni_bootstrap.config import file as config_file  # most hosts have none
    if parsed.what == "check":
        loader.load(parsed.file)
        text = "{}: nothing is wrong\n".format(parsed.file)
    elif parsed.what == "schema":
        text = json.dumps(config_file.json_schema(), indent=1) + "\n"
    else:
        text = config_file.EXAMPLE
    return 0 if output.write(text) else 1


def _with_default_command(arguments: List[str], parser: "argparse.ArgumentParser") -> List[str]:
    """The arguments with the command first, ``apply`` where none is named; options may come before or behind it."""
    if "--version" in arguments:
        return arguments
    parsers = _parsers_by_command(parser)
    valued = {option for each in parsers.values() for action in each._actions if action.nargs != 0
              for option in action.option_strings}
    is_value = False
    for place, argument in enumerate(arguments):
        if argument in parsers and not is_value:
            return [argument] + arguments[:place] + arguments[place + 1:]
        # argparse takes an abbreviated option, too; a single - is no option but standard input.
        is_value = len(argument) > 2 and any(option.startswith(argument) for option in valued)
    return arguments if {"-h", "--help"}.intersection(arguments) else ["apply"] + arguments


def _parsers_by_command(parser: "argparse.ArgumentParser") -> Dict[str, "argparse.ArgumentParser"]:
    """The parser of each command. argparse tells them, and a parser's options, in no public place."""
    import argparse
    return next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        import argparse
        raise argparse.ArgumentTypeError("{!r} is no number of seconds from above 0 to 86400, a day".format(text))
    return seconds


def _set_up_log(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    # Under systemd the journal takes the level from a prefix (sd-daemon(3)) and adds time and name itself.
    handler.setFormatter(_JournalFormatter() if _logs_to_journal() else _Formatter("eni-bootstrap: %(message)s"))
    log = logging.getLogger("eni_bootstrap")
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(level)


def _logs_to_journal() -> bool:
    """Whether stderr is the journal itself: the variable (systemd.exec(5)) is inherited, also where stderr is not."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == "{}:{}".format(status.st_dev, status.st_ino)


class _Formatter(logging.Formatter):
    """The log in ASCII: a boot's messages are read on consoles of all kinds."""

    def format(self, record: logging.LogRecord) -> str:
        return output.shown(super().format(record), "ascii")


class _JournalFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else \
            6 if record.levelno >= logging.INFO else 7
        return "\n".join("<{}>{}".format(level, line) for line in super().format(record).split("\n"))

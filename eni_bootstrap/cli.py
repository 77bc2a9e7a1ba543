"""The command line: arguments in, an exit code out. Results go to stdout, the log to stderr."""

import argparse
import contextlib
import json
import logging
import os
import re
import sys
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional

from eni_bootstrap import __version__, bootstrap, configfile, output, views, wake
from eni_bootstrap.bootstrap import Report, World
from eni_bootstrap.config import Config
from eni_bootstrap.errors import BootstrapError, NotPermitted
from eni_bootstrap.host import command
from eni_bootstrap.host.containers import container_networks
from eni_bootstrap.host.managers import look
from eni_bootstrap.host.rivals import rivals
from eni_bootstrap.interfaces import LEAVES, VSWITCH_ID
from eni_bootstrap.metadata import MetadataClient
from eni_bootstrap.model import PROTOCOL_KERNEL
from eni_bootstrap.netlink import Kernel
from eni_bootstrap.retry import Deadline

LOG = logging.getLogger(__name__)

OLDEST_KERNEL = (4, 17)
"""Since then rules carry a protocol, by which we know ours."""

_CAP_NET_ADMIN = 12  # linux/capability.h


class Command(NamedTuple):
    run: Callable[[World], Report]
    text: Callable[[Report], str]
    privileged: bool
    help: str


COMMANDS: Dict[str, Command] = {
    "apply": Command(bootstrap.apply, views.apply_text, True, "converge; the default"),
    "plan": Command(bootstrap.preview, views.plan_text, False, "what apply would do, as ip commands"),
    "verify": Command(bootstrap.verify, views.verify_text, False, "proof by the kernel's own look-ups"),
    "status": Command(bootstrap.status, views.status_text, False,
                      "what is installed and whether it works; needs no metadata"),
    "adopt": Command(bootstrap.preview_adoption, views.adoption_plan_text, False,
                     "take over what the vendor's page had people type: shows the plan; with --yes does it"),
    "remove": Command(bootstrap.remove, views.remove_text, True, "take back all that is ours; needs no metadata"),
}


_ADOPT = Command(bootstrap.adopt, views.adoption_text, True, "")
"""``adopt --yes``."""


def main(arguments: Optional[List[str]] = None) -> int:
    """Do what the arguments say; returns the exit code (0, 1, 2, 3, 4; 130 when interrupted)."""
    try:
        parsed = _parser().parse_args(_with_default_command(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as stop:  # argparse has said what is wrong, or has shown its help
        return stop.code if isinstance(stop.code, int) else 2
    _set_up_log(logging.DEBUG if parsed.verbose else logging.WARNING if parsed.unattended else logging.INFO)
    try:
        if parsed.command == "demo":
            from eni_bootstrap.lab import demo  # the laboratory is no part of a boot
            return demo.run(parsed)
        if parsed.command in ("install", "uninstall", "config"):
            return int(parsed.run(parsed))
        return _work(parsed)
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


def _work(parsed: argparse.Namespace) -> int:
    chosen = _ADOPT if parsed.command == "adopt" and parsed.yes else COMMANDS[parsed.command]
    _check_kernel(os.uname().release)
    if chosen.privileged and not _may_change_network():
        raise NotPermitted("{} takes CAP_NET_ADMIN: run it as root, for instance with sudo".format(parsed.command))
    managers = look()
    config = configfile.load(parsed.config)._replace(timeout=parsed.timeout, unattended=parsed.unattended)
    if managers.deletes_rules:
        config = config._replace(protocol_guarded=PROTOCOL_KERNEL)
    if parsed.metadata_url is not None:
        config = config._replace(metadata_url=parsed.metadata_url, metadata_url_ipv6="")
    deadline = Deadline(config.timeout)
    client = MetadataClient(config.metadata_url, deadline, ipv6_url=config.metadata_url_ipv6,
                            ipv6_only=_has_ipv6_only,
                            leaves=LEAVES | {VSWITCH_ID} if config.names_enis else LEAVES)
    kernel = Kernel()
    try:
        with _watched(kernel, config) as watch:
            report = chosen.run(World(client.fetch, kernel, deadline, config, managers, rivals, root=parsed.root,
                                      networks=container_networks))
            watch(report)
    finally:
        kernel.close()
        client.close()
    if parsed.json:
        text = json.dumps(views.as_json(report), indent=1) + "\n"
    else:
        text = views.unattended_text(report) if config.unattended else chosen.text(report)
    return report.exit_code if output.write(text) else 1


def _has_ipv6_only() -> bool:
    """By a socket of its own: the client asks in a thread of its own, and two dumps at once are one too many."""
    kernel = Kernel()
    try:
        return {held.address.version for held in kernel.addresses()} == {6}
    finally:
        kernel.close()


@contextlib.contextmanager
def _watched(kernel: Kernel, config: Config) -> Iterator[Callable[[Report], None]]:
    """Where systemd hands us the socket by which the kernel's changes start us: say there what starts us again.

    During the run all that others do, so that nothing is missed; after it what concerns the ENIs that it found.
    """
    handed = wake.passed() if config.unattended else None
    if handed is None:
        yield lambda report: None
        return
    with handed:
        wake.settle(handed)
        wake.narrow(handed, config, port=kernel.port)
        devs: List[str] = []
        ended: List[Report] = []
        try:
            yield ended.append
            devs = [dev for report in ended for dev in report.devs]
        finally:
            # A run that has failed does not tell: then the links count that an earlier one has put into our group. What
            # it has failed of is what is to be said.
            with contextlib.suppress(BootstrapError):
                devs = devs or [link.name for link in kernel.links() if link.group == config.group]
                if devs or ended:
                    wake.narrow(handed, config, indexes=kernel.indexes(devs))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="log each step")
    common.add_argument("--timeout", type=_seconds, default=Config().timeout, metavar="SECONDS",
                        help="for the whole run (default %(default)g)")
    common.add_argument("--metadata-url", metavar="URL", help="default " + Config().metadata_url)
    common.add_argument("--config", metavar="FILE", default="", help="default {}, if it is there".format(
        configfile.PATH))
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    parser = argparse.ArgumentParser(
        prog="eni-bootstrap", description="Makes every elastic network interface (ENI) of an Alibaba Cloud ECS "
        "instance answer by itself.", epilog="exit codes: 0 as desired; 1 something could not be made so; 2 usage; "
        "3 metadata unusable; 4 not permitted")
    parser.add_argument("--version", action="version", version="%(prog)s " + __version__)
    parser.set_defaults(unattended=False, root="/")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    parsers = {name: commands.add_parser(name, parents=[common], help=each.help, description=each.help)
               for name, each in COMMANDS.items()}
    parsers["apply"].add_argument(
        "--unattended", action="store_true", help="for boot scripts and hooks: undo nothing that a person has done "
        "(a link taken down stays down, what remove took back stays away)")
    parsers["adopt"].add_argument(
        "--yes", action="store_true", help="apply, prove, then take over; without it nothing changes")
    parsers["adopt"].add_argument("--root", metavar="DIR", default="/", help=argparse.SUPPRESS)  # for tests
    command.add_parsers(commands)
    _add_config_parser(commands)
    demo = commands.add_parser("demo", help="a simulated VPC on this machine: symptom, cure, proof")
    _add_demo_arguments(demo)
    return parser


def _add_demo_arguments(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("-v", "--verbose", action="store_true", help="log each step")
    demo.add_argument("--enis", type=int, default=3, metavar="N", help="ENIs of the instance (default %(default)s)")
    demo.add_argument("--addresses", type=int, default=1, metavar="N", help="private addresses of each ENI (default 1)")
    demo.add_argument("--ipv6", action="store_true", help="IPv6 beside IPv4")
    demo.add_argument("--metadata", metavar="FILE", help="a metadata tree of your own, as JSON")
    demo.add_argument("--config", metavar="FILE", help="a configuration for the agent; shows whom it sends where")
    demo.add_argument("--keep", action="store_true", help="then open a shell inside the instance")


def _add_config_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "the configuration file: check it, show an example, or its JSON Schema"
    parser = commands.add_parser("config", help=text, description=text)
    parser.add_argument("what", choices=("check", "example", "schema"))
    parser.add_argument("file", nargs="?", default=configfile.PATH, help="to check (default %(default)s)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log each step")
    parser.set_defaults(run=_config)


def _config(parsed: argparse.Namespace) -> int:
    if parsed.what == "check":
        configfile.load(parsed.file)
        text = "{}: nothing is wrong\n".format(parsed.file)
    elif parsed.what == "schema":
        text = json.dumps(configfile.json_schema(), indent=1) + "\n"
    else:
        text = configfile.EXAMPLE
    return 0 if output.write(text) else 1


def _with_default_command(arguments: List[str]) -> List[str]:
    """``apply`` where no command is named; options may come first or last."""
    if any(argument in ("-h", "--help", "--version") for argument in arguments):
        return arguments
    names = list(COMMANDS) + ["demo", "install", "uninstall", "config"]
    for place, argument in enumerate(arguments):
        if argument in names:
            return [argument] + arguments[:place] + arguments[place + 1:]
    return ["apply"] + arguments


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
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
    """In ASCII: what is read at boot is read on consoles of all kinds."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode("ascii", "backslashreplace").decode("ascii")


class _JournalFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else \
            6 if record.levelno >= logging.INFO else 7
        return "\n".join("<{}>{}".format(level, line) for line in super().format(record).split("\n"))


def _check_kernel(release: str) -> None:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers.group(1)), int(numbers.group(2))) < OLDEST_KERNEL:
        raise BootstrapError("this kernel, {}, is too old: rules carry an owner since {}.{}".format(
            release, *OLDEST_KERNEL))


def _may_change_network() -> bool:
    """Whether this process has CAP_NET_ADMIN, root or not (proc(5))."""
    try:
        with open("/proc/self/status") as lines:
            effective = next(line for line in lines if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(int(effective.split()[1], 16) >> _CAP_NET_ADMIN & 1)

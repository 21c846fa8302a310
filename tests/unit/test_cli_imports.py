"""The command line imports what a command needs when it is run: what is asked often answers at once."""

from __future__ import annotations

import inspect
import resource
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from perdure.cli.app import build, rows

HEAVY = (
    "motor",
    "pymongo",
    "confluent_kafka",
    "opensearchpy",
    "langgraph",
    "langchain_core",
    "faust",
    "aiohttp",
)
CLIENT = "httpx"
TIMES_BARE = 25
"""CPU time of a bare start of Python that ``perdure version`` may take; before commands were loaded lazily it was about 80."""
ROUNDS = 5

RUN = """
import sys
from perdure.cli.__main__ import main
sys.argv = ["perdure", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
print("\\nloaded:", *sorted(set({names!r}) & set(sys.modules)), file=sys.stderr)
"""


def run(*arguments: str) -> tuple[str, list[str]]:
    """What a command prints, and which libraries of weight its process has loaded at its end."""
    program = RUN.format(arguments=list(arguments), names=[*HEAVY, CLIENT, "typer"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.rpartition("loaded:")[2].split()


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_the_version_loads_nothing(argument: str) -> None:
    printed, loaded = run(argument)
    assert printed.startswith(f"perdure {version('perdure')}\n")
    assert loaded == []


def test_the_version_is_the_same_however_it_is_asked_for() -> None:
    for argument in ("version", "--version"):
        assert run(argument)[0] == CliRunner().invoke(build(), [argument]).stdout
    assert run("version", "--json")[0].startswith('{"perdure": ')


def test_help_loads_no_command() -> None:
    printed, loaded = run("--help")
    assert all(row.name in printed for row in rows())
    assert loaded == ["typer"]


def test_no_command_loads_a_client_of_a_server_before_it_runs() -> None:
    program = (
        "import sys\nfrom perdure.cli.app import rows\n"
        "for row in rows():\n"
        "    row.load()\n"
        f"    print(row.name, *sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [row.name for row in rows()]


def test_the_table_says_what_the_commands_say() -> None:
    for row in rows():
        command = row.load()
        assert command.name == row.name
        assert inspect.cleandoc(command.help or "") == row.help


def test_a_misspelt_command_is_answered_with_a_near_one() -> None:
    answer = CliRunner().invoke(build(), ["thread"])
    assert answer.exit_code == 2
    assert "'threads'" in answer.output


def test_the_version_costs_little_cpu() -> None:
    bare = least_cpu_s([sys.executable, "-c", "pass"])
    asked = least_cpu_s([sys.executable, "-m", "perdure.cli", "version"])
    print(f"bare {bare:.3f} s, version {asked:.3f} s")
    assert asked < TIMES_BARE * bare


def least_cpu_s(command: list[str]) -> float:
    """User and system time of the cheapest of several runs: what a loaded machine adds is not the command's."""

    def children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    spent = []
    for _ in range(ROUNDS):
        before = children()
        subprocess.run(command, check=True, capture_output=True)
        spent.append(children() - before)
    return min(spent)

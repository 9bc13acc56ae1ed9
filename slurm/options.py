"""Read and write sbatch options in #SBATCH lines. Needs only Python 3.6 or later, so that it runs on login nodes.

Run as a program, it is `slurm/sbatch`: sbatch with the options of slurm/cluster.sh, followed by those given here.
"""

import os
import re
import shlex
import sys
from pathlib import Path

CLUSTER = Path(__file__).with_name("cluster.sh")
SHORT = {
    "A": "account", "B": "extra-node-info", "C": "constraint", "D": "chdir", "F": "nodefile", "G": "gpus",
    "J": "job-name", "L": "licenses", "M": "clusters", "N": "nodes", "S": "core-spec", "a": "array", "b": "begin",
    "c": "cpus-per-task", "d": "dependency", "e": "error", "i": "input", "m": "distribution",
    "n": "ntasks", "o": "output", "p": "partition", "q": "qos", "t": "time", "w": "nodelist", "x": "exclude",
}  # fmt: skip
FLAGS = {
    "H": "hold", "O": "overcommit", "Q": "quiet", "W": "wait", "k": "no-kill", "s": "oversubscribe", "v": "verbose",
}  # fmt: skip
MEMORY = {"mem", "mem-per-cpu", "mem-per-gpu"}
"""Options of which sbatch takes only one."""
VALUED = {
    *SHORT.values(), "export", "gpus-per-node", "gpus-per-task", "gres", "mail-type", "mail-user", "mem", "mem-per-cpu",
    "mem-per-gpu", "ntasks-per-node", "open-mode", "reservation", "signal",
}  # fmt: skip
"""Options that need a value: without one, sbatch would take the next word for it, perhaps the script's name."""


def options_in(script: str) -> "dict[str, str]":
    """The options in the #SBATCH lines of a script, {long name: value}; a flag's value is empty. Raises ValueError.

    Lines are parsed as by sbatch: a # ends a line, quotes and backslashes keep spaces and # in a value. But all lines
    are read, while sbatch itself stops at a script's first command.
    """
    options = {}
    for number, line in enumerate(script.split("\n"), 1):
        if line.startswith("#SBATCH"):
            try:
                options.update(_options(_words(line[len("#SBATCH") :])))
            except ValueError as error:
                raise ValueError(f"line {number}: {line.strip()}: {error}") from error
    return options


def _words(text: str) -> "list[str]":
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.escapedquotes = "\"'"
    return list(lexer)


def _options(words: "list[str]") -> "dict[str, str]":
    options = {}
    wanting = None  # the option whose value may be the next word
    for word in words:
        long = re.fullmatch(r"--([A-Za-z][\w-]*)(=?)(.*)", word, re.DOTALL)
        short = re.fullmatch(r"-([A-Za-z])(.*)", word, re.DOTALL)
        if long and (long[2] or not long[3]):
            options[long[1]] = long[3]
            wanting = None if long[2] else long[1]
        elif short and short[1] in SHORT:
            options[SHORT[short[1]]] = short[2]
            wanting = None if short[2] else SHORT[short[1]]
        elif short and short[1] in FLAGS and not short[2]:
            options[FLAGS[short[1]]] = ""
            wanting = None
        elif wanting and not word.startswith("-"):
            options[wanting] = word
            wanting = None
        else:
            raise ValueError(f"{word!r} is no option; write --option=value")
    for name in options.keys() & VALUED:
        if not options[name]:
            raise ValueError(f"--{name} has no value; write --{name}=value")
    return options


def over(lower: "dict[str, str]", upper: "dict[str, str]") -> "dict[str, str]":
    """The options of both; `upper` take precedence, and its way to give the memory replaces that of `lower`."""
    excluded = MEMORY if MEMORY & upper.keys() else set()
    return {**{name: value for name, value in lower.items() if name not in excluded}, **upper}


def words(options: "dict[str, str]") -> "list[str]":
    """The options as words of a command line."""
    return [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]


def header(options: "dict[str, str]") -> str:
    """The options as #SBATCH lines. Raises ValueError for a value that no line can hold."""
    lines = []
    for name, value in options.items():
        if re.search(r"[\0-\x1f\x7f]", value):
            raise ValueError(f"--{name} cannot be {value!r}, which has a line break or another control character")
        lines.append(f"#SBATCH --{name}" + ("=" + shlex.quote(value.replace("\\", "\\\\")) if value else ""))
    return "\n".join(lines)


def cluster_file(named: "str | None" = None) -> "Path | None":
    """The cluster's file: the named one, else that of DMAML_CLUSTER, else slurm/cluster.sh if it exists, else None.

    Raises ValueError where a named file does not exist.
    """
    named = named or os.environ.get("DMAML_CLUSTER")
    if not named:
        return CLUSTER if CLUSTER.exists() else None
    path = Path(os.path.expanduser(os.path.expandvars(named)))  # noqa: PTH111  (that of Path raises RuntimeError)
    if not path.is_file():
        raise ValueError(f"the cluster's file, {named}, does not exist or is not a file")
    return path


def options_of(cluster: "Path | None") -> "dict[str, str]":
    """The options in a cluster's file; empty for None. Raises ValueError, naming the file."""
    if cluster is None:
        return {}
    try:
        return options_in(cluster.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{cluster}: {error}") from error


def main() -> int:
    try:
        cluster = cluster_file()
        options = words(options_of(cluster))
        if cluster is not None:
            os.environ["DMAML_CLUSTER"] = str(cluster)  # for slurm/launch.sh in the job
        os.execvp("sbatch", ["sbatch", *options, *sys.argv[1:]])
    except (OSError, ValueError) as error:
        print(f"slurm/sbatch: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

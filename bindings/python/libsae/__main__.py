"""`python -m libsae pull`, which is also what `sae pull` runs."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import NoReturn

from . import __version__, hub
from .errors import SaeError

FAILED, USAGE = 1, 2


class Parser(argparse.ArgumentParser):
    """Its complaints are one sentence, as those of the tool."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    p = Parser(
        prog="sae pull",
        allow_abbrev=False,
        description="Downloads the files of one published SAE into the cache of the Hugging Face Hub, unless they are there, "
        "and prints the path that the other commands take.",
        epilog="HF_TOKEN or `hf auth login` opens private and gated repositories; HF_HOME says where the cache is.",
    )
    p.add_argument("repo", metavar="REPO", help="a repository, user/name, or a release of SAELens where sae-lens is installed")
    p.add_argument("id", metavar="ID", nargs="?", help="the path of the SAE in the repository, or its id in the release")
    p.add_argument("-l", "--list", action="store_true", help="print the ids of the SAEs instead")
    p.add_argument("-r", "--revision", metavar="REV", help="a branch, a tag or a commit")
    p.add_argument("--cache-dir", metavar="DIR", help="another cache")
    p.add_argument("--offline", action="store_true", help="use what the cache has and no network")
    p.add_argument("-j", "--json", action="store_true", help="print JSON")
    return p


def print_list(a: argparse.Namespace) -> None:
    ids = hub.list_pretrained(a.repo, revision=a.revision, cache_dir=a.cache_dir, local_files_only=a.offline)
    print(json.dumps({"repo": a.repo, "ids": ids}, indent=2, ensure_ascii=False) if a.json else "\n".join(ids))


def print_pulled(a: argparse.Namespace, prog: str) -> None:
    pulled = hub.fetch(a.repo, a.id, revision=a.revision, cache_dir=a.cache_dir, local_files_only=a.offline)
    if a.json:
        files = [{"path": str(file), "bytes": file.stat().st_size} for file in pulled.files]
        facts = {"path": str(pulled.path), "repo": pulled.repo, "id": pulled.id, "revision": pulled.revision}
        print(json.dumps({**facts, "files": files, "options": dict(pulled.options)}, indent=2, ensure_ascii=False))
        return
    print(pulled.path)
    for name, value in pulled.options.items():
        print(f"{prog}: open it with --{name.replace('_', '-')} {value}, which its files do not say", file=sys.stderr)


def pull(arguments: list[str]) -> int:
    """The exit status."""
    p = parser()
    a = p.parse_args(arguments)
    if a.list and a.id is not None:
        p.error("--list and ID do not go together")
    try:
        if a.list:
            print_list(a)
        else:
            print_pulled(a, p.prog)
        sys.stdout.flush()
    except (SaeError, ImportError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, SaeError):
            # Standard output is full or closed: what Python flushes at its end would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print(f"{p.prog}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 0


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["pull"]:
        return pull(arguments[1:])
    if arguments == ["--version"]:
        print(f"libsae {__version__}")
        return 0
    print("usage: python -m libsae pull REPO [ID] (see python -m libsae pull --help)", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

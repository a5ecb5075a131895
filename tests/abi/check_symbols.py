#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One set of names everywhere: header, symbol map, library and manual pages.

usage: check_symbols.py MAN-FOLDER {HEADER... MAP LIBRARY}...
"""

import pathlib
import re
import subprocess
import sys


def header_symbols(path):
    """Functions declared with DAXLEASE_API; the parameters begin at the '('."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    text = re.sub(r"^\s*#.*(?:\\\n.*)*$", "", text, flags=re.M)
    return set(re.findall(r"DAXLEASE_API[^;(]*?(\w+)\s*\(", text))


def inline_symbols(path):
    """Functions that are in the header as a whole: of the pages, but of no library."""
    return set(re.findall(r"^static inline [^;(]*?(\w+)\s*\(", path.read_text(), flags=re.M))


def map_symbols(path):
    return set(re.findall(r"^\t(daxlease_(?!private_)\w+);$", path.read_text(), flags=re.M))


def library_symbols(path):
    """What the shared library really exports, version nodes aside."""
    out = subprocess.run(["nm", "-D", "--defined-only", path], check=True,
                         capture_output=True, text=True).stdout
    names = {line.split()[-1].split("@")[0] for line in out.splitlines() if line}
    private = ("DAXLEASE_", "daxlease_private_")
    return {name for name in names if not name.startswith(private)}


def page_symbols(folder):
    """Names of section 3 that have a file, a real page or a link to one."""
    names = set()
    for page in folder.glob("daxlease_*.3"):
        text = page.read_text()
        link = re.match(r"\.so man3/(\S+)$", text.strip().splitlines()[-1])
        target = folder / link.group(1) if link else page
        if not target.exists():
            sys.exit(f"{page}: links to {target}, which is not there")
        # A page documents its own name in its NAME section, links or not.
        if re.search(rf"\b{page.stem}\b", target.read_text().split(".SH SYNOPSIS")[0]):
            names.add(page.stem)
        elif link:
            sys.exit(f"{page}: {target.name} does not name it")
    return names


def documented_members(header, folder):
    """Public constants and struct members appear somewhere in the pages."""
    text = header.read_text()
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    pages = "\n".join(p.read_text() for p in folder.glob("daxlease*.[37]"))
    pages = pages.replace("\\", "")
    names = set(re.findall(r"\b(DAXLEASE_(?:MR|CTX|OFFER|PEER|LATE|CANCEL|CQE|UNSEEN|STATE|MODE|KIND|CAUSE|LOG|PENDING)\w*)\b", code))
    for body in re.findall(r"^struct daxlease_\w+ \{(.*?)^\}", code, flags=re.S | re.M):
        names |= set(re.findall(r"(\w+)(?:\[\w+\])?;", body))
    names.discard("DAXLEASE_MUST_CHECK")
    return {name for name in names if not re.search(rf"\b{name}\b", pages)}


def differences(what, names, wanted):
    for name in sorted(wanted - names):
        yield f"{name}: in the header, not in the {what}"
    for name in sorted(names - wanted):
        yield f"{name}: in the {what}, not in the header"


def libraries(paths):
    headers = []
    paths = iter(paths)
    for path in paths:
        if path.suffix == ".map":
            yield headers, path, next(paths)
            headers = []
        else:
            headers.append(path)


def main():
    folder, *rest = (pathlib.Path(a) for a in sys.argv[1:])
    problems = []
    everything = set()
    for headers, symbol_map, library in libraries(rest):
        wanted = set().union(*(header_symbols(header) for header in headers))
        if len(wanted) < 10:
            sys.exit(f"{headers}: only {len(wanted)} functions found, the search is broken")
        everything |= wanted.union(*(inline_symbols(header) for header in headers))
        problems += differences("map", map_symbols(symbol_map), wanted)
        problems += differences("library", library_symbols(library), wanted)
        problems += (f"{name}: in {header.name}, not in the manual pages"
                     for header in headers for name in sorted(documented_members(header, folder)))
    # daxlease_break(3) is named after its subject.
    problems += differences("manual pages", page_symbols(folder) - {"daxlease_break"}, everything)
    print("\n".join(problems), end="\n" if problems else "")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

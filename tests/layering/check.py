#!/usr/bin/env python3
"""Checks the module order and the fences of src/ from its #include lines.

    check.py CHECKOUT    prints each offence as file:line: text; exit 1 if there is one

Rules:
  order   a file includes its own module and modules below it (ORDER), always as "module/header.h"
  DEPS    the DEPS of hearth_module() in src/MODULE/CMakeLists.txt (the hearth_ libraries of the program, for cli)
          are exactly the modules its sources include
  fences  a library's or the operating system's headers only in the modules that hide them (FENCES)
  names   src/model uses no ggml_* symbol

Tests and fuzzers beside the code (x_test.cpp, x_fuzz.cpp) and what only they use (test_x.h, x_cases.h, a folder
testing/) are programs of their own: they may include any library and any module, and need no DEPS (TEST_LIBS names
what they need). No other file may include them.
"""
import re
import sys
from pathlib import Path

# Top to bottom: a module may include itself and what stands below it.
ORDER = ["cli", "server", "node", "engine", "cluster", "profile", "compute", "residency", "net", "model", "plan",
         "wire", "gguf", "base"]

OS_HEADERS = (r"(sys|netinet|arpa|linux|asm|net|mach|mach-o|machine)/.*"
              r"|(unistd|fcntl|signal|poll|pthread|sched|dlfcn|termios|spawn|pwd|grp|dirent|netdb|ifaddrs|syslog|"
              r"semaphore|execinfo|ucontext|aio|mqueue|utime|glob|wordexp|ftw|langinfo|liburing|windows|winsock2|"
              r"ws2tcpip|io|direct|process)\.h"
              r"|csignal")

# Name, pattern of the header, where it may be included, the reason. A place is a module or a path pattern.
FENCES = [
    ("ggml", r"(ggml([-_].*)?|gguf)\.h", ["compute", "residency"], "ggml stays behind compute and residency"),
    ("libllama", r"llama(-.*)?\.h", ["model"], "libllama stays behind model"),
    ("minja", r"minja/.*|minja\.hpp|chat-template\.hpp", ["model"], "minja stays behind model"),
    ("ZeroMQ", r"zmq\.h|zmq\.hpp|zmq_addon\.hpp|zmq_utils\.h", ["net"], "ZeroMQ stays behind net"),
    ("libsodium", r"sodium(\.h|/.*)", ["net"], "ciphers stay behind net"),
    ("JSON", r"nlohmann/.*", ["server", "cli", r"model/chat_template\.cpp", r"model/(json_schema|schema_sets)\.(cpp|h)"],
     "JSON is for the outside world only: server and cli (and in model chat templates, which minja takes in it, and JSON schemas)"),
    ("CLI11", r"CLI/.*|CLI11\.hpp", ["cli"], "the command line is read in cli"),
    ("libedit", r"(histedit|editline/.*|readline/.*)(\.h)?", [r"cli/line_editor\.cpp"], "libedit stays behind cli/line_editor.h"),
    ("HTTP", r"(httplib\.h|curl/.*|boost/beast.*|microhttpd\.h)", ["server"], "HTTP is spoken in server"),
    ("HiGHS", r"(Highs\.h|highs/.*|interfaces/highs_c_api\.h)", [r"plan/milp_solver\.cpp"],
     "HiGHS stays behind plan/milp_solver.h"),
    ("io_uring", r"liburing\.h", [r"base/os_uring\.cpp"], "io_uring lives in one file"),
    ("operating system", OS_HEADERS, [r"base/os_\w+\.cpp", "net", "residency"],
     "system calls live in base/os_*.cpp, net and residency"),
    ("test library", r"(gtest|gmock|rapidcheck|benchmark)([/.].*)", [], "tests are in x_test.cpp"),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
TEST_FILE = re.compile(r"_(test|fuzz|cases)\.(cpp|h)$|/testing/|/test_[^/]*$")
SUFFIXES = {".h", ".hpp", ".cpp", ".c", ".cc", ".inc", ".mm", ".cu"}


def without_comments(text: str) -> str:
    """The text with comments blanked; line numbers stay. Strings are kept, so that includes survive."""
    pattern = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.S)
    return pattern.sub(lambda m: m.group() if m.group()[0] == '"' else re.sub(r"[^\n]", " ", m.group()), text)


def declared_deps(cmake: Path) -> tuple[int, list[str]] | None:
    """(line, modules) that a module's CMakeLists.txt says it needs, None if it declares neither module nor program."""
    text = re.sub(r"#[^\n]*", "", cmake.read_text(encoding="utf-8"))
    call = re.search(r"\bhearth_module\s*\(([^)]*)\)", text)
    if call is not None:
        keywords = {"SOURCES", "DEPS", "LIBS", "PRIVATE_LIBS", "TESTS", "FUZZ", "TEST_LIBS", "TEST_LABELS"}
        deps, keyword = [], None
        for word in call.group(1).split()[1:]:
            if word in keywords:
                keyword = word
            elif keyword == "DEPS":
                deps.append(word)
        return text[:call.start()].count("\n") + 1, deps
    call = re.search(r"\btarget_link_libraries\s*\(\s*hearth\s([^)]*)\)", text)
    if call is None:
        return None
    deps = [word.removeprefix("hearth_") for word in call.group(1).split() if word.startswith("hearth_")]
    return text[:call.start()].count("\n") + 1, [dep for dep in deps if dep != "options"]


def allowed_at(path: str, module: str, places: list[str]) -> bool:
    return any(place == module or re.fullmatch(place, path) for place in places)


def check(checkout: Path) -> list[str]:
    offences = []
    src = checkout / "src"
    included = {}  # module -> {module it includes: first file:line}

    for file in sorted(src.rglob("*")):
        if file.suffix not in SUFFIXES or not file.is_file():
            continue
        path = file.relative_to(src).as_posix()
        module = path.split("/")[0]
        where = file.relative_to(checkout).as_posix()
        is_test = TEST_FILE.search(path) is not None
        if "/" not in path or module not in ORDER:
            offences.append(f"{where}:1: src/{module} is no module; the modules are {', '.join(ORDER)}")
            continue
        text = without_comments(file.read_text(encoding="utf-8"))
        for number, line in enumerate(text.split("\n"), 1):
            if module == "model" and not is_test:
                symbol = re.search(r"\b(ggml|gguf)_[a-z]\w*", line) if not INCLUDE.match(line) else None
                if symbol:
                    offences.append(f"{where}:{number}: module model may not use {symbol.group()} because ggml stays "
                                    "behind compute and residency")
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, header = match.group(1), match.group(1) or match.group(2)
            target = header.split("/")[0]
            if "/" in header and target in ORDER and (src / header).is_file():
                if quoted is None:
                    offences.append(f'{where}:{number}: <{header}> is ours: include it as "{header}"')
                if is_test:
                    continue
                if ORDER.index(target) < ORDER.index(module):
                    offences.append(f"{where}:{number}: module {module} may not include {target} because {target} "
                                    f"stands above it ({' > '.join(ORDER)})")
                elif TEST_FILE.search(header):
                    offences.append(f"{where}:{number}: module {module} may not include {header} because only tests may")
                elif target != module:
                    included.setdefault(module, {}).setdefault(target, f"{where}:{number}")
                continue
            if is_test:
                continue
            fenced = False
            for name, pattern, places, reason in FENCES:
                if re.fullmatch(pattern, header):
                    fenced = True
                    if not allowed_at(path, module, places):
                        offences.append(f"{where}:{number}: module {module} may not include {name} ({header}) because "
                                        f"{reason}")
            if quoted is not None and not fenced:
                offences.append(f'{where}:{number}: "{header}" is no header of ours: own headers are included as '
                                '"module/header.h", those of libraries in <>')

    for module in ORDER:
        cmake = src / module / "CMakeLists.txt"
        declared = declared_deps(cmake) if cmake.is_file() else None
        if declared is None:
            if module in included:
                offences.append(f"src/{module}/CMakeLists.txt:1: module {module} has sources but declares neither hearth_module() nor the program")
            continue
        line, deps = declared
        used = included.get(module, {})
        for target in sorted(set(used) - set(deps)):
            offences.append(f"{used[target]}: module {module} may not include {target} because DEPS in "
                            f"src/{module}/CMakeLists.txt does not name it")
        for target in deps:
            if target not in ORDER:
                offences.append(f"src/{module}/CMakeLists.txt:{line}: DEPS names {target}, which is no module")
            elif target not in used:
                offences.append(f"src/{module}/CMakeLists.txt:{line}: DEPS names {target}, but no source of {module} "
                                "includes it (what only tests need belongs to TEST_LIBS)")
    return offences


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    checkout = Path(sys.argv[1])
    if not (checkout / "src").is_dir():
        print(f"{checkout} has no src/", file=sys.stderr)
        return 2
    offences = check(checkout)
    for offence in offences:
        print(offence)
    print(f"{len(offences)} offences against the module order and the fences")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())

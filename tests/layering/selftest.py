#!/usr/bin/env python3
"""The layering check must report every kind of offence, at its file and line, and nothing else."""
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # leave no __pycache__ in the checkout
import check  # noqa: E402

# A tree without offences; each case below changes one file of it.
CLEAN = {
    "src/base/CMakeLists.txt": "hearth_module(base SOURCES os_file.cpp)\n",
    "src/base/os_file.h": "#pragma once\n#include <cstdint>\n",
    "src/base/os_file.cpp": '#include "base/os_file.h"\n#include <sys/mman.h>\n#include <fcntl.h>\n',
    "src/gguf/CMakeLists.txt": "hearth_module(gguf SOURCES part.cpp DEPS base TESTS part_test.cpp)\n",
    "src/gguf/part.h": '#pragma once\n#include "base/os_file.h"\n',
    "src/gguf/part.cpp": '#include "gguf/part.h"\n// #include "cli/main.h" in a comment\n/* #include <ggml.h> */\n',
    "src/gguf/part_test.cpp": '#include "gguf/part.h"\n#include "gguf/test_bytes.h"\n#include "compute/graph.h"\n#include <ggml.h>\n#include <gtest/gtest.h>\n',
    "src/gguf/testing/tables.h": "#pragma once\n#include <gmock/gmock.h>\n",
    "src/gguf/test_bytes.h": "#pragma once\n#include <rapidcheck.h>\n",
    "src/net/CMakeLists.txt": "# sockets\nhearth_module(net SOURCES link.cpp\n  DEPS base  # results\n  LIBS cppzmq)\n",
    "src/net/link.cpp": '#include "base/os_file.h"\n#include <zmq.hpp>\n#include <poll.h>\n',
    "src/model/CMakeLists.txt": "hearth_module(model SOURCES vocabulary.cpp DEPS gguf)\n",
    "src/model/vocabulary.cpp": '#include "gguf/part.h"\n#include <llama.h>\n// as ggml_nbytes() counts\n',
    "src/compute/CMakeLists.txt": "hearth_module(compute SOURCES graph.cpp DEPS model)\n",
    "src/model/vocabulary.h": "#pragma once\n",
    "src/compute/graph.cpp": '#include "model/vocabulary.h"\n#include <ggml.h>\n#include <ggml-backend.h>\n',
    "src/cli/CMakeLists.txt": "hearth_module(cli SOURCES main.cpp DEPS compute)\n",
    "src/compute/graph.h": "#pragma once\n",
    "src/cli/main.cpp": '#include "compute/graph.h"\n#include <CLI/CLI.hpp>\n#include <nlohmann/json.hpp>\n',
}

# What it shows, the file that changes, its new text, the one offence (start, and a part of the reason).
CASES = [
    ("upward include", "src/gguf/part.h", '#pragma once\n#include "base/os_file.h"\n#include "model/vocabulary.h"\n',
     "src/gguf/part.h:3: module gguf may not include model", "stands above it"),
    ("the program links too much", "src/cli/CMakeLists.txt",
     "add_executable(hearth main.cpp)\ntarget_link_libraries(hearth PRIVATE hearth_options hearth_compute hearth_net)\n",
     "src/cli/CMakeLists.txt:2: DEPS names net", "no source of cli includes it"),
    ("the program links too little", "src/cli/CMakeLists.txt",
     "add_executable(hearth main.cpp)\ntarget_link_libraries(hearth PRIVATE hearth_options)\n",
     "src/cli/main.cpp:1: module cli may not include compute", "DEPS in src/cli/CMakeLists.txt"),
    ("test header in a source", "src/gguf/part.cpp", '#include "gguf/part.h"\n#include "gguf/test_bytes.h"\n',
     "src/gguf/part.cpp:2: module gguf may not include gguf/test_bytes.h", "only tests may"),
    ("test folder in a source", "src/net/link.cpp", '#include "base/os_file.h"\n#include "gguf/testing/tables.h"\n',
     "src/net/link.cpp:2: module net may not include gguf/testing/tables.h", "only tests may"),
    ("include with spaces", "src/gguf/part.cpp", '#include "gguf/part.h"\n  #  include "model/vocabulary.h"\n',
     "src/gguf/part.cpp:2: module gguf may not include model", "stands above it"),
    ("own header in <>", "src/gguf/part.cpp", "#include <gguf/part.h>\n", "src/gguf/part.cpp:1: <gguf/part.h> is ours",
     'include it as "gguf/part.h"'),
    ("header without its module", "src/gguf/part.cpp", '#include "part.h"\n', 'src/gguf/part.cpp:1: "part.h"',
     "own headers are included as"),
    ("DEPS lacks a module", "src/compute/graph.cpp", '#include "model/vocabulary.h"\n#include "gguf/part.h"\n',
     "src/compute/graph.cpp:2: module compute may not include gguf", "DEPS in src/compute/CMakeLists.txt"),
    ("DEPS names too much", "src/net/CMakeLists.txt", "\nhearth_module(net SOURCES link.cpp DEPS base gguf)\n",
     "src/net/CMakeLists.txt:2: DEPS names gguf", "no source of net includes it"),
    ("DEPS names no module", "src/net/CMakeLists.txt", "hearth_module(net SOURCES link.cpp DEPS base Zmq)\n",
     "src/net/CMakeLists.txt:1: DEPS names Zmq", "no module"),
    ("sources without hearth_module", "src/net/CMakeLists.txt", "add_library(x)\n", "src/net/CMakeLists.txt:1:",
     "neither hearth_module() nor the program"),
    ("unknown module", "src/extra/x.cpp", "int x;\n", "src/extra/x.cpp:1: src/extra is no module", "the modules are"),
    ("file outside a module", "src/x.cpp", "int x;\n", "src/x.cpp:1:", "is no module"),
    ("ggml in gguf", "src/gguf/part.cpp", "#include <ggml.h>\n", "src/gguf/part.cpp:1: module gguf may not include ggml",
     "behind compute and residency"),
    ("ggml in quotes", "src/gguf/part.cpp", '#include "ggml-alloc.h"\n',
     "src/gguf/part.cpp:1: module gguf may not include ggml", "behind compute and residency"),
    ("ggml's gguf in model", "src/model/vocabulary.cpp", '#include "gguf/part.h"\n#include <gguf.h>\n',
     "src/model/vocabulary.cpp:2: module model may not include ggml", "behind compute and residency"),
    ("ggml symbol in model", "src/model/vocabulary.cpp", '#include "gguf/part.h"\nint n = ggml_blck_size(t);\n',
     "src/model/vocabulary.cpp:2: module model may not use ggml_blck_size", "behind compute and residency"),
    ("llama in compute", "src/compute/graph.cpp", '#include "model/vocabulary.h"\n#include <llama.h>\n',
     "src/compute/graph.cpp:2: module compute may not include libllama", "behind model"),
    ("minja in cli", "src/cli/main.cpp", '#include "compute/graph.h"\n#include <minja/chat-template.hpp>\n',
     "src/cli/main.cpp:2: module cli may not include minja", "behind model"),
    ("ZeroMQ in cli", "src/cli/main.cpp", '#include "compute/graph.h"\n#include <zmq.h>\n',
     "src/cli/main.cpp:2: module cli may not include ZeroMQ", "behind net"),
    ("JSON in net", "src/net/link.cpp", '#include "base/os_file.h"\n#include <nlohmann/json.hpp>\n',
     "src/net/link.cpp:2: module net may not include JSON", "server and cli"),
    ("CLI11 in net", "src/net/link.cpp", '#include "base/os_file.h"\n#include <CLI/App.hpp>\n',
     "src/net/link.cpp:2: module net may not include CLI11", "in cli"),
    ("HTTP in cli", "src/cli/main.cpp", '#include "compute/graph.h"\n#include <httplib.h>\n',
     "src/cli/main.cpp:2: module cli may not include HTTP", "in server"),
    ("HiGHS", "src/cli/main.cpp", '#include "compute/graph.h"\n#include <Highs.h>\n',
     "src/cli/main.cpp:2: module cli may not include HiGHS", "stays behind plan/milp_solver.h"),
    ("test library in a source", "src/net/link.cpp", '#include "base/os_file.h"\n#include <gtest/gtest.h>\n',
     "src/net/link.cpp:2: module net may not include test library", "x_test.cpp"),
    ("os header in a header of base", "src/base/os_file.h", "#pragma once\n#include <sys/types.h>\n",
     "src/base/os_file.h:2: module base may not include operating system", "base/os_*.cpp"),
]
CASES += [
    (f"os header {header}", "src/cli/main.cpp", f'#include "compute/graph.h"\n#include <{header}>\n',
     "src/cli/main.cpp:2: module cli may not include operating system", "base/os_*.cpp")
    for header in ("unistd.h", "fcntl.h", "sys/socket.h", "netinet/tcp.h", "arpa/inet.h", "signal.h", "csignal",
                   "poll.h", "pthread.h", "termios.h", "spawn.h", "linux/fs.h", "windows.h")
]


def offences_of(files: dict[str, str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return check.check(Path(folder))


def main() -> int:
    failures = []
    lines = offences_of(CLEAN)
    if lines:
        failures.append(f"clean tree: said {lines}")
    for what, file, text, start, reason in CASES:
        lines = offences_of({**CLEAN, file: text})
        # A changed file may drop an include that DEPS names; that second offence is not what the case is about.
        lines = [line for line in lines if line.startswith(start) or "but no source of" not in line]
        if len(lines) != 1 or not lines[0].startswith(start) or reason not in lines[0]:
            failures.append(f"{what}: expected one '{start} ... {reason}', said {lines}")
    for failure in failures:
        print(failure)
    print(f"{len(CASES) + 1 - len(failures)} of {len(CASES) + 1} cases as expected")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

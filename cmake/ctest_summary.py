#!/usr/bin/env python3
"""Prints "PASSED FAILED" of a ctest JUnit file on stdout, and each skipped test with its reason on stderr."""
import re
import sys
import xml.etree.ElementTree as ElementTree


def main() -> int:
    passed = failed = 0
    skipped = []
    for case in ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
        status = case.get("status")
        reason = case.find("skipped")
        message = reason.get("message", "") if reason is not None else ""
        if status == "run":
            passed += 1
        elif status == "notrun" and message.startswith("SKIP_"):
            output = case.findtext("system-out") or ""
            said = re.search(r"Skipped\n(.+)", output)
            skipped.append((case.get("name"), said.group(1).strip() if said else "no reason printed"))
        elif status == "disabled":
            skipped.append((case.get("name"), "disabled"))
        else:  # failed, timed out, or its program is missing
            failed += 1
    for name, said in skipped:
        print(f"skipped: {name}: {said}", file=sys.stderr)
    if passed + failed == 0:
        print("no test matched, or all were skipped: counted as one failure", file=sys.stderr)
        failed = 1
    print(passed, failed)
    return 0


if __name__ == "__main__":
    sys.exit(main())

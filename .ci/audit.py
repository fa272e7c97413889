"""Ask pip-audit whether a pinned version has a known vulnerability, and say so when nobody answered.

A vulnerability ends with status 1; no answer does not, since a machine without a network must pass too.
"""

from __future__ import annotations

import subprocess
import sys

LIMIT_SECONDS = 120
FOUND = "known vulnerabilit"


def main() -> int:
    """Ask each service in turn until one answers."""
    command = [sys.executable, "-m", "pip_audit", "-r", "constraints.txt", "--no-deps", "--disable-pip"]
    command += ["--progress-spinner", "off"]
    for service in ("pypi", "osv"):
        try:
            done = subprocess.run(
                [*command, "-s", service], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"pip-audit: {service} could not be reached (no answer in {LIMIT_SECONDS} s)")
            continue
        said = (done.stdout + done.stderr).strip()
        if done.returncode == 0:
            print(f"pip-audit: {service} knows of no vulnerability in constraints.txt")
            return 0
        if FOUND in said:
            print(said)
            return 1
        print(f"pip-audit: {service} could not be reached ({said.splitlines()[-1] if said else 'no output'})")
    print("pip-audit: NOT CHECKED for known vulnerabilities; run `make check` again with a network")
    return 0


if __name__ == "__main__":
    sys.exit(main())

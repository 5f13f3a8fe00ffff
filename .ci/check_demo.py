"""Run `koner demo` where stdout is no terminal and hold what comes out against what it promises.

python .ci/check_demo.py --within 10 .venv/bin/koner demo
"""

import argparse
import json
import subprocess
import sys
from time import monotonic


def main() -> int:
    """Print the figures; returns 1 with a line of what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--within", type=float, required=True, help="seconds until the first enriched record")
    parser.add_argument("--at-least", type=int, default=500, help="records that must come out (default 500)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    started = monotonic()
    with subprocess.Popen(options.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        first = demo.stdout.readline()
        first_seconds = monotonic() - started
        records = [json.loads(line) for line in (first, *demo.stdout) if line]
    wrong = []
    if demo.returncode != 0:
        wrong.append(f"exit code {demo.returncode}")
    if len(records) < options.at_least:
        wrong.append(f"only {len(records)} records")
    if first_seconds > options.within:
        wrong.append(f"the first enriched record took {first_seconds:.1f} s")
    for record in records:
        for entity in record["entities"]:
            if record["text"][entity["start"] : entity["end"]] != entity["text"]:
                wrong.append(f"a span of {record['enrichment']['source']} is not its text")
    if not any(record["entities"] for record in records):
        wrong.append("no record has an entity")
    print(f"{len(records)} records, the first after {first_seconds:.1f} s, all after {monotonic() - started:.1f} s")
    for line in wrong:
        print(f"koner demo: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

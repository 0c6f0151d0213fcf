"""``demo``: plays the shipped bag into a node and asks it in English and in Chinese."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the demonstration; return 0 when every question was answered."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--bag", type=Path, help="another bag than the shipped one")
    parser.add_argument("--rate", type=float, default=2.0, help="speed of the bag")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("demo_output"), help="memory, log and pictures"
    )
    parser.add_argument(
        "--ask", action="append", default=[], metavar="INSTRUCTION", help="ask this as well"
    )
    parser.add_argument("--model", help="another open_clip model than the shipped one")
    parser.add_argument("--pretrained", help="its pretrained tag")
    args, _ros = parser.parse_known_args(argv)  # launch adds --ros-args
    if not args.rate > 0:
        parser.error(f"--rate: expected a number above 0, got {args.rate}")

    from vla_retrieval.ros.demo import run_demo

    chosen = {"model": args.model, "pretrained": args.pretrained}
    model = {name: value for name, value in chosen.items() if value}
    try:
        return run_demo(args.bag, args.rate, args.output_dir, args.ask, model)
    except KeyboardInterrupt:
        return 130  # as a shell reports Ctrl-C; the node has been stopped on the way out


if __name__ == "__main__":
    sys.exit(main())

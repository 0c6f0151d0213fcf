"""``demo``: plays the shipped bag into a node and asks it in English and in Chinese."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vla_retrieval.ros_arguments import split_ros_arguments

_EPILOG = """\
examples:
  ros2 run vla_retrieval demo
  ros2 run vla_retrieval demo --ask "put the bowl next to the bottle" --ask 把碗放到瓶子旁边
  ros2 run vla_retrieval demo --bag kitchen_bag --model ViT-B-32 --pretrained laion2b_s34b_b79k

exit codes: 0 when every question was answered, 1 failed, 2 wrong usage, 130 interrupted
"""


def main(argv: list[str] | None = None) -> int:
    """Run the demonstration; return 0 when every question was answered."""
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Starts a node of its own, plays a bag into it, asks it in English and in "
        "Chinese, and draws a contact sheet of what was found.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bag", type=Path, metavar="BAG",
        help="rosbag2 folder with /camera/image/compressed and /instruction (default: the shipped "
        "one)",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=float, default=2.0, metavar="FACTOR",
        help="speed against the bag's own time (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=Path, default=Path("demo_output"), metavar="FOLDER",
        help="gets contact_sheet.png, node.log and demo_memory, which is emptied first (default: "
        "demo_output)",
    )  # fmt: skip
    parser.add_argument(
        "--ask", action="append", default=[], metavar="INSTRUCTION",
        help="ask this as well; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--model", help="another open_clip model than the shipped one, which knows only this bag"
    )
    parser.add_argument("--pretrained", metavar="TAG", help="that model's pretrained weights")
    ours, _ = split_ros_arguments(sys.argv[1:] if argv is None else argv)  # launch adds them
    args = parser.parse_args(ours)
    if not args.rate > 0:
        parser.error(f"--rate: expected a number above 0, got {args.rate}")

    from vla_retrieval.ros.demo import run_demo

    output_dir = args.output_dir.expanduser()  # no shell expands it in a launch argument
    chosen = {"model": args.model, "pretrained": args.pretrained}
    model = {name: value for name, value in chosen.items() if value}
    try:
        return run_demo(args.bag, args.rate, output_dir, args.ask, model)
    except KeyboardInterrupt:
        return 130  # as a shell reports Ctrl-C; the node has been stopped on the way out


if __name__ == "__main__":
    sys.exit(main())

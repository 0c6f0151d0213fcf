"""Plays a bag into a node and scores the node's answers: metrics, latency, drops, ages.

    ros2 launch vla_retrieval replay_evaluation.launch.py bag:=BAG out:=REPORT

The node starts with an empty memory in OUT.memory and reads images as the bag has them.
"""

import shlex
import subprocess
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from vla_retrieval.ros_arguments import parameter_file
from vla_retrieval.transport import large_image_environment

# Given to the node and to the evaluation, which has to know what embeddings are compared.
MODEL = {
    "model": "open_clip model, e.g. ViT-B-32/laion2b_s34b_b79k",
    "pretrained": "open_clip pretrained tag, where model does not name it",
    "checkpoint": "weights file instead of a pretrained tag",
    "device": "auto, cpu, cuda or cuda:N",
    "precision": "auto, fp32, fp16, bf16 or int8",
}
PARAMETERS = {
    "index": "auto, exact, pq, pq_sq8 or hash",
}
EVALUATION = "replay_evaluation"  # executable
NAMESPACE = "replay_evaluation"  # away from a robot's own topics


def _processes(context: LaunchContext) -> list[Node]:
    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    # No shell expands the ~ of `out:=~/report`, and the node does that of its memory_dir.
    bags = [str(Path(bag).expanduser()) for bag in shlex.split(value("bag"))]
    out = str(Path(value("out")).expanduser())
    topics = (value("image_topic"),) if value("image_topic") else ()
    options = [f"--image-topic={topic}" for topic in topics]
    given = {name: value(name) for name in (*MODEL, *PARAMETERS) if value(name)}
    fixed = {
        "memory_dir": value("memory_dir") or f"{out}.memory",
        "image_transport": _image_transport([*bags, f"--out={out}", *options]),
    }
    options += [f"--{name}={given[name]}" for name in MODEL if name in given]
    options += [f"--out={out}"]
    options += [f"--{name}={value(name)}" for name in ("rate", "player", "relevance")]
    return [
        Node(
            package="vla_retrieval",
            executable="retrieval_node",
            name="retrieval",
            namespace=NAMESPACE,
            parameters=[parameter_file(value("params_file")), {**given, **fixed}],
            # Where `ros2 bag` plays, the node goes by the bag's clock, and the robot does not.
            remappings=[("/clock", f"/{NAMESPACE}/clock")],
            output="screen",
            emulate_tty=True,
            on_exit=_ended,
        ),
        Node(
            package="vla_retrieval",
            executable=EVALUATION,
            arguments=[
                *bags, f"--namespace=/{NAMESPACE}", *options, *shlex.split(value("options"))
            ],
            output="screen",
            # Not emulate_tty: bars that are drawn over and over are no use behind a prefix.
            on_exit=_ended,
        ),
    ]  # fmt: skip


def _ended(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    """End the launch with the first process that ends: with 0 only after a good evaluation."""
    if context.is_shutdown:
        return None  # what ended first has decided
    if event.returncode or not event.process_name.startswith(EVALUATION):
        raise RuntimeError(f"{event.process_name} ended with exit code {event.returncode}")
    return Shutdown(reason=f"{event.process_name} ended")


def _image_transport(arguments: list[str]) -> str:
    """Ask the evaluation, whose Python has what reads bags; that of `ros2 launch` has not."""
    program = Path(get_package_prefix("vla_retrieval")) / "lib/vla_retrieval/replay_evaluation"
    done = subprocess.run(
        [program, *arguments, "--show-image-transport"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{program} failed: {done.returncode}")
    return done.stdout.strip()


def generate_launch_description() -> LaunchDescription:
    """Describe the launch."""
    share = get_package_share_directory("vla_retrieval")
    default_file = str(Path(share) / "config" / "retrieval.yaml")
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="rosbag2 folders or files, as a shell has it"),
            DeclareLaunchArgument("out", description="new folder for the report"),
            DeclareLaunchArgument("rate", default_value="1.0", description="speed of the bag"),
            DeclareLaunchArgument(
                "player", default_value="auto",
                description="auto, ros2bag (`ros2 bag play`) or own (the package's)",
            ),
            DeclareLaunchArgument(
                "relevance", default_value="instruction",
                description="instruction, episode, labels:FILE or qrels:FILE",
            ),
            DeclareLaunchArgument(
                "image_topic", default_value="", description="in the bag, where it is not clear"
            ),
            DeclareLaunchArgument(
                "options", default_value="", description="more of replay_evaluation's options"
            ),
            DeclareLaunchArgument(
                "memory_dir", default_value="", description="of the node; empty: OUT.memory"
            ),
            DeclareLaunchArgument(
                "params_file", default_value=default_file, description="parameters as YAML"
            ),
            *(
                DeclareLaunchArgument(name, default_value="", description=text)
                for name, text in (MODEL | PARAMETERS).items()
            ),
            # Otherwise large images are lost between the two processes.
            *(SetEnvironmentVariable(*item) for item in large_image_environment(share).items()),
            OpaqueFunction(function=_processes),
        ]
    )  # fmt: skip

"""Evaluates the node with a rosbag: plays it into the node and scores the answers.

    ros2 launch vla_retrieval replay_evaluation.launch.py bag:=BAG output_dir:=REPORT

The node has a new memory, in OUTPUT_DIR.work, and ends with the evaluation. What replay_evaluation
takes besides is given as arguments:="--relevance labels:tasks.yaml --seed 1".
"""

import shlex
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription
from vla_retrieval.transport import large_image_environment

# Chosen for the node and for the offline evaluation that it is compared with; empty: params_file's
# and the default.
MODEL = {
    "model": "open_clip model, e.g. ViT-B-32/laion2b_s34b_b79k",
    "pretrained": "open_clip pretrained tag, where model does not name it",
    "checkpoint": "weights file instead of a pretrained tag",
    "device": "auto, cpu, cuda or cuda:N",
    "precision": "auto, fp32, fp16 or bf16",
}


def _nodes(context: LaunchContext) -> list[Node]:
    def given(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    model = {name: given(name) for name in MODEL if given(name)}
    parameters = {
        **model,
        "memory_dir": str(Path(f"{given('output_dir')}.work").resolve() / "memory"),
        "image_transport": given("image_transport"),
    }
    options = [text for name, value in model.items() for text in (f"--{name}", value)]
    return [
        Node(
            package="vla_retrieval",
            executable="retrieval_node",
            name="retrieval",
            namespace=given("namespace"),
            parameters=[
                given("params_file"),
                {name: ParameterValue(value, value_type=str) for name, value in parameters.items()},
            ],
            output="screen",
            emulate_tty=True,
            on_exit=Shutdown(),
        ),
        Node(
            package="vla_retrieval",
            executable="replay_evaluation",
            namespace=given("namespace"),
            arguments=[
                given("bag"), "--out", given("output_dir"), "--rate", given("rate"), *options,
                *shlex.split(given("arguments")),
            ],
            output="screen",
            emulate_tty=True,
            on_exit=Shutdown(),
        ),
    ]  # fmt: skip


def generate_launch_description() -> LaunchDescription:
    """Describe the launch."""
    share = get_package_share_directory("vla_retrieval")
    default_file = str(Path(share) / "config" / "retrieval.yaml")
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="rosbag2 folder or file"),
            DeclareLaunchArgument("output_dir", description="new folder for the report"),
            DeclareLaunchArgument("rate", default_value="1.0", description="1 is the bag's own"),
            DeclareLaunchArgument(
                "params_file", default_value=default_file, description="the node's, as YAML"
            ),
            DeclareLaunchArgument(
                "image_transport", default_value="raw",
                description="raw, which any bag can be played as, or compressed as it was recorded",
            ),
            DeclareLaunchArgument(
                "arguments", default_value="", description="more arguments of replay_evaluation"
            ),
            DeclareLaunchArgument(
                "namespace", default_value="replay_evaluation",
                description="of the node, apart from one that runs already",
            ),
            *(
                DeclareLaunchArgument(name, default_value="", description=text)
                for name, text in MODEL.items()
            ),
            *(SetEnvironmentVariable(*item) for item in large_image_environment(share).items()),
            OpaqueFunction(function=_nodes),
        ]
    )  # fmt: skip

"""Starts the retrieval node on a robot.

    ros2 launch vla_retrieval retrieval.launch.py image_topic:=/camera/image memory_dir:=/data

An argument that is left empty leaves the parameter to the file given by params_file.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import prefix_namespace

from launch import LaunchContext, LaunchDescription
from vla_retrieval.ros_arguments import check_number, parameter_file
from vla_retrieval.transport import large_image_environment

# Parameters that a user changes first, with their types; config/retrieval.yaml describes them.
PARAMETERS = {
    "memory_dir": (str, "directory that holds everything the node keeps"),
    "durable": (bool, "wait for the disk before a pair counts as remembered"),
    "max_entries": (int, "most entries that are kept; 0: no bound"),
    "max_memory_mb": (int, "most disk that entries may fill, in MB; 0: no bound"),
    "eviction": (str, "who goes then: oldest, least_used or most_redundant"),
    "merge_scene_similarity": (float, "least cosine of scenes that are merged; above 1: none are"),
    "model": (str, "open_clip model, e.g. ViT-B-32/laion2b_s34b_b79k"),
    "pretrained": (str, "open_clip pretrained tag, where model does not name it"),
    "checkpoint": (str, "weights file instead of a pretrained tag"),
    "device": (str, "auto, cpu, cuda or cuda:N"),
    "engine": (str, "auto, torch, openvino or onnxruntime"),
    "precision": (str, "auto, fp32, fp16, bf16 or int8"),
    "head": (str, "file of a learned head"),
    "similarity": (str, "cosine, dot or negative_l2"),
    "index": (str, "auto, exact, pq, pq_sq8 or hash"),
    "index_memory_mb": (int, "RAM for the index under auto or hash, in MB"),
    "recall_target": (float, "share of the ten best that pq, pq_sq8 and hash are tuned to find"),
    "image_transport": (str, "raw or compressed"),
    "image_reliability": (str, "best_effort or reliable"),
    "query_mode": (str, "frame, timer or never"),
    "query_rate_hz": (float, "rate of query_mode timer"),
    "query_target": (str, "scenes, instructions or pair"),
    "k": (int, "most matches in a published answer"),
    "scene_weight": (float, "of the scene against the instruction in published queries"),
    "min_score": (float, "least score of a published match"),
    "remember_mode": (str, "never or interval"),
    "remember_interval_sec": (float, "least time between two pairs that the node remembers"),
    "executor": (str, "auto, events or single_threaded: how messages reach the node"),
    "autostart": (bool, "configure and activate without being told"),
}
SHOWN = ("markers", "contact_sheet")  # of the node's topics, in config/retrieval.rviz


def _node(context: LaunchContext) -> list[Node]:
    overrides = {}
    for name, (kind, _) in PARAMETERS.items():
        if given := LaunchConfiguration(name).perform(context):
            check_number(name, given, kind)
            overrides[name] = ParameterValue(LaunchConfiguration(name), value_type=kind)
    params_file = LaunchConfiguration("params_file").perform(context)
    image_topic = LaunchConfiguration("image_topic")
    level = LaunchConfiguration("log_level").perform(context)
    return [
        Node(
            package="vla_retrieval",
            executable="retrieval_node",
            name="retrieval",
            namespace=LaunchConfiguration("namespace"),
            parameters=[parameter_file(params_file), overrides],
            remappings=[
                ("image", image_topic),
                ("image/compressed", [image_topic, "/compressed"]),
                ("instruction", LaunchConfiguration("instruction_topic")),
            ],
            ros_arguments=["--log-level", f"{_logger(context)}:={level}"],
            output="screen",
            emulate_tty=True,
        )
    ]


def _logger(context: LaunchContext) -> str:
    """Return the name of the node's own logger: others say thousands of lines a second at debug."""
    pushed = context.launch_configurations.get("ros_namespace")  # by PushROSNamespace
    namespace = prefix_namespace(pushed, LaunchConfiguration("namespace").perform(context))
    return f"{namespace or ''}/retrieval".strip("/").replace("/", ".")


def _rviz(share: str) -> Node:
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", str(Path(share) / "config" / "retrieval.rviz")],
        # The file has names without a namespace; relative ones get the launch's.
        remappings=[
            ("/image", LaunchConfiguration("image_topic")),
            *((f"/retrieval/{topic}", f"retrieval/{topic}") for topic in SHOWN),
        ],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )


def generate_launch_description() -> LaunchDescription:
    """Describe the launch."""
    share = get_package_share_directory("vla_retrieval")
    default_file = str(Path(share) / "config" / "retrieval.yaml")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file", default_value=default_file,
                description="parameters as YAML; the default describes each of them",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="",
                description="of the node, e.g. robot1; empty: none. Relative topics go with it",
            ),
            DeclareLaunchArgument(
                "image_topic", default_value="image",
                description="camera's base topic; compressed images are read from its /compressed",
            ),
            DeclareLaunchArgument(
                "instruction_topic", default_value="instruction",
                description="where instructions come from (std_msgs/String)",
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info",
                description="of the node's own messages: debug, info, warn or error",
            ),
            DeclareLaunchArgument(
                "rviz", default_value="false", description="show it in RViz (rviz2) too"
            ),
            *(
                DeclareLaunchArgument(
                    name, default_value="", description=f"{text}; empty: as params_file says"
                )
                for name, (_, text) in PARAMETERS.items()
            ),
            # Otherwise large images are lost between two processes; the camera needs it too.
            *(SetEnvironmentVariable(*item) for item in large_image_environment(share).items()),
            # First: where rviz2 is not installed, launch ends here and leaves no node behind.
            _rviz(share),
            OpaqueFunction(function=_node),
        ]
    )  # fmt: skip

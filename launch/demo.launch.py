"""Plays the shipped bag into a node and asks it in both languages: what scripts/demo does.

ros2 launch vla_retrieval demo.launch.py
"""

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable, Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Describe the launch."""
    transports = EnvironmentVariable(
        "FASTDDS_BUILTIN_TRANSPORTS", default_value="LARGE_DATA?max_msg_size=4MB&sockets_size=4MB"
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "output_dir", default_value="demo_output", description="where the pictures go"
            ),
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", transports),
            Node(
                package="vla_retrieval",
                executable="demo",
                arguments=["--output-dir", LaunchConfiguration("output_dir")],
                output="screen",
                emulate_tty=True,
                on_exit=Shutdown(),
            ),
        ]
    )

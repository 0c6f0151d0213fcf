"""Plays the shipped bag into a node and asks it in both languages: what scripts/demo does.

ros2 launch vla_retrieval demo.launch.py
"""

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from vla_retrieval.transport import large_image_environment


def _ended(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    """End the launch; where the demonstration failed, with an exit code that is not 0."""
    if context.is_shutdown:
        return None  # by Ctrl-C
    if event.returncode:
        raise RuntimeError(f"{event.process_name} failed: exit code {event.returncode}")
    return Shutdown(reason=f"{event.process_name} ended")


def generate_launch_description() -> LaunchDescription:
    """Describe the launch."""
    share = get_package_share_directory("vla_retrieval")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "output_dir",
                default_value="demo_output",
                description="gets the picture, the log and the memory, which is emptied first",
            ),
            *(SetEnvironmentVariable(*item) for item in large_image_environment(share).items()),
            Node(
                package="vla_retrieval",
                executable="demo",
                arguments=["--output-dir", LaunchConfiguration("output_dir")],
                output="screen",
                emulate_tty=True,
                on_exit=_ended,
            ),
        ]
    )

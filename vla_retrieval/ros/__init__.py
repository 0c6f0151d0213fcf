"""The edge to ROS 2: everything that imports rclpy, a message or cv_bridge."""

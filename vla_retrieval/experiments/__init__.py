"""Running an evaluation: encoder, memory and scoring together. No ROS in it."""

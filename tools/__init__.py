"""Tools that build what the project ships; nothing here runs on the robot."""

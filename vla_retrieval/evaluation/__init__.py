"""Scoring retrieval on recorded scenes and instructions: bags to queries, metrics, reports.

No ROS in it, and none is needed on the machine.
"""

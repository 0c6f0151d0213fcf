import os

# MuJoCo picks its OpenGL library when it is first imported; OSMesa needs neither a screen nor a
# GPU.
os.environ.setdefault("MUJOCO_GL", "osmesa")

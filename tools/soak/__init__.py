"""A node under the load of a working day: how it holds, what it forgets, whether it grows."""

"""What can be measured: a function each, from a ``Bench`` to plain values that JSON can hold."""

"""Benchmarks of the memory, beside exact FAISS and beside other vector stores."""

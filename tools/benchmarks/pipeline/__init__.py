"""The path from an image message to published matches, beside its floors and a plain pipeline."""

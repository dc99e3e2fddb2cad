"""FANN's `.net` files: read, written byte for byte as libfann does, and turned into models and back.

The format and the formulas are facts of the files; nothing of libfann's own text is used here.
"""

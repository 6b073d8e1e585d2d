"""Units that people read."""

MIB = 2**20
"""Bytes; what ``nvidia-smi`` and the paper call MB."""

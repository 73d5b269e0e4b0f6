"""Measurements that anyone can repeat: what the kernels buy, and one decoder against another."""

"""Federations on one machine: in-process and Ray engines, partitions of a pooled folder, phantom X-rays."""

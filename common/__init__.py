"""The vocabulary and the contract: what coordinator and hospitals both know. No torch, no PIL.

flwr is imported by flower_records.py and secure_sum/primitives.py only.
"""

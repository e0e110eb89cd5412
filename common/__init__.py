"""The vocabulary and the contract: what coordinator and hospitals both know. No torch, no PIL; flwr only in flower_records.py."""

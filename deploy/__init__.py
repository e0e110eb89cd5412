"""Deployment: the coordinator's and the hospital's processes, keys, certificates, kits and the gateway."""

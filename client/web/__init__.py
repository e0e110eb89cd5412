"""A hospital's own pages: approve jobs, see what was sent, look through the data, and ask a model about an image.

They are for the hospital's people. Nothing here is served on the courier's socket, and a courier imports none of it.
"""

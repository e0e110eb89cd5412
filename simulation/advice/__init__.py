"""`consilium advise`: what to use for a task, some hospitals and their machines, each with its reason and source."""

"""The coordinator's pages: runs as they go, finished runs side by side. They read run directories and nothing else."""

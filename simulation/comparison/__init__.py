"""`consilium compare`: ways of training side by side on the same hospitals, judged on the same test patients."""

"""The `consilium` command: thin, it parses words and prints what the other packages return."""

"""The `consilium` command: thin, one function per subcommand."""

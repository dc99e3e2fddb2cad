"""The command line: one module a group of commands, imported when its command is used."""

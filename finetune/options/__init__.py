"""Options of the recognisers, a file each; nothing heavy is imported, so that --help is quick."""

"""What is done from Python as from the command line."""

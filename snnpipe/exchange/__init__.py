"""What goes to and comes from files."""

"""What people read: the page of an experiment and tables in a terminal."""

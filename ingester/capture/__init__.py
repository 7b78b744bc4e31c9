"""What runs for months."""

"""What `ingester doctor` looks at: everything that a recorder needs from the world around it."""

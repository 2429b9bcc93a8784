"""What training does to a loss, tried for long."""

"""What training does to a loss, tried for long: many calls, and descent from collapsed batches."""

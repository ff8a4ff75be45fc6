"""What would have been: policies live through tables and logs."""

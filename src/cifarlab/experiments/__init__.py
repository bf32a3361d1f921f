"""What runs show over seeds."""

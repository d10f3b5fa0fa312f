"""What needs a GPU, or stands in for one."""

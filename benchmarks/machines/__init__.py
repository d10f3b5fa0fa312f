"""What several processes cost and gain: the table of docs/many_machines.md."""

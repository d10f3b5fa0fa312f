"""What several processes cost and gain: the tables of docs/many_machines.md."""

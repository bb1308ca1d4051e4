"""What a run will take, before it is started: hours, money, memory, and which part the others wait for."""

"""What lies below detection: the machine and how it does, processes, threads, memory and standard error."""

"""The machine underneath: which one it is, how it does, child processes, memory."""

"""How fast, how large, how hot: engines measured side by side on the machine at hand.

    settings -> plan -> workers, one process a configuration -> rounds, in turns -> record -> table, chart,
    comparison

`session` conducts, `worker` is what runs in each process, `meters` and `cores` ask the machine, `record` says
what is kept. Importing this imports nothing.
"""

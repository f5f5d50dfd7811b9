"""How fast, how large, how hot: engines measured side by side on the machine at hand.

    settings -> configurations -> workers, one process each -> rounds, in turns -> record -> report

`session` conducts, `worker` is what runs in each process, `feed` gives it images, `resources` reads cores,
memory and energy, `record` defines what is kept, and `report` shows it: as a table, compared with another
record, or as a chart. Importing this package imports nothing else.
"""

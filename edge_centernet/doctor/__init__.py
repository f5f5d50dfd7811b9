"""What this machine is, what it can run, and what is wrong with it.

    machine, engines, cameras  --examine-->  Facts  --rules-->  findings with fixes  --report-->  text or JSON

It must say what is wrong where nothing works: NumPy, OpenCV and the engines are only loaded by processes of
their own (`doctor.probe`), whose crash is one more fact. Importing this package imports the standard library
only.
"""

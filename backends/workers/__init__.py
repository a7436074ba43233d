"""What runs on the other side: the worker kit, an entry point per provider, and how each is deployed.

Nothing here is imported by the gateway. `kit.py` is one file of standard library, to be copied into a
worker's image, and `server.py` another that serves plain HTTP. The files beside them are the entry points
that providers ask for, the folders their deploy examples; `python -m backends.workers` puts what belongs
together into one folder.
"""
